"""Every backend: workers are replaced, rest and are held in reserve, and no request is lost."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from anyio_bus import Bus, Limits, WorkerInfo, WorkerLostError
from tests.bus.support import until
from tests.contract.places import Place, all_places, needs

pytestmark = [all_places, needs("policies")]

FAST = Limits(restart_delay_s=0.001, restart_delay_max_s=0.002)


def ready(bus: Bus, *, held: bool) -> list[WorkerInfo]:
    return [info for info in bus.workers() if info.state == "ready" and info.held is held]


async def test_workers_are_replaced_after_so_many_requests(place: Place) -> None:
    answers: list[Any] = []

    async def ask(first: int) -> None:
        for number in range(first, first + 10):
            answer = await bus.request("echo", [number])
            answers.extend(answer)

    async with place.bus(pool={"max_requests": 5}) as bus:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, 0)
            tasks.start_soon(ask, 10)
        assert sorted(answers) == list(range(20))
        await until(lambda: all(info.worker > 0 for info in bus.workers()))
        await until(lambda: len(ready(bus, held=False)) == 1)


async def test_a_spare_serves_when_a_worker_dies(place: Place) -> None:
    # A kernel that is back within a millisecond would need no spare.
    slow = msgspec.structs.replace(FAST, restart_delay_s=0.7, restart_delay_max_s=0.7)
    async with place.bus(pool={"spares": 1}, limits=slow) as bus:
        await until(lambda: len(ready(bus, held=True)) == 1)
        (spare,) = ready(bus, held=True)
        await bus.request(
            "echo"
        )  # it has come up, so that it dies and is not taken for a failed start
        with pytest.raises(WorkerLostError):
            await bus.request("die")
        assert await bus.request("echo", [1]) == [1]
        assert {info.worker for info in ready(bus, held=False)} >= {spare.worker}
        await until(lambda: len(ready(bus, held=True)) == 1)


async def test_a_pool_rests_and_comes_back(place: Place) -> None:
    async with place.bus(pool={"idle_timeout_s": 0.05, "instances": 2}) as bus:
        for number in range(3):
            await until(lambda: {info.state for info in bus.workers()} == {"vacant"})
            assert await bus.request("echo", [number]) == [number]


async def test_the_bus_stops_while_its_workers_are_being_replaced(place: Place) -> None:
    options = {"max_requests": 1, "spares": 1, "idle_timeout_s": 0.01}
    async with place.bus(pool=options) as bus:
        for number in range(3):
            assert await bus.request("echo", [number]) == [number]
        with anyio.fail_after(10):
            await bus.stop(grace_s=2)
        assert bus.statistics().kernel.workers == 0
