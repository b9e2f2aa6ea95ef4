"""Pools grow and shrink, and workers are replaced, without the loss of a request."""

from __future__ import annotations

import anyio
import pytest

from anyio_bus import (
    Bus,
    InvalidArgumentError,
    Limits,
    PoolUnavailableError,
    UnknownPoolError,
    WorkerLostError,
    open_bus,
)
from anyio_bus._kernel import slot
from tests.process.kit import (
    FAST,
    only,
    open_reports,
    patience,
    pending,
    puppets,
    until,
    until_state,
)


async def ready(bus: Bus, count: int) -> list[int]:
    """Wait until a bus has so many workers, all ready; return their numbers."""

    def settled() -> bool:
        states = [info.state for info in bus.workers()]
        return len(states) == count and set(states) <= {"ready"}

    await until(bus, settled)
    return [info.worker for info in bus.workers()]


async def test_a_pool_grows_by_new_workers_with_new_numbers() -> None:
    async with open_bus(puppets()) as bus:
        pid = await bus.request("pid")
        await bus.resize("puppets", 3)
        assert await ready(bus, 3) == [0, 1, 2]
        with patience():
            pids = {await bus.request("pid") for _ in range(6)}
        assert pid in pids
        assert pids == {info.pid for info in bus.workers()}


async def test_a_pool_shrinks_by_its_last_workers_and_their_numbers_never_come_back() -> None:
    async with open_reports() as reports:
        async with open_bus(puppets("--report", reports.path, instances=3)) as bus:
            for _ in range(3):
                await reports.accept()
            kept = bus.workers()[0].pid
            await bus.resize("puppets", 1)
            assert await ready(bus, 1) == [0]
            assert only(bus).pid == kept
            await bus.resize("puppets", 2)
            assert await ready(bus, 2) == [0, 3]


async def test_a_worker_that_leaves_finishes_its_requests_and_takes_no_new_ones() -> None:
    answers = []

    async def hold() -> None:
        answers.append(await bus.request("hold"))

    async with open_bus(puppets(instances=2)) as bus:
        await bus.wait_ready()
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(hold)
            await pending(bus, 4)
            await bus.resize("puppets", 1)
            leaving = bus.workers()[1]
            assert (leaving.state, leaving.in_flight) == ("draining", 2)
            with patience():
                for _ in range(4):
                    assert await bus.request("pid") == bus.workers()[0].pid
            await bus.send(b'{"method":"release"}', worker=0)
            await bus.send(b'{"method":"release"}', worker=1)
        assert answers == ["released"] * 4
        assert await ready(bus, 1) == [0]


async def test_a_worker_that_does_not_finish_in_time_is_ended() -> None:
    outcomes: list[object] = []

    async def hold() -> None:
        try:
            outcomes.append(await bus.request("hold"))
        except WorkerLostError as exc:
            outcomes.append(exc.worker)

    async with open_bus(puppets(instances=2), limits=Limits(drain_timeout_s=0.05)) as bus:
        await bus.wait_ready()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            tasks.start_soon(hold)
            await pending(bus, 2)
            await bus.resize("puppets", 1)
            assert await ready(bus, 1) == [0]
            await bus.notify("release")
    assert outcomes == [1, "released"]


async def test_a_second_drain_with_less_time_shortens_the_first() -> None:
    async def hold() -> None:
        with pytest.raises(WorkerLostError):
            await bus.request("hold")

    async with open_bus(puppets()) as bus:
        pid = await bus.request("pid")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            await pending(bus, 1)
            for drain_s in (60.0, 0.05, 60.0):
                await bus.restart_worker(0, drain_s=drain_s)
            with patience():
                assert await bus.request("pid") != pid


async def test_a_restarted_worker_finishes_first_and_its_successor_takes_over() -> None:
    answers = []

    async def hold() -> None:
        answers.append(await bus.request("hold"))

    async with open_reports() as reports:
        async with open_bus(puppets("--report", reports.path)) as bus:
            report = await reports.accept()
            pid = await bus.request("pid")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hold)
                await pending(bus, 1)
                await bus.restart_worker(0)
                assert only(bus).state == "draining"
                assert only(bus).pid == pid
                await bus.send(b'{"method":"release"}', worker=0)
            assert answers == ["released"]
            with patience():
                assert await bus.request("pid") != pid
            assert (await report.rest())[-2:] == ["release", "eof"]
            assert (only(bus).generation, only(bus).worker) == (2, 0)


async def test_a_cancelled_request_of_a_draining_worker_is_told_to_it() -> None:
    async with open_reports() as reports:
        async with open_bus(puppets("--report", reports.path)) as bus:
            report = await reports.accept()
            await bus.request("pid")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(bus.request, "hold")
                await report.until("hold")
                await bus.restart_worker(0)
                tasks.cancel_scope.cancel()
            await report.until("$/cancelRequest")


async def test_a_worker_that_we_end_is_not_said_to_have_closed_its_pipes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where a write was stuck when we closed its stdin."""
    errors: list[WorkerLostError] = []

    async def ask() -> None:
        with pytest.raises(WorkerLostError) as caught:
            await bus.request("echo", {"text": "x" * 1024 * 1024})
        errors.append(caught.value)

    monkeypatch.setattr(slot, "DRAIN_GRACE_S", 1.0)
    async with open_bus(puppets()) as bus:
        await bus.request("echo")
        await bus.notify("sleep_for_ever")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await pending(bus, 1)
            await bus.restart_worker(0, drain_s=0)
    assert [(error.reason, error.sent) for error in errors] == [("was killed by SIGTERM", True)]


async def test_a_restart_on_request_counts_neither_as_death_nor_as_failed_start() -> None:
    limits = Limits(max_restarts=0, start_attempts=1, restart_delay_s=30)
    async with open_bus(puppets(), limits=limits) as bus:
        for generation in range(1, 4):
            await until(bus, lambda g=generation: only(bus).generation == g)  # type: ignore[misc]
            await until_state(bus, "ready")
            await bus.restart_worker(0)
        with patience():
            await bus.request("echo")
        assert only(bus).generation == 4


async def test_a_restart_ends_a_backoff() -> None:
    async with open_bus(puppets(), limits=Limits(restart_delay_s=30)) as bus:
        with pytest.raises(WorkerLostError):
            await bus.request("die")
        assert only(bus).state == "backoff"
        await bus.restart_worker(0)
        with patience():
            assert await bus.request("echo") == {}


async def test_a_worker_on_its_way_out_does_not_come_back_by_a_restart() -> None:
    async with open_bus(puppets(instances=2), limits=FAST) as bus:
        await bus.wait_ready()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.request, "hold")
            tasks.start_soon(bus.request, "hold")
            await pending(bus, 2)
            await bus.resize("puppets", 1)
            await bus.restart_worker(1)
            for worker in range(2):
                await bus.send(b'{"method":"release"}', worker=worker)
        assert await ready(bus, 1) == [0]


async def test_a_pool_that_shrinks_drops_workers_that_back_off_or_are_parked() -> None:
    limits = Limits(restart_delay_s=30, max_restarts=1, park_retry_s=0)
    async with open_bus(puppets(instances=3), limits=limits) as bus:
        await bus.wait_ready()
        await bus.send(b'{"method":"die"}', worker=2)
        await until_state(bus, "backoff", worker=2)
        await bus.resize("puppets", 2)
        assert await ready(bus, 2) == [0, 1]


async def test_a_pool_can_be_resized_up_and_down_at_once() -> None:
    async with open_bus(puppets()) as bus:
        for count in (4, 1, 3, 2):
            await bus.resize("puppets", count)
        assert len(await ready(bus, 2)) == 2
        with patience():
            await bus.wait_ready()
            assert await bus.request("echo") == {}


async def test_a_resize_refuses_what_is_no_number_of_workers() -> None:
    async with open_bus(puppets()) as bus:
        for bad in (0, -1, 1.5, True, "2", None):
            with pytest.raises(InvalidArgumentError, match="instances"):
                await bus.resize("puppets", bad)  # type: ignore[arg-type]


async def test_what_is_not_there_can_be_neither_resized_nor_restarted() -> None:
    async with open_bus(puppets()) as bus:
        with pytest.raises(UnknownPoolError):
            await bus.resize("nobody", 2)
        with pytest.raises(PoolUnavailableError, match="no worker 7"):
            await bus.restart_worker(7)
        with pytest.raises(InvalidArgumentError, match="drain_s"):
            await bus.restart_worker(0, drain_s=-1)
