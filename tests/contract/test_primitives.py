"""Every backend that supervises here: the primitives that policies are built on."""

from __future__ import annotations

import anyio
import pytest

from anyio_bus import Bus, Limits, WorkerLostError, WorkerState
from anyio_bus._backends.base import Backend
from anyio_bus._sansio.routing import Refused
from tests.bus.support import begin, held, log, methods, until
from tests.contract.places import Place, all_places, needs

pytestmark = all_places

TWO = {"instances": 2}


def backend_of(bus: Bus) -> Backend:
    return bus._backend


async def test_held_worker_gets_only_what_names_it(place: Place) -> None:
    async with place.bus(pool=TWO) as bus, anyio.create_task_group() as tasks:
        first, second = (worker.worker for worker in bus.workers())
        backend_of(bus).hold(first)
        for count in range(1, 5):
            begin(tasks, lambda: bus.request("hold"))
            await held(bus, count)
        await bus.refresh()
        assert [worker.in_flight for worker in bus.workers()] == [0, 4]

        await bus.send(b'{"method":"note"}', worker=first)
        backend_of(bus).release(first)
        assert methods(await log(bus)) == ["note"]
        await bus.send(b'{"method":"release"}', worker=second)


async def test_request_waits_while_every_worker_is_held(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        worker = bus.workers()[0].worker
        backend_of(bus).hold(worker)
        call = begin(tasks, lambda: bus.request("echo", [1]))
        await until(lambda: bus.statistics().kernel.queued_requests == 1)
        backend_of(bus).release(worker)
        assert await call.wait() == [1]


@needs("pause")
async def test_paused_worker_is_read_again_when_resumed(place: Place) -> None:
    async with place.bus(pool=TWO) as bus, anyio.create_task_group() as tasks:
        paused, other = (worker.worker for worker in bus.workers())
        backend_of(bus).pause(paused)
        calls = [begin(tasks, lambda i=i: bus.request("blow", {"bytes": 10**6})) for i in range(2)]
        await until(lambda: any(call.over for call in calls))
        for _ in range(5):
            await bus.send(b'{"method":"note"}', worker=other)
        assert sum(call.over for call in calls) == 1

        backend_of(bus).resume(paused)
        backend_of(bus).resume(paused)

        for call in calls:
            assert len(await call.wait()) == 10**6


async def test_killed_worker_is_lost_and_replaced(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        worker = bus.workers()[0].worker
        call = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        backend_of(bus).kill(worker)
        with pytest.raises(WorkerLostError) as caught:
            await call.wait()
        assert caught.value.sent
        assert await bus.request("echo", [1]) == [1]
        await bus.refresh()
        assert [(w.worker, w.generation) for w in bus.workers()] == [(worker, 2)]


async def test_worker_killed_on_request_spends_no_restart(place: Place) -> None:
    async with place.bus(limits=Limits(max_restarts=1)) as bus:
        for generation in (2, 3, 4, 5):
            backend_of(bus).kill(bus.workers()[0].worker)
            await until(lambda g=generation: bus.workers()[0].generation == g)
            await bus.wait_ready()
        assert await bus.request("echo", [1]) == [1]


@needs("own workers")
async def test_spawned_worker_joins_and_a_drained_one_leaves(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        old = bus.workers()[0].worker
        call = begin(tasks, lambda: bus.request("hold", ["old"]))
        await held(bus, 1)
        new = backend_of(bus).spawn("w")
        await bus.wait_ready()
        backend_of(bus).drain(old, 60, retire=True)

        assert await bus.request("log") == []
        await bus.refresh()
        assert next(w.state for w in bus.workers() if w.worker == old) is WorkerState.DRAINING
        await bus.send(b'{"method":"release"}', worker=old)
        assert await call.wait() == ["old"]
        await until(lambda: [worker.worker for worker in bus.workers()] == [new])


@needs("own workers")
async def test_leased_worker_serves_its_session_alone(place: Place) -> None:
    async with place.bus(pool=TWO) as bus:
        leased, other = (worker.worker for worker in bus.workers())
        backend_of(bus).lease(leased, "s")
        for _ in range(4):
            await bus.notify("note")
        backend_of(bus).end_session("s")
        backend_of(bus).release(leased)
        await bus.send(b'{"method":"mine"}', worker=leased)
        logs = [methods(await log(bus)) for _ in range(2)]

        assert sorted(logs) == [["mine"], ["note"] * 4]
        await bus.refresh()
        assert bus.statistics().kernel.sessions == 0
        del other


@needs("pause")
async def test_primitives_refuse_a_worker_that_is_not_there(place: Place) -> None:
    async with place.bus() as bus:
        backend = backend_of(bus)
        for act in (backend.kill, backend.hold, backend.release, backend.pause, backend.resume):
            with pytest.raises(Refused, match="77"):
                act(77)
        with pytest.raises(Refused, match="77"):
            backend.drain(77, 1)
