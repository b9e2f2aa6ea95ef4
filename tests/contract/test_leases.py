"""Every backend: a lease has a worker for itself, waits for it in turn, and gives it back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from anyio_bus import (
    Bus,
    BusStoppedError,
    InvalidArgumentError,
    Limits,
    ScopeCancelledError,
    Session,
    SessionLostError,
    TransportError,
    WorkerInfo,
    WorkerLostError,
    WorkerStartError,
)
from anyio_bus.testing import cancel_sweep
from tests.bus.support import begin, held, log, methods, until
from tests.contract.places import Place, all_places, needs

pytestmark = all_places

TWO: dict[str, Any] = {"instances": 2}


def leases(bus: Bus) -> list[WorkerInfo]:
    """Return the workers that a session has for itself."""
    return [info for info in bus.workers() if info.lease is not None]


class Holder:
    """A task that opens a lease, and leaves it when told to."""

    def __init__(self, bus: Bus, tasks: anyio.abc.TaskGroup, **options: Any) -> None:
        self._bus = bus
        self._options = options
        self._leave = anyio.Event()
        self.session: Session | None = None
        self.outcome = begin(tasks, self._hold)

    async def _hold(self) -> None:
        async with self._bus.session(exclusive=True, **self._options) as self.session:
            await self._leave.wait()

    async def opened(self) -> Session:
        await until(lambda: self.session is not None or self.outcome.over)
        assert self.session is not None
        return self.session

    async def leave(self) -> None:
        self._leave.set()
        await self.outcome.wait()


async def test_a_lease_has_its_worker_alone(place: Place) -> None:
    async with place.bus(pool=TWO) as bus:
        async with bus.session(exclusive=True) as session:
            for _ in range(4):
                await bus.notify("other")
            await session.notify("mine")
            assert methods(await log(bus, session=session)) == ["mine"]
            await bus.refresh()
            assert [info.lease for info in leases(bus)] == [session.id]
            assert [info.worker for info in leases(bus)] == [session.worker]
        await bus.refresh()
        assert not leases(bus)
        assert bus.statistics().kernel.sessions == 0


async def test_a_lease_begins_when_what_its_worker_had_is_done(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        before = begin(tasks, lambda: bus.request("hold", [1]))
        await held(bus, 1)
        holder = Holder(bus, tasks)
        await until(lambda: leases(bus))
        after = begin(tasks, lambda: bus.request("echo", [2]))
        await until(lambda: bus.statistics().kernel.queued_requests == 1)
        assert holder.session is None

        await bus.send(b'{"method":"release"}', worker=0)
        session = await holder.opened()
        assert await before.wait() == [1]
        assert methods(await log(bus, session=session)) == ["hold", "release"]
        assert not after.over
        await holder.leave()
        assert await after.wait() == [2]


async def test_leases_wait_in_turn(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        first = Holder(bus, tasks)
        await first.opened()
        others = []
        for number in range(3):
            others.append(Holder(bus, tasks, id=f"s{number}"))
            await anyio.wait_all_tasks_blocked()
        others[1].outcome.scope.cancel()
        await first.leave()
        for other in (others[0], others[2]):
            await other.opened()
            await bus.refresh()
            assert len(leases(bus)) == 1
            await other.leave()
        assert others[1].session is None


async def test_a_lease_takes_no_worker_that_has_a_session(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        async with bus.session() as session:
            await session.request("echo")
            holder = Holder(bus, tasks)
            await anyio.wait_all_tasks_blocked()
            await bus.refresh()
            assert not leases(bus)
        await holder.opened()
        await holder.leave()


async def test_a_lease_whose_worker_dies_is_lost_for_good(place: Place) -> None:
    async with place.bus(pool=TWO) as bus, anyio.create_task_group() as tasks:
        async with bus.session(exclusive=True) as session:
            call = begin(tasks, lambda: session.request("hold"))
            await held(bus, 1)
            assert session.worker is not None
            bus._backend.kill(session.worker)
            with pytest.raises(WorkerLostError):
                await call.wait()
            for _ in range(2):
                assert session.lost
                with pytest.raises(SessionLostError, match=r"is gone: worker \d"):
                    await session.request("echo")
            await bus.refresh()
            assert not leases(bus)
            await bus.wait_ready()
            await bus.refresh()
            assert not any(info.held for info in bus.workers())


async def test_a_lease_with_rebind_goes_on_with_the_successor(place: Place) -> None:
    async with place.bus(pool=TWO) as bus:
        async with bus.session(exclusive=True, rebind=True) as session:
            worker = session.worker
            assert worker is not None
            bus._backend.kill(worker)
            assert await session.request("echo", [1]) == [1]
            await bus.notify("other")
            assert methods(await log(bus, session=session)) == ["echo"]
            assert (session.worker, session.lost) == (worker, False)
            await bus.refresh()
            info = next(info for info in bus.workers() if info.worker == worker)
            assert (info.generation, info.lease) == (2, session.id)


async def test_a_lease_with_rebind_is_lost_when_its_worker_is_given_up(place: Place) -> None:
    async with place.bus(pool=TWO, limits=Limits(max_restarts=0)) as bus:
        async with bus.session(exclusive=True, rebind=True) as session:
            with pytest.raises(TransportError):
                await session.request("die")
            await until(lambda: session.lost)
            with pytest.raises(SessionLostError):
                await session.request("echo")
            assert await bus.request("echo", [1]) == [1]


@needs("own workers")
async def test_a_lease_with_a_place_of_its_own_has_a_worker_there(
    place: Place, tmp_path: Path
) -> None:
    async with place.bus(pool={"env": {"A": "1", "B": "1"}}) as bus:
        async with bus.session(exclusive=True, cwd=tmp_path, env={"B": "2"}) as session:
            assert session.worker == 1
            mine = [await session.request("place", {"name": name}) for name in "AB"]
            assert await bus.request("echo", [1]) == [1]
            assert await log(bus, session=session) != await log(bus)
            assert [(info.worker, info.own) for info in leases(bus)] == [(1, True)]
            await bus.wait_ready()
        await until(lambda: [info.worker for info in bus.workers()] == [0])
    if place.name != "memory":  # whose workers are in this process
        assert mine == [[str(tmp_path), "1"], [str(tmp_path), "2"]]
        assert os.getcwd() != str(tmp_path)


@needs("own workers")
async def test_a_worker_of_ones_own_is_no_hope_for_others(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        async with bus.session(exclusive=True, env={}) as session:
            call = begin(tasks, lambda: session.request("hold"))
            await held(bus, 1)
            await bus.resize("w", 2)
            await bus.wait_ready()
            await bus.refresh()
            assert [info.own for info in bus.workers()] == [False, True, False]
            await bus.resize("w", 1)
            await until(lambda: len(bus.workers()) == 2)
            assert session.worker == 1
            assert not call.over


@needs("own workers")
async def test_a_lease_whose_own_worker_cannot_start_says_why(place: Place) -> None:
    if place.name == "memory":
        pytest.skip("its workers have no folder")
    async with place.bus() as bus:
        with pytest.raises(WorkerStartError, match="/no/such"):
            async with bus.session(exclusive=True, cwd="/no/such"):
                pass
        await until(lambda: len(bus.workers()) == 1)
        await bus.refresh()
        assert bus.statistics().kernel.sessions == 0
        wrong: Any
        for field, wrong in (("env", {"A=": "1"}), ("env", 5), ("cwd", "\0")):
            options: dict[str, Any] = {field: wrong}
            with pytest.raises(InvalidArgumentError) as caught:
                async with bus.session(exclusive=True, **options):
                    pass
            assert caught.value.field == field
        await bus.refresh()
        assert len(bus.workers()) == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("options", [{}, {"exclusive": True}, {"exclusive": True, "env": {}}])
async def test_a_session_can_be_cancelled_at_any_step(place: Place, options: Any) -> None:
    if "env" in options and place.name not in {"python", "memory"}:
        pytest.skip("a process for each step; how it is spawned changes no step of ours")
    async with place.bus(limits=Limits(cancel_grace_s=0.001)) as bus:

        async def open_and_leave() -> None:
            async with bus.session(**options) as session:
                await session.request("echo")

        async def check() -> None:
            await bus.refresh()
            assert not [info for info in leases(bus) if not info.own]
            await until(lambda: len(bus.workers()) == 1)
            await bus.refresh()
            assert bus.statistics().kernel.sessions == 0
            assert bus.statistics().pending == 0

        assert await cancel_sweep(open_and_leave, check=check, check_leaks=False) > 2
        assert await bus.request("echo", [1]) == [1]


async def test_a_session_that_shares_a_worker_is_not_leased(place: Place) -> None:
    async with place.bus() as bus:
        await bus.request("echo", session="s")
        with pytest.raises(InvalidArgumentError, match="shares a worker") as caught:
            async with bus.session(id="s", exclusive=True):
                pass
        assert caught.value.field == "id"
        await bus.end_session("s")
        async with bus.session(id="s", exclusive=True) as session:
            assert await session.request("echo", [1]) == [1]


async def test_who_waits_for_a_lease_is_told_when_the_bus_stops(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        first = Holder(bus, tasks)
        await first.opened()
        second = Holder(bus, tasks)
        await anyio.wait_all_tasks_blocked()
        await bus.stop(grace_s=2)
        with pytest.raises(BusStoppedError):
            await second.outcome.wait()
        await first.leave()


async def test_a_lease_is_given_back_though_its_calls_have_no_answer_yet(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        async with bus.session(exclusive=True) as session:
            call = begin(tasks, lambda: session.request("hold"))
            await held(bus, 1)
        with pytest.raises(ScopeCancelledError):
            await call.wait()
        assert await bus.request("echo", [1]) == [1]
