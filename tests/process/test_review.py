"""What a review broke: hosts left while opening, pools that lose hope, many open descriptors."""

from __future__ import annotations

import os
import resource
import signal

import anyio
import anyio.lowlevel
import pytest

from anyio_bus import (
    Bus,
    BusHost,
    BusState,
    InvalidArgumentError,
    Limits,
    Pool,
    PoolUnavailableError,
    open_bus,
)
from anyio_bus._io.posix import PosixSpawner
from tests.process.kit import SED, children, only, patience, puppets, until, until_state

QUICK = Pool("quick", SED)


@pytest.mark.parametrize("turns", range(2, 10))
async def test_a_bus_that_is_being_opened_when_its_host_is_left_is_closed_too(turns: int) -> None:
    opened: list[Bus] = []

    async def open_one() -> None:
        opened.append(await host.open(QUICK))

    with patience():
        async with anyio.create_task_group() as tasks:
            async with BusHost() as host:
                tasks.start_soon(open_one)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
    assert [bus.state for bus in opened] == [BusState.STOPPED]
    assert children() == []


async def test_what_the_body_of_a_host_raises_comes_out_bare() -> None:
    with patience(), pytest.raises(ZeroDivisionError):
        async with BusHost() as host:
            bus = await host.open(QUICK)
            raise ZeroDivisionError
    assert bus.state is BusState.STOPPED


async def test_a_pool_of_which_only_parked_workers_are_left_is_unavailable() -> None:
    limits = Limits(max_restarts=1, restart_delay_s=0.2, park_retry_s=0)

    async def kill(worker: int, then: str) -> None:
        os.kill(bus.workers()[worker].pid or 0, signal.SIGKILL)
        await until_state(bus, then, worker)

    async with open_bus(puppets(instances=2), limits=limits) as bus:
        await bus.wait_ready()
        await kill(0, "backoff")
        await until_state(bus, "ready", 0)
        await kill(0, "parked")
        await kill(1, "backoff")
        await bus.resize("puppets", 1)
        await until(bus, lambda: len(bus.workers()) == 1)
        assert only(bus).state == "parked"
        with patience(), pytest.raises(PoolUnavailableError, match="max_restarts"):
            await bus.wait_ready()
        with patience(), pytest.raises(PoolUnavailableError, match="max_restarts"):
            await bus.request("echo")


async def test_a_parked_worker_says_why_not_the_one_that_was_told_to_go() -> None:
    limits = Limits(max_restarts=0, park_retry_s=0)
    async with open_bus(puppets(instances=2), limits=limits) as bus:
        await bus.wait_ready()
        os.kill(bus.workers()[0].pid or 0, signal.SIGKILL)
        await until_state(bus, "parked", 0)
        await bus.resize("puppets", 1)
        await until(bus, lambda: len(bus.workers()) == 1)
        with patience(), pytest.raises(PoolUnavailableError, match="SIGKILL"):
            await bus.request("echo")


async def test_the_last_rung_works_with_more_fds_than_select_can_take() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    fds: list[int] = []
    try:
        while not fds or fds[-1] < 1024:
            fds.append(os.dup(2))
        child = await PosixSpawner().spawn(QUICK)
        child.kill_now(5)
        assert children() == []
    finally:
        for fd in fds:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("field", "pool"),
    [
        ("command", {"command": ["c\ud800at"]}),
        ("cwd", {"command": ["cat"], "cwd": "/a\0b"}),
        ("cwd", {"command": ["cat"], "cwd": "/\ud800"}),
        ("env", {"command": ["cat"], "env": {"A": "\ud800"}}),
    ],
)
def test_what_no_system_call_takes_is_refused_by_the_pool(
    field: str, pool: dict[str, object]
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Pool("x", **pool)  # type: ignore[arg-type]
    assert field in str(caught.value)
