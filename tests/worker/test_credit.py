"""A credit window holds up the one handler that uses it up."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from anyio_bus.worker import Context, Worker
from tests.worker.kit import Client, notification, request, serving

WORD = "0123456789"


def streaming() -> Worker:
    worker = Worker()

    @worker.method("stream")
    async def stream(context: Context, count: int, size: int = 10) -> int:
        for _ in range(count):
            await context.send_chunk("x" * size)
        return count

    @worker.method("ping")
    async def ping() -> str:
        return "pong"

    return worker


def credited(limit: Any) -> dict[str, Any]:
    return {"anyio-bus/credit": limit}


def chunk_bytes(key: int, size: int = 10) -> int:
    params = {"text": "x" * size, "_meta": {"requestId": key}}
    return len(msgspec.json.encode(params))


async def sent(client: Client) -> list[Any]:
    """Return what comes until the worker waits: "chunk", or a result."""
    await anyio.wait_all_tasks_blocked()
    client.write(request("ping", "ping"))
    found: list[Any] = []
    while (message := await client.next()).get("id") != "ping":
        found.append(message.get("method") or message["result"])
    return found


async def test_chunks_wait_until_the_client_gives_credit() -> None:
    async with serving(streaming()) as client:
        size = chunk_bytes(1)
        client.start("stream", {"count": 5, "_meta": credited(2 * size)})
        assert await sent(client) == ["chunk"] * 2
        client.write(notification("bus/credit", {"id": 1, "bytes": size}))
        assert await sent(client) == ["chunk"]
        client.write(notification("bus/credit", {"id": 1, "bytes": size - 1}))
        assert await sent(client) == []
        client.write(notification("bus/credit", {"id": 1, "bytes": 1 + size}))
        assert await sent(client) == ["chunk", "chunk", 5]


async def test_a_window_is_of_one_request_and_others_go_on() -> None:
    async with serving(streaming()) as client:
        meta = credited(chunk_bytes(1))
        client.write(request(1, "stream", {"count": 2, "_meta": meta}))
        assert await sent(client) == ["chunk"]
        client.write(request(2, "stream", {"count": 2}))
        assert [m.get("result") for m in await client.take(3)][-1] == 2
        client.write(notification("bus/credit", {"id": 1, "bytes": chunk_bytes(1)}))
        assert [m.get("result") for m in await client.take(2)] == [None, 2]


@pytest.mark.parametrize("limit", [None, "5", -1, True, 1.5])
async def test_without_a_usable_window_only_the_pipe_holds_back(limit: Any) -> None:
    async with serving(streaming()) as client:
        client.start("stream", {"count": 100, "_meta": credited(limit)})
        assert (await client.take(101))[-1]["result"] == 100


@pytest.mark.parametrize("limit", [0, 1, 50])
async def test_a_chunk_larger_than_the_window_goes_out_alone(limit: int) -> None:
    async with serving(streaming()) as client:
        client.start("stream", {"count": 2, "size": 100, "_meta": credited(limit)})
        assert await sent(client) == ["chunk"]
        client.write(notification("bus/credit", {"id": 1, "bytes": chunk_bytes(1, 100)}))
        assert await sent(client) == ["chunk", 2]


async def test_credit_beyond_what_is_used_is_not_saved() -> None:
    async with serving(streaming()) as client:
        size = chunk_bytes(1)
        client.start("stream", {"count": 3, "_meta": credited(size)})
        assert await sent(client) == ["chunk"]
        client.write(notification("bus/credit", {"id": 1, "bytes": 100 * size}))
        assert await sent(client) == ["chunk"]
        client.write(notification("bus/credit", {"id": 1, "bytes": size}))
        await client.take(2)


@pytest.mark.parametrize("params", [{}, {"id": 1}, {"id": 1, "bytes": "5"}, {"id": [], "bytes": 5}])
async def test_credit_that_makes_no_sense_is_ignored(params: Any) -> None:
    async with serving(streaming()) as client:
        client.start("stream", {"count": 2, "_meta": credited(1)})
        assert await sent(client) == ["chunk"]
        client.write(notification("bus/credit", params))
        client.write(notification("bus/credit", {"id": 1, "bytes": -5}))
        client.write(notification("bus/credit", {"id": 7, "bytes": 1000}))
        assert await sent(client) == []
        client.write(notification("$/cancelRequest", {"id": 1}))
        assert (await client.next())["error"]["code"] == -32800


async def test_a_handler_that_waits_for_credit_can_be_cancelled() -> None:
    async with serving(streaming()) as client:
        client.start("stream", {"count": 2, "_meta": credited(1)})
        assert await sent(client) == ["chunk"]
        client.write(notification("$/cancelRequest", {"id": 1}))
        assert (await client.next())["error"]["code"] == -32800


async def test_a_chunk_given_up_while_it_waits_uses_no_credit() -> None:
    worker = streaming()

    @worker.method("hesitate")
    async def hesitate(context: Context) -> list[bool]:
        sent = []
        for _ in range(2):
            with anyio.move_on_after(0) as scope:
                await context.send_chunk(WORD)
            sent.append(not scope.cancelled_caught)
        await context.send_chunk(WORD)
        return sent

    async with serving(worker) as client:
        client.start("hesitate", {"_meta": credited(chunk_bytes(1))})
        _, answer = await client.take(2)
        assert answer["result"] == [False, False]


async def test_chunks_of_several_tasks_of_a_handler_take_turns() -> None:
    worker = Worker()

    @worker.method("both")
    async def both(context: Context) -> None:
        await context.send_chunk("first")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(context.send_chunk, "large" * 100)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(context.send_chunk, "small")

    async with serving(worker) as client:
        client.start("both", {"_meta": credited(200)})
        assert (await client.next())["params"]["text"] == "first"
        await anyio.wait_all_tasks_blocked()
        client.write(notification("bus/credit", {"id": 1, "bytes": 10}))  # enough for "small"
        await anyio.wait_all_tasks_blocked()
        client.write(notification("bus/credit", {"id": 1, "bytes": 10_000}))
        assert (await client.next())["params"]["text"] == "large" * 100
        client.write(notification("bus/credit", {"id": 1, "bytes": 10_000}))
        assert (await client.next())["params"]["text"] == "small"
        await client.next()


async def test_when_the_client_closes_its_end_the_window_opens() -> None:
    client = Client()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.serve, streaming())
        client.start("stream", {"count": 5, "_meta": credited(1)})
        await client.next()
        await anyio.wait_all_tasks_blocked()
        rest = await client.rest()
    client.close()
    assert len(rest) == 5
    assert rest[-1]["result"] == 5
