"""Requests run up to a bound, wait up to another, and never hold up what controls them."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from anyio_bus.worker import Context, Worker
from tests.worker.kit import Client, notification, request, serving


class Gated:
    """A worker whose requests wait for a gate, and the highest number of them that ran at once."""

    def __init__(self, **options: Any) -> None:
        self.worker = Worker(**options)
        self.gate = anyio.Event()
        self.running = 0
        self.most = 0
        self.order: list[int] = []
        self.worker.method("work")(self.work)

    async def work(self, number: int = 0) -> int:
        self.order.append(number)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        return number


async def test_no_more_requests_run_than_the_bound_and_the_first_that_came_run_first() -> None:
    gated = Gated(max_concurrency=2)
    async with serving(gated.worker) as client:
        client.write(*(request(n, "work", [n]) for n in range(10)))
        await anyio.wait_all_tasks_blocked()
        assert gated.running == 2
        gated.gate.set()
        assert {m["result"] for m in await client.take(10)} == set(range(10))
    assert gated.most == 2
    for start in range(0, 10, 2):  # trio shuffles those that start together
        assert set(gated.order[start : start + 2]) == {start, start + 1}


async def test_the_bound_holds_for_plain_functions_as_well() -> None:
    worker = Worker(max_concurrency=50)  # more than the default number of threads
    gate = anyio.Event()
    full = anyio.Event()
    begun: list[None] = []

    def begin() -> None:
        begun.append(None)
        if len(begun) == 50:
            full.set()

    @worker.method("block")
    def block() -> None:
        anyio.from_thread.run_sync(begin)
        anyio.from_thread.run(gate.wait)

    async with serving(worker) as client:
        client.write(*(request(n, "block") for n in range(51)))
        with anyio.fail_after(5):
            await full.wait()
        await anyio.wait_all_tasks_blocked()
        assert len(begun) == 50
        gate.set()
        await client.take(51)


async def test_beyond_the_queue_requests_are_refused() -> None:
    gated = Gated(max_concurrency=1, max_queued=2)
    async with serving(gated.worker) as client:
        client.write(*(request(n, "work", [n]) for n in range(5)))
        refused = await client.take(2)
        assert [m["id"] for m in refused] == [3, 4]
        assert {m["error"]["code"] for m in refused} == {-32053}
        gated.gate.set()
        assert [m["result"] for m in await client.take(3)] == [0, 1, 2]


async def test_the_bytes_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyio_bus.worker._requests.QUEUED_BYTES", 100)
    gated = Gated(max_concurrency=1)
    async with serving(gated.worker) as client:
        for round_ in (0, 10):
            gated.gate = anyio.Event()
            numbers = range(round_, round_ + 4)
            padding = {"_meta": "x" * 60}
            client.write(*(request(n, "work", {"number": n, **padding}) for n in numbers))
            refused = await client.next()
            assert (refused["id"], refused["error"]["code"]) == (round_ + 3, -32053)
            gated.gate.set()
            assert [m["id"] for m in await client.take(3)] == [*numbers][:3]


async def test_when_everything_is_full_answers_cancels_and_credit_still_get_through() -> None:
    worker = Worker(max_concurrency=3, max_queued=1)

    @worker.method("ask")
    async def ask(context: Context) -> Any:
        return await context.request("question")

    @worker.method("stream")
    async def stream(context: Context) -> None:
        await context.send_chunk("one")
        await context.send_chunk("two")

    @worker.method("hold")
    async def hold() -> None:
        await anyio.sleep_forever()

    async with serving(worker) as client:
        client.write(
            request(1, "ask"),
            request(2, "stream", {"_meta": {"anyio-bus/credit": 1}}),
            request(3, "hold"),
        )
        asked, chunk = sorted(await client.take(2), key=lambda m: "params" in m)
        assert chunk["params"]["text"] == "one"
        client.write(request(4, "hold"), *(request(n, "hold") for n in range(5, 1005)))
        refused = await client.take(1000)
        assert {m["error"]["code"] for m in refused} == {-32053}

        client.write({"id": asked["id"], "result": "answered"})
        assert (await client.next())["result"] == "answered"
        client.write(notification("bus/credit", {"id": 2, "bytes": 1000}))
        assert (await client.next())["params"]["text"] == "two"
        assert (await client.next())["id"] == 2
        for key in (3, 4):
            await anyio.wait_all_tasks_blocked()
            client.write(notification("$/cancelRequest", {"id": key}))
            assert (await client.next())["id"] == key


async def test_inline_methods_need_no_slot() -> None:
    gated = Gated(max_concurrency=1)

    @gated.worker.method("ping", inline=True)
    def ping() -> str:
        return "pong"

    async with serving(gated.worker) as client:
        client.write(request(1, "work"), request(2, "work"))
        await anyio.wait_all_tasks_blocked()
        client.write(request(3, "ping"))
        assert (await client.next())["result"] == "pong"
        gated.gate.set()
        await client.take(2)


# -- the way out -----------------------------------------------------------------------------------


def talking() -> Worker:
    worker = Worker()

    @worker.method("stream")
    async def stream(context: Context, count: int, size: int) -> int:
        for _ in range(count):
            await context.send_chunk("x" * size)
            sent.append(size)
        return count

    @worker.method("ping", inline=True)
    def ping() -> str:
        return "pong"

    @worker.method("answer")
    async def answer(size: int) -> str:
        return "x" * size

    sent: list[int] = []
    worker.sent = sent  # type: ignore[attr-defined]
    return worker


async def test_handlers_wait_while_the_client_does_not_read() -> None:
    worker = talking()
    async with serving(worker) as client:
        client.reading = anyio.Event()
        client.start("stream", {"count": 100, "size": 100_000})
        await anyio.wait_all_tasks_blocked()
        assert len(worker.sent) < 15  # type: ignore[attr-defined]  # a little more than 1 MiB
        client.reading.set()
        assert (await client.take(101))[-1]["result"] == 100


async def test_small_frames_go_out_in_few_writes() -> None:
    async with serving(talking()) as client:
        client.write(*(request(n, "ping") for n in range(1000)))
        assert len(await client.take(1000)) == 1000
        assert len(client.writes) < 10


async def test_frames_are_never_torn_or_mixed() -> None:
    async with serving(talking()) as client:
        sizes = [1, 300_000, 5, 1_000_000, 7, 260_000, 9]
        client.write(*(request(n, "answer", [size]) for n, size in enumerate(sizes)))
        answers = await client.take(len(sizes))
        assert {m["id"]: len(m["result"]) for m in answers} == dict(enumerate(sizes))
        assert all(data.endswith(b"\n") for data in client.writes)


async def test_a_reader_that_answers_by_itself_waits_for_a_slow_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anyio_bus.worker._output.RESERVE_BYTES", 1000)
    async with serving(talking()) as client:
        client.reading = anyio.Event()
        for _ in range(20):
            client.write(*(request(n, "ping") for n in range(10)))
        await anyio.wait_all_tasks_blocked()
        unread = client._input.statistics().current_buffer_used
        assert unread > 10  # it reads no more than it may answer
        client.reading.set()
        assert len(await client.take(200)) == 200


async def test_a_client_that_only_writes_can_still_cancel() -> None:
    async with serving(talking()) as client:
        client.reading = anyio.Event()
        client.write(request(1, "stream", [1000, 100_000]))
        await anyio.wait_all_tasks_blocked()
        client.write(notification("$/cancelRequest", {"id": 1}))
        await anyio.wait_all_tasks_blocked()
        client.reading.set()
        found = await client.next()
        while found.get("id") != 1:
            found = await client.next()
        assert found["error"]["code"] == -32800


async def test_one_worker_serves_many_clients_apart() -> None:
    gated = Gated(max_concurrency=1)
    clients = [Client(), Client()]
    async with anyio.create_task_group() as tasks:
        for client in clients:
            tasks.start_soon(client.serve, gated.worker)
            client.write(request(1, "work", [7]))
        await anyio.wait_all_tasks_blocked()
        assert gated.running == 2
        gated.gate.set()
        for client in clients:
            assert (await client.next())["result"] == 7
            await client.end()
            client.close()
