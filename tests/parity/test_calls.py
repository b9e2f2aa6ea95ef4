"""What one API means on two sides: ours in process, and that of ``stdiobus`` over our daemon.

The second one is there where ``nox -s parity`` has installed it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.daemon import kit
from tests.parity.callers import Caller, bus_config, calling
from tests.parity.script import About
from tests.parity.stage import Workers

HAS_THEIRS = importlib.util.find_spec("stdiobus") is not None
OURS = [
    pytest.param(("anyio_bus.stdiobus", loop), id=f"ours-{loop}") for loop in ("asyncio", "trio")
]
THEIRS = [pytest.param(("stdiobus", "asyncio"), id="theirs")] if HAS_THEIRS else []
# Their client leaves the pipes of its daemon to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

Start = Callable[..., AbstractContextManager[Caller]]


@pytest.fixture(params=[*OURS, *THEIRS])
def start(request: pytest.FixtureRequest, workers: Workers) -> Iterator[Start]:
    """Return what starts a client with one worker."""
    name, loop = request.param
    api = importlib.import_module(name)
    options: dict[str, Any] = {}
    if api.__name__ == "stdiobus":
        daemon = api.SubprocessOptions(binary_path=kit.find_daemon())
        options = {"backend": "subprocess", "subprocess": daemon}

    @contextlib.contextmanager
    def start(**limits: Any) -> Iterator[Caller]:
        about = About(about="", limits={"drain_timeout_sec": 1, **limits})
        with calling(api, bus_config(api, about, workers.command), loop, **options) as caller:
            workers.come(1)
            yield caller

    yield start
    gc.collect()


def answer(workers: Workers, asked: dict[str, Any], **outcome: Any) -> None:
    line = json.dumps({"jsonrpc": "2.0", "id": asked["id"], **outcome})
    workers.send("w", line.encode())


def chunk(workers: Workers, asked: dict[str, Any], text: str) -> None:
    update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}
    note = {"method": "session/update", "params": {"update": update}}
    line = json.dumps({"jsonrpc": "2.0", "sessionId": asked["sessionId"], **note})
    workers.send("w", line.encode())


def request(caller: Caller, method: str, params: Any = None, **options: Any) -> Any:
    """Begin a request; return its future."""

    async def run() -> Any:
        return await caller.bus.request(method, params, **options)

    return caller.portal.start_task_soon(run)


def next_request(workers: Workers) -> dict[str, Any]:
    asked: dict[str, Any] = json.loads(workers.get("w"))
    return asked


def test_hello_is_a_request_to_the_worker_which_names_its_session(
    start: Start, workers: Workers
) -> None:
    with start() as caller:
        types = importlib.import_module(f"{caller.api.__name__}.types")
        params = caller.api.HelloParams(extensions={"streaming": types.ExtensionInfo("1")})
        hello = caller.portal.start_task_soon(caller.bus.hello, params)
        asked = next_request(workers)
        assert asked == {
            "jsonrpc": "2.0",
            "id": asked["id"],
            "method": "stdio_bus/hello",
            "params": {
                "protocolVersion": "0.1.0",
                "extensions": {"streaming": {"version": "1", "required": False}},
            },
            "sessionId": caller.bus.client_session_id,
        }
        said = {"streaming": {"selected": "1", "active": True}}
        result = {"negotiatedProtocolVersion": "0.1.0", "sessionId": "agent-7", "extensions": said}
        answer(workers, asked, result=result)
        found = hello.result(kit.PATIENCE_S)
        assert (found.negotiated_protocol_version, found.session_id) == ("0.1.0", "agent-7")
        assert caller.bus.agent_session_id == "agent-7"


def test_frames_of_a_client_carry_its_own_session_and_a_text_as_id(
    start: Start, workers: Workers
) -> None:
    with start() as caller:
        for number in range(2):
            call = request(caller, "m")
            asked = next_request(workers)
            assert set(asked) == {"jsonrpc", "id", "method", "sessionId"}
            assert isinstance(asked["id"], str)
            assert asked["id"]
            assert re.fullmatch(r"client-\d{13}-[a-z0-9]{6}", asked["sessionId"])
            assert asked["sessionId"] == caller.bus.client_session_id
            answer(workers, asked, result=number)
            assert call.result(kit.PATIENCE_S) == number


def test_a_stream_yields_its_chunks_and_then_its_result(start: Start, workers: Workers) -> None:
    with start() as caller:

        async def read() -> list[Any]:
            return [event async for event in caller.bus.stream_request("prompt", {"n": 1})]

        reading = caller.portal.start_task_soon(read)
        asked = next_request(workers)
        chunk(workers, asked, "Once ")
        chunk(workers, asked, "upon")
        answer(workers, asked, result={"stopReason": "end_turn"})
        *chunks, last = reading.result(kit.PATIENCE_S)
        assert [(event.type, event.text) for event in chunks] == [
            ("chunk", "Once "),
            ("chunk", "upon"),
        ]
        assert last.type == "result"
        assert last.result == {"stopReason": "end_turn", "text": "Once upon"}
        for _ in chunks:
            caller.next_message()


def test_a_worker_is_not_told_of_a_timeout_and_its_late_answer_harms_nobody(
    start: Start, workers: Workers
) -> None:
    with start() as caller:
        call = request(caller, "slow", timeout_ms=300)
        slow = next_request(workers)
        with pytest.raises(caller.api.TimeoutError, match=r"\[TIMEOUT\] Request timeout: slow"):
            call.result(kit.PATIENCE_S)
        again = request(caller, "again")
        asked = next_request(workers)
        assert asked["method"] == "again"
        answer(workers, slow, result="late")
        answer(workers, asked, result="in time")
        assert again.result(kit.PATIENCE_S) == "in time"


def test_statistics_count_messages_and_bytes(start: Start, workers: Workers) -> None:
    with start() as caller:
        call = request(caller, "m")
        asked = next_request(workers)
        answer(workers, asked, result={})
        call.result(kit.PATIENCE_S)
        found = caller.portal.call(caller.bus.get_stats)
        assert (found.messages_in, found.messages_out) == (1, 1)
        assert found.bytes_in > 0
        assert found.bytes_out > 0
        assert caller.bus.get_state() == caller.api.BusState.RUNNING


def test_a_stop_fails_what_waits(start: Start, workers: Workers) -> None:
    with start() as caller:
        call = request(caller, "slow")
        next_request(workers)
        caller.portal.call(caller.bus.stop, 2)
        with pytest.raises(caller.api.TransportError, match="shutting down"):
            call.result(kit.PATIENCE_S)
        assert caller.bus.get_state() == caller.api.BusState.STOPPED
    workers.assert_ended()


@pytest.mark.parametrize("start", THEIRS, indirect=True)
def test_their_client_learns_why_a_worker_is_lost_and_its_session_is_refused_once(
    start: Start, workers: Workers
) -> None:
    with start() as caller:
        call = request(caller, "m")
        next_request(workers)
        workers.exit("w", 3)
        with pytest.raises(caller.api.InternalError, match="exited with code 3") as caught:
            call.result(kit.PATIENCE_S)
        assert caught.value.details["source"] == "anyio-bus"
        assert caught.value.details["exit_code"] == 3
        with pytest.raises(caller.api.InternalError, match="session") as caught:
            request(caller, "m").result(kit.PATIENCE_S)
        assert caught.value.details["reason"] == "session_lost"
        call = request(caller, "m")
        answer(workers, next_request(workers), result="anew")
        assert call.result(kit.PATIENCE_S) == "anew"


@pytest.mark.parametrize("start", OURS, indirect=True)
def test_our_client_fails_with_a_class_of_its_own_and_its_session_goes_on(
    start: Start, workers: Workers
) -> None:
    with start() as caller:
        call = request(caller, "m")
        next_request(workers)
        workers.exit("w", 3)
        with pytest.raises(caller.api.TransportError, match="exited with code 3"):
            call.result(kit.PATIENCE_S)
        call = request(caller, "m")
        answer(workers, next_request(workers), result="goes on")
        assert call.result(kit.PATIENCE_S) == "goes on"
