"""A stop is bounded, ends all workers at once, rung by rung, and can be asked for by any task."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from functools import partial

import anyio
import pytest

from anyio_bus import Bus, BusState, BusStoppedError, InvalidArgumentError, open_bus
from tests.process.kit import (
    FAST,
    Report,
    open_reports,
    patience,
    pending,
    polled,
    puppets,
)

LONG_S = 60.0  # a grace that no test waits for
SHORT_S = 0.5  # one that is waited for where the ladder is to be climbed to its end


async def test_a_polite_worker_sees_eof_and_no_signal() -> None:
    async with open_reports() as reports:
        async with open_bus(puppets("--report", reports.path), grace_s=LONG_S) as bus:
            report = await reports.accept()
            await bus.request("echo")
        assert (await report.rest())[1:] == ["echo", "eof"]


async def test_a_worker_that_ignores_eof_ends_by_sigterm() -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, "--ignore", "eof")
        async with open_bus(pool, grace_s=SHORT_S) as bus:
            report = await reports.accept()
            await bus.request("echo")
        assert (await report.rest())[1:] == ["echo", "eof", "term"]


async def test_a_worker_that_ignores_sigterm_too_is_killed() -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, "--ignore", "eof,term")
        async with open_bus(pool, grace_s=SHORT_S) as bus:
            report = await reports.accept()
            await bus.request("echo")
        assert (await report.rest())[1:] == ["echo", "eof", "term"]


async def test_a_stopped_worker_hears_sigterm() -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, "--ignore", "eof")
        async with open_bus(pool, grace_s=SHORT_S) as bus:
            report = await reports.accept()
            await bus.request("echo")
            await bus.notify("die", {"signal": signal.SIGSTOP})
            await report.until("die")
        assert "term" in await report.rest()


async def test_sixteen_stubborn_workers_climb_the_ladder_together() -> None:
    """One grace for all: each rung reaches all sixteen before the next one reaches any."""
    told: list[str] = []

    async def follow(report: Report) -> None:
        while line := await report.line():
            if line in {"eof", "term"}:
                told.append(line)
        told.append("dead")

    async with open_reports() as reports, anyio.create_task_group() as tasks:
        pool = puppets("--report", reports.path, "--ignore", "eof,term", instances=16)
        async with open_bus(pool, grace_s=2.5):
            for _ in range(16):
                tasks.start_soon(follow, await reports.accept())
    assert told == ["eof"] * 16 + ["term"] * 16 + ["dead"] * 16


async def test_what_a_worker_writes_on_eof_is_read_or_it_could_not_end() -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, "--at-eof", "chatter")
        async with open_bus(pool, grace_s=LONG_S) as bus:
            report = await reports.accept()
            await bus.request("echo")
        assert (await report.rest())[1:] == ["echo", "eof", "chattered"]
        assert bus.statistics().kernel.bytes_in > 1024 * 1024


async def test_a_paused_worker_is_read_during_the_stop() -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, "--at-eof", "chatter")
        async with open_bus(pool, grace_s=LONG_S) as bus:
            report = await reports.accept()
            await bus.request("echo")
            bus._backend.pause(0)
        assert (await report.rest())[1:] == ["echo", "eof", "chattered"]


async def test_a_second_stop_with_a_smaller_grace_shortens_the_first() -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, "--ignore", "eof,term")
        with patience():
            async with open_bus(pool, grace_s=LONG_S) as bus, anyio.create_task_group() as tasks:
                report = await reports.accept()
                await bus.request("echo")
                tasks.start_soon(partial(bus.stop, grace_s=LONG_S))
                await report.until("eof")
                await bus.stop(grace_s=SHORT_S)
        assert await report.rest() == ["term"]


async def test_a_shorter_stop_right_after_the_first_is_not_missed() -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, "--ignore", "eof,term")
        with patience():
            async with open_bus(pool, grace_s=LONG_S) as bus, anyio.create_task_group() as tasks:
                report = await reports.accept()
                await bus.request("echo")
                for grace_s in (LONG_S, LONG_S - 1, LONG_S - 2, SHORT_S):
                    tasks.start_soon(partial(bus.stop, grace_s=grace_s))
        await report.rest()


async def test_a_grace_of_0_kills_at_once() -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, "--ignore", "eof,term")
        async with open_bus(pool, grace_s=LONG_S) as bus:
            report = await reports.accept()
            with patience():
                await bus.stop(grace_s=0)
            assert bus.workers()[0].state == "stopped"
        await report.rest()


async def refused(bus: Bus, method: str) -> BusStoppedError:
    with patience(), pytest.raises(BusStoppedError) as caught:
        await bus.request(method)
    return caught.value


async def test_a_stop_from_another_task_fails_what_is_in_flight_and_tells_the_worker_first() -> (
    None
):
    errors = []

    async def ask() -> None:
        errors.append(await refused(bus, "hold"))

    async with open_reports() as reports:
        async with open_bus(puppets("--report", reports.path)) as bus:
            report = await reports.accept()
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(ask)
                await pending(bus, 3)
                await bus.request("echo")
                tasks.start_soon(bus.stop)
            assert bus.state is BusState.STOPPED
            assert not (await refused(bus, "echo")).sent
        cancels = ["$/cancelRequest"] * 3
        assert (await report.rest())[1:] == ["hold", "hold", "hold", "echo", *cancels, "eof"]
    for error in errors:
        assert "bus is shutting down" in str(error)
        assert error.sent


async def test_requests_after_a_stop_was_asked_for_are_refused() -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, "--ignore", "eof")
        async with open_bus(pool) as bus, anyio.create_task_group() as tasks:
            report = await reports.accept()
            await bus.request("echo")
            tasks.start_soon(bus.stop)
            await report.until("eof")
            assert bus.state is BusState.STOPPING
            error = await refused(bus, "echo")
            assert not error.sent
            assert "shutting down" in str(error)
            for refuse in (bus.notify("x"), bus.wait_ready(), bus.restart_worker(0)):
                with pytest.raises(BusStoppedError):
                    await refuse
            await bus.stop(grace_s=0)


async def test_a_draining_stop_ends_with_the_last_answer() -> None:
    answers = []

    async def ask() -> None:
        answers.append(await bus.request("hold"))

    async with open_bus(puppets()) as bus:
        await bus.wait_ready()
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
            await pending(bus, 3)
            await bus.notify("release")
            with patience():
                await bus.stop(drain_s=LONG_S)
    assert answers == ["released"] * 3


async def test_a_draining_stop_fails_what_is_not_done_in_time() -> None:
    async with open_bus(puppets()) as bus, anyio.create_task_group() as tasks:
        await bus.request("echo")
        tasks.start_soon(refused, bus, "hold")
        await pending(bus, 1)
        with patience():
            await bus.stop(drain_s=0.05)


async def test_a_stop_without_drain_cuts_a_draining_one_short() -> None:
    async with open_bus(puppets()) as bus, anyio.create_task_group() as tasks:
        await bus.request("echo")
        tasks.start_soon(refused, bus, "hold")
        await pending(bus, 1)
        tasks.start_soon(partial(bus.stop, drain_s=LONG_S))
        await polled(lambda: bus.state is not BusState.RUNNING)
        assert bus.statistics().pending == 1
        with patience():
            await bus.stop()


async def test_the_wait_for_a_stop_can_be_cancelled_and_the_stop_goes_on() -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, "--ignore", "eof")
        async with open_bus(pool, grace_s=SHORT_S) as bus:
            report = await reports.accept()
            await bus.request("echo")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(bus.stop, grace_s=SHORT_S))
                await report.until("eof")
                tasks.cancel_scope.cancel()
            assert await report.rest() == ["term"]


async def test_a_stop_ends_a_pool_that_is_backing_off_or_parked() -> None:
    with patience():
        async with open_bus(puppets(), limits=FAST) as bus:
            await bus.notify("die", {"code": 1})
        async with AsyncExitStack() as stack:
            bus = await stack.enter_async_context(open_bus(puppets(), limits=FAST))
            await bus.stop()
            await bus.stop()
    assert [info.state for info in bus.workers()] == ["stopped"]


async def test_a_stop_refuses_what_is_no_duration() -> None:
    async with open_bus(puppets()) as bus:
        for bad in (-1, float("inf"), float("nan"), True, "1", None):
            with pytest.raises(InvalidArgumentError, match="grace_s"):
                await bus.stop(grace_s=bad)  # type: ignore[arg-type]
            with pytest.raises(InvalidArgumentError, match="drain_s"):
                await bus.stop(drain_s=bad)  # type: ignore[arg-type]
        assert bus.state is BusState.RUNNING
