"""What workers send of their own accord: handlers, subscriptions, requests, raw messages."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from anyio_bus import stdiobus as s
from tests.bus.support import begin
from tests.stdiobus.support import client

pytestmark = pytest.mark.usefixtures("kernel")


async def test_handlers_get_text_and_subscribers_objects_in_the_order_of_the_wire() -> None:
    lines: list[str] = []
    notes: list[str] = []
    bus = client()
    bus.on_message(lines.append)  # before it runs, and while
    async with bus:
        bus.on_notification(notes.append)
        subscription = bus.subscribe_notifications()
        assert await bus.request("notes", {"count": 2}) == 2
        first, second = await anext(subscription), await anext(subscription)
    own = bus.client_session_id
    assert first == {
        "jsonrpc": "2.0",
        "method": "progress",
        "sessionId": own,
        "params": {"number": 0},
    }
    assert [json.loads(line) for line in notes] == [first, second]
    assert [json.loads(line) for line in lines[:2]] == [first, second]
    assert json.loads(lines[2])["result"] == 2


async def test_a_handler_that_raises_costs_that_line(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def broken(_line: str) -> None:
        raise RuntimeError("mine")

    async with client() as bus:
        bus.on_message(broken)
        bus.on_message(heard.append)
        with pytest.raises(s.InvalidArgumentError):
            bus.on_message(None)  # type: ignore[arg-type]
        await bus.request("echo")
        assert len(heard) == 1
    assert "mine" in caplog.text


@pytest.mark.parametrize(
    ("overflow", "kept", "dropped"),
    [
        ("drop", [0, 1], 3),
        (s.OverflowPolicy.DROP_OLDEST, [3, 4], 3),
        (s.OverflowPolicy.CLOSE, [0, 1], 0),
    ],
)
async def test_a_full_subscription_does_as_its_policy_says(
    overflow: Any, kept: list[int], dropped: int
) -> None:
    async with client() as bus:
        slow = bus.subscribe_notifications(max_queue=2, overflow=overflow)
        quick = bus.subscribe_notifications()
        await bus.request("notes", {"count": 5})
        await bus.stop(2)
        assert [note["params"]["number"] async for note in slow] == kept
        assert [note["params"]["number"] async for note in quick] == [0, 1, 2, 3, 4]
        assert slow.dropped == dropped


async def test_a_subscription_may_be_to_one_pool_and_drops_the_oldest() -> None:
    async with client("a", "b") as bus:
        every = bus.subscribe()
        only = bus.subscribe("b", overflow_policy=s.OverflowPolicy.DROP_OLDEST, max_queue=1)
        for pool in ("b", "a"):
            await bus.request("notes", {"count": 2}, pool_id=pool)
        bus.unsubscribe(only)
        bus.unsubscribe(only)
        await bus.request("notes", {"count": 1}, pool_id="b")
        every.close()
        assert [note["params"]["number"] async for note in only] == [1]
        assert len([note async for note in every]) == 5


async def test_a_reader_that_waits_is_woken_by_news_and_by_the_end() -> None:
    async with client() as bus, anyio.create_task_group() as tasks:
        subscription = bus.subscribe_notifications()
        waiting = begin(tasks, lambda: anext(subscription))
        await anyio.wait_all_tasks_blocked()
        await bus.notify("note")
        assert (await waiting.wait())["method"] == "heard"
        waiting = begin(tasks, lambda: anext(subscription))
        await anyio.wait_all_tasks_blocked()
        subscription.close()
        with pytest.raises(StopAsyncIteration):
            await waiting.wait()


@pytest.mark.parametrize("wrong", [{"max_queue": 0}, {"max_queue": True}, {"overflow": "block"}])
def test_a_wrong_argument_of_a_subscription_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(s.InvalidArgumentError, match=next(iter(wrong))):
        client().subscribe_notifications(**wrong)
    with pytest.raises(s.InvalidArgumentError, match="nowhere"):
        client().subscribe("nowhere")


async def test_a_request_of_a_worker_is_answered_by_text_at_once_or_later() -> None:
    questions: list[Any] = []
    bus = client()

    def at_once(line: str) -> None:
        message = json.loads(line)
        if message.get("method") != "session/request_permission":
            return
        questions.append(message)
        if message["id"] == 1:
            assert bus.send('{"jsonrpc":"2.0","id":1,"result":{"outcome":"yes"}}')

    bus.on_message(at_once)
    async with bus, anyio.create_task_group() as tasks:
        with anyio.fail_after(5):
            answer = await bus.request("ask", {"id": 1})
            assert answer["result"] == {"outcome": "yes"}

            later = begin(tasks, lambda: bus.request("ask", {"id": "1"}))
            while len(questions) < 2:
                await anyio.wait_all_tasks_blocked()
            assert bus.send('{"jsonrpc":"2.0","id":1,"result":0}') is False  # 1 is not "1"
            error = {"code": 7, "message": "no", "data": [1]}
            assert bus.send(json.dumps({"jsonrpc": "2.0", "id": "1", "error": error}))
            assert (await later.wait())["error"] == error


async def test_a_request_of_a_worker_that_nobody_sees_is_refused_at_once() -> None:
    async with client() as bus:
        with anyio.fail_after(5):
            answer = await bus.request("ask", {"id": 5})
        assert answer["error"]["code"] == -32601


async def test_a_raw_message_goes_out_as_it_is() -> None:
    lines: list[Any] = []
    async with client() as bus:
        bus.on_message(lambda line: lines.append(json.loads(line)))
        assert bus.send('{"jsonrpc":"2.0","id":"mine","method":"echo","sessionId":"s","x":1}\n')
        assert bus.send('{"method":"note","sessionId":"s"}') is True
        log = await bus.request("log", session_id="s")
        assert json.loads(log[0]) == {
            "jsonrpc": "2.0",
            "id": "mine",
            "method": "echo",
            "sessionId": "s",
            "x": 1,
        }
        assert lines[0]["id"] == "mine"
        for wrong in ("nonsense", "[1]", '{"jsonrpc":"2.0"}'):
            if wrong.startswith("{"):
                assert bus.send(wrong) is False  # it answers nothing
                continue
            with pytest.raises(s.InvalidArgumentError):
                bus.send(wrong)
