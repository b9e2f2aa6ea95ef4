"""Every backend: what becomes of requests when workers die, do not start, or are replaced."""

from __future__ import annotations

import anyio
import pytest

from anyio_bus import Limits, TransportError, WorkerLostError, WorkerStartError, WorkerState
from tests.bus.support import begin, held, log, methods, until
from tests.contract.places import CRASHING, SCRIPTED, Place, all_places

pytestmark = all_places

QUICK = Limits(restart_delay_s=0.01, restart_delay_max_s=0.02, max_restarts=1000)


async def test_death_fails_what_is_in_flight_and_a_successor_serves_the_next(place: Place) -> None:
    async with place.bus(limits=QUICK) as bus, anyio.create_task_group() as tasks:
        calls = [begin(tasks, lambda: bus.request("hold")) for _ in range(5)]
        await held(bus, 5)

        with pytest.raises(WorkerLostError):
            await bus.request("die")

        for call in calls:
            with pytest.raises(WorkerLostError) as caught:
                await call.wait()
            assert caught.value.pool == "w"
            await bus.refresh()
            assert caught.value.worker == bus.workers()[0].worker
            assert caught.value.sent
            assert caught.value.exit_code
            assert caught.value.stderr_tail
        assert await bus.request("echo", [1]) == [1]
        await bus.refresh()
        assert bus.workers()[0].generation == 2
        assert bus.statistics().kernel.worker_restarts == 1


async def test_request_that_waits_in_a_queue_survives_a_death(place: Place) -> None:
    pool = {"max_in_flight": 1}
    async with place.bus(pool=pool, limits=QUICK) as bus, anyio.create_task_group() as tasks:
        doomed = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        waiting = begin(tasks, lambda: bus.request("echo", ["next"]))
        await until(lambda: bus.statistics().kernel.queued_requests == 1)

        await bus.notify("die")

        assert await waiting.wait() == ["next"]
        with pytest.raises(WorkerLostError):
            await doomed.wait()


async def test_other_pools_are_untouched_by_a_death(place: Place) -> None:
    async with (
        place.bus({"a": SCRIPTED, "b": SCRIPTED}, limits=QUICK) as bus,
        anyio.create_task_group() as tasks,
    ):
        other = begin(tasks, lambda: bus.request("hold", [1], pool="b"))
        await held(bus, 1)
        await bus.request("echo", pool="a")
        with pytest.raises(WorkerLostError):
            await bus.request("die", pool="a")
        await bus.request("release", pool="b")
        assert await other.wait() == [1]


async def test_worker_that_does_not_come_up_parks_and_says_why(place: Place) -> None:
    async with place.bus({"bad": CRASHING, "good": SCRIPTED}, limits=QUICK) as bus:
        await until(lambda: bus.workers()[0].state is WorkerState.PARKED)
        for attempt in (lambda: bus.request("echo", pool="bad"), lambda: bus.wait_ready("bad")):
            with pytest.raises(WorkerStartError, match="bad") as caught:
                await attempt()
            assert "no luck today" in caught.value.stderr_tail
            assert caught.value.exit_code == 1
            assert not caught.value.sent
        assert await bus.request("echo", [1], pool="good") == [1]


async def test_replaced_worker_finishes_what_it_has_first(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        worker = bus.workers()[0].worker
        call = begin(tasks, lambda: bus.request("hold", ["old"]))
        await held(bus, 1)
        await bus.restart_worker(worker)
        late = begin(tasks, lambda: bus.request("log"))
        await until(lambda: bus.statistics().kernel.queued_requests == 1)

        await bus.send(b'{"method":"release"}', worker=worker)

        assert await call.wait() == ["old"]
        assert await late.wait() == []
        await bus.refresh()
        assert bus.workers()[0].generation == 2


async def test_pool_can_grow_and_shrink(place: Place) -> None:
    async with place.bus() as bus:
        await bus.resize("w", 3)
        await bus.wait_ready()
        await bus.refresh()
        assert len(bus.workers()) == 3
        await bus.resize("w", 1)
        await until(lambda: len(bus.workers()) == 1)
        assert await bus.request("echo", [1]) == [1]


async def test_every_request_ends_once_while_workers_die(place: Place) -> None:
    ended: list[int] = []

    async def hammer(number: int) -> None:
        for turn in range(20):
            try:
                method = "die" if (number, turn % 10) == (0, 5) else "echo"
                assert await bus.request(method, [number, turn]) == [number, turn]
            except TransportError:
                pass
            ended.append(number)

    async with place.bus(pool={"instances": 2}, limits=QUICK) as bus:
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(hammer, number)
        assert len(ended) == 400
        assert bus.statistics().pending == 0
        await bus.refresh()
        assert bus.statistics().kernel.live_requests == 0
        assert bus.statistics().kernel.stray_answers == 0


async def test_dead_worker_gets_nothing_again(place: Place) -> None:
    async with place.bus(limits=QUICK) as bus:
        await bus.request("echo")
        with pytest.raises(WorkerLostError):
            await bus.request("die")
        assert methods(await log(bus)) == []
