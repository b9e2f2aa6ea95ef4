"""The cancel sweep reaches every step of an operation, and of the tasks that it starts."""

from __future__ import annotations

import os
from contextlib import ExitStack
from itertools import count

import anyio
import anyio.lowlevel
import pytest

from anyio_bus.testing import LeakError, cancel_sweep


class Journal:
    """What the rounds of a sweep did."""

    def __init__(self) -> None:
        self.rounds: list[list[str]] = []

    def begin(self) -> list[str]:
        self.rounds.append([])
        return self.rounds[-1]


async def test_each_await_of_the_operation_is_cancelled_once() -> None:
    journal = Journal()

    async def operation() -> None:
        done = journal.begin()
        for name in ("a", "b", "c"):
            await anyio.lowlevel.checkpoint()
            done.append(name)

    assert await cancel_sweep(operation) >= 3
    assert sorted({"".join(done) for done in journal.rounds}) == ["", "a", "ab", "abc"]


async def test_the_last_round_is_not_cancelled() -> None:
    finished = []

    async def operation() -> None:
        await anyio.lowlevel.checkpoint()
        finished.append(not anyio.get_current_task().has_pending_cancellation())

    await cancel_sweep(operation)
    assert finished[-1] is True


async def test_steps_of_the_tasks_that_it_starts_count() -> None:
    journal = Journal()

    async def operation() -> None:
        done = journal.begin()
        turn = anyio.Event()

        async def child() -> None:
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
                done.append("child")
            turn.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            await turn.wait()
            done.append("parent")

    await cancel_sweep(operation)
    assert {done.count("child") for done in journal.rounds} == {0, 1, 2, 3, 4, 5}
    assert journal.rounds[-1][-1] == "parent"


async def test_steps_of_tasks_outside_do_not_count() -> None:
    async def outside() -> None:
        for _ in count():
            await anyio.lowlevel.checkpoint()

    async def operation() -> None:
        await anyio.sleep(0.01)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outside)
        assert await cancel_sweep(operation) <= 3
        tasks.cancel_scope.cancel()


async def test_the_check_runs_after_each_round() -> None:
    rounds = checks = 0

    async def operation() -> None:
        nonlocal rounds
        rounds += 1
        await anyio.lowlevel.checkpoint()

    async def check() -> None:
        nonlocal checks
        checks += 1
        await anyio.lowlevel.checkpoint()

    assert await cancel_sweep(operation, check=check) == rounds - 1
    assert checks == rounds


async def test_an_operation_that_tidies_up_badly_when_cancelled_is_found() -> None:
    held = []

    async def operation() -> None:
        held.append("slot")
        await anyio.lowlevel.checkpoint()
        held.remove("slot")

    def check() -> None:
        assert not held

    with pytest.raises(AssertionError) as caught:
        await cancel_sweep(operation, check=check)
    assert "before its step" in caught.value.__notes__[0]


async def test_a_round_that_leaves_a_descriptor_is_found(short_settling: None) -> None:
    fds = []

    async def operation() -> None:
        fd = os.open(__file__, os.O_RDONLY)
        fds.append(fd)
        await anyio.lowlevel.checkpoint()
        os.close(fd)

    with pytest.raises(LeakError, match=r"fd \d+: .*test_sweep.py"):
        await cancel_sweep(operation)
    os.close(fds[0])


async def test_an_error_of_the_operation_comes_out_with_its_step() -> None:
    async def operation() -> None:
        with ExitStack() as cleanup:
            cleanup.callback(int, "bad cleanup")
            await anyio.lowlevel.checkpoint()

    with pytest.raises(ValueError, match="bad cleanup") as caught:
        await cancel_sweep(operation)
    assert "before its step" in caught.value.__notes__[0]


async def test_an_endless_operation_is_given_up() -> None:
    async def operation() -> None:
        for _ in count():
            await anyio.lowlevel.checkpoint()

    with pytest.raises(AssertionError, match="max_steps=5"):
        await cancel_sweep(operation, max_steps=5, check_leaks=False)
