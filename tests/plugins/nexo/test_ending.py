"""How a plugin process ends: shutdown, the end of its input, signals; within its time, always."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.nexo.kit import Plugin, event, plugin, result, run
from tests.worker.kit import line, notification, request

SHUTDOWN = request(2, "shutdown", {"reason": "test"})
HOLD = "await anyio.sleep_forever()"
SHIELDED = f"with anyio.CancelScope(shield=True): {HOLD}"

# A call that the host does not answer fails as soon as the plugin begins to end.
UNTIL_IT_ENDS = "try: await broker.request('until.it.ends', {})\nexcept RpcTransportError: pass"


def say_at_shutdown(process: Plugin, code: str) -> None:
    """Have the author's hook run code."""
    process.run(f"shared['at_shutdown'] = {code!r}")


def ended(process: Plugin) -> int:
    """Wait for the end, with the input left open; nothing more may be said."""
    assert process.stdout.read() == b""
    return process.process.wait(10)


LONG_ID = "x" * (1_048_576 - len(line(request("", "shutdown"))) + 1)  # the answer is longer


@pytest.mark.parametrize(
    ("key", "params"),
    [(2, {"reason": "x"}), (2, None), (LONG_ID, None)],
    ids=["reason", "none", "long-id"],
)
def test_shutdown_is_answered_and_the_process_ends_with_its_input_open(
    fresh: Plugin, key: Any, params: Any
) -> None:
    assert fresh.ask(request(key, "shutdown", params)) == result(key, {"ok": True})
    assert ended(fresh) == 0


def test_a_shutdown_notification_ends_it_without_a_word(fresh: Plugin) -> None:
    fresh.write(notification("shutdown"))

    assert ended(fresh) == 0


def test_results_and_the_hook_come_before_the_answer_to_shutdown(fresh: Plugin) -> None:
    say_at_shutdown(fresh, "await broker.publish('last', Event('last'))")
    fresh.write(event("code", "shared['gate'] = anyio.Event(); await shared['gate'].wait()"))
    fresh.write(run(2, f"{UNTIL_IT_ENDS}\nshared['gate'].set()\nreturn 'slow'"))
    assert fresh.read()["method"] == "until.it.ends"
    fresh.write(SHUTDOWN)  # the host gives both the same id

    assert fresh.read() == result(2, "slow")
    assert fresh.published()["topic"] == "last"
    assert fresh.read() == result(2, {"ok": True})
    assert ended(fresh) == 0


def test_events_that_wait_are_handled_before_the_end(fresh: Plugin) -> None:
    fresh.write(*[event("echo", n) for n in range(500)], SHUTDOWN)

    assert [fresh.published()["event"]["payload"] for _ in range(500)] == list(range(500))
    assert fresh.read() == result(2, {"ok": True})


# 5.1: answered ok
@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("raise KeyError('missing')", "on_shutdown failed: 'missing'"),
        ("sys.exit(1)", "on_shutdown failed: 1"),
        ("await anyio.sleep_forever()", "on_shutdown did not end in time"),
    ],
)
def test_a_hook_that_fails_is_told_to_the_host(loop: str, code: str, text: str) -> None:
    with plugin(loop, options={"drain_s": 0.4}) as process:
        say_at_shutdown(process, code)

        error = process.ask(SHUTDOWN)["error"]

        assert error == {"code": -32000, "message": text}
        assert ended(process) == 0


# 5.5: skipped on all of these
@pytest.mark.parametrize("how", ["eof", "SIGTERM", "SIGINT"])
def test_the_hook_is_called_however_it_ends(fresh: Plugin, how: str) -> None:
    say_at_shutdown(fresh, "await broker.publish('last', Event('last'))")

    if how == "eof":
        fresh.stdin.close()
    else:
        fresh.process.send_signal(getattr(signal, how))

    assert fresh.published()["topic"] == "last"
    assert ended(fresh) == 0


def test_work_that_comes_while_it_ends_is_refused(fresh: Plugin) -> None:
    say_at_shutdown(fresh, "shared['log'].append(1)")
    fresh.write(run(5, f"{UNTIL_IT_ENDS}\nreturn 5"))
    assert fresh.read()["method"] == "until.it.ends"
    fresh.write(SHUTDOWN, run(6, "return 6"), request(7, "custom.asked"), event("echo", 1))

    refused = [fresh.read(), fresh.read()]
    assert [(answer["id"], answer["error"]["code"]) for answer in refused] == [
        (6, -33404),
        (7, -32603),
    ]
    assert fresh.read() == result(5, 5)
    assert fresh.read() == result(2, {"ok": True})
    assert ended(fresh) == 0


# -- the deadline (5.5: none) ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        HOLD,
        "while True:\n    try: await anyio.sleep_forever()\n    except BaseException as e: last = e",
        "while True:\n    try: await broker.memory_recall(agent_id='a', query='q')\n"
        "    except RpcError: await anyio.sleep(0.01)",
        "await broker.llm_complete_stream(provider='p', model='m', messages=[]).final_result()",
    ],
    ids=["endless", "not-cancellable", "retries", "stream"],
)
def test_a_handler_that_does_not_end_is_left_behind_in_time(loop: str, code: str) -> None:
    with plugin(loop, options={"drain_s": 0.6}) as process:
        process.write(event("code", code), event("code", code), SHUTDOWN)

        while (message := process.read()).get("method") is not None:
            assert message["method"] in {"memory.recall", "llm.complete"}
        assert message == result(2, {"ok": True})
        while process.stdout.readline():
            pass
        assert process.process.wait(10) == 0


@pytest.mark.parametrize("code", [HOLD, SHIELDED], ids=["endless", "not-cancellable"])
def test_a_tool_that_does_not_end_is_answered_before_shutdown_is(loop: str, code: str) -> None:
    with plugin(loop, options={"drain_s": 0.4}) as process:
        process.write(run(5, code), SHUTDOWN)

        assert process.read()["error"] == {
            "code": -33404,
            "message": "unavailable: the plugin is shutting down",
        }
        assert process.read() == result(2, {"ok": True})
        assert ended(process) == 0


BLOCKS = pytest.mark.parametrize(
    "code",
    [
        "await anyio.to_thread.run_sync(time.sleep, 60, abandon_on_cancel=True)",
        "import asyncio\nawait asyncio.to_thread(time.sleep, 60)",  # on trio it raises
    ],
    ids=["anyio", "asyncio"],
)


@BLOCKS
def test_a_blocked_thread_does_not_hold_up_the_end(loop: str, code: str) -> None:
    with plugin(loop, options={"drain_s": 0.4}) as process:
        process.write(event("echo", 1))
        process.published()
        process.write(event("code", code), SHUTDOWN)

        assert process.read() == result(2, {"ok": True})
        assert ended(process) == 0


@BLOCKS
def test_a_blocked_thread_does_not_hold_up_the_end_by_ctrl_c(code: str) -> None:
    """Asyncio joins those of its executor, the interpreter those of AnyIO; trio's are daemons."""
    with plugin("asyncio", options={"drain_s": 0.2}) as process:
        process.write(event("code", code), run(5, "raise KeyboardInterrupt"))

        assert process.read()["error"]["message"] == "execution failed: KeyboardInterrupt"
        assert ended(process) == 0  # left behind, as it is without Ctrl-C


# -- calls to the host -----------------------------------------------------------------------------


def test_calls_that_are_open_fail_when_it_ends(fresh: Plugin) -> None:
    code = """
        try:
            await broker.memory_recall(agent_id="a", query="q")
        except RpcTransportError as exc:
            return str(exc)
    """
    fresh.write(run(5, code))
    assert fresh.read()["method"] == "memory.recall"
    fresh.write(SHUTDOWN)

    assert fresh.read() == result(5, "adapter shutting down")
    assert fresh.read() == result(2, {"ok": True})


def test_calls_made_while_it_ends_are_still_answered(fresh: Plugin) -> None:
    """5.5: it no longer reads, so they never are."""
    code = "return [e.id for e in await broker.memory_recall(agent_id='a', query='q')]"
    fresh.write(run(5, f"{UNTIL_IT_ENDS}\n{code}"))
    assert fresh.read()["method"] == "until.it.ends"
    fresh.write(SHUTDOWN)

    asked = fresh.read()
    assert asked["method"] == "memory.recall"
    entry = {"id": "m", "agent_id": "a", "content": "c"}
    fresh.write(result(asked["id"], {"entries": [entry]}))
    assert fresh.read() == result(5, ["m"])
    assert fresh.read() == result(2, {"ok": True})


# -- signals and a host that is gone ---------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_handlers_finish(fresh: Plugin, number: signal.Signals) -> None:
    fresh.write(run(5, f"{UNTIL_IT_ENDS}\nreturn 5"))
    assert fresh.read()["method"] == "until.it.ends"
    fresh.process.send_signal(number)

    assert fresh.read() == result(5, 5)
    assert ended(fresh) == 0


def until_refused(process: Plugin) -> None:
    """Wait until new work is refused: it drains."""
    while "error" not in process.ask(run(6, "return 6")):
        pass


@pytest.mark.parametrize("first", ["shutdown", "signal"])
def test_a_signal_while_it_drains_ends_it_at_once(fresh: Plugin, first: str) -> None:
    """5.5: after shutdown they are ignored; after a signal the second one kills it."""
    assert fresh.run("return 1") == 1
    fresh.write(event("code", HOLD))
    if first == "shutdown":
        fresh.write(SHUTDOWN)
    else:
        fresh.process.send_signal(signal.SIGINT)
    until_refused(fresh)
    began = time.monotonic()
    fresh.process.send_signal(signal.SIGTERM)

    if first == "shutdown":
        assert fresh.read() == result(2, {"ok": True})
    assert ended(fresh) == 0
    assert time.monotonic() < began + 2.5  # the drain would take 3 s


def test_signals_can_be_left_alone(loop: str) -> None:
    with plugin(loop, "bare", options={"handle_process_signals": False}) as process:
        process.ask(request(1, "initialize"))
        process.process.send_signal(signal.SIGTERM)

        assert process.process.wait(10) == -signal.SIGTERM


def test_a_host_that_closes_its_end_is_gone(fresh: Plugin) -> None:
    """5.6: the next answer ends the process with a traceback."""
    fresh.run("shared['at_shutdown'] = \"os.write(2, b'hook\\\\n')\"")
    fresh.stdout.close()
    fresh.write(run(5, "return 5"))

    assert fresh.process.wait(10) == 0
    errors = fresh.stderr.read().decode()
    assert "hook" in errors
    assert "Traceback" not in errors


# -- other places than pipes (5.6) -----------------------------------------------------------------


def test_frames_can_come_from_a_file(loop: str, tmp_path: Path) -> None:
    frames = tmp_path / "frames.txt"
    frames.write_bytes(b"".join(map(line, [event("echo", 1), run(5, "return 5"), SHUTDOWN])))
    with frames.open("rb") as file, plugin(loop, stdin=file) as process:
        said = [process.read() for _ in range(3)]
        assert {message.get("id") for message in said[:2]} == {None, 5}
        assert said[2] == result(2, {"ok": True})
        assert process.process.wait(10) == 0


def test_what_comes_from_a_file_is_answered_at_its_end(loop: str, tmp_path: Path) -> None:
    frames = tmp_path / "frames.txt"
    out = tmp_path / "out.txt"
    frames.write_bytes(b"".join(map(line, [event("echo", n) for n in range(300)])))
    with frames.open("rb") as file, out.open("wb") as answers:
        with plugin(loop, stdin=file, stdout=answers) as process:
            assert process.process.wait(10) == 0
    assert len(out.read_bytes().splitlines()) == 300
