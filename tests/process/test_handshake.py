"""A pool with a handshake plays it to every new worker, before that gets work."""

from __future__ import annotations

import pytest

from anyio_bus import Handshake, Limits, Pool, WorkerStartError, open_bus
from anyio_bus._kernel.incarnation import HANDSHAKE_KEY
from tests.process.kit import (
    FAST,
    only,
    open_reports,
    patience,
    puppets,
    until,
    until_state,
)

HELLO = Handshake("echo", {"version": 1}, then_notify="ready")


async def refused(pool: Pool, limits: Limits = FAST) -> WorkerStartError:
    """Open a bus whose workers do not pass their handshake; return why."""
    async with open_bus(pool, limits=limits) as bus:
        with patience(), pytest.raises(WorkerStartError) as caught:
            await bus.request("echo")
        info = await until_state(bus, "parked")
        assert info.generation == limits.start_attempts
        assert info.restarts == limits.start_attempts - 1
    assert not caught.value.sent
    return caught.value


async def test_the_handshake_comes_before_the_first_request() -> None:
    async with open_reports() as reports:
        async with open_bus(puppets("--report", reports.path, ready=HELLO)) as bus:
            report = await reports.accept()
            with patience():
                assert await bus.request("pid") == only(bus).pid
            assert bus.statistics().kernel.stray_answers == 0
        assert (await report.rest())[1:] == ["echo", "ready", "pid", "eof"]


async def test_the_handshake_is_played_again_to_a_successor() -> None:
    async with open_reports() as reports:
        async with open_bus(puppets("--report", reports.path, ready=HELLO), limits=FAST) as bus:
            await reports.accept()
            await bus.request("pid")
            await bus.notify("die")
            await until(bus, lambda: only(bus).generation == 2)
            with patience():
                await bus.request("pid")
            successor = await reports.accept()
        assert (await successor.rest())[1:] == ["echo", "ready", "pid", "eof"]


async def test_a_worker_is_not_ready_before_it_has_answered() -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, ready=Handshake("gate"))
        async with open_bus(pool) as bus:
            report = await reports.accept()
            await bus.send(b'{"method":"echo"}', worker=0)
            await report.until("gate")
            assert only(bus).state == "starting"
            await report.open_gate()
            with patience():
                await bus.wait_ready()
            assert only(bus).state == "ready"
            assert await report.line() == "echo"


async def test_without_a_notification_none_is_sent() -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, ready=Handshake("echo"))
        async with open_bus(pool) as bus:
            report = await reports.accept()
            await bus.request("pid")
        assert (await report.rest())[1:] == ["echo", "pid", "eof"]


async def test_the_params_arrive_as_they_are() -> None:
    params = {"a": [1, None, {"b": "ü"}]}
    script = """
import json, sys
hello = json.loads(sys.stdin.readline())
print(json.dumps({"id": hello["id"], "result": {}}), flush=True)
for line in sys.stdin:
    print(json.dumps({"id": json.loads(line)["id"], "result": hello}), flush=True)
"""
    pool = Pool("keen", ["python3", "-c", script], ready=Handshake("initialize", params))
    async with open_bus(pool) as bus:
        with patience():
            hello = await bus.request("x")
    assert hello == {
        "jsonrpc": "2.0",
        "id": HANDSHAKE_KEY,
        "method": "initialize",
        "params": params,
    }


async def test_what_else_a_worker_says_during_the_handshake_reaches_the_client() -> None:
    async with open_bus(puppets("--say", "news", ready=HELLO)) as bus:
        await bus.wait_ready()
        assert bus.statistics().unhandled == 1


async def test_a_refused_handshake_is_a_failed_start() -> None:
    error = await refused(puppets(ready=Handshake("refuse")))
    assert error.phase == "handshake"
    assert "refused 'refuse'" in str(error)
    assert "not today" in str(error)


async def test_a_handshake_without_an_answer_is_a_failed_start() -> None:
    error = await refused(puppets(ready=Handshake("hold", timeout_s=0.05)))
    assert error.phase == "handshake"
    assert "did not answer 'hold' within 0.05 s" in str(error)


async def test_a_death_during_the_handshake_is_a_failed_start() -> None:
    hello = Handshake("die", {"code": 9, "stderr": "no licence\n"})
    error = await refused(puppets(ready=hello))
    assert (error.phase, error.exit_code) == ("start", 9)
    assert "before its handshake was answered" in str(error)
    assert error.stderr_tail == "no licence\n"


async def test_a_command_that_is_not_there_fails_before_the_handshake() -> None:
    limits = Limits(start_attempts=1, park_retry_s=0)
    error = await refused(Pool("bad", ["/no/such"], ready=HELLO), limits)
    assert error.phase == "spawn"


async def test_a_worker_that_passed_its_handshake_and_dies_has_not_failed_to_start() -> None:
    limits = Limits(start_attempts=1, restart_delay_s=0.001)
    async with open_bus(puppets(ready=HELLO), limits=limits) as bus:
        for generation in range(1, 4):
            await until(bus, lambda g=generation: only(bus).generation == g)  # type: ignore[misc]
            await bus.wait_ready()
            await bus.notify("die")
        await until(bus, lambda: only(bus).generation == 4)
        with patience():
            await bus.request("pid")


async def test_a_stop_does_not_wait_for_a_handshake() -> None:
    with patience():
        async with open_bus(puppets(ready=Handshake("hold"))):
            pass
