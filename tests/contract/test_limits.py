"""Every backend: what is bounded, who waits, who is refused, and in which order work is given."""

from __future__ import annotations

import os

import anyio
import pytest

from anyio_bus import FrameTooLargeError, Limits, OverloadedError
from tests.bus.support import begin, held, log, until
from tests.contract.places import Place, all_places

pytestmark = all_places


async def test_work_is_given_to_the_least_busy_in_turn(place: Place) -> None:
    async with place.bus(pool={"instances": 3}) as bus, anyio.create_task_group() as tasks:
        for count in range(1, 7):
            begin(tasks, lambda: bus.request("hold"))
            await held(bus, count)
        await bus.refresh()
        assert [worker.in_flight for worker in bus.workers()] == [2, 2, 2]
        for worker in bus.workers():
            await bus.send(b'{"method":"release"}', worker=worker.worker)
            await bus.send(b'{"method":"note"}', worker=worker.worker)
        logs = [len(await log(bus)) for _ in range(3)]
        assert logs == [4, 4, 4]


async def test_no_worker_has_more_than_max_in_flight(place: Place) -> None:
    pool = {"instances": 2, "max_in_flight": 2}
    async with place.bus(pool=pool) as bus, anyio.create_task_group() as tasks:
        calls = [begin(tasks, lambda i=i: bus.request("hold", [i])) for i in range(6)]
        await held(bus, 4)
        await bus.refresh()
        assert [worker.in_flight for worker in bus.workers()] == [2, 2]
        assert bus.statistics().kernel.queued_requests == 2

        for count in (5, 6):
            for worker in bus.workers():
                await bus.send(b'{"method":"release"}', worker=worker.worker)
            await held(bus, min(count + 1, 6))
        for worker in bus.workers():
            await bus.send(b'{"method":"release"}', worker=worker.worker)
        assert [await call.wait() for call in calls] == [[i] for i in range(6)]


async def test_full_queue_refuses_unsent(place: Place) -> None:
    limits = Limits(max_queued=1)
    async with (
        place.bus(pool={"max_in_flight": 1}, limits=limits) as bus,
        anyio.create_task_group() as tasks,
    ):
        begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        waiting = begin(tasks, lambda: bus.request("echo", [1]))
        await until(lambda: bus.statistics().kernel.queued_requests == 1)
        with pytest.raises(OverloadedError) as caught:
            await bus.request("echo")
        assert (caught.value.limit, caught.value.sent) == ("max_queued", False)
        await bus.notify("release")
        assert await waiting.wait() == [1]


async def test_callers_over_max_pending_wait_in_order(place: Place) -> None:
    async with place.bus(limits=Limits(max_pending=1)) as bus, anyio.create_task_group() as tasks:
        calls = []
        for number in range(4):
            calls.append(begin(tasks, lambda n=number: bus.request("hold", [n])))
            await until(
                lambda n=number: bus.statistics().pending + bus.statistics().waiting == n + 1
            )
        for count in range(1, 5):
            await held(bus, count)
            assert bus.statistics().pending == 1
            await bus.notify("release")
        assert [await call.wait() for call in calls] == [[n] for n in range(4)]
        sent = [m["params"] for m in await log(bus) if m["method"] == "hold"]
        assert sent == [[n] for n in range(4)]


async def test_lines_over_the_limit_cost_their_own_request(place: Place) -> None:
    limits = Limits(max_frame_bytes=4096)
    async with place.bus(limits=limits) as bus, anyio.create_task_group() as tasks:
        other = begin(tasks, lambda: bus.request("hold", [1]))
        await held(bus, 1)
        with pytest.raises(FrameTooLargeError) as caught:
            await bus.request("echo", ["x" * 4096])
        assert not caught.value.sent
        for shape in ("id first", "id last"):
            with pytest.raises(FrameTooLargeError) as caught:
                await bus.request("blow", {"bytes": 100_000, "shape": shape})
            assert caught.value.sent
            assert caught.value.limit_bytes == 4096
        await bus.request("release")
        assert await other.wait() == [1]


async def test_thousand_requests_at_once(place: Place) -> None:
    pool = {"instances": 2, "max_in_flight": 0}
    async with place.bus(pool=pool) as bus:
        answers: dict[int, object] = {}

        async def ask(number: int) -> None:
            answers[number] = await bus.request("echo", [number, os.getpid()])

        async with anyio.create_task_group() as tasks:
            for number in range(1000):
                tasks.start_soon(ask, number)

        assert answers == {number: [number, os.getpid()] for number in range(1000)}
