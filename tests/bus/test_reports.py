"""What a bus says about itself: state, backend, workers, counters."""

from __future__ import annotations

import os

import anyio
import msgspec
import pytest

from anyio_bus import BusState, BusStatistics, Memory, WorkerInfo, WorkerState, open_bus
from tests.bus.support import DONE, begin, held, need_native, one_worker, scripted, until
from tests.bus.workers.scripted import serve


async def test_state_follows_the_life_of_the_bus() -> None:
    async with open_bus(scripted()) as bus:
        assert bus.state is BusState.RUNNING
        assert bus.statistics().state is BusState.RUNNING
        assert "running" in repr(bus)
    assert bus.state is BusState.STOPPED
    assert bus.statistics().state is BusState.STOPPED
    assert "stopped" in repr(bus)


@pytest.mark.parametrize(
    ("option", "name"),
    [("python", "python"), ("native", "native"), (Memory({"w": serve}), "memory")],
)
async def test_backend_is_named(option: object, name: str) -> None:
    if option == "native":
        need_native()
    async with open_bus(scripted(), backend=option) as bus:  # type: ignore[arg-type]
        assert bus.backend == name
        assert bus.statistics().backend == name


async def test_workers_are_reported_one_by_one() -> None:
    async with open_bus(scripted("a", instances=2), scripted("b")) as bus:
        await bus.wait_ready()
        workers = bus.workers()

        assert [worker.pool for worker in workers] == ["a", "a", "b"]
        assert len({worker.worker for worker in workers}) == 3
        assert len({worker.pid for worker in workers}) == 3
        assert all(os.getpgid(worker.pid or 0) == worker.pid for worker in workers)
        assert {worker.state for worker in workers} == {WorkerState.READY}
        assert {worker.generation for worker in workers} == {1}
        assert {worker.restarts for worker in workers} == {0}
        assert {worker.in_flight for worker in workers} == {0}
        assert {worker.queued_bytes for worker in workers} == {0}
        assert all(worker.uptime_s > 0 for worker in workers)
        assert {worker.reason for worker in workers} == {""}
        assert await bus.request("pid", pool="b") == workers[2].pid


async def test_reports_are_values_that_do_not_change() -> None:
    async with one_worker() as bus:
        statistics, worker = bus.statistics(), bus.workers()[0]
        await bus.request("echo")

        assert statistics.kernel.messages_out == 1
        assert bus.statistics().kernel.messages_out == 2
        with pytest.raises(AttributeError):
            statistics.pending = 5  # type: ignore[misc]
        with pytest.raises(AttributeError):
            worker.pid = 5  # type: ignore[misc]
        assert msgspec.json.decode(msgspec.json.encode(statistics), type=BusStatistics)
        assert msgspec.json.decode(msgspec.json.encode(worker), type=WorkerInfo) == worker


async def test_counters_count_messages_and_bytes_both_ways() -> None:
    async with open_bus(scripted()) as bus:
        request = b'{"id":"x","method":"echo","params":[1]}'
        await bus.request_raw(request)
        await bus.notify("echo")
        await bus.request("echo")

        kernel = bus.statistics().kernel
        out = [
            b'{"jsonrpc":"2.0","id":1,"method":"echo","params":[1]}\n',
            b'{"jsonrpc":"2.0","method":"echo"}\n',
            b'{"jsonrpc":"2.0","id":2,"method":"echo"}\n',
        ]
        back = [
            b'{"jsonrpc":"2.0","id":1,"result":[1]}\n',
            b'{"jsonrpc":"2.0","id":2,"result":null}\n',
        ]
        assert (kernel.messages_out, kernel.messages_in) == (3, 2)
        assert kernel.bytes_in == sum(map(len, back))
        assert kernel.bytes_out == sum(map(len, out))
        assert kernel.workers == 1


async def test_counters_of_what_is_going_on_rise_and_fall() -> None:
    async with one_worker(max_in_flight=2) as bus, anyio.create_task_group() as tasks:
        calls = [begin(tasks, lambda: bus.request("hold", ["x" * 1000])) for _ in range(5)]
        await held(bus, 2)

        statistics = bus.statistics()
        assert statistics.pending == statistics.kernel.live_requests == 5
        assert 5000 < statistics.pending_bytes < 6000
        assert statistics.kernel.queued_requests == 3
        assert bus.workers()[0].in_flight == 2

        for count in (2, 4, 5):
            await held(bus, count)
            await bus.notify("release")
        for call in calls:
            await call.wait()
        statistics = bus.statistics()
        assert statistics.pending == statistics.pending_bytes == statistics.waiting == 0
        assert statistics.kernel.live_requests == statistics.kernel.queued_requests == 0
        assert bus.workers()[0].in_flight == 0


async def test_counters_outlive_their_worker() -> None:
    async with one_worker() as bus:
        await bus.request("say", {"lines": ["bad", DONE]})
        before = bus.statistics().kernel
        with pytest.raises(anyio.BrokenResourceError):
            await bus.request("die")
        await bus.request("echo")

        after = bus.statistics().kernel
        assert after.worker_restarts == 1
        assert after.bad_lines == before.bad_lines == 1
        assert after.bytes_in > before.bytes_in
        assert after.bytes_out > before.bytes_out
        assert after.stderr_bytes == len("told to die\n")
        assert [(w.generation, w.restarts) for w in bus.workers()] == [(2, 1)]


async def test_stderr_of_a_worker_is_in_its_report() -> None:
    async with one_worker() as bus:
        await bus.request("warn", {"text": "careful \N{BUG}\n"})
        await until(lambda: bus.workers()[0].stderr_tail)
        assert bus.workers()[0].stderr_tail == "careful \N{BUG}\n"


async def test_wait_ready_waits_for_the_workers_of_one_pool_or_of_all() -> None:
    async with open_bus(scripted("a", instances=2), scripted("b")) as bus:
        await bus.wait_ready("a")
        states = {w.state for w in bus.workers() if w.pool == "a"}
        assert states == {WorkerState.READY}
        await bus.wait_ready()
        assert {w.state for w in bus.workers()} == {WorkerState.READY}
        await bus.wait_ready()
