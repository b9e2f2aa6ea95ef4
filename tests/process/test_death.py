"""A worker that dies fails what it had in flight, at once and with all that is known; another comes."""

from __future__ import annotations

import os
import signal
from typing import Any

import anyio
import pytest

from anyio_bus import Bus, Limits, Pool, WorkerLostError, open_bus
from tests.process.kit import FAST, only, patience, pending, puppets, until, until_state


async def lost(bus: Bus, method: str, params: Any = None) -> WorkerLostError:
    """Make a request that its worker does not survive."""
    with patience(), pytest.raises(WorkerLostError) as caught:
        await bus.request(method, params)
    return caught.value


async def test_kill_9_fails_the_requests_in_flight_and_a_successor_serves_the_next() -> None:
    errors = []

    async def wait_for_answer() -> None:
        errors.append(await lost(bus, "hold"))

    async with open_bus(puppets(), limits=FAST) as bus:
        pid = await bus.request("pid")
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait_for_answer)
            await pending(bus, 3)
            await bus.request("shout", {"kib": 1})
            os.kill(pid, signal.SIGKILL)
        with patience():
            assert await bus.request("pid") != pid
    assert len(errors) == 3
    for error in errors:
        assert (error.pool, error.worker, error.pid) == ("puppets", 0, pid)
        assert (error.signal, error.exit_code, error.sent) == (signal.SIGKILL, None, True)
        assert error.stderr_tail.endswith("x\n")
        assert "SIGKILL" in str(error)


async def test_the_last_words_of_a_worker_are_in_the_error() -> None:
    async with open_bus(puppets(), limits=FAST) as bus:
        error = await lost(bus, "die", {"code": 3, "stderr": "first\nout of cheese\n"})
    assert (error.exit_code, error.signal) == (3, None)
    assert error.stderr_tail == "first\nout of cheese\n"
    assert "exited with code 3" in str(error)
    assert "out of cheese" in str(error)


async def test_a_worker_that_exits_with_0_is_lost_and_replaced_too() -> None:
    async with open_bus(puppets(), limits=FAST) as bus:
        pid = await bus.request("pid")
        error = await lost(bus, "die", {"code": 0})
        assert (error.exit_code, error.signal, error.sent) == (0, None, True)
        with patience():
            assert await bus.request("pid") != pid
        assert only(bus).restarts == 1
        assert only(bus).generation == 2
        assert bus.statistics().kernel.worker_restarts == 1


async def test_a_worker_that_exits_between_requests_is_replaced_without_an_error() -> None:
    async with open_bus(puppets(), limits=FAST) as bus:
        await bus.notify("die", {"code": 0})
        await until(bus, lambda: only(bus).generation == 2)
        with patience():
            assert await bus.request("echo", {"a": 1}) == {"a": 1}


async def test_answers_written_before_the_death_still_count() -> None:
    got = []

    async def ask() -> None:
        got.append(await bus.request("hold"))

    async with open_bus(puppets(), limits=FAST) as bus:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await pending(bus, 1)
            await bus.notify("release")
            await bus.notify("die", {"code": 1})
        assert got == ["released"]


async def test_the_death_of_one_worker_leaves_the_others_alone() -> None:
    async with open_bus(puppets(instances=3), limits=FAST) as bus:
        await bus.wait_ready()
        pids = {info.worker: info.pid for info in bus.workers()}
        error = await lost(bus, "die", {"signal": signal.SIGSEGV})
        assert error.signal == signal.SIGSEGV
        await until(bus, lambda: all(info.state == "ready" for info in bus.workers()))
        changed = [info.worker for info in bus.workers() if info.pid != pids[info.worker]]
        assert changed == [error.worker]


async def test_a_request_waits_while_its_worker_is_backing_off() -> None:
    limits = Limits(restart_delay_s=0.2, restart_delay_max_s=0.2)
    async with open_bus(puppets(), limits=limits) as bus:
        await lost(bus, "die", {"code": 1})
        assert only(bus).state == "backoff"
        assert only(bus).pid is None
        assert "exited with code 1" in only(bus).reason
        with patience():
            assert await bus.request("echo", {"a": 1}) == {"a": 1}
        assert only(bus).state == "ready"
        assert only(bus).reason == ""


async def test_a_request_of_which_no_byte_was_written_is_not_lost_with_the_worker() -> None:
    async with open_bus(puppets(max_in_flight=1), limits=FAST) as bus:
        await bus.wait_ready()
        served = []

        async def wait_in_the_queue() -> None:
            served.append(await bus.request("echo", {"queued": True}))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lost, bus, "hold")
            await pending(bus, 1)
            tasks.start_soon(wait_in_the_queue)
            await pending(bus, 2)
            assert bus.statistics().kernel.queued_requests == 1
            os.kill(only(bus).pid or 0, signal.SIGKILL)
        assert served == [{"queued": True}]


async def test_a_worker_that_closes_its_stdout_is_ended_and_replaced() -> None:
    async with open_bus(puppets(), limits=FAST) as bus:
        pid = await bus.request("pid")
        error = await lost(bus, "shut", {"fd": 1})
        assert error.pid == pid
        assert "closed its stdout" in str(error)
        with patience():
            assert await bus.request("pid") != pid


async def test_a_worker_that_closes_its_stdin_is_ended_and_replaced() -> None:
    async with open_bus(puppets(), limits=FAST) as bus:
        pid = await bus.request("pid")
        await bus.request("shut", {"fd": 0, "answer": True})
        error = await lost(bus, "echo")
        assert error.pid == pid
        assert not error.sent
        assert "closed its stdin" in str(error)
        with patience():
            assert await bus.request("pid") != pid


async def test_a_worker_is_parked_that_restarts_too_often() -> None:
    limits = Limits(max_restarts=2, restart_delay_s=0.001, park_retry_s=0)
    async with open_bus(puppets(), limits=limits) as bus:
        for _ in range(3):
            await lost(bus, "die", {"code": 7})
        info = await until_state(bus, "parked")
        assert info.generation == 3
        assert "max_restarts=2" in info.reason
        assert "exited with code 7" in info.reason


async def test_a_worker_with_max_restarts_0_is_never_restarted() -> None:
    async with open_bus(puppets(), limits=Limits(max_restarts=0, park_retry_s=0)) as bus:
        await lost(bus, "die", {"code": 0})
        info = await until_state(bus, "parked")
        assert info.generation == 1


@pytest.mark.parametrize("command", [["true"], ["sh", "-c", "exit 0"]])
async def test_a_worker_that_ends_at_once_with_0_counts_as_a_failed_start(
    command: list[str],
) -> None:
    async with open_bus(Pool("brief", command), limits=FAST) as bus:
        info = await until_state(bus, "parked")
        assert info.generation == FAST.start_attempts
