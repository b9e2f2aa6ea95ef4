"""Subscriptions: each has its own bounded queue, and none holds up anybody else."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import msgspec
import pytest
from msgspec import Raw

from anyio_bus import (
    Bus,
    InvalidArgumentError,
    Limits,
    Notification,
    RemoteProtocolError,
    StreamOverflowError,
    Subscription,
    open_bus,
)
from anyio_bus._sansio.events import Lines
from anyio_bus._sansio.messages import Message
from tests.bus.support import DONE, QUIET_LOOPS, begin, one_worker, scripted, until

NOTE = '{"method":"%s","params":{"n":%d}}'


async def say(bus: Bus, *numbers: int, method: str = "note", **options: Any) -> None:
    lines = [NOTE % (method, n) for n in numbers]
    assert await bus.request("say", {"lines": [*lines, DONE]}, **options) == "done"


def numbers(batch: list[Notification]) -> list[int]:
    return [notification.params["n"] for notification in batch]


async def test_a_subscriber_gets_what_matches_its_pattern() -> None:
    async with one_worker() as bus, bus.subscribe("log/*") as logs, bus.subscribe() as all_:
        await say(bus, 1, method="log/info")
        await say(bus, 2, method="note")
        note = await logs.receive()
        assert (note.method, note.params, note.pool, note.worker) == ("log/info", {"n": 1}, "w", 0)
        assert [n.method for n in await all_.receive_batch()] == ["log/info", "note"]
        assert bus.statistics().unhandled == 0


async def test_a_subscription_can_be_of_one_pool_or_session() -> None:
    top = '{"method":"note","sessionId":"s","params":{"n":1}}'
    inside = '{"method":"note","params":{"n":2,"sessionId":"s"}}'
    async with open_bus(scripted("a"), scripted("b"), grace_s=2) as bus:
        async with bus.subscribe(pool="b") as of_pool, bus.subscribe(session="s") as of_session:
            await say(bus, 0, pool="a")
            await bus.request("say", {"lines": [top, inside, DONE]}, pool="b")
            assert numbers(await of_pool.receive_batch()) == [1, 2]
            assert numbers(await of_session.receive_batch()) == [1, 2]


async def test_a_session_of_another_bus_cannot_be_followed() -> None:
    async with open_bus(scripted("a")) as bus, open_bus(scripted("b")) as other:
        async with other.session() as session:
            with pytest.raises(InvalidArgumentError, match="is of another bus"):
                await bus.subscribe(session=session).__aenter__()
            with pytest.raises(InvalidArgumentError, match="is of another bus"):
                bus.on_notification(print, session=session)
        assert await bus.request("say", {"lines": ['{"method":"note"}', DONE]}) == "done"
        assert bus.statistics().unhandled == 1


async def test_params_are_decoded_into_the_type_that_was_asked_for() -> None:
    class Note(msgspec.Struct):
        n: int

    async with one_worker() as bus, bus.subscribe(type=Note) as notes:
        await bus.request("say", {"lines": [NOTE % ("a", 1), '{"method":"b","params":[]}', DONE]})
        assert (await notes.receive()).params == Note(1)
        with pytest.raises(RemoteProtocolError, match="params"):
            _ = (await notes.receive()).params


@pytest.mark.parametrize("method", [1, "", None])
async def test_a_pattern_must_be_text(method: Any) -> None:
    async with one_worker() as bus:
        with pytest.raises(InvalidArgumentError, match="pattern"):
            async with bus.subscribe(method):
                pytest.fail("it opened")


# -- policies -------------------------------------------------------------------------------------


async def test_the_newest_are_dropped_and_the_gap_is_seen() -> None:
    async with one_worker() as bus, bus.subscribe(max_queue=2, overflow="drop_newest") as notes:
        await say(bus, 1, 2, 3, 4)
        assert notes.dropped == 2
        assert numbers(await notes.receive_batch()) == [1, 2]
        await say(bus, 5)
        after = await notes.receive()
        assert (after.params["n"], after.dropped) == (5, 2)


async def test_the_oldest_are_dropped_and_the_gap_is_seen() -> None:
    async with one_worker() as bus, bus.subscribe(max_queue=2, overflow="drop_oldest") as notes:
        await say(bus, 1, 2, 3, 4, 5)
        assert notes.dropped == 3
        first, second = await notes.receive_batch()
        assert (first.params["n"], first.dropped) == (4, 3)
        assert (second.params["n"], second.dropped) == (5, 0)


async def test_what_a_reader_was_woken_for_may_be_dropped_before_it_runs() -> None:
    async with one_worker() as bus, bus.subscribe(max_queue=1, overflow="drop_oldest") as notes:
        found: list[tuple[int, int]] = []

        async def read() -> None:
            note = await notes.receive()
            found.append((note.params["n"], note.dropped))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            for n in (1, 2, 3):  # all of them before the reader runs
                note = Message(method="note", params=Raw(b'{"n":%d}' % n))
                bus._inbound.take(Lines("w", 0, [note]), [note])
        assert found == [(3, 2)]
        assert notes.dropped == 2


async def test_with_close_it_ends_after_what_it_holds() -> None:
    async with one_worker() as bus, bus.subscribe(max_queue=2, overflow="close") as notes:
        await say(bus, 1, 2, 3)
        found = []
        with pytest.raises(StreamOverflowError, match="max_queue=2"):
            async for notification in notes:
                found.append(notification.params["n"])  # noqa: PERF401  # those before the error
        assert found == [1, 2]


@pytest.mark.parametrize("anyio_backend", QUIET_LOOPS)
async def test_with_block_a_worker_waits_for_the_reader() -> None:
    async with one_worker(Limits(backpressure_timeout_s=0)) as bus:
        async with bus.subscribe("flood", max_queue=10, overflow="block") as notes:
            await bus.notify("flood")
            await until(lambda: bus._calls.brakes.held)
            (worker,) = bus.workers()
            for _ in range(200_000):
                await notes.receive()
            assert notes.dropped == 0
            assert worker.pid == bus.workers()[0].pid


async def test_with_block_a_request_to_that_worker_ends_the_subscription() -> None:
    async with one_worker(Limits(backpressure_timeout_s=0)) as bus:
        async with bus.subscribe(max_queue=2, overflow="block") as notes:
            await bus.request("say", {"lines": [NOTE % ("n", 1), NOTE % ("n", 2), DONE]})
            await until(lambda: bus._calls.brakes.held)
            with anyio.fail_after(5):
                await bus.request("echo")
            with pytest.raises(StreamOverflowError):
                async for _ in notes:
                    pass
        assert not bus._calls.brakes.held


# -- ends -----------------------------------------------------------------------------------------


async def test_a_stop_ends_subscriptions_after_what_they_hold() -> None:
    async with one_worker() as bus, bus.subscribe() as notes:
        await say(bus, 1, 2)
        await bus.stop(grace_s=1)
        assert [note.params["n"] async for note in notes] == [1, 2]


async def test_leaving_the_block_ends_it() -> None:
    async with one_worker() as bus:
        async with bus.subscribe() as notes:
            pass
        with pytest.raises(anyio.ClosedResourceError):
            await notes.receive()
        await say(bus, 1)
        assert bus.statistics().unhandled == 1


async def test_an_iterator_lets_others_run_though_it_never_has_to_wait() -> None:
    async with one_worker() as bus, bus.subscribe(max_queue=1000) as notes:
        await say(bus, *range(300))
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            for _ in range(300):
                await notes.receive()
            tasks.cancel_scope.cancel()
        assert turns >= 3


# -- next to others -------------------------------------------------------------------------------


async def drain(notes: Subscription, count: int) -> None:
    for expected in range(count):
        assert (await notes.receive()).params["n"] == expected


@pytest.mark.parametrize("anyio_backend", QUIET_LOOPS)
async def test_one_that_never_reads_costs_its_neighbour_nothing() -> None:
    total = 100_000
    async with (
        one_worker() as bus,
        bus.subscribe(max_queue=10) as lazy,
        bus.subscribe(max_queue=total) as eager,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(drain, eager, total)
        for start in range(0, total, 10_000):
            await say(bus, *range(start, start + 10_000))
    assert lazy.dropped == total - 10
    assert eager.dropped == 0


# -- callbacks ------------------------------------------------------------------------------------


async def test_a_callback_that_removes_itself_gets_nothing_more_of_the_same_read() -> None:
    found: list[int] = []

    def take(note: Notification) -> None:
        found.append(note.params["n"])
        if note.params["n"] == 2:
            remove()

    async with one_worker() as bus:
        remove = bus.on_notification(take, "note")
        await say(bus, 1, 2, 3, 4)
    assert found == [1, 2]


async def test_a_callback_is_called_until_it_is_removed(caplog: pytest.LogCaptureFixture) -> None:
    found: list[int] = []

    def take(note: Notification) -> None:
        found.append(note.params["n"])
        if note.params["n"] == 2:
            raise ValueError("two")

    async with one_worker() as bus:
        remove = bus.on_notification(take, "note")
        await say(bus, 1, 2, 3)
        remove()
        remove()
        await say(bus, 4)
    assert found == [1, 2, 3]
    assert "raised" in caplog.text


@pytest.mark.parametrize("anyio_backend", QUIET_LOOPS[:2])  # trio has no cancelling from outside
async def test_a_native_cancel_in_the_moment_of_arrival_loses_nothing() -> None:
    async with one_worker() as bus, bus.subscribe("note", max_queue=2) as notes:
        for number in range(3):
            reader = asyncio.create_task(notes.receive())
            bus_stops = bus.on_notification(lambda _, it=reader: it.cancel(), "note")
            await anyio.wait_all_tasks_blocked()
            await say(bus, number)
            with pytest.raises(asyncio.CancelledError):
                await reader
            bus_stops()
            with anyio.fail_after(5):
                note = await notes.receive()
            assert (note.params["n"], note.dropped) == (number, 0)


async def test_a_reader_that_waits_is_told_when_the_block_is_left() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        async with bus.subscribe() as notes:
            reader = begin(tasks, notes.receive)
            await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.ClosedResourceError):
            await reader.wait()
