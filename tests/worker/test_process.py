"""Real worker processes: nothing but answers on the wire, and an end in order."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worker.kit import PROGRAMS, Child, child, line, notification, request

PYTHON_SIGINT = 130


def told(process: Child, method: str) -> None:
    """Wait for a notification."""
    assert process.read()["method"] == method


def until_refused(process: Child) -> None:
    """Wait until new requests are refused: the signal was seen."""
    while process.call("echo", key=2).get("error", {}).get("code") != -32055:
        pass


def test_a_worker_serves_in_a_loop_that_anyio_has_not_started() -> None:
    with child("own_run") as process:
        process.write(notification("note", {"n": 1}), *[request(n, "echo", {}) for n in range(3)])
        said, errors = process.finish()

    assert {message.get("id") for message in said} == {None, 0, 1, 2}
    assert errors == ""


# -- nothing strays onto the wire ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params", "shown"),
    [
        ("print", ["a stray print"], "a stray print"),
        ("write", ["os.write to 1\n"], "os.write to 1"),
        ("old_stdout", ["the old sys.stdout\n"], "the old sys.stdout"),
        ("puts", ["from C"], "from C"),
        ("shell", ["echo from a child"], "from a child"),
        ("shell", ["(echo from a grandchild) & wait"], "from a grandchild"),
    ],
)
def test_stray_output_lands_on_stderr(loop: str, method: str, params: Any, shown: str) -> None:
    with child("guarded", loop) as process:
        wire, stderr = process.finish(request(1, method, params), request(2, "echo", ["ok"]))
    assert {m["id"] for m in wire} == {1, 2}
    assert not any("error" in m for m in wire)
    assert shown in stderr


def test_what_was_printed_before_and_not_yet_written_lands_on_stderr(loop: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with child("guarded", loop, env={**env, "EARLY": "1"}) as process:
        wire, stderr = process.finish(request(1, "echo", ["ok"]))
    assert [m["result"] for m in wire] == [["ok"]]
    assert "printed before the worker runs" in stderr


def test_handlers_and_children_read_nothing_from_stdin(loop: str) -> None:
    with child("guarded", loop) as process:
        assert process.call("input")["result"] == ""
        assert process.call("shell", ["cat"])["result"] == 0
        assert process.call("echo", ["still here"])["result"] == ["still here"]


def test_the_wire_is_closed_in_children(loop: str) -> None:
    with child("guarded", loop) as process:
        process.call("shell", ["sleep 30 & echo $! >&2"])
        pid = int(process.stderr.readline().split()[0])
        try:
            wire, _ = process.stdout, process.stdin.close()
            assert wire.read() == b""  # the end, though the grandchild lives
        finally:
            os.kill(pid, signal.SIGKILL)


def test_without_a_stderr_it_serves_all_the_same(loop: str) -> None:
    command = 'exec "$0" "$@" 2>&-'
    arguments = ["sh", "-c", command, sys.executable, str(PROGRAMS / "guarded.py"), loop]
    calls = [request(1, "print", ["x"]), request(2, "write", ["x"]), request(3, "echo", ["ok"])]
    done = subprocess.run(
        arguments, input=b"".join(map(line, calls)), stdout=subprocess.PIPE, check=True, timeout=15
    )
    assert {json.loads(text)["id"] for text in done.stdout.splitlines()} == {1, 2, 3}


def test_without_a_stdin_it_ends_at_once(loop: str) -> None:
    command = 'exec "$0" "$@" <&-'
    arguments = ["sh", "-c", command, sys.executable, str(PROGRAMS / "guarded.py"), loop]
    done = subprocess.run(arguments, capture_output=True, check=True, timeout=15)
    assert done.stdout == b""


# -- the end -----------------------------------------------------------------------------------------


def test_at_the_end_of_input_everything_is_answered_and_the_exit_code_is_0(loop: str) -> None:
    with child("guarded", loop) as process:
        wire, _ = process.finish(*(request(n, "echo", [n]) for n in range(1000)))
    assert [m["result"] for m in wire] == [[n] for n in range(1000)]
    assert process.process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(loop: str, number: int) -> None:
    with child("guarded", loop) as process:
        process.write(request(1, "wait_for_answer"))
        asked = process.read()
        process.process.send_signal(number)
        until_refused(process)
        process.write({"id": asked["id"], "result": "the answer"})
        assert process.read()["result"] == "the answer"
        assert process.stdout.read() == b""
        assert process.process.wait() == 0


def test_a_second_signal_cancels_at_once(loop: str) -> None:
    with child("guarded", loop) as process:
        process.write(request(1, "hold"))
        told(process, "holding")
        process.process.send_signal(signal.SIGTERM)
        until_refused(process)
        process.process.send_signal(signal.SIGTERM)
        assert process.read()["error"]["code"] == -32800
        assert process.process.wait() == 0


def test_an_ignored_sigint_stays_ignored(loop: str) -> None:
    command = 'trap "" INT; exec "$0" "$@"'
    arguments = ["sh", "-c", command, sys.executable, str(PROGRAMS / "guarded.py"), loop]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(arguments, **pipes) as process:  # type: ignore[call-overload]
        process.stdin.write(line(request(1, "echo")))
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.stdin.write(line(request(2, "echo")))
        process.stdin.close()
        assert json.loads(process.stdout.read())["id"] == 2


def test_when_the_time_to_drain_is_over_the_rest_is_cancelled(loop: str) -> None:
    with child("guarded", loop, env={**os.environ, "DRAIN_S": "0.1"}) as process:
        wire, _ = process.finish(request(1, "hold"), request(2, "finish_on_cancel"))
    results = {m["id"]: m.get("result") or m["error"]["code"] for m in wire if "id" in m}
    assert results == {1: -32800, 2: "finished"}
    assert process.process.returncode == 0


def test_a_thread_that_does_not_end_is_left_behind(loop: str) -> None:
    with child("guarded", loop, env={**os.environ, "DRAIN_S": "0"}) as process:
        process.write(request(1, "stuck"))
        told(process, "holding")
        _, stderr = process.finish()
    assert process.process.returncode == 1
    assert "cancelled handlers did not end: stuck" in stderr
    assert "left behind" in stderr


def test_when_the_client_is_gone_it_ends_quietly(loop: str) -> None:
    with child("guarded", loop) as process:
        process.write(request(1, "hold"))
        told(process, "holding")
        process.stdout.close()
        process.write(request(2, "echo"))
        assert process.process.wait() == 0
        assert b"Error" not in process.stderr.read()


def test_sys_exit_in_a_handler_costs_one_request(loop: str) -> None:
    with child("guarded", loop) as process:
        assert process.call("exit")["error"]["message"] == "SystemExit: 7"
        assert process.call("echo", [1])["result"] == [1]
        _, stderr = process.finish()
    assert process.process.returncode == 0
    assert "SystemExit: 7" in stderr


def test_ctrl_c_in_a_handler_ends_the_worker_loudly(loop: str) -> None:
    with child("guarded", loop) as process:
        assert process.call("interrupt")["error"]["message"] == "KeyboardInterrupt: "
        assert process.stdout.read() == b""
        assert process.process.wait() in {PYTHON_SIGINT, -signal.SIGINT}
        assert b"KeyboardInterrupt" in process.stderr.read()


# -- what stdin and stdout may be --------------------------------------------------------------------


def test_4_mib_go_through_in_both_directions(loop: str) -> None:
    with child("guarded", loop) as process:
        text = "x" * (4 << 20)
        wire, _ = process.finish(request(1, "echo", [text]), request(2, "big", [4 << 20]))
    assert {m["id"]: len(m["result"][0]) if m["id"] == 1 else len(m["result"]) for m in wire} == {
        1: 4 << 20,
        2: 4 << 20,
    }


def test_files_are_read_and_written_from_where_they_stand(loop: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    calls = [line(request(n, "echo", ["x" * n])) for n in range(2000)]
    source.write_bytes(b"skipped\n" + b"".join(calls) + b'{"id":')
    target.write_bytes(b"kept\n")
    with source.open("rb", buffering=0) as stdin, target.open("ab") as stdout:
        stdin.read(8)
        subprocess.run(
            [sys.executable, str(PROGRAMS / "guarded.py"), loop],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            check=True,
            timeout=15,
        )
    kept, *answers = target.read_bytes().splitlines()
    assert kept == b"kept"
    assert [len(json.loads(text)["result"][0]) for text in answers] == list(range(2000))


def test_dev_null_is_the_end_of_input(loop: str) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "guarded.py"), loop],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=15,
    )
    assert done.stdout == b""


def test_a_socket_works_and_is_blocking_again_at_the_end(loop: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with subprocess.Popen(
            [sys.executable, str(PROGRAMS / "guarded.py"), loop],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
        ) as process:
            ours.sendall(line(request(1, "echo", [1])))
            with ours.makefile("rb") as wire:
                assert json.loads(wire.readline())["result"] == [1]
            ours.shutdown(socket.SHUT_WR)
            assert process.wait() == 0
        assert os.get_blocking(theirs.fileno())


@pytest.mark.parametrize("end", ["eof", "kill"])
def test_a_shared_pipe_never_becomes_non_blocking(loop: str, end: str) -> None:
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    try:
        with subprocess.Popen(
            [sys.executable, str(PROGRAMS / "guarded.py"), loop],
            stdin=in_read,
            stdout=out_write,
            stderr=subprocess.DEVNULL,
        ) as process:
            os.write(in_write, line(request(1, "echo", [1])))
            assert json.loads(os.read(out_read, 1000))["result"] == [1]
            shared = (in_read, out_write)
            assert all(map(os.get_blocking, shared))
            if end == "kill":
                process.kill()
            os.close(in_write)
            process.wait()
            assert all(map(os.get_blocking, shared))
    finally:
        for fd in (in_read, out_read, out_write):
            os.close(fd)


def test_a_terminal_works_and_stays_blocking(loop: str) -> None:
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, str(PROGRAMS / "guarded.py"), loop],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
        ) as process:
            os.write(ours, line(request(1, "echo", ["a terminal"])))
            seen = b""
            while b'"result":["a terminal"]' not in seen:
                assert select.select([ours], [], [], 10)[0]
                seen += os.read(ours, 1000)
            assert os.get_blocking(theirs)
            os.write(ours, b"\x04")  # Ctrl-D
            assert process.wait() == 0
        assert fcntl.fcntl(theirs, fcntl.F_GETFL) & os.O_NONBLOCK == 0
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_pipeline_of_a_shell_works(loop: str) -> None:
    script = 'printf \'{"id":1,"method":"echo","params":[1]}\\n\' | "$0" "$@" | cat'
    arguments = ["sh", "-c", script, sys.executable, str(PROGRAMS / "guarded.py"), loop]
    done = subprocess.run(arguments, capture_output=True, check=True, timeout=15)
    assert json.loads(done.stdout)["result"] == [1]


def test_a_worker_in_another_thread_says_once_that_it_takes_no_signals() -> None:
    with child("threaded") as process:
        wire, stderr = process.finish(request(1, "echo", [1]), notification("x"))
    assert [m["result"] for m in wire] == [[1]]
    assert stderr.count("SIGTERM and SIGINT are not handled") == 1
