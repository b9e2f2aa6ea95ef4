"""Cancelling at any await leaves no process, no file descriptor and no task."""

from __future__ import annotations

import pytest

from anyio_bus import BusHost, Limits, Pool, open_bus
from anyio_bus.testing import cancel_sweep
from tests.process.kit import SED
from tests.process.sweep import native_cancel_sweep

pytestmark = pytest.mark.timeout(120)

QUICK = Pool("quick", SED)


async def open_ask_and_leave() -> None:
    async with open_bus(QUICK, grace_s=2) as bus:
        await bus.wait_ready()
        await bus.request("echo")


async def test_a_block_with_a_request_can_be_cancelled_at_any_step() -> None:
    assert await cancel_sweep(open_ask_and_leave) > 20


async def test_a_request_can_be_cancelled_at_any_step() -> None:
    async with open_bus(QUICK, limits=Limits(cancel_grace_s=0.001)) as bus:
        await bus.wait_ready()

        async def ask() -> None:
            await bus.request("echo")

        def check() -> None:
            assert bus.statistics().pending == 0

        assert await cancel_sweep(ask, check=check) >= 2
        assert await bus.request("echo") == {}


async def test_restarts_and_resizes_can_be_cancelled_at_any_step() -> None:
    async def change() -> None:
        async with open_bus(QUICK, grace_s=2) as bus:
            await bus.resize("quick", 2)
            await bus.restart_worker(0)
            await bus.resize("quick", 1)
            await bus.stop()

    await cancel_sweep(change)


async def test_a_failing_start_can_be_cancelled_at_any_step() -> None:
    async def fail() -> None:
        limits = Limits(restart_delay_s=0.001, restart_delay_max_s=0.001)
        async with open_bus(Pool("bad", ["/no/such"]), limits=limits, grace_s=2) as bus:
            with pytest.raises(OSError, match="/no/such"):
                await bus.request("echo")

    await cancel_sweep(fail)


@pytest.mark.parametrize("again", [0, 2])
async def test_native_cancels_of_asyncio_are_survived_at_any_step(
    again: int, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has edge cancels")
    assert await native_cancel_sweep(open_ask_and_leave, again) > 20


async def test_a_host_can_be_cancelled_at_any_step() -> None:
    async def host_one() -> None:
        async with BusHost() as host:
            bus = await host.open(QUICK, grace_s=2)
            await bus.request("echo")
            await host.aclose(bus)

    await cancel_sweep(host_one)


async def test_a_block_can_be_cancelled_at_any_step_whichever_way_it_spawns(
    way: str, anyio_backend: tuple[str, dict[str, object]]
) -> None:
    if way == "portable" and "loop_factory" in anyio_backend[1]:
        pytest.skip("uvloop loses an fd of its own when its spawning is cancelled")
    assert await cancel_sweep(open_ask_and_leave) > 20
