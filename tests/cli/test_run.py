"""``anyio-bus run``: requests from stdin, answers to stdout, errors as JSON-RPC errors."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kit import (
    COMMAND,
    LIMIT_S,
    LOOPS,
    answer,
    cli,
    close_stdin,
    finish,
    interrupt,
    is_alive,
    running,
    send,
    without,
    write_config,
)

pytestmark = pytest.mark.parametrize("loop", LOOPS)


def run(config: str, loop: str, *lines: str, args: tuple[str, ...] = ()) -> dict[Any, Any]:
    """Send lines to the end; return the answers by their ids."""
    done = cli(
        "run",
        "--config",
        config,
        "--loop",
        loop,
        *args,
        stdin="".join(f"{line}\n" for line in lines),
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(one["jsonrpc"] == "2.0" for one in answers)
    by_id = {one["id"]: one for one in answers}
    assert len(by_id) == len(answers)
    return by_id


def test_both_forms_of_a_line_are_answered(loop: str, tmp_path: Path) -> None:
    answers = run(
        write_config(tmp_path, one={}),
        loop,
        '{"jsonrpc":"2.0","id":"a","method":"echo","params":{"x":1}}',
        'echo {"x": 2}',
        "",
        "  session/new [3]",
        "echo",
    )
    results = {key: one["result"] for key, one in answers.items()}
    assert results == {"a": {"x": 1}, 1: {"x": 2}, 2: [3], 3: None}


def test_ids_come_back_as_they_were_written(loop: str, tmp_path: Path) -> None:
    ids = ['"1"', "1", "1.5", '"\\u00e9"', "-7", "12345678901234567890123"]
    lines = [f'{{"id":{key},"method":"echo"}}' for key in ids]
    done = cli(
        "run", "--config", write_config(tmp_path, one={}), "--loop", loop, stdin="\n".join(lines)
    )
    assert done.returncode == 0
    returned = [re.search(r'"id":(.*?),"result"', line) for line in done.stdout.splitlines()]
    assert sorted(found[1] for found in returned if found) == sorted(ids)


def test_the_member_pool_says_where_a_request_goes(loop: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, a={"env": {"NAME": "a"}}, b={"env": {"NAME": "b"}})
    line = '{"id":"%s","method":"environ","params":["NAME"],"pool":"%s"}'
    answers = run(config, loop, line % ("to a", "a"), line % ("to b", "b"))
    assert answers["to a"]["result"] == "a"
    assert answers["to b"]["result"] == "b"


def test_the_member_pool_does_not_reach_the_worker(loop: str, tmp_path: Path) -> None:
    answers = run(write_config(tmp_path, one={}), loop, '{"id":1,"method":"members","pool":"one"}')
    assert answers[1]["result"] == ["id", "jsonrpc", "method"]


def test_notifications_reach_the_worker_and_get_no_answer(loop: str, tmp_path: Path) -> None:
    with running("run", "--config", write_config(tmp_path, one={}), "--loop", loop) as process:
        send(process, '{"method":"changed"}', '{"jsonrpc":"2.0","method":"changed","params":{}}')
        send(process, '{"id":1,"method":"notes"}')
        while answer(process)["result"] < 2:  # requests may overtake
            send(process, '{"id":1,"method":"notes"}')
        assert finish(process)[0] == 0


def test_bad_lines_are_answered_with_errors_and_cost_only_themselves(
    loop: str, tmp_path: Path
) -> None:
    lines = {
        "{": -32700,
        '{"id":1,"method":"echo",}': -32700,
        "\x00\x01": -32700,
        "42": -32700,
        '"text"': -32700,
        "[]": -32600,
        '[{"id":1,"method":"echo"}]': -32600,
        '{"result":1}': -32600,
        '{"id":{"a":1},"method":"echo"}': -32600,
        '{"id":true,"method":"echo"}': -32600,
    }
    done = cli(
        *("run", "--config", write_config(tmp_path, one={}), "--loop", loop, "--in-flight", "1"),
        stdin="\n".join([*lines, '{"id":"good","method":"echo"}']),
    )
    assert done.returncode == 0
    *bad, good = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["id"], one["error"]["code"]) for one in bad] == [
        (None, code) for code in lines.values()
    ]
    assert good == {"jsonrpc": "2.0", "id": "good", "result": None}


def test_errors_on_a_line_with_an_id_carry_it(loop: str, tmp_path: Path) -> None:
    answers = run(
        write_config(tmp_path, a={}, b={}),
        loop,
        '{"id":"none","method":"echo"}',
        '{"id":"unknown","method":"echo","pool":"c"}',
        '{"id":"number","method":"echo","pool":3}',
        '{"id":"method","method":3,"pool":"a"}',
        '{"id":"missing"}',
        "short {",
        "short 3",
    )
    codes = {key: one["error"]["code"] for key, one in answers.items()}
    assert codes == {
        "none": -32600,
        "unknown": -32052,
        "number": -32600,
        "method": -32600,
        "missing": -32600,
        1: -32700,
        2: -32600,
    }


def test_an_error_of_the_worker_passes_through(loop: str, tmp_path: Path) -> None:
    answers = run(write_config(tmp_path, one={}), loop, "fail")
    assert answers[1]["error"] == {
        "code": 42,
        "message": "no such thing",
        "data": {"why": "because"},
    }


def test_a_lost_worker_is_an_error_with_the_facts(loop: str, tmp_path: Path) -> None:
    error = run(write_config(tmp_path, one={}), loop, "crash")[1]["error"]
    assert error["code"] == -32050
    assert "exited with code 3" in error["message"]
    facts = error["data"]
    assert facts["source"] == "anyio-bus"
    assert (facts["pool"], facts["worker"], facts["exit_code"], facts["sent"]) == (
        "one",
        0,
        3,
        True,
    )
    assert facts["stderr_tail"] == "first line\nlast words\n"
    assert isinstance(facts["pid"], int)


def test_a_pool_whose_program_is_missing_is_an_error_of_its_requests_alone(
    loop: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, good={}, bad={"command": ["no-such-program-of-ours"]})
    answers = run(
        config, loop, '{"id":1,"method":"m","pool":"bad"}', '{"id":2,"method":"echo","pool":"good"}'
    )
    assert answers[1]["error"]["code"] == -32051
    assert answers[1]["error"]["data"]["sent"] is False
    assert "no-such-program-of-ours" in answers[1]["error"]["message"]
    assert "result" in answers[2]


def test_requests_run_side_by_side(loop: str, tmp_path: Path) -> None:
    with running("run", "--config", write_config(tmp_path, one={}), "--loop", loop) as process:
        send(process, '{"id":"stuck","method":"hang"}', '{"id":"quick","method":"echo"}')
        assert answer(process)["id"] == "quick"
        interrupt(process)
        assert finish(process)[0] == 130


def test_many_requests_are_all_answered(loop: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, one={"instances": 2})
    answers = run(config, loop, *(f"echo [{number}]" for number in range(2000)))
    assert {key: one["result"] for key, one in answers.items()} == {n + 1: [n] for n in range(2000)}


def test_beyond_the_limit_lines_wait(loop: str, tmp_path: Path) -> None:
    answers = run(
        write_config(tmp_path, one={}),
        loop,
        *(f"echo [{number}]" for number in range(50)),
        args=("--in-flight", "1"),
    )
    assert list(answers) == list(range(1, 51))


def test_a_line_of_a_megabyte_comes_back_whole(loop: str, tmp_path: Path) -> None:
    text = "x" * 1024 * 1024
    answers = run(write_config(tmp_path, one={}), loop, f'echo ["{text}"]')
    assert answers[1]["result"] == [text]


def test_stdin_may_be_a_file(loop: str, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("echo [1]\necho [2]")  # no newline at its end
    with open(tmp_path / "lines", "rb") as lines:
        config = write_config(tmp_path, one={})
        with running("run", "--config", config, "--loop", loop, stdin=lines) as process:
            out, errors = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, errors) == (0, b"")
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize("closing", ["<&-", "</dev/null"])
def test_without_stdin_it_ends_at_once(loop: str, tmp_path: Path, closing: str) -> None:
    shell = ("sh", "-c", f'exec "$@" {closing}', "sh", *COMMAND)
    config = write_config(tmp_path, one={})
    done = cli("run", "--config", config, "--loop", loop, command=shell)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_signal_stops_it_cleanly_with_requests_pending(
    loop: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with running("run", "--config", write_config(tmp_path, one={}), "--loop", loop) as process:
        send(process, "pid", "hang", "hang")
        pid = answer(process)["result"]
        os.kill(process.pid, number)
        assert finish(process) == (code, "")
    assert not is_alive(pid)


def test_ctrl_c_ends_it_while_nobody_reads_its_answers(loop: str, tmp_path: Path) -> None:
    with running("run", "--config", write_config(tmp_path, one={}), "--loop", loop) as process:
        send(process, "pid")
        pid = answer(process)["result"]
        text = "x" * 300_000
        send(process, *(f'echo ["{text}"]' for _ in range(3)))  # more than the pipe takes
        assert process.stdout is not None
        assert process.stdout.read(100_000)  # it is stuck in the middle of an answer
        interrupt(process)
        assert process.wait(LIMIT_S) == 130
    assert not is_alive(pid)


def test_ctrl_c_on_a_terminal_ends_it(loop: str, tmp_path: Path) -> None:
    ours, its = os.openpty()
    config = write_config(tmp_path, one={})
    with running("run", "--config", config, "--loop", loop, stdin=its) as process:
        os.close(its)
        os.write(ours, b"pid\n")
        pid = answer(process)["result"]
        interrupt(process)
        code, errors = finish(process)
    os.close(ours)
    assert code == 130
    assert "Ctrl-D ends" in errors
    assert not is_alive(pid)


def test_a_reader_that_goes_away_ends_it_quietly(loop: str, tmp_path: Path) -> None:
    with running("run", "--config", write_config(tmp_path, one={}), "--loop", loop) as process:
        send(process, "pid")
        pid = answer(process)["result"]
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        send(process, "echo", "hang")
        assert finish(process) == (141, "")
    assert not is_alive(pid)


@pytest.mark.parametrize("rich", [True, False], ids=["rich if there", "no rich"])
def test_answers_on_a_terminal_are_laid_out(loop: str, tmp_path: Path, rich: bool) -> None:
    ours, its = os.openpty()
    config = write_config(tmp_path, one={})
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    command = COMMAND if rich else without("rich")
    options: dict[str, Any] = {"stdout": its, "env": environment, "command": command}
    with running("run", "--config", config, "--loop", loop, **options) as process:
        os.close(its)
        send(process, 'echo {"a": [1]}')
        close_stdin(process)
        shown = b""
        with suppress(OSError):  # EIO: its end of the terminal is closed
            while chunk := os.read(ours, 4096):
                shown += chunk
        assert finish(process) == (0, "")
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")
    assert text.count("\n") > 4
    assert json.loads(text)["result"] == {"a": [1]}


def test_a_wrong_configuration_ends_with_2(loop: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, one={"instances": 0})
    done = cli("run", "--config", path, "--loop", loop)
    assert (done.returncode, done.stdout) == (2, "")
    assert path in done.stderr
    assert "instances" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_key_is_a_warning_and_with_strict_an_error(loop: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, one={"instanzes": 2})
    lax = cli("run", "--config", path, "--loop", loop)
    assert lax.returncode == 0
    assert "instanzes" in lax.stderr
    strict = cli("run", "--config", path, "--strict", "--loop", loop)
    assert strict.returncode == 2
    assert "instanzes" in strict.stderr


def test_without_config_it_is_found_as_open_bus_finds_it(loop: str, tmp_path: Path) -> None:
    os.rename(write_config(tmp_path, found={}), tmp_path / "anyio-bus.json")
    done = cli("run", "--loop", loop, stdin="echo [1]\n", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["result"] == [1]


def test_no_configuration_at_all_ends_with_2_and_shows_how_to_give_one(
    loop: str, tmp_path: Path
) -> None:
    done = cli("run", "--loop", loop, cwd=tmp_path)
    assert done.returncode == 2
    assert "anyio-bus.json" in done.stderr


def test_a_signal_that_nohup_has_muted_stays_muted(loop: str, tmp_path: Path) -> None:
    command = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh", *COMMAND)
    config = write_config(tmp_path, one={})
    with running("run", "--config", config, "--loop", loop, command=command) as process:
        send(process, "pid")
        answer(process)
        os.kill(process.pid, signal.SIGHUP)
        send(process, "echo [1]")
        assert answer(process)["result"] == [1]
        assert finish(process) == (0, "")


def test_tap_records_what_goes_through_the_pipes(loop: str, tmp_path: Path) -> None:
    tap = tmp_path / "tap.ndjson"
    config = write_config(tmp_path, one={})

    run(config, loop, 'echo {"token": "hunter2"}', args=("--tap", str(tap)))

    text = tap.read_text()
    directions = [json.loads(line)["direction"] for line in text.splitlines()]
    assert directions == ["to_worker", "from_worker"]
    assert "hunter2" not in text
    wrong = cli("run", "--config", config, "--tap", str(tmp_path))
    assert wrong.returncode == 2
    assert "cannot be written" in wrong.stderr
