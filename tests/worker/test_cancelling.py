"""A cancelled request ends at its next checkpoint, with the answer that its profile asks for."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from anyio_bus.worker import Context, Worker
from tests.worker.kit import Client, notification, request, serving

LSP = "$/cancelRequest", "id"
ACP = "$/cancel_request", "requestId"
MCP = "notifications/cancelled", "requestId"

CANCELLED = {"code": -32800, "message": "cancelled"}


def cancel(profile: tuple[str, str], key: Any) -> dict[str, Any]:
    method, name = profile
    return notification(method, {name: key})


class Holding:
    """A worker with the method ``hold``, and what became of its calls."""

    def __init__(self, **options: Any) -> None:
        self.worker = Worker(**options)
        self.begun: list[Any] = []
        self.cancelled: list[Any] = []
        self.worker.method("hold")(self.hold)
        self.worker.method("ping", inline=True)(self.ping)

    async def hold(self, context: Context) -> None:
        self.begun.append(context.request_id)
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            assert context.cancelled
            self.cancelled.append(context.request_id)
            raise

    @staticmethod
    def ping() -> str:
        return "pong"

    async def until_begun(self, count: int) -> None:
        with anyio.fail_after(5):
            while len(self.begun) < count:
                await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize("profile", [LSP, ACP])
@pytest.mark.parametrize("key", [1, "one"])
async def test_a_cancelled_request_is_answered_with_an_error(
    profile: tuple[str, str], key: Any
) -> None:
    holding = Holding()
    async with serving(holding.worker) as client:
        client.write(request(key, "hold"))
        await holding.until_begun(1)
        client.write(cancel(profile, key))
        assert await client.next() == {"jsonrpc": "2.0", "id": key, "error": CANCELLED}
        assert holding.cancelled == [key]


async def test_after_mcp_s_notification_no_answer_follows() -> None:
    holding = Holding()
    async with serving(holding.worker) as client:
        client.write(request(1, "hold"))
        await holding.until_begun(1)
        client.write(cancel(MCP, 1), request(2, "ping"))
        assert (await client.next())["id"] == 2
    assert holding.cancelled == [1]


async def test_one_request_is_cancelled_and_no_other() -> None:
    holding = Holding()
    async with serving(holding.worker) as client:
        client.write(*(request(n, "hold") for n in (1, 2, 3)))
        await holding.until_begun(3)
        client.write(cancel(LSP, 2))
        assert (await client.next())["id"] == 2
        assert holding.cancelled == [2]
        client.write(cancel(LSP, 1), cancel(LSP, 3))
        assert {m["id"] for m in await client.take(2)} == {1, 3}


@pytest.mark.parametrize("key", [99, "1", None, [1], {}, True])
async def test_a_cancel_for_what_is_not_in_progress_is_ignored(key: Any) -> None:
    holding = Holding()
    async with serving(holding.worker) as client:
        client.write(request(2, "hold"))
        await holding.until_begun(1)
        client.write(cancel(LSP, key), notification("$/cancelRequest"), request(3, "ping"))
        assert (await client.next())["id"] == 3
        assert holding.cancelled == []
        client.write(cancel(LSP, 2))
        await client.next()


async def test_a_cancel_after_the_answer_is_ignored() -> None:
    async with serving(Holding().worker) as client:
        await client.call("ping")
        client.write(cancel(LSP, 1))
        await client.call("ping")


async def test_a_request_cancelled_in_the_same_breath_never_runs() -> None:
    holding = Holding()
    async with serving(holding.worker) as client:
        client.write(request(1, "hold"), cancel(LSP, 1))
        assert (await client.next())["error"] == CANCELLED
    assert holding.begun == []


async def test_a_request_cancelled_in_the_queue_is_answered_at_once_and_never_runs() -> None:
    holding = Holding(max_concurrency=1)
    async with serving(holding.worker) as client:
        client.write(*(request(n, "hold") for n in (1, 2, 3, 4)))
        await holding.until_begun(1)
        client.write(cancel(LSP, 2), cancel(MCP, 3))
        assert (await client.next())["id"] == 2
        client.write(cancel(LSP, 1))
        assert (await client.next())["id"] == 1
        await holding.until_begun(2)
        client.write(cancel(LSP, 4))
        assert (await client.next())["id"] == 4
    assert holding.begun == [1, 4]


async def test_a_handler_may_finish_when_it_is_cancelled_and_its_result_is_the_answer() -> None:
    worker = Worker()
    begun = anyio.Event()

    @worker.method("finish")
    async def finish() -> str:
        try:
            begun.set()
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():  # noqa: ASYNC103
            return "finished"  # noqa: ASYNC104  # as some do
        raise AssertionError

    async with serving(worker) as client:
        client.start("finish")
        await begun.wait()
        client.write(cancel(LSP, 1))
        assert (await client.next())["result"] == "finished"


async def test_a_handler_s_error_while_it_is_cancelled_is_the_answer() -> None:
    worker = Worker()
    begun = anyio.Event()

    @worker.method("fail")
    async def fail() -> None:
        try:
            begun.set()
            await anyio.sleep_forever()
        finally:
            raise ValueError("in cleanup")

    async with serving(worker) as client:
        client.start("fail")
        await begun.wait()
        client.write(cancel(LSP, 1))
        assert (await client.next())["error"]["message"] == "ValueError: in cleanup"


async def test_shielded_work_is_finished_and_every_further_await_is_cancelled() -> None:
    worker = Worker()
    begun, release = anyio.Event(), anyio.Event()
    steps: list[str] = []

    @worker.method("save")
    async def save() -> None:
        with anyio.CancelScope(shield=True):
            begun.set()
            await release.wait()
            steps.append("saved")
        try:
            await anyio.lowlevel.checkpoint()
        finally:
            steps.append("cleanup")
            await anyio.lowlevel.checkpoint()  # noqa: ASYNC102  # that is the point
            steps.append("not reached")

    async with serving(worker) as client:
        client.start("save")
        await begun.wait()
        client.write(cancel(LSP, 1))
        await anyio.wait_all_tasks_blocked()
        release.set()
        assert (await client.next())["error"] == CANCELLED
    assert steps == ["saved", "cleanup"]


async def test_tasks_of_a_cancelled_handler_are_cancelled_with_it() -> None:
    worker = Worker()
    begun: list[int] = []
    ended: list[int] = []

    async def child(number: int) -> None:
        begun.append(number)
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(number)

    @worker.method("group")
    async def group() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(child, number)

    async with serving(worker) as client:
        client.start("group")
        with anyio.fail_after(5):
            while len(begun) < 3:
                await anyio.wait_all_tasks_blocked()
        client.write(cancel(LSP, 1))
        assert (await client.next())["error"] == CANCELLED
    assert sorted(ended) == [0, 1, 2]


async def test_a_plain_function_sees_that_it_is_cancelled_and_still_answers() -> None:
    worker = Worker()
    begun, release = anyio.Event(), anyio.Event()

    @worker.method("block")
    def block(context: Context) -> bool:
        anyio.from_thread.run_sync(begun.set)
        anyio.from_thread.run(shielded, release)
        return context.cancelled

    async with serving(worker) as client:
        client.start("block")
        with anyio.fail_after(5):
            await begun.wait()
        client.write(cancel(LSP, 1))
        await anyio.wait_all_tasks_blocked()
        release.set()
        assert (await client.next())["result"] is True


async def shielded(event: anyio.Event) -> None:
    with anyio.CancelScope(shield=True):
        await event.wait()


async def test_a_handler_waiting_for_room_is_cancelled_without_losing_its_answer() -> None:
    worker = Worker()

    @worker.method("big")
    async def big(size: int) -> str:
        return "x" * size

    client = Client()
    client.reading = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.serve, worker)
        client.write(request(1, "big", [2 << 20]))
        await anyio.wait_all_tasks_blocked()
        client.write(request(2, "big", [1]))  # it has its result, and waits for room
        await anyio.wait_all_tasks_blocked()
        client.write(cancel(LSP, 2))
        await anyio.wait_all_tasks_blocked()
        client.reading.set()
        first, second = await client.take(2)
        assert (first["id"], second["id"]) == (1, 2)
        assert second["error"] == CANCELLED
        await client.end()
    client.close()
