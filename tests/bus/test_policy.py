"""Spares, recycling, resting and health: workers come and go, and no request is lost."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from anyio_bus import (
    Bus,
    Handshake,
    Limits,
    Memory,
    Pool,
    Probe,
    RemoteError,
    WorkerInfo,
    WorkerLostError,
    open_bus,
)
from anyio_bus._bus import recycling
from tests.bus.support import WORKER, begin, fifo, log, methods, scripted, until

FAST = Limits(restart_delay_s=0.001, restart_delay_max_s=0.002)


def serving(bus: Bus) -> list[WorkerInfo]:
    return [info for info in bus.workers() if info.state == "ready" and not info.held]


def spares(bus: Bus) -> list[WorkerInfo]:
    return [info for info in bus.workers() if info.state == "ready" and info.held]


async def settled(bus: Bus, serve: int, spare: int) -> None:
    """Wait until so many workers serve, so many are spares, and there is nothing else."""
    await until(
        lambda: (
            len(bus.workers()) == serve + spare
            and len(serving(bus)) == serve
            and len(spares(bus)) == spare
        )
    )


async def gone(bus: Bus, pid: int | None) -> None:
    """Wait until no worker is this process."""
    await until(lambda: pid not in {info.pid for info in bus.workers()})


def gated(gate: Path, **options: Any) -> Pool:
    """Make a pool whose workers do not come up while there is a file of this name."""
    script = f'[ -e "{gate}" ] && exec sleep 1000; exec "{sys.executable}" -I -S "{WORKER}"'
    return Pool("w", ["sh", "-c", script], ready=Handshake("echo"), **options)


# -- spares --------------------------------------------------------------------------------------


async def test_after_a_kill_the_spare_serves_though_no_other_worker_comes_up(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    async with open_bus(gated(gate, spares=1), limits=FAST, grace_s=1) as bus:
        await settled(bus, 1, 1)
        (first,), (spare,) = serving(bus), spares(bus)
        assert first.pid is not None
        gate.touch()
        os.kill(first.pid, signal.SIGKILL)
        with anyio.fail_after(10):
            await until(lambda: bus.workers()[first.worker].generation == 2)
            assert await bus.request("pid") == spare.pid
        assert bus.workers()[first.worker].state == "starting"


async def test_the_successor_of_the_dead_is_the_next_spare() -> None:
    async with open_bus(scripted(instances=2, spares=1), limits=FAST, grace_s=1) as bus:
        await settled(bus, 2, 1)
        for _ in range(3):
            await bus.request("pid")  # it has come up, and is not taken for a failed start
            victim = serving(bus)[0]
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            await gone(bus, victim.pid)
            await settled(bus, 2, 1)
        assert len(bus.workers()) == 3


async def test_a_spare_gets_no_work_and_is_greeted() -> None:
    pool = scripted(spares=2, ready=Handshake("echo", {"hello": 1}))
    async with open_bus(pool, grace_s=1) as bus:
        await settled(bus, 1, 2)
        (worker,) = serving(bus)
        assert {await bus.request("pid") for _ in range(6)} == {worker.pid}
        assert [info.served for info in spares(bus)] == [0, 0]
        os.kill(worker.pid or 0, signal.SIGKILL)
        await gone(bus, worker.pid)
        assert methods(await log(bus))[0] == "echo"


async def test_the_place_of_a_leased_worker_is_taken_and_given_back() -> None:
    async with open_bus(scripted(spares=1), grace_s=1) as bus:
        await settled(bus, 1, 1)
        (leased,), (spare,) = serving(bus), spares(bus)
        async with bus.session(exclusive=True) as session:
            assert session.worker == leased.worker
            assert await bus.request("pid") == spare.pid
            assert await session.request("pid") == leased.pid
            await settled(bus, 1, 2)  # the lease, and a new spare
        await settled(bus, 1, 1)


async def test_leases_do_not_add_workers_without_end() -> None:
    async with open_bus(scripted(spares=1), grace_s=1) as bus, AsyncExitStack() as stack:
        await settled(bus, 1, 1)
        for _ in range(3):
            with anyio.fail_after(10):
                await stack.enter_async_context(bus.session(exclusive=True))
        await until(lambda: len(bus.workers()) == 3)


async def test_a_pool_with_spares_is_resized_by_what_serves() -> None:
    async with open_bus(scripted(spares=1), grace_s=1) as bus:
        await settled(bus, 1, 1)
        await bus.resize("w", 3)
        await settled(bus, 3, 1)
        await bus.resize("w", 1)
        await settled(bus, 1, 1)
        assert await bus.request("echo", {"n": 1}) == {"n": 1}


# -- recycling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"spares": 1}, {"instances": 2}], ids=str)
async def test_workers_are_replaced_after_so_many_requests_and_none_is_lost(
    more: dict[str, Any],
) -> None:
    pids: list[int] = []

    async def ask() -> None:
        for _ in range(15):
            pid = await bus.request("pid", reply=int)
            pids.append(pid)

    async with open_bus(scripted(max_requests=6, **more), grace_s=1) as bus:
        await bus.wait_ready()
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
        assert len(pids) == 45
        first = pids[0]
        await gone(bus, first)
        await settled(bus, more.get("instances", 1), more.get("spares", 0))
        assert await bus.request("pid", reply=int) != first


async def test_what_a_worker_has_is_finished_before_it_is_replaced() -> None:
    async with open_bus(scripted(max_requests=2), grace_s=1) as bus:
        old = await bus.request("pid", reply=int)
        async with anyio.create_task_group() as tasks:
            long = begin(tasks, lambda: bus.request("hold", {"n": 7}, timeout=None))
            await until(lambda: any(info.state == "draining" for info in bus.workers()))
            assert await bus.request("pid", reply=int) != old
            assert not long.over
            await bus.send(b'{"method":"release"}', worker=0)
            assert await long.wait() == {"n": 7}
        await settled(bus, 1, 0)


async def test_an_old_worker_is_replaced_and_its_successor_too() -> None:
    async with open_bus(scripted(max_lifetime_s=0.05), grace_s=1) as bus:
        seen = set()
        with anyio.fail_after(10):
            while len(seen) < 3:
                seen.add(await bus.request("pid", reply=int))


async def test_a_worker_that_holds_too_much_memory_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recycling, "RSS_EVERY_S", 0.05)
    async with open_bus(scripted(max_rss_bytes=1), grace_s=1) as bus:
        first = await bus.request("pid", reply=int)
        assert (bus.workers()[0].rss_bytes or 0) > 100_000
        with anyio.fail_after(10):
            while await bus.request("pid", reply=int) == first:
                pass


async def test_a_worker_with_a_session_stays_until_that_is_over() -> None:
    async with open_bus(scripted(max_requests=1), grace_s=1) as bus:
        async with bus.session() as session:
            pids = {await session.request("pid", reply=int) for _ in range(5)}
            assert len(pids) == 1
        await until(lambda: pids.isdisjoint(info.pid for info in bus.workers()))


async def test_without_a_successor_a_worker_stays(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    limits = Limits(start_attempts=1, park_retry_s=0)
    pool = gated(gate, max_requests=2)
    pool = Pool("w", pool.argv, ready=Handshake("echo", timeout_s=0.2), max_requests=2)
    async with open_bus(pool, limits=limits, grace_s=1) as bus:
        await bus.wait_ready()
        gate.touch()
        first = await bus.request("pid", reply=int)
        await bus.request("pid")
        await until(lambda: len(bus.workers()) == 2)
        await until(lambda: len(bus.workers()) == 1)
        assert await bus.request("pid", reply=int) == first


# -- resting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["stopping", "vacant"])
async def test_a_request_is_answered_wherever_it_meets_a_worker_that_goes_to_rest(
    state: str,
) -> None:
    async with open_bus(scripted(idle_timeout_s=0.05), grace_s=1) as bus:
        first = await bus.request("pid", reply=int)
        with anyio.fail_after(10):
            while bus.workers()[0].state != state:
                await bus._life.bell.wait()
            assert await bus.request("pid", reply=int) != first


async def test_a_pool_at_rest_is_ready_and_starts_as_many_as_are_needed() -> None:
    async with open_bus(scripted(instances=3, idle_timeout_s=0.1), grace_s=1) as bus:
        await bus.wait_ready()
        await until(lambda: {info.state for info in bus.workers()} == {"vacant"})
        await bus.wait_ready()
        assert bus.statistics().kernel.workers == 0
        async with anyio.create_task_group() as tasks:
            held = [begin(tasks, lambda: bus.request("hold")) for _ in range(2)]
            await until(lambda: sum(info.in_flight for info in bus.workers()) == 2)
            await until(lambda: len(serving(bus)) == 2)
            for info in serving(bus):
                await bus.send(b'{"method":"release"}', worker=info.worker)
            for outcome in held:
                await outcome.wait()


async def test_spares_stay_awake_and_serve_while_the_worker_that_rested_starts(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    async with open_bus(gated(gate, spares=1, idle_timeout_s=0.1), grace_s=1) as bus:
        await settled(bus, 1, 1)
        (spare,) = spares(bus)
        await until(lambda: bus.workers()[1 - spare.worker].state == "vacant")
        assert [info.pid for info in spares(bus)] == [spare.pid]
        gate.touch()
        assert await bus.request("pid") == spare.pid


async def test_a_lease_wakes_a_worker_that_rests() -> None:
    async with open_bus(scripted(idle_timeout_s=0.05), grace_s=1) as bus:
        await until(lambda: {info.state for info in bus.workers()} == {"vacant"})
        with anyio.fail_after(10):
            async with bus.session(exclusive=True) as session:
                assert await session.request("echo", {"n": 1}) == {"n": 1}


async def test_what_rests_is_restarted_on_request_and_stops_with_the_bus() -> None:
    async with open_bus(scripted(instances=2, idle_timeout_s=0.05), grace_s=1) as bus:
        await until(lambda: {info.state for info in bus.workers()} == {"vacant"})
        await bus.restart_worker(1)
        await until(lambda: bus.workers()[1].generation == 2)


# -- health --------------------------------------------------------------------------------------


async def test_a_silent_worker_is_killed_and_its_requests_say_why(tmp_path: Path) -> None:
    probe = Probe("echo", every_s=0.05, timeout_s=0.2)
    with fifo(tmp_path / "fifo"):
        async with open_bus(scripted(health=probe), limits=FAST, grace_s=1) as bus:
            with anyio.fail_after(10), pytest.raises(WorkerLostError) as caught:
                await bus.request("stall", {"fifo": str(tmp_path / "fifo")})
            assert "was silent for 0.2 s after 'echo' and was killed" in str(caught.value)
            assert caught.value.signal is not None
            assert await bus.request("echo", {"n": 1}) == {"n": 1}
            assert bus.workers()[0].generation == 2


async def refuse(receive: Callable[[], Any], send: Callable[[bytes], Any]) -> None:
    """Serve: answer every request with an error."""
    while data := await receive():
        for line in data.splitlines():
            key = line.partition(b'"id":')[2].partition(b",")[0].rstrip(b"}")
            await send(b'{"id":%b,"error":{"code":-1,"message":"no"}}\n' % key)


async def test_an_error_is_an_answer() -> None:
    pool = Pool("w", ["none"], health=Probe("ping", every_s=0.01, timeout_s=0.05))
    async with open_bus(pool, backend=Memory({"w": refuse}), grace_s=1) as bus:
        await until(lambda: bus.workers()[0].served >= 3)
        with pytest.raises(RemoteError):
            await bus.request("echo")
        assert bus.workers()[0].generation == 1


def lines_of(data: bytes) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in data.splitlines()]


async def interrupted(receive: Callable[[], Any], send: Callable[[bytes], Any]) -> None:
    """Serve: go on with a stream only when a probe has come, and answer that last."""
    waiting: list[Any] = []
    while data := await receive():
        for message in lines_of(data):
            waiting.append(message.get("id"))
            if message["method"] == "ping" and len(waiting) == 2:
                await send(b'{"method":"chunk","params":{"text":"a plain chunk"}}\n')
                for key in waiting:
                    await send(b'{"id":%d,"result":{}}\n' % key)


async def test_a_probe_does_not_take_a_chunk_from_its_stream() -> None:
    pool = Pool("w", ["none"], health=Probe("ping", every_s=0.02, timeout_s=5))
    async with open_bus(pool, backend=Memory({"w": interrupted}), grace_s=1) as bus:
        with anyio.fail_after(10):
            async with bus.stream("go") as stream:
                assert [chunk.text async for chunk in stream] == ["a plain chunk"]


async def test_probes_do_not_keep_an_idle_worker_awake() -> None:
    probe = Probe("echo", every_s=0.02, timeout_s=0.05)
    async with open_bus(scripted(health=probe, idle_timeout_s=0.3), grace_s=1) as bus:
        await until(lambda: bus.workers()[0].served >= 2)
        await until(lambda: bus.workers()[0].state == "vacant")


async def test_a_bus_without_policies_runs_no_task_for_them() -> None:
    async with open_bus(scripted(), grace_s=1) as bus:
        assert not bus._policies.wanted
