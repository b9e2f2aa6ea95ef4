"""Many buses in one process: nested, side by side, in threads, and hosted in any order."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

from anyio_bus import (
    Bus,
    BusError,
    BusHost,
    BusState,
    BusStoppedError,
    InvalidArgumentError,
    InvalidStateError,
    Pool,
    open_bus,
)
from tests.process.kit import SED, children, patience, puppets

QUICK = Pool("quick", SED)


async def test_ten_buses_serve_at_once() -> None:
    pids = []
    all_open = anyio.Event()

    async def serve() -> None:
        async with open_bus(puppets()) as bus:
            pids.append(await bus.request("pid"))
            if len(pids) == 10:
                all_open.set()
            with patience():
                await all_open.wait()
            assert await bus.request("pid") == bus.workers()[0].pid

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(serve)
    assert len(set(pids)) == 10


async def test_blocks_nest() -> None:
    async with open_bus(QUICK) as outer:
        async with open_bus(QUICK) as inner:
            assert await inner.request("x") == {}
            assert await outer.request("x") == {}
        assert inner.state is BusState.STOPPED
        assert await outer.request("x") == {}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_hosted_buses_close_in_any_order(order: tuple[int, ...]) -> None:
    async with BusHost() as host:
        buses = [await host.open(QUICK) for _ in range(3)]
        for number in order:
            await host.aclose(buses[number])
            assert buses[number].state is BusState.STOPPED
            for bus in buses:
                if bus.state is BusState.RUNNING:
                    assert await bus.request("x") == {}
    assert children() == []


async def test_hosted_buses_are_opened_and_closed_by_any_task() -> None:
    opened: list[Bus] = []

    async def open_one() -> None:
        opened.append(await host.open(QUICK))

    async with BusHost() as host:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(open_one)
        async with anyio.create_task_group() as tasks:
            for bus in opened[:3]:
                tasks.start_soon(host.aclose, bus)
        assert await opened[3].request("x") == {}
    assert [bus.state for bus in opened] == ["stopped"] * 4


async def test_what_is_still_open_is_closed_with_the_host() -> None:
    async with BusHost() as host:
        bus = await host.open(QUICK)
    assert bus.state is BusState.STOPPED
    with pytest.raises(BusStoppedError):
        await bus.request("x")


async def test_closing_a_hosted_bus_twice_or_after_its_stop_does_nothing() -> None:
    async with BusHost() as host:
        bus = await host.open(QUICK)
        await bus.stop()
        await host.aclose(bus)
        await host.aclose(bus)


async def test_a_bus_that_fails_does_not_hurt_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async with BusHost() as host:
        bad, good = [await host.open(QUICK, backend="python") for _ in range(2)]
        await bad.request("x")
        router: Any = bad._backend.router  # type: ignore[attr-defined]
        monkeypatch.setattr(router, "settle", broken)
        with patience(), pytest.raises(BusError):
            await bad.request("x")
        assert await good.request("x") == {}
        with patience(), pytest.raises(BusError, match="report"):
            await host.aclose(bad)
        assert bad.state is BusState.STOPPED
        assert await good.request("x") == {}


async def test_a_bus_that_cannot_be_opened_does_not_hurt_the_host() -> None:
    async with BusHost() as host:
        with pytest.raises(InvalidArgumentError):
            await host.open()
        with pytest.raises(InvalidArgumentError):
            await host.open(QUICK, grace_s=-1)
        bus = await host.open(QUICK)
        assert await bus.request("x") == {}


async def test_a_cancelled_host_closes_its_buses() -> None:
    with anyio.CancelScope() as scope:
        async with BusHost() as host:
            bus = await host.open(QUICK)
            scope.cancel()
            await anyio.sleep_forever()
    assert bus.state is BusState.STOPPED
    assert children() == []


async def test_a_cancelled_opening_is_undone_and_the_host_lives_on() -> None:
    async with BusHost() as host:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await host.open(QUICK)
        assert children() == []
        bus = await host.open(QUICK)
        assert await bus.request("x") == {}


async def test_a_host_is_open_in_its_block_only() -> None:
    host = BusHost()
    with pytest.raises(InvalidStateError):
        await host.open(QUICK)
    async with host:
        with pytest.raises(InvalidStateError):
            await host.__aenter__()
    with pytest.raises(InvalidStateError):
        await host.open(QUICK)


async def test_buses_live_in_threads_with_loops_of_their_own(
    anyio_backend: tuple[str, dict[str, Any]],
) -> None:
    """Each worker is tied to the thread that spawned it, and does not outlive it."""
    name, options = anyio_backend
    met = threading.Barrier(4, timeout=10)

    async def serve() -> int:
        async with open_bus(puppets()) as bus:
            pid: int = await bus.request("pid")
            met.wait()  # every bus is open, and so is ours below
            assert await bus.request("echo", {"a": 1}) == {"a": 1}
            return pid

    pids = []

    def run() -> None:
        pids.append(anyio.run(serve, backend=name, backend_options=options))

    async with open_bus(QUICK) as ours, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(anyio.to_thread.run_sync, run)
        await anyio.to_thread.run_sync(met.wait)
        with patience():
            assert await ours.request("x") == {}
    assert len(set(pids)) == 3
