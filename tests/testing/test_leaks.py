"""The leak check names what a block leaves behind, and nothing else."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys

import anyio
import anyio.lowlevel
import pytest

from anyio_bus.testing import LeakCheck, LeakError
from tests.leaks import leave_orphan

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def ends(pid: int) -> bool:
    """Wait for the end of a process, whoever reaps it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    ended = bool(poll.poll(5000))
    os.close(pidfd)
    return ended


def test_a_clean_block_passes() -> None:
    with LeakCheck() as check:
        subprocess.run(["true"], check=True)
        with open(__file__, "rb"):
            pass
    assert check.left == []


def test_what_was_there_before_is_no_leak() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE), LeakCheck() as check:
        pass
    assert check.left == []


@pytest.mark.usefixtures("short_settling")
def test_a_child_is_named_and_ended() -> None:
    with pytest.raises(LeakError, match=r"process \d+: sleep 1000"), LeakCheck():
        child = subprocess.Popen(["sleep", "1000"])
    assert ends(child.pid)
    child.wait()


@pytest.mark.usefixtures("short_settling")
def test_a_child_nobody_waited_for_is_named() -> None:
    with (
        pytest.raises(LeakError, match=r"process \d+: true \(ended, never waited for\)"),
        LeakCheck(),
    ):
        child = subprocess.Popen(["true"])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    child.wait()


@pytest.mark.usefixtures("short_settling")
def test_a_grandchild_without_its_parent_is_named_and_ended() -> None:
    with pytest.raises(LeakError, match=r"process (\d+): sleep 1000") as caught, LeakCheck():
        leave_orphan("sleep 1000")
    pid = int(str(caught.value).partition("process ")[2].partition(":")[0])
    assert ends(pid)


@pytest.mark.usefixtures("short_settling")
def test_a_descriptor_is_named_with_what_it_is() -> None:
    with pytest.raises(LeakError, match=r"fd \d+: pipe:"), LeakCheck():
        ends = os.pipe()
    for fd in ends:
        os.close(fd)


def test_an_exception_of_the_block_comes_out_with_a_note(short_settling: None) -> None:
    with pytest.raises(ValueError, match="mine") as caught, LeakCheck():
        fd = os.open(__file__, os.O_RDONLY)
        raise ValueError("mine")
    os.close(fd)
    assert "test_leaks.py" in caught.value.__notes__[0]


@pytest.mark.usefixtures("short_settling")
def test_the_verdict_may_be_asked_for_instead_of_raised() -> None:
    with LeakCheck(raising=False) as check:
        fd = os.open(__file__, os.O_RDONLY)
    os.close(fd)
    assert [line.startswith(f"fd {fd}") for line in check.left] == [True]


@pytest.mark.usefixtures("short_settling")
def test_checks_nest_and_the_inner_one_reports() -> None:
    with LeakCheck() as outer:
        with pytest.raises(LeakError, match="sleep 1000"), LeakCheck():
            child = subprocess.Popen(["sleep", "1000"])
        child.wait()
    assert outer.left == []


def test_the_mark_in_the_environment_goes_with_the_check() -> None:
    before = dict(os.environ)
    with LeakCheck():
        assert dict(os.environ) != before
    assert dict(os.environ) == before


async def test_tasks_on_their_way_out_are_no_leak() -> None:
    async with LeakCheck() as check, anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.lowlevel.checkpoint)
        tasks.start_soon(anyio.lowlevel.checkpoint)
    assert check.left == []


async def endless() -> None:
    await anyio.sleep_forever()


async def test_a_task_is_named_by_its_function(
    short_settling: None, anyio_backend_name: str
) -> None:
    async with anyio.create_task_group() as tasks:
        with pytest.raises(LeakError, match=r"task .*endless"):
            async with LeakCheck():
                tasks.start_soon(endless)
        tasks.cancel_scope.cancel()


async def test_a_task_that_is_about_to_end_is_waited_for() -> None:
    async def several_steps() -> None:
        for _ in range(10):
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks, LeakCheck() as check:
        tasks.start_soon(several_steps)
        tasks.start_soon(several_steps)
    assert check.left == []


async def test_a_task_of_asyncio_alone_is_found(
    short_settling: None, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio alone can start a task that nobody owns")
    with pytest.raises(LeakError, match=r"stray.*endless"):
        async with LeakCheck():
            stray = asyncio.create_task(endless(), name="stray")
    stray.cancel()
    await asyncio.wait([stray])


async def test_the_check_is_done_under_cancellation_too(short_settling: None) -> None:
    fd = -1
    with anyio.CancelScope() as scope:
        with pytest.raises(anyio.get_cancelled_exc_class()) as caught:
            async with LeakCheck():
                fd = os.open(__file__, os.O_RDONLY)
                scope.cancel()
                await anyio.sleep_forever()
        os.close(fd)
        assert "test_leaks.py" in caught.value.__notes__[0]
