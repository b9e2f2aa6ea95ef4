"""Many tasks, workers killed under them: every request ends exactly once and runs at most once."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import anyio
import pytest

from anyio_bus import Bus, Limits, RequestTimeoutError, WorkerLostError, open_bus
from tests.bus.support import QUIET_LOOPS, scripted, until
from tests.conftest import Backend

TASKS = 100
EACH = 30
KILLS = 12
PATIENT = Limits(max_restarts=1000, restart_delay_s=0.01, restart_delay_max_s=0.05)


@pytest.fixture(scope="module", params=QUIET_LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend


async def test_every_request_ends_once_and_runs_at_most_once_while_workers_are_killed(
    tmp_path: Path,
) -> None:
    ran = tmp_path / "ran"
    answered: list[int] = []
    lost: dict[int, bool] = {}
    ended = Counter[int]()

    async def hammer(bus: Bus, first: int) -> None:
        for value in range(first, first + EACH):
            try:
                params = {"file": str(ran), "value": value}
                answered.append(await bus.request("append", params, reply=int))
            except WorkerLostError as exc:
                lost[value] = exc.sent
            ended[value] += 1

    async with open_bus(scripted(instances=3), limits=PATIENT) as bus:
        await bus.wait_ready()
        async with anyio.create_task_group() as tasks:
            for task in range(TASKS):
                tasks.start_soon(hammer, bus, task * EACH)
            for kill in range(KILLS):
                await until(lambda k=kill: ended.total() >= (k + 1) * TASKS * EACH // (KILLS + 2))
                kill_one(bus)

        assert sorted(ended) == list(range(TASKS * EACH))
        assert set(ended.values()) == {1}
        assert len(answered) + len(lost) == TASKS * EACH
        assert bus.statistics().pending == 0
        assert bus.statistics().kernel.live_requests == 0
        assert bus.statistics().kernel.worker_restarts >= 1

    times_run = Counter(map(int, ran.read_text().split()))
    assert set(times_run.values()) == {1}
    assert set(answered) <= set(times_run)
    assert not [value for value, sent in lost.items() if not sent and value in times_run]


def kill_one(bus: Bus) -> None:
    alive = [worker.pid for worker in bus.workers() if worker.pid is not None]
    if alive:
        os.kill(alive[0], signal.SIGKILL)


async def test_every_caller_gets_its_own_answer_while_others_give_up() -> None:
    async with open_bus(scripted(instances=2, max_in_flight=20), limits=PATIENT) as bus:
        await bus.wait_ready()
        outcomes = Counter[str]()

        async def ask(number: int) -> None:
            for turn in range(EACH):
                value = [number, turn]
                if turn % 3 == 0:
                    with anyio.move_on_after(0.0005 * (number % 5)):
                        assert await bus.request("echo", value) == value
                        outcomes["answered"] += 1
                        continue
                    outcomes["gave up"] += 1
                elif turn % 3 == 1:
                    try:
                        assert await bus.request("echo", value, timeout=0.001) == value
                        outcomes["answered"] += 1
                    except RequestTimeoutError:
                        outcomes["timed out"] += 1
                else:
                    assert await bus.request("echo", value) == value
                    outcomes["answered"] += 1

        async with anyio.create_task_group() as tasks:
            for number in range(TASKS):
                tasks.start_soon(ask, number)

        assert outcomes.total() == TASKS * EACH
        assert outcomes["answered"] >= TASKS * EACH // 3
        await until(lambda: sum(worker.in_flight for worker in bus.workers()) == 0)
        assert bus.statistics().pending == 0
        assert bus.statistics().kernel.live_requests == 0
        assert bus.statistics().kernel.stray_answers == 0
        assert bus.statistics().kernel.bad_lines == 0
