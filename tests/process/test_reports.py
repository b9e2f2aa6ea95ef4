"""``workers()`` and ``statistics()`` are true at every stage; ``wait_ready`` waits for all of it."""

from __future__ import annotations

import anyio
import pytest

from anyio_bus import BusStoppedError, Handshake, Limits, Pool, UnknownPoolError, open_bus
from tests.process.kit import (
    FAST,
    SED,
    only,
    open_reports,
    patience,
    pending,
    puppets,
    until,
    until_state,
)


async def test_a_worker_is_reported_from_its_first_process_on() -> None:
    async with open_bus(puppets(instances=2)) as bus:
        first, second = bus.workers()
        assert (first.pool, first.worker, second.worker) == ("puppets", 0, 1)
        assert (first.generation, first.restarts) == (1, 0)
        assert first.state in {"starting", "ready"}
        assert first.pid != second.pid
        assert first.uptime_s >= 0
        assert (first.reason, first.stderr_tail) == ("", "")
        await bus.wait_ready()
        assert [info.state for info in bus.workers()] == ["ready", "ready"]
        assert bus.workers()[0].pid == first.pid


async def test_workers_have_numbers_of_their_own_across_pools() -> None:
    async with open_bus(Pool("a", SED, instances=2), Pool("b", SED)) as bus:
        assert [(info.pool, info.worker) for info in bus.workers()] == [
            ("a", 0),
            ("a", 1),
            ("b", 2),
        ]


async def test_what_is_in_flight_is_reported_until_it_is_answered() -> None:
    async with open_bus(puppets()) as bus:
        await bus.wait_ready()
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(bus.request, "hold")
            await pending(bus, 3)
            assert only(bus).in_flight == 3
            assert bus.statistics().pending == 3
            assert bus.statistics().kernel.live_requests == 3
            await bus.notify("release")
        assert only(bus).in_flight == 0
        assert bus.statistics().pending == 0
        assert bus.statistics().kernel.live_requests == 0


async def test_a_cancelled_request_holds_its_slot_until_the_late_answer() -> None:
    async with open_bus(puppets()) as bus:
        await bus.request("echo")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(bus.request, "hold")
                await pending(bus, 1)
                await bus.request("echo")
                scope.cancel()
        assert (only(bus).in_flight, bus.statistics().pending) == (1, 0)
        kernel = bus.statistics().kernel
        assert (kernel.withdrawn, kernel.cancelled, kernel.live_requests) == (1, 1, 0)
        await bus.request("release")
        assert only(bus).in_flight == 0
        assert bus.statistics().kernel.late_answers == 1


async def test_messages_and_bytes_are_counted_and_kept_over_a_restart() -> None:
    async with open_bus(puppets(), limits=FAST) as bus:
        await bus.request("echo", {"a": 1})
        await bus.request("shout", {"kib": 1})
        before = bus.statistics().kernel
        assert (before.messages_out, before.messages_in) == (2, 2)
        await bus.notify("die")
        await until(bus, lambda: only(bus).generation == 2)
        await bus.request("echo")
        after = bus.statistics().kernel
        assert (after.messages_out, after.messages_in) == (4, 3)
        assert after.bytes_out > before.bytes_out
        assert after.bytes_in > before.bytes_in
        assert after.stderr_bytes == 1024
        assert after.worker_restarts == 1
        assert after.workers == 1


async def test_the_counters_never_go_back_while_a_worker_dies() -> None:
    """They are looked at with each change, also in the middle of a burial."""
    seen = []

    async def watch() -> None:
        while True:
            seen.append(bus.statistics().kernel)
            await bus._life.bell.wait()

    async with open_bus(puppets(), limits=FAST) as bus, anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        for generation in range(1, 4):
            await until(bus, lambda g=generation: only(bus).generation == g)  # type: ignore[misc]
            await bus.wait_ready()
            await bus.request("echo", {"text": "x" * 1000})
            await bus.notify("die")
        await until(bus, lambda: only(bus).generation == 4)
        tasks.cancel_scope.cancel()
    counts = [kernel.bytes_in for kernel in seen]
    assert counts == sorted(counts)
    assert {kernel.workers for kernel in seen} <= {0, 1}


async def test_a_stopped_bus_still_reports() -> None:
    async with open_bus(puppets()) as bus:
        await bus.request("echo")
    info = only(bus)
    assert (info.state, info.pid, info.in_flight) == ("stopped", None, 0)
    statistics = bus.statistics()
    assert (statistics.state, statistics.backend) == ("stopped", bus.backend)
    assert (statistics.kernel.workers, statistics.kernel.messages_in) == (0, 1)


async def test_wait_ready_waits_for_the_handshakes_of_all_pools() -> None:
    async with open_reports() as reports:
        slow = puppets("--report", reports.path, ready=Handshake("gate"))
        done = anyio.Event()

        async def wait_for_all() -> None:
            await bus.wait_ready()
            done.set()

        async with open_bus(slow, Pool("quick", SED)) as bus:
            report = await reports.accept()
            with patience():
                await bus.wait_ready("quick")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait_for_all)
                await report.until("gate")
                assert not done.is_set()
                await report.open_gate()
            assert done.is_set()


async def test_wait_ready_waits_for_a_restart() -> None:
    async with open_bus(puppets(), limits=FAST) as bus:
        await bus.request("echo")
        await bus.notify("die")
        await until(bus, lambda: only(bus).state != "ready")
        with patience():
            await bus.wait_ready()
        assert (only(bus).state, only(bus).generation) == ("ready", 2)


async def test_wait_ready_is_content_with_the_workers_that_are_not_parked() -> None:
    limits = Limits(max_restarts=0, park_retry_s=0)
    async with open_bus(puppets(instances=2), limits=limits) as bus:
        await bus.wait_ready()
        await bus.send(b'{"method":"die"}', worker=1)
        await until_state(bus, "parked", worker=1)
        with patience():
            await bus.wait_ready()


async def test_wait_ready_ends_with_the_bus() -> None:
    async def wait() -> None:
        with pytest.raises(BusStoppedError):
            await bus.wait_ready()

    async with open_bus(puppets(ready=Handshake("hold"))) as bus:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await bus.stop()
    with pytest.raises(BusStoppedError):
        await bus.wait_ready()


async def test_wait_ready_knows_its_pools() -> None:
    async with open_bus(puppets()) as bus:
        with pytest.raises(UnknownPoolError):
            await bus.wait_ready("nobody")
