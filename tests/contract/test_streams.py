"""Streams, subscriptions and maps, wherever the kernel runs."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from msgspec import Raw

from anyio_bus import Bus, Chunk
from anyio_bus.testing import cancel_sweep, open_memory_bus
from tests.bus.workers.streaming import worker as streaming
from tests.contract.places import Place, all_places

CHUNK = '{"method":"chunk","params":{"text":"%d","_meta":{"requestId":$ID}}}'
DONE = '{"id":$ID,"result":{}}'
SAY = {"lines": [*(CHUNK % n for n in range(5)), DONE]}


@all_places
async def test_a_reader_makes_requests_in_its_loop(place: Place) -> None:
    async with place.bus() as bus, bus.stream("say", SAY) as stream:
        found = [await bus.request("echo", {"n": chunk.text}) async for chunk in stream]
        assert [echoed["n"] for echoed in found] == list("01234")
        assert await stream.result() == {}


@all_places
async def test_a_request_and_a_stream_collect_the_same_text(place: Place) -> None:
    async with place.bus() as bus:
        whole = await bus.request("say", SAY, collect="text")
        async with bus.stream("say", SAY, collect="text") as stream:
            assert await stream.result() == whole == {"text": "01234"}


@all_places
async def test_a_death_is_told_after_the_chunks(place: Place) -> None:
    async with place.bus() as bus, bus.stream("say", {"lines": SAY["lines"][:2]}) as stream:
        assert (await stream.receive()).text == "0"
        await bus.notify("die")
        with pytest.raises(Exception, match="worker 0") as info:
            async for chunk in stream:
                assert chunk.text == "1"
        assert type(info.value).__name__ == "WorkerLostError"


@all_places
async def test_notifications_reach_subscribers_and_maps_their_results(place: Place) -> None:
    async with place.bus() as bus, bus.subscribe("chunk", max_queue=10) as notes:
        async with bus.map("echo", ({"n": n} for n in range(100)), in_flight=7) as results:
            assert [result["n"] async for result in results] == list(range(100))
        several_lines = [{"a": Raw(b"[1,\n2]")}, {"a": 3}]
        async with bus.map("echo", several_lines, in_flight=2) as results:
            assert [result["a"] async for result in results] == [[1, 2], 3]
        await bus.request("say", SAY)
        assert [note.params["text"] for note in await notes.receive_batch()] == list("01234")


@all_places
async def test_notifications_are_heard_while_somebody_follows(place: Place) -> None:
    say = {"lines": ['{"method":"note"}', DONE]}
    async with place.bus() as bus:

        async def unheard() -> int:
            await bus.request("say", say)
            await bus.refresh()
            return bus.statistics().unhandled

        assert await unheard() == 1
        async with bus.subscribe("note") as all_pools, bus.stream("say", SAY) as stream:
            assert await unheard() == 1
            async with bus.subscribe("note", pool="w") as one_pool:
                assert await stream.result() == {}
                assert await unheard() == 1
                assert len(await one_pool.receive_batch()) == 1
            assert await unheard() == 1
            assert len(await all_pools.receive_batch()) == 3
        assert await unheard() == 2
        async with bus.stream("say", SAY) as stream:  # that of somebody who leaves early
            pass
        assert await unheard() >= 3


# -- cancelled at any step ------------------------------------------------------------------------


async def read_some(bus: Bus) -> None:
    async with bus.stream("count", {"chunks": 3}) as stream:
        await stream.receive()
        await stream.receive_batch()
        await stream.result()


async def pump_some(bus: Bus) -> None:
    send, receive = anyio.create_memory_object_stream[Chunk](1)
    async with anyio.create_task_group() as tasks, receive:
        await tasks.start(bus.pump, "count", {"chunks": 3}, send)
        async for _chunk in receive:
            pass


async def subscribe_some(bus: Bus) -> None:
    async with bus.subscribe() as notes:
        await bus.request("count", {"chunks": 2})
        await notes.receive()
        await notes.receive_batch()


async def map_some(bus: Bus) -> None:
    async with bus.map("echo", ({"params": n} for n in range(4)), in_flight=2) as results:
        assert len([result async for result in results]) == 4


@pytest.mark.parametrize("use", [read_some, pump_some, subscribe_some, map_some])
async def test_whatever_is_cancelled_leaves_nothing_in_the_bus(use: Any) -> None:
    async with open_memory_bus(streaming) as bus:
        await bus.wait_ready()

        async def check() -> None:
            with anyio.fail_after(5):
                while bus.statistics().pending or bus.workers()[0].in_flight:  # noqa: ASYNC110
                    await anyio.sleep(0.001)  # until the worker has answered what was cancelled
            assert not bus._inbound._streams
            assert not bus._inbound._followers
            assert not bus._calls.brakes.held

        assert await cancel_sweep(lambda: use(bus), check=check, check_leaks=False) > 2
