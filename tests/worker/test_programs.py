"""The programs in `anyio_bus.testing.workers` do as their first lines say."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import anyio_bus.testing.workers
from tests.worker.kit import Child, child, notification, request

FOLDER = Path(anyio_bus.testing.workers.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")

LIVE_ON = {"close_stdin", "deaf", "flood", "hang_up", "hold_pipe", "ignore_term"}


@contextmanager
def running(name: str, *arguments: str, **options: Any) -> Iterator[Child]:
    """Run one as users do; it is let end, if it wants to, and its whole group is killed."""
    with child(f"anyio_bus.testing.workers.{name}", *arguments, **options) as process:
        try:
            yield process
            if name not in LIVE_ON:
                process.stdin.close()
                process.process.wait(10)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.process.pid, signal.SIGKILL)


def alive(process: Child) -> bool:
    return process.process.poll() is None


def test_every_one_is_in_the_list() -> None:
    listed = anyio_bus.testing.workers.__doc__ or ""
    assert all(f"``{name}``" in listed for name in NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "echo"])
def test_it_needs_only_the_standard_library(name: str) -> None:
    command = [sys.executable, "-I", "-S", str(FOLDER / f"{name}.py")]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("name", ["deaf", "mute", "flood", "hold_pipe", "ignore_term", "hang_up"])
def test_one_that_may_outlive_its_test_ends_by_itself(name: str) -> None:
    assert "signal.alarm(60)" in (FOLDER / f"{name}.py").read_text()


def test_tenlines_is_a_worker_in_ten_lines() -> None:
    assert len((FOLDER / "tenlines.py").read_text().splitlines()) <= 10
    with running("tenlines") as process:
        calls = request(1, "any", {"a": 1}), notification("note"), request("x", "other")
        wire, _ = process.finish(*calls)
        assert wire == [{"id": 1, "result": {"a": 1}}, {"id": "x", "result": None}]


# -- echo --------------------------------------------------------------------------------------------


@pytest.fixture(params=["asyncio", "trio"])
def echo(request: pytest.FixtureRequest) -> Iterator[Child]:
    with running("echo", request.param, env={**os.environ, "COLOUR": "blue"}) as process:
        yield process


def test_echo_answers(echo: Child) -> None:
    assert echo.call("echo", {"a": [1, None]})["result"] == {"a": [1, None]}
    assert echo.call("echo")["result"] is None
    assert echo.call("pid")["result"] == echo.process.pid
    assert echo.call("env", {"name": "COLOUR"})["result"] == "blue"
    assert echo.call("env", ["NO_SUCH_COLOUR"])["result"] is None
    assert echo.call("cwd")["result"] == os.getcwd()
    assert echo.call("sleep", {"seconds": 0})["result"] == 0
    assert len(echo.call("big", {"bytes": 5000})["result"]) == 5000
    error = {"code": -1, "message": "no", "data": [1]}
    assert echo.call("fail", error)["error"] == error
    assert echo.call("fail")["error"] == {"code": -32000, "message": "failed"}


def test_echo_streams_a_chunk_for_each_word(echo: Child) -> None:
    echo.write(request(1, "stream", {"text": "to be or not"}))
    chunks = [echo.read()["params"] for _ in range(4)]
    assert "".join(chunk["text"] for chunk in chunks) == "to be or not"
    assert all(chunk["_meta"] == {"requestId": 1} for chunk in chunks)
    assert echo.read()["result"] == {"text": "to be or not", "chunks": 4}


def test_echo_sleeps_until_it_is_cancelled(echo: Child) -> None:
    echo.write(request(1, "sleep", [60]), notification("$/cancelRequest", {"id": 1}))
    assert echo.read()["error"]["code"] == -32800


@pytest.mark.parametrize(
    ("params", "code"), [({"exit_code": 3}, 3), ({"signal": 9}, -9), ({"signal": 11}, -11)]
)
def test_echo_crashes_as_told(echo: Child, params: Any, code: int) -> None:
    echo.write(request(1, "crash", params))
    assert echo.stdout.read() == b""
    assert echo.process.wait() == code
    assert echo.stderr.read() == b"echo: crashing as told\n"


def test_echo_writes_to_stderr_and_prints(echo: Child) -> None:
    assert echo.call("stderr", {"bytes": 1000})["result"] == 1000
    assert echo.call("print", {"text": "hello"})["result"] is None
    _, stderr = echo.finish()
    assert stderr == stderr[:1000] + "hello\n"
    assert stderr.startswith("e" * 100)


def test_echo_asks_and_notifies_its_client(echo: Child) -> None:
    echo.write(request(1, "ask", {"method": "question", "params": [1]}))
    asked = echo.read()
    assert (asked["method"], asked["params"]) == ("question", [1])
    echo.write({"id": asked["id"], "result": {"a": 1}})
    assert echo.read()["result"] == {"a": 1}

    echo.write(request(2, "ask", {"method": "question"}))
    echo.write({"id": echo.read()["id"], "error": {"code": 5, "message": "no"}})
    assert echo.read()["error"] == {"code": 5, "message": "no"}

    echo.write(request(3, "notify", {"method": "news", "params": {"a": 1}}))
    assert echo.read() == {"jsonrpc": "2.0", "method": "news", "params": {"a": 1}}
    assert echo.read()["id"] == 3


# -- those that misbehave ------------------------------------------------------------------------------


def test_crash_at_start_says_three_lines_and_exits_with_3() -> None:
    with running("crash_at_start") as process:
        assert process.stdout.read() == b""
        assert process.process.wait() == 3
        assert len(process.stderr.read().splitlines()) == 3


def test_deaf_does_not_end_at_the_end_of_its_input() -> None:
    with running("deaf") as process:
        process.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            process.process.wait(0.2)


def test_mute_reads_and_says_nothing() -> None:
    with running("mute") as process:
        wire, stderr = process.finish(*(request(n, "echo") for n in range(10_000)))
        assert (wire, stderr) == ([], "")


def test_flood_writes_good_notifications_without_end() -> None:
    with running("flood") as process:
        lines = [process.stdout.readline() for _ in range(20_000)]
        assert all(json.loads(text)["method"] == "flood" for text in lines)


def test_half_line_answers_half() -> None:
    with running("half_line") as process:
        process.write(request(1, "echo", {"a": 1}))
        out = process.stdout.read()
        assert b'{"jsonrpc": "2.0", "id": 1, "result": {"a": 1}}'.startswith(out)
        assert out
        assert process.process.wait() == 0


def test_hold_pipe_leaves_a_child_that_holds_its_pipes() -> None:
    with running("hold_pipe") as process:
        assert process.call("echo", [1])["result"] == [1]
        pid = process.call("grandchild")["result"]
        process.write(request(2, "exit"))
        assert process.process.wait() == 0
        os.kill(pid, 0)
        assert not select.select([process.stdout, process.stderr], [], [], 0)[0]
        os.kill(pid, signal.SIGKILL)
        assert process.stdout.read() == b""


def test_ignore_term_ignores_term_and_eof() -> None:
    with running("ignore_term") as process:
        process.call("echo")
        process.process.terminate()
        assert process.call("echo", [1])["result"] == [1]
        process.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            process.process.wait(0.2)


def test_garbage_writes_good_answers_between_bad_lines() -> None:
    with running("garbage") as process:
        process.write(request(1, "echo", [1]), request(2, "echo", [2]))
        process.stdin.close()
        good = []
        for text in process.stdout.read().splitlines():
            try:
                message = json.loads(text)
            except ValueError:
                continue
            if isinstance(message, dict) and "result" in message:
                good.append(message)
        assert [m["result"] for m in good] == [[1], [2]]


def test_stderr_flood_writes_4_mib_before_each_answer() -> None:
    with running("stderr_flood") as process:
        wire, stderr = process.finish(request(1, "echo", [1]))
        assert [m["result"] for m in wire] == [[1]]
        assert len(stderr) == 4 << 20


def test_hang_up_closes_its_stdout_and_lives() -> None:
    with running("hang_up") as process:
        assert process.call("echo", [1])["result"] == [1]
        process.write(request(2, "hang_up"))
        assert process.stdout.read() == b""
        assert alive(process)


def test_close_stdin_closes_its_stdin_and_lives() -> None:
    with running("close_stdin") as process:
        assert process.call("echo", [1])["result"] == [1]
        assert process.call("close_stdin")["result"] is None
        with pytest.raises(BrokenPipeError):
            os.write(process.stdin.fileno(), b"\n")
        assert alive(process)


@pytest.mark.parametrize("id_last", [False, True])
def test_oversize_answers_as_large_as_told(id_last: bool) -> None:
    with running("oversize") as process:
        process.write(request(1, "big", {"bytes": 200_000, "id_last": id_last}))
        text = process.stdout.readline()
        assert len(json.loads(text)["result"]) == 200_000
        assert text.endswith(b'"id": 1}\n') is id_last
        assert process.call("echo", [1])["result"] == [1]


def test_slow_start_delays_initialize_alone() -> None:
    with running("slow_start", "0") as process:
        assert process.call("echo", [1])["result"] == [1]
        assert process.call("initialize")["result"] is None
        assert process.call("initialize", {"delay_s": 0})["result"] == {"delay_s": 0}
