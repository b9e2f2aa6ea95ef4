"""The kernel's primitives on real workers: hold, lease, release, pause, resume, kill, spawn, drain."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from anyio_bus import Bus, WorkerLostError, open_bus
from anyio_bus._sansio.codec import encode_notification
from anyio_bus._sansio.routing import Refused, Route
from tests.process.kit import (
    FAST,
    Report,
    Reports,
    only,
    open_reports,
    patience,
    pending,
    puppets,
    until,
    until_state,
)


def kernel(bus: Bus) -> Any:
    """Return what the policies of the client side will stand on."""
    return bus._backend


async def pids(bus: Bus, count: int) -> set[int]:
    with patience():
        return {await bus.request("pid") for _ in range(count)}


async def the_one(reports: Reports, pid: int | None) -> Report:
    """Return the report of one of two workers; which of them connects first is open."""
    both = [await reports.accept() for _ in range(2)]
    (found,) = [report for report in both if await report.pid() == pid]
    return found


async def test_a_held_worker_gets_nothing_but_what_names_it() -> None:
    async with open_reports() as reports:
        async with open_bus(puppets("--report", reports.path, instances=2)) as bus:
            await bus.wait_ready()
            held, other = (info.pid for info in bus.workers())
            report = await the_one(reports, held)
            kernel(bus).hold(0)
            assert await pids(bus, 4) == {other}
            await bus.send(b'{"method":"for the held one"}', worker=0)
            assert await report.line() == "for the held one"
            kernel(bus).release(0)
            assert await pids(bus, 4) == {held, other}


async def test_a_pool_of_held_workers_makes_requests_wait_until_one_is_released() -> None:
    got = []

    async def ask() -> None:
        got.append(await bus.request("pid"))

    async with open_bus(puppets()) as bus:
        await bus.wait_ready()
        kernel(bus).hold(0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await pending(bus, 1)
            assert bus.statistics().kernel.queued_requests == 1
            kernel(bus).release(0)
        assert got == [only(bus).pid]


async def test_a_hold_outlives_a_restart() -> None:
    async with open_bus(puppets(instances=2), limits=FAST) as bus:
        await bus.wait_ready()
        kernel(bus).hold(0)
        await bus.send(b'{"method":"die"}', worker=0)
        await until(bus, lambda: bus.workers()[0].generation == 2)
        await bus.wait_ready()
        assert await pids(bus, 4) == {bus.workers()[1].pid}


async def test_a_lease_keeps_a_worker_for_its_session() -> None:
    route = Route("puppets", session="s")
    async with open_reports() as reports:
        async with open_bus(puppets("--report", reports.path, instances=2)) as bus:
            await bus.wait_ready()
            leased, other = (info.pid for info in bus.workers())
            report = await the_one(reports, leased)
            kernel(bus).lease(0, "s")
            assert bus.statistics().kernel.sessions == 1
            assert await pids(bus, 3) == {other}
            kernel(bus).submit(encode_notification("of the session"), route, None)
            assert await report.line() == "of the session"
            kernel(bus).end_session("s")
            kernel(bus).release(0)
            assert bus.statistics().kernel.sessions == 0
            assert await pids(bus, 4) == {leased, other}


async def test_nothing_of_a_paused_worker_arrives_until_it_is_resumed() -> None:
    got = []

    async def ask() -> None:
        got.append(await bus.request("echo", {"n": 1}))

    async with open_bus(puppets(instances=2)) as bus:
        await bus.wait_ready()
        kernel(bus).hold(1)
        kernel(bus).pause(0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await pending(bus, 1)
            kernel(bus).release(1)
            kernel(bus).hold(0)
            for _ in range(5):  # long enough for an answer to come
                await bus.request("echo")
            assert got == []
            kernel(bus).resume(0)
        assert got == [{"n": 1}]


async def test_pausing_twice_and_resuming_what_is_not_paused_do_no_harm() -> None:
    async with open_bus(puppets()) as bus:
        kernel(bus).resume(0)
        kernel(bus).pause(0)
        kernel(bus).pause(0)
        kernel(bus).resume(0)
        kernel(bus).resume(0)
        with patience():
            assert await bus.request("echo") == {}


async def test_the_death_of_a_paused_worker_is_seen_and_what_it_wrote_before_is_read() -> None:
    got = []

    async def ask() -> None:
        got.append(await bus.request("echo", {"n": 1}))

    async with open_bus(puppets(), limits=FAST) as bus:
        await bus.request("echo")
        kernel(bus).pause(0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await pending(bus, 1)
            await bus.notify("die")
        assert got == [{"n": 1}]
        await until(bus, lambda: only(bus).generation == 2)
        with patience():
            assert await bus.request("echo") == {}


async def test_a_killed_worker_fails_its_requests_and_comes_back_at_once() -> None:
    errors: list[WorkerLostError] = []

    async def hold() -> None:
        with pytest.raises(WorkerLostError) as caught:
            await bus.request("hold")
        errors.append(caught.value)

    async with open_bus(puppets("--ignore", "eof,term")) as bus:
        pid = await bus.request("pid")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            await pending(bus, 1)
            kernel(bus).kill(0)
        assert errors[0].pid == pid
        assert errors[0].signal in {9, 15}
        with patience():
            assert await bus.request("pid") != pid
        await bus.stop(grace_s=0)


async def test_a_spawned_worker_joins_its_pool() -> None:
    async with open_bus(puppets()) as bus:
        assert kernel(bus).spawn("puppets") == 1
        await until_state(bus, "ready", worker=1)
        assert len(await pids(bus, 4)) == 2


async def test_a_drained_worker_that_retires_has_no_successor() -> None:
    async with open_bus(puppets(instances=2)) as bus:
        await bus.wait_ready()
        kernel(bus).drain(0, 1.0, retire=True)
        await until(bus, lambda: len(bus.workers()) == 1)
        assert only(bus).worker == 1


async def test_a_primitive_for_a_worker_that_is_not_there_is_refused() -> None:
    async with open_bus(puppets()) as bus:
        for name in ("hold", "release", "kill", "pause", "resume"):
            with pytest.raises(Refused, match="no worker 5"):
                getattr(kernel(bus), name)(5)
