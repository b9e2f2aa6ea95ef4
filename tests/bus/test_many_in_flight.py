"""Many requests at once: each gets its own answer, nobody starves, nothing is left."""

from __future__ import annotations

import anyio
import pytest

from anyio_bus import open_bus
from tests.bus.support import QUIET_LOOPS, begin, held, one_worker, scripted, until
from tests.conftest import Backend

MANY = 10_000


@pytest.fixture(scope="module", params=QUIET_LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend


async def test_ten_thousand_requests_in_flight_get_each_its_own_answer() -> None:
    async with open_bus(scripted(instances=2, max_in_flight=0), timeout=None) as bus:
        await bus.wait_ready()
        answers: list[object] = [None] * MANY

        async def ask(number: int) -> None:
            answers[number] = await bus.request("hold", [number])

        async with anyio.create_task_group() as tasks:
            for number in range(MANY):
                tasks.start_soon(ask, number)
            await held(bus, MANY)
            assert bus.statistics().pending == MANY
            assert [worker.in_flight for worker in bus.workers()] == [MANY // 2] * 2
            for worker in bus.workers():
                release = b'{"method":"release","params":{"reversed":true}}'
                await bus.send(release, worker=worker.worker)

        assert answers == [[number] for number in range(MANY)]
        assert bus.statistics().pending == 0
        assert bus.statistics().kernel.live_requests == 0


async def test_answers_in_any_order_find_their_callers() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        calls = [begin(tasks, lambda i=i: bus.request("hold", [i])) for i in range(200)]
        await held(bus, 200)

        await bus.request("release", {"reversed": True})

        assert [await call.wait() for call in calls] == [[i] for i in range(200)]


@pytest.mark.parametrize("instances", [1, 2])
async def test_busy_callers_do_not_starve_a_task_that_asks_seldom(instances: int) -> None:
    async with open_bus(scripted("busy", instances=instances), scripted("other")) as bus:
        await bus.wait_ready()
        turns = [0] * 50

        async def flood(number: int) -> None:
            while True:
                await bus.request("echo", [number], pool="busy")
                turns[number] += 1

        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(flood, number)
            for turn in range(20):
                assert await bus.request("echo", [turn], pool="busy") == [turn]
                assert await bus.request("echo", [turn], pool="other") == [turn]
            if instances > 1:  # one of them may have had no processor yet
                await until(lambda: min(turns) > 0)
            tasks.cancel_scope.cancel()

        assert min(turns) > 0
        if instances == 1:  # of two, one may have less processor time than the other
            assert max(turns) <= 4 * (min(turns) + 1)


async def test_worker_that_floods_its_output_does_not_starve_another() -> None:
    async with open_bus(scripted("flood"), scripted("other")) as bus:
        await bus.wait_ready()
        async with anyio.create_task_group() as tasks:
            flood = begin(tasks, lambda: bus.request("flood", pool="flood", timeout=None))
            await held(bus, 1000)
            for turn in range(10):
                assert await bus.request("echo", [turn], pool="other") == [turn]
            assert not flood.over
            flood.scope.cancel()
