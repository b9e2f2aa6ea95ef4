"""Cancelling the calling task: a request that was not sent never runs, one that was is told."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from anyio_bus import Bus, open_bus
from anyio_bus.testing import cancel_sweep
from tests.bus.support import begin, fifo, held, log, methods, one_worker, scripted, until

PIPE_BYTES = 64 * 1024  # what a Linux pipe takes before its reader reads


async def test_cancelled_request_that_waits_in_a_queue_never_reaches_a_worker() -> None:
    async with one_worker(max_in_flight=1) as bus, anyio.create_task_group() as tasks:
        blocker = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        doomed = begin(tasks, lambda: bus.request("echo", ["doomed"]))
        await until(lambda: bus.statistics().kernel.queued_requests == 1)

        doomed.scope.cancel()
        await doomed.wait()
        await bus.notify("release")
        await blocker.wait()

        assert doomed.scope.cancelled_caught
        assert methods(await log(bus)) == ["echo", "hold", "release"]
        assert bus.statistics().kernel.cancelled == 0
        assert bus.statistics().kernel.withdrawn == 1


async def test_cancelled_request_behind_a_blocked_pipe_never_reaches_a_worker(
    tmp_path: Path,
) -> None:
    with fifo(tmp_path / "gate") as let_go:
        async with one_worker() as bus, anyio.create_task_group() as tasks:
            stalled = begin(tasks, lambda: bus.request("stall", {"fifo": str(tmp_path / "gate")}))
            await until(lambda: bus.statistics().pending == 1)
            big = begin(tasks, lambda: bus.request("echo", ["x" * 4 * PIPE_BYTES]))
            await until(lambda: 0 < bus.workers()[0].queued_bytes < 4 * PIPE_BYTES)
            doomed = begin(tasks, lambda: bus.request("echo", ["doomed"]))
            await until(lambda: bus.statistics().pending == 3)

            doomed.scope.cancel()
            await doomed.wait()
            let_go()
            await stalled.wait()
            await big.wait()

            assert methods(await log(bus)) == ["echo", "stall", "echo"]
            assert bus.statistics().kernel.cancelled == 0


async def test_cancelled_request_of_which_half_is_written_is_written_whole(tmp_path: Path) -> None:
    with fifo(tmp_path / "gate") as let_go:
        async with one_worker() as bus, anyio.create_task_group() as tasks:
            stalled = begin(tasks, lambda: bus.request("stall", {"fifo": str(tmp_path / "gate")}))
            await until(lambda: bus.statistics().pending == 1)
            doomed = begin(tasks, lambda: bus.request("echo", ["x" * 4 * PIPE_BYTES]))
            await until(lambda: 0 < bus.workers()[0].queued_bytes < 4 * PIPE_BYTES)

            doomed.scope.cancel()
            await doomed.wait()
            let_go()
            await stalled.wait()

            assert methods(await log(bus)) == ["echo", "stall", "echo", "$/cancelRequest"]
            assert bus.statistics().kernel.bad_lines == 0
            assert bus.statistics().kernel.late_answers == 1


async def test_cancelled_request_that_was_sent_tells_its_worker() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        doomed = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)

        doomed.scope.cancel()
        await doomed.wait()

        _, request, cancel = await log(bus)
        assert cancel == {
            "jsonrpc": "2.0",
            "method": "$/cancelRequest",
            "params": {"id": request["id"]},
        }
        assert bus.statistics().kernel.cancelled == 1


async def test_cancelled_request_on_a_draining_worker_tells_it() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        kept = begin(tasks, lambda: bus.request("hold", [1]))
        doomed = begin(tasks, lambda: bus.request("hold", [2]))
        await held(bus, 2)
        worker = bus.workers()[0].worker
        await bus.restart_worker(worker, drain_s=60)

        doomed.scope.cancel()
        await doomed.wait()
        await bus.send(b'{"method":"say","params":{"lines":[]}}', worker=worker)
        await bus.send(b'{"method":"release"}', worker=worker)

        assert await kept.wait() == [1]
        assert bus.statistics().kernel.cancelled == 1
        assert bus.statistics().kernel.late_answers == 1


async def test_cancelling_one_request_leaves_the_others_alone() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        calls = [begin(tasks, lambda i=i: bus.request("hold", [i])) for i in range(10)]
        await held(bus, 10)

        for call in calls[::2]:
            call.scope.cancel()
        for call in calls[::2]:
            await call.wait()
        await bus.request("release")

        assert [await call.wait() for call in calls[1::2]] == [[1], [3], [5], [7], [9]]
        assert bus.statistics().kernel.late_answers == 5


async def test_timeout_of_the_callers_own_scope_tells_the_worker_too() -> None:
    async with one_worker() as bus:
        with pytest.raises(TimeoutError), anyio.fail_after(0.05):
            await bus.request("hold")

        assert methods(await log(bus)) == ["echo", "hold", "$/cancelRequest"]
        assert bus.statistics().timeouts == 0


async def test_request_cancelled_at_any_step_leaves_whole_frames_and_free_slots() -> None:
    async with open_bus(scripted()) as bus:
        await bus.request("echo")

        async def converse() -> None:
            await bus.request("echo", ["x" * 1000])
            await bus.request_raw(b'{"id":1,"method":"echo"}')
            await bus.notify("echo")
            await bus.send(b'{"method":"echo"}')

        async def check() -> None:
            assert await bus.request("echo", [1]) == [1]
            await until(lambda: nothing_is_left(bus))
            assert bus.statistics().kernel.bad_lines == 0
            assert bus.statistics().kernel.stray_answers == 0

        assert await cancel_sweep(converse, check=check) > 4


def nothing_is_left(bus: Bus) -> bool:
    statistics = bus.statistics()
    worker = bus.workers()[0]
    return (
        statistics.pending == statistics.pending_bytes == statistics.waiting == 0
        and statistics.kernel.live_requests == statistics.kernel.queued_requests == 0
        and worker.in_flight == worker.queued_bytes == 0
    )


async def test_request_runs_at_most_once_when_its_worker_dies_over_it(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        calls = [
            begin(tasks, lambda i=i: bus.request("append", {"file": str(ran), "value": i}))
            for i in range(50)
        ]
        await until(lambda: bus.statistics().kernel.messages_out == 51)
        killer = begin(tasks, lambda: bus.request("die"))
        for call in calls:
            await call.wait()
        with pytest.raises(anyio.BrokenResourceError):
            await killer.wait()

        assert await bus.request("echo", [1]) == [1]
        assert methods(await log(bus)) == ["echo"]
        assert sorted(map(int, ran.read_text().split())) == list(range(50))
