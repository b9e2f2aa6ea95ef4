"""Grandchildren neither hold up a worker's end nor survive it; workers do not survive their host.

Death is proved by the end of a socket that the process holds, liveness by what it says there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import pytest

from anyio_bus import WorkerLostError, open_bus
from tests.process.kit import FAST, WORKERS, Report, Reports, open_reports, patience, puppets

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="PDEATHSIG is Linux's")


async def grandchild(reports: Reports, bus: Any, **params: object) -> tuple[Report, int]:
    """Make a worker leave a child behind that holds its pipes; return that child."""
    with patience():
        pid = await bus.request("fork", {"path": reports.path, **params})
    report = await reports.accept()
    assert await report.line() == f"grandchild {pid}"
    return report, pid


async def test_a_grandchild_that_holds_the_pipes_neither_hangs_the_stop_nor_survives_it() -> None:
    async with open_reports() as reports:
        with patience():
            async with open_bus(puppets()) as bus:
                report, _ = await grandchild(reports, bus)
        assert await report.rest() == []


async def test_a_grandchild_does_not_survive_a_leader_that_dies_alone() -> None:
    async with open_reports() as reports:
        async with open_bus(puppets(), limits=FAST) as bus:
            leader = await bus.request("pid")
            report, _ = await grandchild(reports, bus)
            with patience(), pytest.raises(WorkerLostError) as caught:
                await bus.request("die", {"signal": signal.SIGKILL})
            assert caught.value.pid == leader
            assert await report.rest() == []
            with patience():
                assert await bus.request("pid") != leader


async def test_a_grandchild_does_not_survive_a_cancelled_block() -> None:
    async with open_reports() as reports:
        with anyio.CancelScope() as scope:
            async with open_bus(puppets()) as bus:
                report, _ = await grandchild(reports, bus)
                scope.cancel()
        assert await report.rest() == []


async def test_a_grandchild_in_a_session_of_its_own_does_not_hang_the_stop() -> None:
    """It has left the group, so nobody can find it; but its pipes are not waited for."""
    async with open_reports() as reports:
        with patience():
            async with open_bus(puppets()) as bus:
                report, pid = await grandchild(reports, bus, session=True)
        os.kill(pid, signal.SIGKILL)
        assert await report.rest() == []


async def test_a_grandchild_in_a_session_of_its_own_does_not_delay_the_news_of_a_death() -> None:
    async with open_reports() as reports:
        async with open_bus(puppets(), limits=FAST) as bus:
            report, pid = await grandchild(reports, bus, session=True)
            with patience(), pytest.raises(WorkerLostError):
                await bus.request("die")
            with patience():
                assert await bus.request("echo", {"a": 1}) == {"a": 1}
        os.kill(pid, signal.SIGKILL)
        assert await report.rest() == []


@asynccontextmanager
async def host_program(
    reports: Reports, anyio_backend: tuple[str, dict[str, Any]], *arguments: str
) -> AsyncIterator[anyio.abc.Process]:
    """Run a program that opens a bus; it says "ready" and waits."""
    name, options = anyio_backend
    loop = "uvloop" if "loop_factory" in options else name
    argv = [sys.executable, str(WORKERS.parent / "programs" / "host.py"), loop, reports.path]
    process = await anyio.open_process([*argv, *arguments], stderr=None)
    async with process:
        try:
            assert process.stdout is not None
            with patience():
                assert (await process.stdout.receive()).strip() == b"ready"
            yield process
        finally:
            if process.returncode is None:
                process.kill()


@linux_only
@pytest.mark.parametrize("stubborn", [(), ("--ignore", "eof,term")])
async def test_workers_of_a_host_killed_by_sigkill_die(
    stubborn: tuple[str, ...], anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    async with (
        open_reports() as reports,
        host_program(reports, anyio_backend, "wait", *stubborn) as host,
    ):
        workers = [await reports.accept() for _ in range(2)]
        host.kill()
        for report in workers:
            await report.rest()


@linux_only
async def test_with_a_guard_grandchildren_of_a_killed_host_die_too(
    anyio_backend: tuple[str, dict[str, Any]],
) -> None:
    async with (
        open_reports() as reports,
        host_program(reports, anyio_backend, "guard", "--ignore", "eof,term") as host,
    ):
        workers = [await reports.accept() for _ in range(4)]  # two leaders, two grandchildren
        host.kill()
        for report in workers:
            await report.rest()


@pytest.mark.parametrize("stubborn", [(), ("--ignore", "eof,term")])
async def test_ctrl_c_leaves_nothing(
    stubborn: tuple[str, ...], anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    async with (
        open_reports() as reports,
        host_program(reports, anyio_backend, "wait", *stubborn) as host,
    ):
        workers = [await reports.accept() for _ in range(2)]
        host.send_signal(signal.SIGINT)
        with patience():
            assert await host.wait() == 42  # what the program makes of KeyboardInterrupt
        for report in workers:
            lines = await report.rest()
            assert "eof" in lines


async def test_ctrl_c_twice_leaves_nothing(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    stubborn = ("--ignore", "eof,term")
    async with (
        open_reports() as reports,
        host_program(reports, anyio_backend, "wait", *stubborn) as host,
    ):
        workers = [await reports.accept() for _ in range(2)]
        host.send_signal(signal.SIGINT)
        await workers[0].until("eof")
        host.send_signal(signal.SIGINT)
        with patience():
            assert await host.wait() == 42
        for report in workers:
            await report.rest()


async def test_a_guard_goes_with_its_bus() -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, guard=True, instances=2)
        async with open_bus(pool, limits=FAST) as bus:
            for _ in range(2):
                await reports.accept()
            report, _ = await grandchild(reports, bus)
            with pytest.raises(WorkerLostError):
                await bus.request("die")
            await bus.request("echo")
        assert await report.rest() == []
