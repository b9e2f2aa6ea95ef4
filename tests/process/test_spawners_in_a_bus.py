"""A bus does the same whichever way its workers are spawned."""

from __future__ import annotations

import errno
import os
import signal

import anyio
import pytest

from anyio_bus import (
    Bus,
    BusStoppedError,
    InvalidArgumentError,
    Pool,
    WorkerLostError,
    WorkerStartError,
    open_bus,
)
from tests.process.kit import (
    FAST,
    SED,
    children,
    open_reports,
    patience,
    puppet,
    puppets,
    until_state,
)


async def test_a_bus_serves_restarts_and_stops(way: str) -> None:
    async with open_reports() as reports:
        async with open_bus(puppets("--report", reports.path), limits=FAST) as bus:
            report = await reports.accept()
            big = {"text": "x" * (8 * 1024 * 1024)}
            with patience():
                assert await bus.request("echo", big) == big
                with pytest.raises(WorkerLostError) as caught:
                    await bus.request("die", {"code": 3, "stderr": "bye\n"})
            assert (caught.value.exit_code, caught.value.stderr_tail) == (3, "bye\n")
            await report.rest()
            with patience():
                assert await bus.request("echo") == {}
            successor = await reports.accept()
        assert (await successor.rest())[-1] == "eof"
    assert children() == []


async def test_a_bus_kills_what_ignores_eof_and_sigterm(way: str) -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, "--ignore", "eof,term", instances=2)
        async with open_bus(pool, grace_s=0.5) as bus:
            both = [await reports.accept() for _ in range(2)]
            await bus.request("echo")
            await bus.request("echo")
        for report in both:
            assert (await report.rest())[-2:] == ["eof", "term"]


async def test_a_bus_tells_workers_of_their_cancelled_requests_before_the_end(way: str) -> None:
    async with open_reports() as reports:
        async with open_bus(puppets("--report", reports.path)) as bus:
            report = await reports.accept()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_stopped, bus)
                await report.until("hold")
                await bus.stop()
        assert await report.rest() == ["$/cancelRequest", "eof"]


async def _stopped(bus: Bus) -> None:
    with pytest.raises(BusStoppedError):
        await bus.request("hold")


async def test_a_bus_parks_what_cannot_be_executed(way: str) -> None:
    async with open_bus(Pool("bad", ["/no/such"]), Pool("good", SED), limits=FAST) as bus:
        with patience(), pytest.raises(WorkerStartError, match="/no/such") as caught:
            await bus.request("x", pool="bad")
        assert (caught.value.phase, caught.value.errno) == ("spawn", errno.ENOENT)
        await until_state(bus, "parked", worker=0)
        assert await bus.request("x", pool="good") == {}


async def test_a_bus_names_a_bad_working_directory(way: str) -> None:
    async with open_bus(Pool("bad", ["true"], cwd="/no/such/folder")) as bus:
        with patience(), pytest.raises(WorkerStartError, match="cwd '/no/such/folder'"):
            await bus.request("x")


async def test_a_cancelled_bus_leaves_nothing(way: str) -> None:
    with anyio.CancelScope() as scope:
        async with open_bus(puppets(instances=2), grace_s=2) as bus:
            await bus.request("echo")
            scope.cancel()
            await bus.request("hold")
    assert children() == []
    assert {info.state for info in bus.workers()} == {"stopped"}


async def test_a_bus_ends_a_worker_that_closes_its_stdout(
    way: str, anyio_backend: tuple[str, dict[str, object]]
) -> None:
    if way == "portable" and "loop_factory" in anyio_backend[1]:
        pytest.skip("uvloop gives its children a second copy of each pipe, so none ever ends")
    async with open_bus(puppets(), limits=FAST) as bus:
        await bus.request("echo")
        with patience(), pytest.raises(WorkerLostError, match="closed its stdout"):
            await bus.request("shut", {"fd": 1})
        with patience():
            assert await bus.request("echo") == {}


async def test_a_grandchild_does_not_hang_the_stop(way: str) -> None:
    async with open_reports() as reports:
        with patience():
            async with open_bus(puppets(), grace_s=2) as bus:
                pid = await bus.request("fork", {"path": reports.path})
                report = await reports.accept()
        if way == "portable":  # without groups nobody can find it
            os.kill(pid, signal.SIGKILL)
        await report.until(f"grandchild {pid}")
        assert await report.rest() == []


async def test_an_unknown_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYIO_BUS_SPAWNER", "magic")
    with pytest.raises(InvalidArgumentError, match="ANYIO_BUS_SPAWNER='magic'"):
        async with open_bus(Pool("any", puppet())):
            pass
