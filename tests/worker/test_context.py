"""What a handler learns of its request, and what it says to the client on the way."""

from __future__ import annotations

import dataclasses
from typing import Any

import anyio
import msgspec
import pytest
from msgspec import Raw

from anyio_bus import (
    FrameTooLargeError,
    InvalidArgumentError,
    InvalidStateError,
    RemoteError,
    RemoteProtocolError,
    RequestTimeoutError,
    TransportError,
)
from anyio_bus.worker import Context, Worker
from tests.worker.kit import Client, Looks, line, notification, request, serving


async def seen(client_params: Any, **members: Any) -> Any:
    """Return what a context shows of a request."""
    worker = Worker()

    @worker.method("look")
    async def look(context: Context, **_rest: Any) -> Any:
        return [context.method, context.request_id, context.session, context.meta]

    async with serving(worker) as client:
        return (await client.call("look", client_params, **members))["result"]


async def test_a_context_shows_method_id_session_and_meta() -> None:
    assert await seen(None) == ["look", 1, None, {}]
    assert await seen({"_meta": {"a": [1]}, "b": 2}) == ["look", 1, None, {"a": [1]}]


async def test_the_session_stands_at_top_level_or_in_the_params() -> None:
    assert (await seen({"sessionId": "inner"}))[2] == "inner"
    assert (await seen({"sessionId": "inner"}, sessionId="top"))[2] == "top"


@pytest.mark.parametrize("odd", [[1], {"_meta": 5, "sessionId": 7}, {"_meta": None}])
async def test_odd_params_are_no_reason_to_fail(odd: Any) -> None:
    worker = Worker()

    @worker.method("look")
    async def look(params: Any, context: Context) -> Any:
        return [context.session, context.meta]

    async with serving(worker) as client:
        assert (await client.call("look", odd))["result"] == [None, {}]


# -- chunks --------------------------------------------------------------------------------------


class Piece(msgspec.Struct):
    number: int


@dataclasses.dataclass
class Part:
    number: int


@pytest.mark.parametrize(
    ("chunk", "params"),
    [
        ("text", {"text": "text"}),
        ({"delta": 1}, {"delta": 1}),
        ({}, {}),
        (Piece(1), {"number": 1}),
        (Part(2), {"number": 2}),
        (Raw(b'{"a": [1]}'), {"a": [1]}),
    ],
)
async def test_a_chunk_carries_the_id_of_its_request(chunk: Any, params: dict[str, Any]) -> None:
    worker = Worker()

    @worker.method("stream")
    async def stream(context: Context) -> None:
        await context.send_chunk(chunk)

    async with serving(worker) as client:
        client.write(request("r-1", "stream"))
        sent, answer = await client.take(2)
        expected = {**params, "_meta": {"requestId": "r-1"}}
        assert sent == {"jsonrpc": "2.0", "method": "chunk", "params": expected}
        assert answer["result"] is None


async def test_a_chunk_keeps_its_own_meta_and_may_have_another_method() -> None:
    worker = Worker()

    @worker.method("stream")
    async def stream(context: Context) -> None:
        for meta in ({"a": 1}, Raw(b'{"a":1}')):
            await context.send_chunk({"_meta": meta}, method="session/update")

    async with serving(worker) as client:
        client.start("stream")
        for sent in await client.take(2):
            assert sent["method"] == "session/update"
            assert sent["params"] == {"_meta": {"a": 1, "requestId": 1}}
        await client.next()


@pytest.mark.parametrize("chunk", [[1], 5, None, object(), {"a": object()}])
async def test_a_chunk_that_is_no_object_is_refused(chunk: Any) -> None:
    worker = Worker()
    caught = []

    @worker.method("stream")
    async def stream(context: Context) -> None:
        with pytest.raises(InvalidArgumentError) as error:
            await context.send_chunk(chunk)
        caught.append(error.value.field)

    async with serving(worker) as client:
        await client.call("stream")
    assert caught in (["chunk"], ["params"])


async def test_there_are_no_chunks_after_the_answer() -> None:
    worker = Worker()
    contexts: list[Context] = []

    @worker.method("keep")
    async def keep(context: Context) -> None:
        contexts.append(context)

    async with serving(worker) as client:
        await client.call("keep")
        with pytest.raises(InvalidStateError, match="request 1 .keep. has been answered"):  # noqa: RUF043
            await contexts[0].send_chunk("late")


async def test_what_a_handler_sends_repeats_the_session_of_the_envelope() -> None:
    worker = Worker()

    @worker.method("talk")
    async def talk(context: Context) -> None:
        await context.send_chunk("a")
        await context.notify("b")
        await context.request("c")

    async with serving(worker) as client:
        client.start("talk", sessionId="s")
        sent = await client.take(3)
        assert [m["method"] for m in sent] == ["chunk", "b", "c"]
        assert all(m["sessionId"] == "s" for m in sent)
        client.write({"id": sent[2]["id"], "result": None})
        await client.next()


# -- notifications and requests to the client ------------------------------------------------------


def asking(**options: Any) -> Worker:
    """Make a worker that asks its client and answers with what it heard."""
    worker = Worker(**options)

    @worker.method("ask")
    async def ask(context: Context, method: str, timeout: float | None = None) -> Any:
        return await context.request(method, {"q": 1}, timeout=timeout)

    return worker


async def test_a_notification_is_sent_as_it_is() -> None:
    worker = Worker()

    @worker.method("notify")
    async def notify(context: Context) -> None:
        await context.notify("hello")
        await context.notify("params", [1])

    async with serving(worker) as client:
        client.start("notify")
        first, second, _ = await client.take(3)
        assert first == {"jsonrpc": "2.0", "method": "hello"}
        assert second == {"jsonrpc": "2.0", "method": "params", "params": [1]}


async def test_a_request_to_the_client_returns_its_result() -> None:
    async with serving(asking()) as client:
        key = client.start("ask", {"method": "question"})
        asked = await client.next()
        assert asked == {"jsonrpc": "2.0", "id": 1, "method": "question", "params": {"q": 1}}
        client.write({"jsonrpc": "2.0", "id": asked["id"], "result": {"a": 42}})
        assert await client.next() == {"jsonrpc": "2.0", "id": key, "result": {"a": 42}}


async def test_the_answer_to_a_request_that_is_alone_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Looks(monkeypatch)
    async with serving(asking()) as client:
        for count in range(1, 4):
            client.start("ask", {"method": "question"})
            asked = await client.next()
            client.write({"id": asked["id"], "result": None})
            await client.next()
            assert looks.count == count
        client.write(*(request(key, "ask", {"method": "question"}) for key in range(4, 12)))
        asked_many = await client.take(8)
        assert looks.count == 3
        client.write(*({"id": asked["id"], "result": None} for asked in asked_many))
        await client.take(8)
        assert looks.count == 3


async def test_two_ends_may_use_the_same_id() -> None:
    async with serving(asking()) as client:
        client.write(request(1, "ask", {"method": "a"}), request(2, "ask", {"method": "b"}))
        asked = {m["method"]: m["id"] for m in await client.take(2)}
        client.write({"id": asked["b"], "result": "b"}, {"id": asked["a"], "result": "a"})
        assert {m["id"]: m["result"] for m in await client.take(2)} == {1: "a", 2: "b"}


async def test_the_client_s_error_is_a_remote_error_and_passes_through() -> None:
    async with serving(asking()) as client:
        client.start("ask", {"method": "question"})
        asked = await client.next()
        error = {"code": -1, "message": "no", "data": [1]}
        client.write({"id": asked["id"], "error": error})
        assert (await client.next())["error"] == error


async def test_a_null_error_beside_a_result_is_none() -> None:
    async with serving(asking()) as client:
        client.start("ask", {"method": "question"})
        asked = await client.next()
        client.write({"id": asked["id"], "result": 5, "error": None})
        assert (await client.next())["result"] == 5


async def outcome_of(answer: Any, **options: Any) -> BaseException:
    """Return what a request to the client raises when it is answered so."""
    worker = Worker(max_frame_bytes=1000)
    caught: list[BaseException] = []

    @worker.method("ask")
    async def ask(context: Context) -> None:
        try:
            await context.request("question", **options)
        except Exception as exc:
            caught.append(exc)

    async with serving(worker) as client:
        client.start("ask")
        asked = await client.next()
        client.write(answer if isinstance(answer, bytes) else {"id": asked["id"], **answer})
        await client.next()
    return caught[0]


async def test_errors_of_a_request_to_the_client_have_their_classes() -> None:
    refused = await outcome_of({"error": {"code": 7, "message": "no"}})
    assert isinstance(refused, RemoteError)
    assert refused.code == 7
    assert isinstance(await outcome_of({"error": "no"}), RemoteProtocolError)
    assert isinstance(await outcome_of({"result": "text"}, reply=int), RemoteProtocolError)
    large = line({"id": 1, "result": "x" * 1000})
    assert isinstance(await outcome_of(large), FrameTooLargeError)
    large = line({"result": "x" * 10_000, "id": 1})
    assert isinstance(await outcome_of(large), FrameTooLargeError)


async def test_the_reply_is_decoded_into_the_type_asked_for() -> None:
    worker = Worker()

    @worker.method("ask")
    async def ask(context: Context) -> bool:
        return isinstance(await context.request("question", reply=Piece), Piece)

    async with serving(worker) as client:
        client.start("ask")
        client.write({"id": (await client.next())["id"], "result": {"number": 1}})
        assert (await client.next())["result"] is True


@pytest.mark.parametrize(
    ("cancel", "method", "name"),
    [
        ("lsp", "$/cancelRequest", "id"),
        ("mcp", "notifications/cancelled", "requestId"),
        ("acp", "$/cancel_request", "requestId"),
    ],
)
async def test_a_client_that_does_not_answer_in_time_is_told(
    cancel: Any, method: str, name: str
) -> None:
    worker = Worker(cancel=cancel)
    caught: list[RequestTimeoutError] = []

    @worker.method("ask")
    async def ask(context: Context) -> None:
        with pytest.raises(RequestTimeoutError) as error:
            await context.request("question", timeout=0.1)
        caught.append(error.value)

    async with serving(worker) as client:
        client.start("ask")
        asked, told, _ = await client.take(3)
        assert told["method"] == method
        assert told["params"][name] == asked["id"]
        client.write({"id": asked["id"], "result": "late"})
    assert (caught[0].method, caught[0].timeout_s, caught[0].sent) == ("question", 0.1, True)


async def test_cancelling_a_handler_cancels_what_it_asked_the_client() -> None:
    async with serving(asking()) as client:
        key = client.start("ask", {"method": "question"})
        asked = await client.next()
        client.write(notification("$/cancelRequest", {"id": key}))
        told, answer = await client.take(2)
        assert told["method"] == "$/cancelRequest"
        assert told["params"] == {"id": asked["id"]}
        assert answer["error"]["code"] == -32800


async def test_with_profile_none_the_client_is_not_told() -> None:
    async with serving(asking(cancel="none")) as client:
        key = client.start("ask", {"method": "question"})
        await client.next()
        client.write(notification("$/cancelRequest", {"id": key}))
        assert (await client.next())["error"]["code"] == -32800


async def test_when_the_client_closes_its_end_what_it_was_asked_fails_at_once() -> None:
    worker = Worker()
    caught: list[TransportError] = []

    @worker.method("ask")
    async def ask(context: Context) -> None:
        for _ in range(2):
            with pytest.raises(TransportError) as error:
                await context.request("question", timeout=None)
            caught.append(error.value)

    client = Client()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.serve, worker)
        client.start("ask")
        await client.next()
        assert [m["result"] for m in await client.rest()] == [None]
    client.close()
    assert [error.sent for error in caught] == [True, False]


async def test_a_frame_over_the_limit_is_not_sent() -> None:
    worker = Worker(max_frame_bytes=1000)
    caught: list[FrameTooLargeError] = []

    @worker.method("talk")
    async def talk(context: Context) -> None:
        text = "x" * 1000
        for call in (
            context.send_chunk(text),
            context.notify("n", [text]),
            context.request("r", [text]),
        ):
            with pytest.raises(FrameTooLargeError) as error:
                await call
            caught.append(error.value)

    async with serving(worker) as client:
        await client.call("talk")
    assert [(error.limit_bytes, error.sent) for error in caught] == [(1000, False)] * 3
