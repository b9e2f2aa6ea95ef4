"""Every backend: what a tap shows of the pipes."""

from __future__ import annotations

import anyio
import pytest

from anyio_bus import Limits, TapFrame, WorkerLostError
from tests.bus.support import begin, held
from tests.contract.places import SCRIPTED, Place, all_places, needs

pytestmark = all_places

QUICK = Limits(restart_delay_s=0.01, restart_delay_max_s=0.02)


@needs("own ids")
async def test_both_directions_are_shown_as_they_were_on_the_pipe(place: Place) -> None:
    async with place.bus() as bus, bus.tap() as frames:
        await bus.request("say", {"lines": ['{ "id":$ID, "result":[1.50] }']})
        with anyio.fail_after(5):
            there, back = [await frames.receive() for _ in range(2)]

    assert (
        there.frame
        == (
            b'{"jsonrpc":"2.0","id":%d,"method":"say","params":'
            b'{"lines":["{ \\"id\\":$ID, \\"result\\":[1.50] }"]}}\n'
        )
        % there.request
    )
    assert back.frame == b'{ "id":%d, "result":[1.50] }\n' % there.request
    assert (there.direction, there.kind) == ("to_worker", "request")
    assert (back.direction, back.kind) == ("from_worker", "response")
    assert there.id == back.id == back.request == there.request
    assert there.method == back.method == "say"
    assert (back.pool, back.worker, back.generation) == ("w", 0, 1)
    assert back.at >= there.at
    assert back.time >= there.time > 1_600_000_000


@needs("own ids")
async def test_bad_lines_and_notifications_are_shown(place: Place) -> None:
    lines = ["garbage", '{"method":"note"}', '{"id":"no","result":0}', '{"id":$ID,"result":0}']
    async with place.bus() as bus, bus.tap(redact=False) as frames:
        await bus.request("say", {"lines": lines})
        with anyio.fail_after(5):
            seen = [await frames.receive() for _ in range(5)][1:]

    assert [frame.kind for frame in seen] == ["bad", "notification", "response", "response"]
    assert seen[0].frame == b"garbage\n"
    assert seen[1].request == seen[3].request == seen[3].id
    assert seen[2].request is None


async def test_line_over_the_limit_is_shown_by_its_beginning(place: Place) -> None:
    async with place.bus(limits=Limits(max_frame_bytes=8192)) as bus:
        async with bus.tap(redact=None) as frames:
            with pytest.raises(Exception, match="max_frame_bytes"):
                await bus.request("blow", {"bytes": 20_000})
            with anyio.fail_after(5):
                await frames.receive()
                long = await frames.receive()

    assert long.kind == "bad"
    assert long.size > 20_000
    assert long.frame.startswith(b'{"jsonrpc":"2.0","id":')
    assert len(long.frame) == 4096
    assert not long.whole


@needs("own ids")
async def test_cancel_is_shown_with_the_request_that_it_cancels(place: Place) -> None:
    async with place.bus() as bus, bus.tap() as frames, anyio.create_task_group() as tasks:
        call = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        call.scope.cancel("enough")
        with anyio.fail_after(5):
            seen = [await frames.receive() for _ in range(3)]

    assert [frame.method for frame in seen] == ["hold", "holding", "$/cancelRequest"]
    assert {frame.request for frame in seen} == {seen[0].id}


async def test_each_process_of_a_worker_has_its_generation(place: Place) -> None:
    async with place.bus(limits=QUICK) as bus:
        await bus.request("echo")
        async with bus.tap() as frames:
            with pytest.raises(WorkerLostError):
                await bus.request("die")
            await bus.request("echo")
            seen = [await frames.receive() for _ in range(3)]

    assert [(frame.method, frame.generation) for frame in seen] == [
        ("die", 1),
        ("echo", 2),
        ("echo", 2),
    ]


async def test_tap_can_be_for_one_pool_or_one_worker(place: Place) -> None:
    async with place.bus({"a": SCRIPTED, "b": SCRIPTED}) as bus:
        worker = next(info.worker for info in bus.workers() if info.pool == "b")
        async with bus.tap(pool="a") as of_a, bus.tap(worker=worker) as of_b:
            for pool in ("a", "b", "a"):
                await bus.request("echo", pool=pool)
            with anyio.fail_after(5):
                await bus.stop()
                seen: list[list[TapFrame]] = [[f async for f in of] for of in (of_a, of_b)]

    assert [{frame.pool for frame in frames} for frames in seen] == [{"a"}, {"b"}]
    assert [len(frames) for frames in seen] == [4, 2]
