"""The blocking client, and the builder of both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from anyio_bus import stdiobus as s
from tests.stdiobus.support import client, config

pytestmark = pytest.mark.usefixtures("kernel")


def test_a_block_starts_and_stops_it(kernel: str) -> None:
    with s.StdioBus(config()) as bus:
        assert (bus.get_state(), bus.is_running(), bus.get_worker_count()) == (2, True, 1)
        assert (bus.get_backend_type(), bus.get_listen_mode()) == (kernel, "none")
        answer = bus.request("echo", {"message": "hello"})
        assert answer["params"] == {"message": "hello"}
        assert answer["sessionId"] == bus.client_session_id
        texts = {"texts": ["a", "b"], "result": {}}
        assert bus.request("prompt", texts) == {"text": "ab"}
        assert bus.hello().session_id == bus.agent_session_id == "agent-session"
        until(lambda: bus.get_stats().messages_out == 3)  # a report, where the kernel is elsewhere
    assert bus.get_state() is s.BusState.STOPPED
    with pytest.raises(s.InvalidStateError):
        bus.request("echo")
    with pytest.raises(s.InvalidStateError):
        bus.start()
    bus.stop()
    bus.destroy()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_it_has_neither_streams_nor_subscriptions() -> None:
    missing = {"stream_request", "subscribe", "subscribe_notifications", "unsubscribe"}
    both = {name for name in dir(s.AsyncStdioBus) if not name.startswith("_")}
    assert {name for name in dir(s.StdioBus) if not name.startswith("_")} == both - missing


def test_start_connect_stop_and_destroy_without_a_block() -> None:
    bus = s.StdioBus(config())
    with pytest.raises(s.InvalidStateError, match="Bus not running"):
        bus.request("echo")
    assert bus.send("{}") is False
    result = bus.connect(s.HelloParams())
    assert result is not None
    assert result.negotiated_protocol_version == "0.1.0"
    bus.stop(timeout_sec=2)
    bus.destroy()

    killed = s.StdioBus(config())
    assert killed.connect() is None
    killed.destroy()
    assert killed.get_state() is s.BusState.STOPPED


def test_errors_come_out_in_the_thread_that_called() -> None:
    with s.StdioBus(config(), timeout_ms=50) as bus:
        with pytest.raises(s.TimeoutError, match="Request timeout: hang"):
            bus.request("hang")
        with pytest.raises(s.PolicyDeniedError):
            bus.request("fail", {"code": 7, "message": "no"}, timeout_ms=5000)


def test_a_failed_start_leaves_no_thread() -> None:
    before = threading.active_count()
    options = s.SubprocessOptions(binary_path="/no/such/daemon")
    bus = s.StdioBus(config(), backend="subprocess", subprocess=options)
    with pytest.raises(s.TransportError):
        bus.start()
    assert threading.active_count() == before
    assert bus.get_state() is s.BusState.STOPPED


def test_notifications_come_without_a_call_and_questions_are_answered_from_a_handler() -> None:
    heard = threading.Event()
    refused: list[Exception] = []

    def take(line: str) -> None:
        message = json.loads(line)
        if message.get("method") == "heard":
            heard.set()
        if message.get("method") == "session/request_permission":
            try:
                bus.request("echo")
            except s.InvalidStateError as exc:
                refused.append(exc)
            bus.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": "yes"}))

    notes: list[str] = []
    bus = s.StdioBus(config())
    bus.on_message(take)
    with bus:
        bus.on_notification(notes.append)
        bus.notify("note")
        assert heard.wait(5)
        assert bus.request("ask", {"id": 1})["result"] == "yes"
    assert json.loads(notes[0])["method"] == "heard"
    assert "handler" in str(refused[0])


def test_several_threads_may_use_it() -> None:
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        answers[number] = bus.request("echo", {"number": number})["params"]["number"]

    with s.StdioBus(config()) as bus:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
    assert answers == {number: number for number in range(8)}


# -- the builder -----------------------------------------------------------------------------------


async def test_a_builder_makes_both_clients_and_the_last_word_counts(tmp_path: Any) -> None:
    builder = (
        s.StdioBusBuilder()
        .config(s.BusConfig())
        .config(config())
        .backend("docker")
        .backend(s.BackendMode.AUTO)
        .timeout_ms(15000)
        .docker(s.DockerOptions())
        .subprocess(s.SubprocessOptions())
        .native(s.NativeOptions("tcp"))
        .native_options(s.NativeOptions())
    )
    async with builder.build() as bus:
        assert (await bus.request("echo", {"x": 1}))["params"] == {"x": 1}
    assert isinstance(builder.build_sync(), s.StdioBus)

    path = tmp_path / "bus.json"
    path.write_text(config().to_json())
    assert "agent" in repr(s.StdioBusBuilder().config_path(str(path)).build())


def test_a_builder_checks_nothing_itself() -> None:
    wrong = s.StdioBusBuilder().backend("steam").timeout_ms(-1)
    for build in (wrong.build, wrong.build_sync, s.StdioBusBuilder().build):
        with pytest.raises(s.InvalidArgumentError):
            build()
    assert repr(client()) == "<AsyncStdioBus CREATED: pools agent>"
    assert repr(s.StdioBus(config())) == "<StdioBus CREATED: pools agent>"


# -- how it ends -----------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.stdiobus.support import config
from anyio_bus.stdiobus import StdioBus, TransportError

bus = StdioBus(config())
def show(line):
    if '"hanging"' in line:
        os.kill(os.getpid(), signal.SIGINT)
bus.on_message(show)
"""
INTERRUPTED = """
try:
    with bus:
        print(bus.request("pid"), flush=True)
        bus.request("hang")
except KeyboardInterrupt:
    print("interrupted", bus.get_state().name)
"""
FORGOTTEN = """
bus.start()
print(bus.request("pid"), flush=True)
print("interrupted STOPPED")  # neither stop() nor destroy()
"""
FORKED = """
with bus:
    print(bus.request("pid"), flush=True)
    child = os.fork()
    if child == 0:
        try:
            bus.request("echo")
        except Exception as exc:
            os._exit(0 if "fork" in str(exc) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert bus.request("echo")
print("interrupted", bus.get_state().name)
"""


@pytest.mark.parametrize("body", [INTERRUPTED, FORGOTTEN, FORKED])
def test_ctrl_c_a_forgotten_stop_and_a_fork_leave_nothing(body: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM + body],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    pid, last = done.stdout.splitlines()
    assert (last, done.returncode, done.stderr) == ("interrupted STOPPED", 0, "")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
