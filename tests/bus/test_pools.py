"""Which worker a request goes to: the pool, the least busy one, in turn, within its limit."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import anyio
import pytest

from anyio_bus import Bus, InvalidArgumentError, UnknownPoolError, open_bus
from tests.bus.support import begin, held, log, methods, one_worker, scripted, until


def loads(bus: Bus) -> list[int]:
    return sorted(worker.in_flight for worker in bus.workers())


async def pids(bus: Bus, count: int) -> list[int]:
    return [await bus.request("pid", reply=int) for _ in range(count)]


async def test_pool_may_be_left_out_where_there_is_only_one() -> None:
    async with open_bus(scripted("only")) as bus:
        assert await bus.request("echo", [1]) == [1]
        assert await bus.request("echo", [1], pool="only") == [1]


async def test_pool_must_be_named_where_there_are_several() -> None:
    async with open_bus(scripted("a"), scripted("b")) as bus:
        for call in (
            bus.request("echo"),
            bus.request_raw(b'{"id":1,"method":"echo"}'),
            bus.notify("echo"),
            bus.send(b'{"method":"echo"}'),
        ):
            with pytest.raises(InvalidArgumentError, match="'a', 'b'") as caught:
                await call
            assert caught.value.field == "pool"
        pid_a = await bus.request("pid", pool="a")
        assert await bus.request("pid", pool="b") != pid_a
        assert await bus.request("pid", pool="a") == pid_a


async def test_unknown_pool_is_named_with_those_that_there_are() -> None:
    async with open_bus(scripted("a"), scripted("b")) as bus:
        for call in (
            bus.request("echo", pool="c"),
            bus.request_raw(b'{"id":1,"method":"echo"}', pool="c"),
            bus.notify("echo", pool="c"),
            bus.send(b'{"method":"echo"}', pool="c"),
            bus.wait_ready("c"),
            bus.resize("c", 2),
        ):
            with pytest.raises(UnknownPoolError, match="'c'.*'a', 'b'") as caught:  # noqa: RUF043
                await call
            assert caught.value.pool == "c"
            assert caught.value.field == "pool"


async def test_requests_one_after_the_other_go_to_the_workers_in_turn() -> None:
    async with open_bus(scripted(instances=3)) as bus:
        await bus.wait_ready()

        order = await pids(bus, 9)

    assert len(set(order)) == 3
    assert order[:3] * 3 == order


async def test_request_goes_to_the_least_busy_worker() -> None:
    async with open_bus(scripted(instances=3)) as bus, anyio.create_task_group() as tasks:
        await bus.wait_ready()
        for count in range(1, 7):
            begin(tasks, lambda: bus.request("hold"))
            await held(bus, count)
            if count % 3 == 0:
                assert loads(bus) == [count // 3] * 3
        busy = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 7)

        order = await pids(bus, 6)

        assert len(set(order)) == 2
        assert all(one != other for one, other in pairwise(order))
        busy.scope.cancel()
        tasks.cancel_scope.cancel()


async def test_round_robin_goes_in_turn_however_busy_a_worker_is() -> None:
    pool = scripted(instances=3, balance="round_robin")
    async with open_bus(pool) as bus, anyio.create_task_group() as tasks:
        await bus.wait_ready()
        for count in (1, 2, 3, 4):
            begin(tasks, lambda: bus.request("hold"))
            await held(bus, count)

        order = await pids(bus, 9)

        assert len(set(order)) == 3
        assert order[:3] * 3 == order
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("balance", ["least_busy", "round_robin"])
async def test_worker_gets_no_more_than_max_in_flight_and_the_rest_waits_in_order(
    balance: str,
) -> None:
    pool = scripted(instances=2, max_in_flight=2, balance=balance)
    async with open_bus(pool) as bus, anyio.create_task_group() as tasks:
        await bus.wait_ready()
        calls = [begin(tasks, lambda i=i: bus.request("hold", [i])) for i in range(8)]
        await held(bus, 4)

        assert loads(bus) == [2, 2]
        assert bus.statistics().kernel.queued_requests == 4
        for round_ in (1, 2):
            for worker in bus.workers():
                await bus.send(b'{"method":"release"}', worker=worker.worker)
            await held(bus, min(8, 4 + 4 * round_))
            assert max(loads(bus)) <= 2

        assert [await call.wait() for call in calls] == [[i] for i in range(8)]


async def test_cancelled_requests_count_until_their_workers_answer() -> None:
    async with one_worker(max_in_flight=2) as bus, anyio.create_task_group() as tasks:
        gone = [begin(tasks, lambda: bus.request("hold")) for _ in range(2)]
        await held(bus, 2)
        for call in gone:
            call.scope.cancel()
            await call.wait()

        waiting = begin(tasks, lambda: bus.request("echo", [1]))
        await until(lambda: bus.statistics().kernel.queued_requests == 1)
        assert loads(bus) == [2]
        await bus.notify("release")

        assert await waiting.wait() == [1]
        seen = methods(await log(bus))
        assert seen.index("release") < len(seen) - 1
        assert seen[-1] == "echo"


async def test_max_in_flight_of_zero_is_no_limit() -> None:
    async with one_worker(max_in_flight=0) as bus, anyio.create_task_group() as tasks:
        calls = [begin(tasks, lambda i=i: bus.request("hold", [i])) for i in range(1200)]
        await held(bus, 1200)
        assert loads(bus) == [1200]

        await bus.request("release")

        assert [await call.wait() for call in calls] == [[i] for i in range(1200)]


async def test_workers_share_the_work_of_many_tasks() -> None:
    async with open_bus(scripted(instances=2)) as bus:
        await bus.wait_ready()
        first: Counter[int] = Counter()
        further: Counter[int] = Counter()

        async def ask() -> None:
            first[await bus.request("pid", reply=int)] += 1
            for _ in range(9):
                further[await bus.request("pid", reply=int)] += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask)

    assert [*first.values()] == [10, 10]
    assert further.keys() <= first.keys()  # the faster one gets more of these
    assert sum(further.values()) == 180
