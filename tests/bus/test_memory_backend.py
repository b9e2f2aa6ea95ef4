"""The memory backend: async functions as workers, all else the real thing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import msgspec
import pytest

from anyio_bus import Bus, Limits, Memory, Pool, RemoteError, WorkerLostError, open_bus
from anyio_bus.worker import Worker
from tests.bus.support import begin, held, until
from tests.bus.workers.scripted import serve

Receive = Callable[[], Awaitable[bytes]]
Send = Callable[[bytes], Awaitable[None]]
POOL = Pool("w", ["memory"])
MIB = 1024 * 1024


class Greeting(msgspec.Struct):
    text: str


async def test_worker_object_serves() -> None:
    worker = Worker()

    @worker.method("greet")
    async def greet(name: str) -> Greeting:
        await anyio.lowlevel.checkpoint()
        return Greeting(f"hello {name}")

    async with open_bus(POOL, backend=Memory({"w": worker})) as bus:
        answer = await bus.request("greet", {"name": "Ada"}, reply=Greeting)
        assert answer == Greeting("hello Ada")
        with pytest.raises(RemoteError):
            await bus.request("greet", {"name": 5})
        assert bus.workers()[0].pid is None


async def test_plain_async_function_serves() -> None:
    async with open_bus(POOL, backend=Memory({"w": serve})) as bus:
        assert await bus.request("echo", {"a": 1}) == {"a": 1}


async def test_exception_in_the_function_is_the_workers_death_and_it_restarts() -> None:
    starts: list[int] = []

    async def fragile(receive: Receive, send: Send) -> None:
        starts.append(1)
        data = await receive()
        if len(starts) == 1:
            raise LookupError("lost the map")
        await send(b'{"id":%d,"result":"found"}\n' % msgspec.json.decode(data)["id"])
        await receive()

    async with open_bus(POOL, backend=Memory({"w": fragile})) as bus:
        with pytest.raises(WorkerLostError) as caught:
            await bus.request("find")

        assert "LookupError: lost the map" in caught.value.stderr_tail
        assert caught.value.exit_code == 1
        assert caught.value.signal is None
        assert caught.value.pid is None
        assert caught.value.sent
        assert await bus.request("find") == "found"
        assert bus.workers()[0].generation == 2


async def test_function_that_returns_is_a_worker_that_exits() -> None:
    async def leave(receive: Receive, _send: Send) -> None:
        await receive()

    async with open_bus(POOL, backend=Memory({"w": leave})) as bus:
        with pytest.raises(WorkerLostError) as caught:
            await bus.request("anything")
        assert caught.value.exit_code == 0


async def test_each_instance_is_a_run_of_its_own() -> None:
    pool = msgspec.structs.replace(POOL, instances=3)
    async with (
        open_bus(pool, backend=Memory({"w": serve})) as bus,
        anyio.create_task_group() as tasks,
    ):
        calls = [begin(tasks, lambda i=i: bus.request("hold", [i])) for i in range(6)]
        await held(bus, 6)
        assert [worker.in_flight for worker in bus.workers()] == [2, 2, 2]
        for worker in bus.workers():
            await bus.send(b'{"method":"release"}', worker=worker.worker)
        assert [await call.wait() for call in calls] == [[i] for i in range(6)]


async def test_function_that_ignores_the_end_of_its_input_is_ended_by_the_stop() -> None:
    ended: list[str] = []

    async def stubborn(_receive: Receive, _send: Send) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    async with open_bus(POOL, backend=Memory({"w": stubborn}), grace_s=0.2) as bus:
        await bus.wait_ready()
    assert ended == ["cancelled"]


async def test_function_gets_the_end_of_its_input_and_may_finish() -> None:
    ended: list[str] = []

    async def orderly(receive: Receive, send: Send) -> None:
        await send(b'{"method":"hello"}\n')
        while await receive():
            continue
        ended.append("in order")

    async with open_bus(POOL, backend=Memory({"w": orderly})) as bus:
        await held(bus, 1)
    assert ended == ["in order"]


async def test_restart_replaces_the_run() -> None:
    async with open_bus(POOL, backend=Memory({"w": serve})) as bus:
        assert await bus.request("echo", [1]) == [1]
        await bus.restart_worker(bus.workers()[0].worker)
        await until(lambda: bus.workers()[0].generation == 2)
        assert await bus.request("log") == []


async def test_bad_lines_cost_themselves_as_with_processes() -> None:
    async with open_bus(POOL, backend=Memory({"w": serve})) as bus:
        lines = ["garbage", '{"id":$ID,"result":1}', "null"]
        assert await bus.request("say", {"lines": lines}) == 1
        await until(lambda: bus.statistics().kernel.bad_lines == 2)


@pytest.mark.timeout(60)
async def test_pipes_are_bounded_and_a_line_of_64_mib_passes_them() -> None:
    text = "x" * (64 * MIB - 1000)
    async with open_bus(POOL, backend=Memory({"w": serve}), timeout=None) as bus:
        echoed = await bus.request("echo", [text], reply=list[str])
        assert echoed[0] == text


async def test_worker_that_does_not_read_holds_back_only_itself() -> None:
    gate = anyio.Event()

    async def late(receive: Receive, send: Send) -> None:
        await gate.wait()
        await serve(receive, send)

    pools = (POOL, Pool("other", ["memory"]))
    backend = Memory({"w": late, "other": serve})
    async with open_bus(*pools, backend=backend) as bus, anyio.create_task_group() as tasks:
        big = begin(tasks, lambda: bus.request("echo", ["x" * MIB], pool="w"))
        await until(lambda: 0 < bus.workers()[0].queued_bytes < MIB)
        assert await bus.request("echo", [1], pool="other") == [1]
        gate.set()
        assert await big.wait() == ["x" * MIB]


async def test_worker_lost_over_many_requests_fails_each_of_them_once() -> None:
    limits = Limits(max_restarts=100, restart_delay_s=0.001)
    async with open_bus(POOL, backend=Memory({"w": serve}), limits=limits) as bus:
        assert await all_lost(bus, 50) == 50


async def all_lost(bus: Bus, count: int) -> int:
    lost = 0
    async with anyio.create_task_group() as tasks:
        calls = [begin(tasks, lambda: bus.request("hold")) for _ in range(count)]
        await held(bus, count)
        await bus.notify("die")
        for call in calls:
            with pytest.raises(WorkerLostError) as caught:
                await call.wait()
            assert "Died" in caught.value.stderr_tail
            lost += 1
    return lost
