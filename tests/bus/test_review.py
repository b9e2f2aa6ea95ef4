"""What a review broke: frames withdrawn from a blocked pipe, bodies that end in several ways at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from anyio_bus import InvalidArgumentError, Memory, open_bus
from tests.bus.support import WAIT_S, begin, fifo, log, methods, one_worker, scripted, until
from tests.bus.workers.scripted import serve

PIPE_BYTES = 64 * 1024
IN_MEMORY = Memory({"w": serve})


async def test_request_cancelled_while_the_writer_waits_for_room_leaves_its_neighbours_whole(
    tmp_path: Path,
) -> None:
    with fifo(tmp_path / "gate") as let_go:
        async with one_worker() as bus, anyio.create_task_group() as tasks:
            stalled = begin(tasks, lambda: bus.request("stall", {"fifo": str(tmp_path / "gate")}))
            await until(lambda: bus.statistics().pending == 1)
            # The rest of the first goes into one write with the others, which wait for it together.
            big = begin(tasks, lambda: bus.request("echo", ["x" * (PIPE_BYTES + PIPE_BYTES // 2)]))
            doomed = begin(tasks, lambda: bus.request("echo", ["doomed" * 100]))
            last = begin(tasks, lambda: bus.request("echo", ["last" * 200]))
            await until(lambda: bus.statistics().kernel.bytes_out > PIPE_BYTES // 2)  # it is full
            await anyio.wait_all_tasks_blocked()

            doomed.scope.cancel()
            await doomed.wait()
            let_go()
            for outcome in (stalled, big, last):
                await outcome.wait()

            with anyio.fail_after(WAIT_S):
                seen = methods(await log(bus))
            assert seen.count("echo") == 4 - (bus.statistics().kernel.cancelled == 0)
            assert bus.statistics().kernel.stray_answers == 0
            assert bus.workers()[0].queued_bytes == 0


async def test_an_error_while_the_body_is_cancelled_is_the_bodys_own() -> None:
    async def fail_at_the_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async def body() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail_at_the_end)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await anyio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught, anyio.CancelScope() as scope:  # noqa: ASYNC401
        async with open_bus(scripted(), backend=IN_MEMORY):
            await body()
    assert isinstance(caught.value, ExceptionGroup)
    assert [type(exc) for exc in caught.value.exceptions] == [ZeroDivisionError]


@pytest.mark.parametrize("seconds", [10**400, -(10**400)], ids=["late", "early"])
async def test_an_integer_that_is_no_time_is_refused_before_anything_is_sent(seconds: int) -> None:
    async with open_bus(scripted(), backend=IN_MEMORY) as bus:
        calls: list[Any] = [
            lambda: bus.request("echo", timeout=seconds),
            lambda: bus.open_scope(deadline=seconds).__aenter__(),
            lambda: bus.stop(grace_s=seconds),
        ]
        for call in calls:
            with pytest.raises(InvalidArgumentError):
                await call()
        await bus.request("echo")
        assert methods(await log(bus)) == ["echo"]
