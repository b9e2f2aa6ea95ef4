"""What handlers say to the host, with a host in this process: events, memory, language models."""

from __future__ import annotations

import asyncio
import re
import threading
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import anyio
import pytest

from anyio_bus.plugins.nexo import (
    BrokerSender,
    Event,
    LlmCompleteResult,
    MemoryEntry,
    Message,
    PluginAdapter,
    PluginError,
    RpcDecodeError,
    RpcError,
    RpcServerError,
    RpcTimeoutError,
    RpcTransportError,
    TokenCount,
    WireError,
)
from anyio_bus.testing import cancel_sweep
from anyio_bus.testing.nexo import HostError, NexoHost, Streamed, open_host
from tests.conftest import ASYNCIO, TRIO
from tests.plugins.nexo.kit import event
from tests.worker.kit import Looks, line

MANIFEST = '[plugin]\nid = "demo"\nversion = "1.0.0"\n'
ENTRY = {"id": "m", "agent_id": "a", "content": "c"}
USAGE = {"prompt_tokens": 6, "completion_tokens": 1}

Body = Callable[[BrokerSender, NexoHost], Awaitable[Any]]


def make(**options: Any) -> PluginAdapter:
    return PluginAdapter(manifest_toml=MANIFEST, **options)


async def recall(broker: BrokerSender, **more: Any) -> list[MemoryEntry]:
    return await broker.memory_recall(agent_id="a", query="q", **more)


async def complete(broker: BrokerSender, **more: Any) -> LlmCompleteResult:
    messages = [Message("user", "2+2?"), {"role": "assistant", "content": "?"}]
    return await broker.llm_complete(provider="p", model="m", messages=messages, **more)


def stream(broker: BrokerSender, **more: Any) -> Any:
    messages = [Message("user", "2+2?")]
    return broker.llm_complete_stream(provider="p", model="m", messages=messages, **more)


def event_line(payload: int) -> bytes:
    return line(event("t.x", payload))


# -- events ----------------------------------------------------------------------------------------


async def test_a_cancelled_adapter_begins_nothing_more() -> None:
    begun = []
    running = anyio.Event()

    async def on_event(topic: str, event: Event, broker: BrokerSender) -> None:
        begun.append(event.payload)
        running.set()
        await anyio.sleep_forever()

    blocks = [b"".join(map(event_line, range(3)))]

    async def receive() -> bytes:
        if not blocks:
            await anyio.sleep_forever()
        return blocks.pop()

    async def send(data: bytes) -> None:
        raise AssertionError(data)

    adapter = make(on_event=on_event, max_concurrency=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(adapter.serve_stream, receive, send)
        with anyio.fail_after(5):
            await running.wait()
        tasks.cancel_scope.cancel()

    assert begun == [0]


async def test_a_published_event_is_one_that_the_host_takes() -> None:
    """5.1: it drops every event of the existing SDK."""
    adapter = make()
    async with open_host(adapter) as host:
        await adapter.broker.publish("t.x", Event.new("t.x", "demo", {"a": 1}))
        topic, event = await host.next_published()

    assert topic == "t.x"
    assert set(event) == {"id", "timestamp", "topic", "source", "payload"}
    assert uuid.UUID(event["id"]).version == 4
    assert datetime.fromisoformat(event["timestamp"]).utcoffset() is not None
    assert host.dropped == []


async def test_the_minimal_shape_has_what_the_kit_wants() -> None:
    adapter = make(event_shape="minimal")
    event = Event("t", "", 5, session_id=str(uuid.uuid4()), id=str(uuid.uuid4()))
    full = Event("t", "x", 5, "c", {"k": 1})
    async with open_host(adapter) as host:
        await adapter.broker.publish("t", event)
        await adapter.broker.publish("t", full)
        await adapter.broker.notify("after", {})
        await host.next_notification()

    sent = [params["event"] for params, _ in host.dropped]
    assert sent[0] == {"topic": "t", "source": "demo", "payload": 5}
    assert sent[1] == {
        "topic": "t",
        "source": "x",
        "payload": 5,
        "correlation_id": "c",
        "metadata": {"k": 1},
    }


@pytest.mark.parametrize("payload", [None, 0, "text", [1], {"a": {}}, False])
async def test_an_event_comes_whole_and_its_reply_stays_in_its_session(payload: Any) -> None:
    """5.1: id, timestamp and session are thrown away, a payload must be an object."""
    seen: list[tuple[str, Event]] = []
    session = str(uuid.uuid4())

    async def on_event(topic: str, event: Event, broker: BrokerSender) -> None:
        seen.append((topic, event))
        await broker.publish("plugin.inbound.x", event.reply(event.payload))

    async with open_host(make(on_event=on_event)) as host:
        await host.event("plugin.outbound.x", payload, session_id=session)
        _, answer = await host.next_published()

    topic, event = seen[0]
    assert (topic, event.topic, event.source) == ("plugin.outbound.x", "plugin.outbound.x", "host")
    assert (event.payload, event.session_id) == (payload, session)
    assert event.id is not None
    assert event.timestamp is not None
    assert answer["session_id"] == session
    assert (answer["topic"], answer["source"]) == ("plugin.inbound.x", "demo")
    assert answer["id"] != event.id


async def test_an_event_needs_neither_handshake_nor_more_than_topic_source_and_payload() -> None:
    seen: list[Event] = []
    done = anyio.Event()

    async def on_event(topic: str, event: Event, broker: BrokerSender) -> None:
        seen.append(event)
        done.set()

    async with open_host(make(on_event=on_event), initialize=False) as host:
        event = {"topic": "t", "payload": 1, "more": True}
        params = {"topic": "t", "event": event}
        await host.send({"jsonrpc": "2.0", "method": "broker.event", "params": params})
        with anyio.fail_after(5):
            await done.wait()

    assert seen == [Event("t", "", 1)]


async def test_plain_functions_handle_events_in_threads_and_leave_some_to_requests() -> None:
    """5.4: they run, and log a TypeError each time."""
    gate = threading.Event()

    def on_event(topic: str, event: Event, broker: BrokerSender) -> None:
        broker.publish_threadsafe(topic, event)
        gate.wait(10)

    adapter = make(on_event=on_event, max_concurrency=1)
    adapter.on_request("custom", lambda params: gate.set())
    async with open_host(adapter) as host:
        await host.event("t", 1)
        assert (await host.next_published()).event["payload"] == 1
        assert await host.request("custom", timeout=5) is None


async def test_what_an_event_handler_raises_is_logged_with_its_class(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """5.4: only the text of the exception."""

    async def on_event(topic: str, event: Event, broker: BrokerSender) -> None:
        if event.payload == "exit":
            raise SystemExit(3)
        if event.payload == "raise":
            raise KeyError("missing")
        await broker.publish(topic, event)

    async with open_host(make(on_event=on_event)) as host:
        for payload in ("raise", "exit", "fine"):
            await host.event("t", payload)
        assert (await host.next_published()).event["payload"] == "fine"

    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        "plugin: on_event raised: KeyError: 'missing'",
        "plugin: on_event raised: SystemExit: 3",
    ]
    assert all(record.exc_info for record in caplog.records)


async def test_a_task_of_the_authors_publishes_once_the_host_is_ready() -> None:
    """5.1: nothing can be published before the first event."""
    adapter = make()

    async def tick() -> None:
        await adapter.wait_ready()
        await adapter.broker.publish("t", Event("t", "", "tick"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        async with open_host(adapter, initialize=False) as host:
            await host.initialize()
            assert (await host.next_published()).event["payload"] == "tick"


async def test_two_adapters_in_one_process_have_nothing_in_common() -> None:
    """5.8: there is one guard for all of them."""
    first, second = make(), make(event_shape="minimal")
    async with open_host(first) as one, open_host(second) as other:
        await first.broker.publish("t", Event("t", "", 1))
        await second.broker.notify("n", {})
        assert (await one.next_published()).event["payload"] == 1
        assert (await other.next_notification())["method"] == "n"


async def test_without_a_host_nothing_can_be_said() -> None:
    adapter = make()
    with pytest.raises(RpcTransportError, match="does not run"):
        await adapter.broker.publish("t", Event("t"))
    async with open_host(adapter):
        pass
    for call in (recall(adapter.broker), adapter.broker.publish("t", Event("t"))):
        with pytest.raises(RpcTransportError, match=r"shut(ting)? down"):
            await call


@pytest.mark.parametrize("payload", [float("nan"), object(), "\ud800"])
async def test_an_event_that_is_no_json_is_refused(payload: object) -> None:
    adapter = make()
    async with open_host(adapter):
        with pytest.raises(WireError, match="cannot be encoded"):
            await adapter.broker.publish("t", Event("t", "", payload))


# -- calls -----------------------------------------------------------------------------------------


async def test_memory_recall_sends_what_the_kit_wants_and_reads_entries() -> None:
    adapter = make()
    more = {**ENTRY, "tags": ["t"], "concept_tags": [], "created_at": "x", "memory_type": None}
    async with open_host(adapter) as host:
        host.answer("memory.recall", lambda params: {"entries": [ENTRY, more]})
        entries = await recall(adapter.broker)
        await recall(adapter.broker, limit=3)

    assert entries == [MemoryEntry("m", "a", "c"), MemoryEntry("m", "a", "c", ["t"], [], "x")]
    assert [request["params"] for request in host.requests] == [
        {"agent_id": "a", "query": "q", "limit": 10},
        {"agent_id": "a", "query": "q", "limit": 3},
    ]
    assert [request["id"] for request in host.requests] == [1, 2]


async def test_the_answer_to_a_call_that_is_alone_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Looks(monkeypatch)
    adapter = make()
    async with open_host(adapter) as host:
        host.answer("memory.recall", lambda params: {"entries": []})
        for count in range(1, 4):
            await recall(adapter.broker)
            assert looks.count == count
        taken, take = anyio.create_memory_object_stream[Any](8)
        host.take_requests(taken.send)
        async with taken, take, anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(recall, adapter.broker)
                await take.receive()
                assert looks.count == 4  # the first was alone
            tasks.cancel_scope.cancel()


async def test_llm_complete_sends_what_the_kit_wants_and_reads_the_result() -> None:
    adapter = make()
    result = {"content": "four", "finish_reason": "stop", "usage": USAGE}
    async with open_host(adapter) as host:
        host.answer("llm.complete", lambda params: result)
        completed = await complete(adapter.broker)
        await complete(adapter.broker, system_prompt="s", max_tokens=1, temperature=0.0)

    assert completed == LlmCompleteResult("four", "stop", TokenCount(6, 1))
    first, second = (request["params"] for request in host.requests)
    assert first == {
        "provider": "p",
        "model": "m",
        "messages": [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "?"},
        ],
        "max_tokens": 4096,
        "temperature": 0.7,
    }
    assert (second["system_prompt"], second["max_tokens"]) == ("s", 1)


async def test_any_method_of_the_host_can_be_called() -> None:
    adapter = make()
    async with open_host(adapter) as host:
        host.answer("later.method", lambda params: [params])
        assert await adapter.broker.request("later.method", {"a": 1}) == [{"a": 1}]


async def test_an_error_of_the_host_is_raised_as_it_is() -> None:
    adapter = make()

    def refuse(_params: Any) -> None:
        raise HostError(-32602, "bad", [1])

    async with open_host(adapter) as host:
        with pytest.raises(RpcServerError, match="not yet wired"):
            await recall(adapter.broker)
        host.answer("memory.recall", refuse)
        with pytest.raises(RpcServerError) as caught:
            await recall(adapter.broker)

    error = caught.value
    assert (error.code, error.message, error.data) == (-32602, "bad", [1])
    assert str(error) == "rpc error -32602: bad"


# 5.2, and what is not an RpcError there
@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"result": {}},
        {"result": None},
        {"result": {"entries": {}}},
        {"result": {"entries": [{"id": 1}]}},
        {"error": "text"},
        {"error": []},
        {"error": None},
        {"error": {"code": "x", "message": "m"}},
        {"error": {"code": 1.5, "message": "m"}},
        b"[" * 200_000 + b"]" * 200_000,
        b"9" * 5000,
        b'"\xff"',
        b'"%b"' % (b"x" * 1_100_000),
    ],
    ids=lambda answer: repr(answer)[:30],
)
async def test_an_answer_that_cannot_be_read_fails_its_call(answer: dict[str, Any] | bytes) -> None:
    adapter = make()
    async with open_host(adapter) as host:

        async def reply(message: Any) -> None:
            if isinstance(answer, bytes):
                line = b'{"jsonrpc":"2.0","id":%d,"result":%b}\n'
                await host.send(line % (message["id"], answer))
            else:
                await host.send({"jsonrpc": "2.0", "id": message["id"], **answer})

        host.take_requests(reply)
        with anyio.fail_after(5):
            with pytest.raises(RpcDecodeError):
                await recall(adapter.broker)


async def test_a_null_error_beside_a_result_is_no_error() -> None:
    adapter = make()
    async with open_host(adapter) as host:
        result = {"entries": [ENTRY]}
        host.take_requests(
            lambda message: host.send(
                {"jsonrpc": "2.0", "id": message["id"], "error": None, "result": result}
            )
        )
        assert await recall(adapter.broker) == [MemoryEntry("m", "a", "c")]


async def test_only_a_whole_number_answers_a_call() -> None:
    adapter = make()
    async with open_host(adapter) as host:
        odd = [True, 1.0, "1", None]

        async def answer(message: Any) -> None:
            wrong = [{"jsonrpc": "2.0", "id": key, "result": {"entries": []}} for key in odd]
            right = {"jsonrpc": "2.0", "id": message["id"], "result": {"entries": [ENTRY]}}
            await host.send(*wrong, right, right)

        host.take_requests(answer)
        assert await recall(adapter.broker) == [MemoryEntry("m", "a", "c")]


async def test_answers_come_in_any_order() -> None:
    adapter = make()
    held: list[Any] = []
    done: list[str] = []

    async with open_host(adapter) as host:

        async def hold(message: Any) -> None:
            held.append(message)
            if len(held) == 3:
                for one in reversed(held):
                    entry = {**ENTRY, "id": one["params"]["query"]}
                    result = {"entries": [entry]}
                    await host.send({"jsonrpc": "2.0", "id": one["id"], "result": result})

        async def ask(query: str) -> None:
            found = await adapter.broker.memory_recall(agent_id="a", query=query)
            assert found[0].id == query
            done.append(query)

        host.take_requests(hold)
        async with anyio.create_task_group() as tasks:
            for query in "abc":
                tasks.start_soon(ask, query)
    assert sorted(done) == ["a", "b", "c"]


async def silent(_message: Any) -> None:
    """A host that does not answer."""


async def test_a_call_that_is_not_answered_in_time_fails_and_its_late_answer_is_dropped() -> None:
    adapter = make()
    async with open_host(adapter) as host:
        host.take_requests(silent)
        with pytest.raises(RpcTimeoutError) as caught:
            await recall(adapter.broker, timeout=0.01)
        await host.send({"jsonrpc": "2.0", "id": 1, "result": {"entries": []}})

    assert caught.value.seconds == 0.01
    assert isinstance(caught.value, TimeoutError)


# 5.4: RpcTransportError instead
@pytest.mark.parametrize(
    "call",
    [
        recall,
        complete,
        lambda broker: stream(broker).final_result(),
        lambda broker: stream(broker).__anext__(),
    ],
    ids=["recall", "complete", "final_result", "next"],
)
async def test_a_cancelled_call_is_cancelled_and_nothing_else(
    call: Callable[[BrokerSender], Awaitable[Any]],
) -> None:
    adapter = make()
    async with open_host(adapter) as host:
        host.take_requests(silent)
        with anyio.move_on_after(0.01) as scope:
            await call(adapter.broker)
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.01):
                await call(adapter.broker)


@pytest.mark.parametrize("anyio_backend", [ASYNCIO], indirect=True)  # asyncio's own ways
async def test_asyncio_knows_a_cancelled_call_for_what_it_is() -> None:
    adapter = make()
    async with open_host(adapter) as host:
        host.take_requests(silent)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await recall(adapter.broker)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(complete(adapter.broker), 0.01)
        task = asyncio.create_task(recall(adapter.broker))
        await anyio.wait_all_tasks_blocked()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


@pytest.mark.parametrize("anyio_backend", [TRIO], indirect=True)  # only trio can be stepped
async def test_calls_can_be_cancelled_at_every_step() -> None:
    adapter = make()
    async with open_host(adapter) as host:
        host.answer("memory.recall", lambda params: {"entries": [ENTRY]})
        host.answer("llm.complete", lambda params: Streamed(["a"], {"usage": USAGE}))

        async def use() -> None:
            await recall(adapter.broker)
            async with stream(adapter.broker) as pieces:
                assert [piece async for piece in pieces] == ["a"]
            await adapter.broker.publish("t", Event("t"))
            await adapter.broker.notify("n", {})

        await cancel_sweep(use)
        assert await recall(adapter.broker) == [MemoryEntry("m", "a", "c")]


# -- streams ---------------------------------------------------------------------------------------


async def test_a_stream_gives_its_pieces_and_then_its_end() -> None:
    adapter = make()
    async with open_host(adapter) as host:
        result = {"finish_reason": "stop", "usage": USAGE}
        host.answer("llm.complete", lambda params: Streamed(["fou", "r"], result))
        pieces = stream(adapter.broker)
        assert [piece async for piece in pieces] == ["fou", "r"]
        expected = LlmCompleteResult(None, "stop", TokenCount(6, 1))
        assert await pieces.final_result() == expected
        assert await pieces.final_result() == expected
        assert [piece async for piece in pieces] == []  # 5.9: hangs

    assert host.requests[0]["params"]["stream"] is True


async def test_the_end_of_a_stream_can_be_awaited_alone() -> None:
    adapter = make()
    async with open_host(adapter) as host:
        host.answer("llm.complete", lambda params: Streamed(["x"] * 500, {"usage": USAGE}))
        assert (await stream(adapter.broker).final_result()).usage == TokenCount(6, 1)


async def test_a_stream_that_breaks_off_raises_after_its_pieces() -> None:
    """5.9: the iteration ends as if the text were whole."""
    adapter = make()

    async def break_off(message: Any) -> None:
        params = {"request_id": message["id"], "chunk": "fou"}
        error = {"code": -32603, "message": "provider"}
        await host.send(
            {"jsonrpc": "2.0", "method": "llm.complete.delta", "params": params},
            {"jsonrpc": "2.0", "id": message["id"], "error": error},
        )

    async with open_host(adapter) as host:
        host.take_requests(break_off)
        pieces = stream(adapter.broker)
        got: list[str] = []
        with pytest.raises(RpcServerError, match="provider"):
            async for piece in pieces:
                got.append(piece)  # noqa: PERF401  # what came before the error counts
        with pytest.raises(RpcServerError, match="provider"):
            await pieces.final_result()
    assert got == ["fou"]


@pytest.mark.parametrize("result", [None, 5, {"usage": 5}, {"finish_reason": 1}])
async def test_a_bad_end_of_a_stream_is_a_decode_error(result: Any) -> None:
    adapter = make()
    async with open_host(adapter) as host:
        host.answer("llm.complete", lambda params: Streamed(["x"], result))
        with pytest.raises(RpcDecodeError):
            await stream(adapter.broker).final_result()


async def test_a_stream_in_which_nothing_comes_ends_by_its_idle_timeout() -> None:
    adapter = make()
    async with open_host(adapter) as host:
        host.take_requests(silent)
        with pytest.raises(RpcTimeoutError):
            await stream(adapter.broker, idle_timeout=0.01).final_result()


async def test_a_stream_that_goes_on_for_ever_ends_by_its_timeout() -> None:
    adapter = make()
    async with open_host(adapter) as host:
        host.take_requests(silent)
        pieces = stream(adapter.broker, idle_timeout=None, timeout=0.05)
        params = {"request_id": 1, "chunk": "x"}
        delta = {"jsonrpc": "2.0", "method": "llm.complete.delta", "params": params}
        with pytest.raises(RpcTimeoutError) as caught:
            while True:
                await host.send(delta)
                await pieces.__anext__()
    assert caught.value.seconds == 0.05


@pytest.mark.parametrize("piece", ["x" * 1000, ""])
async def test_a_stream_that_nobody_reads_is_bounded(
    piece: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyio_bus.plugins.nexo.broker._STREAM_CHARACTERS", 1500)
    adapter = make()
    async with open_host(adapter) as host:
        result = {"finish_reason": "stop"}
        host.answer("llm.complete", lambda params: Streamed([piece] * 100, result))
        with pytest.raises(RpcTransportError, match="wait to be read"):
            await stream(adapter.broker).final_result()


async def test_a_closed_stream_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    """5.9: it cannot be closed, and stays until the end."""
    adapter = make()
    async with open_host(adapter) as host:
        host.take_requests(silent)
        async with stream(adapter.broker) as pieces:
            pass
        assert not pieces._calls.pending
        with pytest.raises(RpcTransportError, match="closed"):
            await pieces.__anext__()
        host.take_requests(None)
        params = {"request_id": 1, "chunk": "x"}
        await host.send({"jsonrpc": "2.0", "method": "llm.complete.delta", "params": params})
        host.answer("memory.recall", lambda params: {"entries": []})
        await recall(adapter.broker)
    assert re.search("delta for an unknown/expired request id 1", caplog.text)


# -- threads (5.7) ---------------------------------------------------------------------------------


async def test_threads_publish_and_call_without_losing_anything() -> None:
    adapter = make()

    def work(number: int) -> None:
        for at in range(50):
            adapter.broker.publish_threadsafe("t", Event("t", "", [number, at]))
        found = adapter.broker.call_threadsafe(recall, adapter.broker)
        assert found == [MemoryEntry("m", "a", "c")]

    async with open_host(adapter) as host:
        host.answer("memory.recall", lambda params: {"entries": [ENTRY]})
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(anyio.to_thread.run_sync, work, number)
        await adapter.broker.publish("t", Event("t", "", "after"))
        got = [(await host.next_published()).event["payload"] for _ in range(201)]

    assert got[-1] == "after"
    for number in range(4):
        mine = [payload[1] for payload in got[:-1] if payload[0] == number]
        assert mine == list(range(50))


async def test_a_thread_that_runs_a_loop_must_await() -> None:
    adapter = make()
    async with open_host(adapter):
        with pytest.raises(PluginError, match="await the method itself"):
            adapter.broker.publish_threadsafe("t", Event("t"))


async def test_a_thread_that_waits_when_the_adapter_ends_is_told() -> None:
    adapter = make(drain_s=0.1)
    errors: list[BaseException] = []
    asked = anyio.Event()

    def work() -> None:
        try:
            adapter.broker.call_threadsafe(recall, adapter.broker)
        except BaseException as exc:
            errors.append(exc)

    async def take(_message: Any) -> None:
        asked.set()

    async with anyio.create_task_group() as tasks:
        async with open_host(adapter) as host:
            host.take_requests(take)
            tasks.start_soon(anyio.to_thread.run_sync, work)
            with anyio.fail_after(5):
                await asked.wait()
    assert isinstance(errors[0], RpcTransportError)


async def test_a_thread_without_a_host_is_told() -> None:
    adapter = make()
    async with open_host(adapter):
        pass
    errors: list[RpcError] = []

    def work() -> None:
        try:
            adapter.broker.publish_threadsafe("t", Event("t"))
        except RpcError as exc:
            errors.append(exc)

    await anyio.to_thread.run_sync(work)
    assert isinstance(errors[0], RpcTransportError)
