"""``anyio-bus request``: one worker, one request; the result, or why there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.kit import LOOPS, WORKER_LINE, cli, finish, interrupt, is_alive, running, without

both_loops = pytest.mark.parametrize("loop", LOOPS)


@both_loops
def test_the_result_is_printed_as_one_line_of_json(loop: str) -> None:
    done = cli("request", WORKER_LINE, "echo", '{"message": "grüß dich"}', "--loop", loop)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == '{"message":"grüß dich"}\n'


def test_params_may_be_left_out() -> None:
    assert cli("request", WORKER_LINE, "echo").stdout == "null\n"


@both_loops
def test_an_error_of_the_worker_ends_with_1_and_shows_code_and_data(loop: str) -> None:
    done = cli("request", WORKER_LINE, "fail", "--loop", loop)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no such thing (code 42)" in done.stderr
    assert '"why": "because"' in done.stderr


@both_loops
def test_a_dead_worker_ends_with_1_and_shows_exit_code_and_stderr(loop: str) -> None:
    done = cli("request", WORKER_LINE, "crash", "--loop", loop)
    assert (done.returncode, done.stdout) == (1, "")
    assert "exited with code 3" in done.stderr
    assert done.stderr.splitlines()[-2:] == ["  first line", "  last words"]


def test_a_killed_worker_is_shown_with_its_signal() -> None:
    done = cli("request", "sh -c 'kill -9 $$'", "anything")
    assert done.returncode == 1
    assert "was killed by SIGKILL" in done.stderr


def test_a_worker_that_fails_to_start_is_not_tried_again() -> None:
    done = cli("request", "sh -c 'echo starting >&2; exit 7'", "anything")
    assert done.returncode == 1
    assert "exited with code 7" in done.stderr
    assert done.stderr.count("  starting") == 1


@both_loops
@pytest.mark.parametrize("program", ["no-such-program-of-ours", "/dev/null"])
def test_a_program_that_cannot_be_executed_ends_with_1_and_is_named(
    loop: str, program: str
) -> None:
    done = cli("request", program, "anything", "--loop", loop)
    assert done.returncode == 1
    assert repr(program) in done.stderr
    assert "Traceback" not in done.stderr


@both_loops
def test_no_answer_in_time_ends_with_1(loop: str) -> None:
    done = cli("request", WORKER_LINE, "hang", "--timeout", "0.1", "--loop", loop)
    assert done.returncode == 1
    assert (
        done.stderr == "anyio-bus: request 'hang' got no answer from pool 'request' within 0.1 s\n"
    )


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("", "echo"), "POOL-COMMAND is empty"),
        (("sh -c 'oops", "echo"), "No closing quotation"),
        ((WORKER_LINE, "echo", "{"), "JSON '{'"),
        ((WORKER_LINE, "echo", "3"), "object or an array"),
    ],
)
def test_wrong_arguments_end_with_2(args: tuple[str, ...], word: str) -> None:
    done = cli("request", *args)
    assert done.returncode == 2
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1


@both_loops
def test_ctrl_c_ends_it_with_130_and_its_worker_too(loop: str, tmp_path: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    worker = f"sh -c 'echo $$ >{started}; exec cat >/dev/null'"
    with running("request", worker, "hang", "--loop", loop) as process:
        pid = int(started.read_text())
        interrupt(process)
        assert finish(process) == (130, "")
    assert not is_alive(pid)


def test_without_trio_the_loop_can_be_asked_for_in_vain() -> None:
    done = cli("request", WORKER_LINE, "echo", "--loop", "trio", command=without("trio"))
    assert done.returncode == 2
    assert "trio is not installed; pip install 'anyio-bus[trio]'" in done.stderr


def test_verbose_shows_what_the_worker_writes_to_stderr() -> None:
    line = f"sh -c 'echo hello from stderr >&2; exec {WORKER_LINE}'"
    done = cli("request", "-v", line, "echo")
    assert done.returncode == 0
    assert "hello from stderr" in done.stderr
