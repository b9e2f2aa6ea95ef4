"""``anyio-bus worker echo``: the command is a worker itself."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from tests.cli.kit import COMMAND, answer, cli, close_stdin, finish, interrupt, running, send


def test_it_answers_until_its_input_ends() -> None:
    lines = ('{"id":1,"method":"echo","params":{"a":1}}', '{"id":2,"method":"no such"}')
    done = cli("worker", "echo", stdin="\n".join([*lines, ""]))
    assert (done.returncode, done.stderr) == (0, "")
    answers = {one["id"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert answers[1]["result"] == {"a": 1}
    assert answers[2]["error"]["code"] == -32601


def test_it_can_be_the_command_of_a_pool() -> None:
    done = cli("request", shlex.join([*COMMAND, "worker", "echo"]), "echo", "[1]")
    assert (done.returncode, done.stdout) == (0, "[1]\n")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_it_without_a_traceback() -> None:
    with running("worker", "echo") as process:
        send(process, '{"id":1,"method":"pid"}')
        assert answer(process)["result"] == process.pid
        interrupt(process)
        code, errors = finish(process)
    assert code in {0, 130}
    assert "Traceback" not in errors


def test_it_loads_no_bus() -> None:
    show = "import sys; print(*sys.modules, file=sys.stderr)"
    code = f"from anyio_bus.cli import main; main(['worker', 'echo']); {show}"
    with running(command=(sys.executable, "-c", code)) as process:
        close_stdin(process)
        loaded = set(finish(process)[1].split())
    assert "anyio_bus.worker" in loaded
    assert not loaded & {"anyio_bus._bus", "anyio_bus._backends", "anyio_bus._kernel", "trio"}
