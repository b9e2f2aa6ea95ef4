"""The program: its command line, its configuration, its exit codes, its log."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import kit
from tests.daemon.kit import Daemon, config, pool, puppet

GOOD = '{"id":"p","command":"cat"}'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text('{"pools":[%s]}' % GOOD)
    return path


# --- exit codes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--help", "-h", "--version"])
def test_help_and_version_go_to_stdout_with_code_0(flag: str) -> None:
    done = kit.run(flag)
    assert done.returncode == 0
    assert done.stderr == b""
    assert (b"usage:" in done.stdout) or done.stdout.startswith(b"anyio-busd ")


@pytest.mark.parametrize(
    "arguments",
    [[], ["--nonsense"], ["--config"], ["--config", "c", "extra"], ["--config", "c", "--tcp", "x"],
     ["--config", "c", "--tcp", "127.0.0.1:99999"], ["--config", "c", "--tcp", "127.0.0.1:9x"],
     ["--config", "c", "--config-fd", "0"], ["--config-fd", "x", "--unix", "s"],
     ["--config-fd", "0"], ["--config", "c", "--unix", "s", "--unix-mode", "9"],
     ["--config", "c", "--token-file", "t"], ["--config", "c", "--framing", "length"],
     ["--config", "-"], ["--config", "c", "--admin-tcp", "127.0.0.1:0"],
     ["--config", "c", "--shm", "x"], ["--config", "c", "--log-level", "loud"]],
)  # fmt: skip
def test_wrong_use_is_one_line_and_code_2(arguments: list[str]) -> None:
    done = kit.run(*arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"anyio-busd: ")


@pytest.mark.parametrize(
    ("text", "named"),
    [("", "config"), ("[]", "object"), ("{}", "pools"), ('{"pools":[]}', "pools"),
     ('{"pools":[%s,]}' % GOOD, ""), ('{"pools":[%s]} x' % GOOD, ""), ('{"pools":[%s]' % GOOD, ""),
     ("\ufeff" + '{"pools":[%s]}' % GOOD, ""), ('{"pools":[%s]} // why' % GOOD, ""),
     ('{"pools":[%s,%s]}' % (GOOD, GOOD), "twice"), ('{"pools":[{"command":"cat"}]}', "id"),
     ('{"pools":[{"id":"p"}]}', "command"), ('{"pools":[{"id":"p","command":""}]}', "command"),
     ('{"pools":[{"id":"p","command":["cat",7]}]}', "command"),
     ('{"pools":[{"id":"p","command":"cat","instances":0}]}', "instances"),
     ('{"pools":[{"id":"p","command":"cat","instances":18446744073709551617}]}', "instances"),
     ('{"pools":[{"id":"p","command":"cat","instances":1.5}]}', "instances"),
     ('{"pools":[{"id":"p","command":"cat","session":"x"}]}', "session"),
     ('{"pools":[%s],"limits":{"max_restarts":-1}}' % GOOD, "max_restarts"),
     ('{"pools":[%s],"limits":{"max_input_buffer":4294967297}}' % GOOD, "max_frame_bytes|max_input"),
     ('{"pools":[%s],"transport":{"mode":"tcp"}}' % GOOD, "--tcp"),
     ('{"pools":[%s],"transport":{"framing":"length"}}' % GOOD, "framing"),
     ('{"pools":[%s],"transport":{"framing":"raw"}}' % GOOD, "framing"),
     ('{"pools":[%s],"transport":{"framing":"capnp"}}' % GOOD, "framing"),
     ('{"pools":[%s],"transport":{"protocol":"binary"}}' % GOOD, "protocol"),
     ('{"pools":[%s],"transport":{"mode":"shm"}}' % GOOD, "mode"),
     ('{"pools":[%s],"transport":{"options":{"shm_name":"/x"}}}' % GOOD, "options")],
)  # fmt: skip
def test_configuration_that_is_wrong_is_one_line_and_code_1(
    file: Path, text: str, named: str
) -> None:
    """W4, W21: it names the file and the field, and nothing is started."""
    file.write_text(text)
    done = kit.run("--config", str(file))
    said = done.stderr.decode()
    assert done.returncode == 1, said
    assert said.count("\n") == 1
    assert str(file) in said
    assert any(name in said for name in named.split("|")), said


def test_missing_configuration_is_code_1(tmp_path: Path) -> None:
    done = kit.run("--config", str(tmp_path / "none"))
    assert done.returncode == 1
    assert b"No such file" in done.stderr


def test_transport_that_is_spoken_may_be_named(file: Path) -> None:
    kept = {"mode": "stdio", "framing": "ndjson", "protocol": "json"}
    with Daemon(config(transport=kept)) as daemon:
        assert daemon.stdio.call("echo", 1) == 1


def test_check_config_says_so_and_starts_nothing(file: Path) -> None:
    done = kit.run("--config", str(file), "--check-config")
    assert (done.returncode, done.stdout) == (0, f"{file}: ok\n".encode())
    file.write_text('{"pools":[{"id":"p","command":"cat","colour":1}]}')
    done = kit.run("--config", str(file), "--check-config")
    assert done.returncode == 1
    assert b"colour" in done.stderr


def test_unknown_key_is_a_warning_or_an_error_if_strict(file: Path) -> None:
    """W21."""
    text = config({**pool(), "colour": 1})
    with Daemon(text) as daemon:
        daemon.wait_log(r"WARN.*colour")
        assert daemon.stdio.call("echo", 1) == 1
    with Daemon(text, "--strict", wait=False) as daemon:
        assert daemon.wait() == 1


def test_configuration_is_read_from_a_descriptor_to_its_end() -> None:
    """W20: and no worker inherits that."""
    reads, writes = os.pipe()
    with os.fdopen(writes, "wb") as stream:
        stream.write(json.dumps(config(pool("via-fd"))).encode())
    command = [kit.find_daemon(), "--config-fd", str(reads)]
    lines = b'{"id":1,"method":"fds"}\n'
    done = subprocess.run(
        command,
        input=lines,
        pass_fds=[reads],
        capture_output=True,
        check=False,
        timeout=kit.PATIENCE_S,
        env=kit.environment(),
    )
    os.close(reads)
    assert done.returncode == 0, done.stderr
    assert str(reads) not in json.loads(done.stdout)["result"] or reads == 3


def test_configuration_may_come_on_stdin_of_a_listening_daemon(tmp_path: Path) -> None:
    with open(tmp_path / "c", "w+b") as stream:
        stream.write(json.dumps(config()).encode())
        stream.seek(0)
        path = str(tmp_path / "s")
        process = subprocess.Popen(
            [kit.find_daemon(), "--config-fd", "0", "--unix", path],
            stdin=stream,
            stderr=subprocess.PIPE,
            env=kit.environment(),
        )
        assert process.stderr
        try:
            while b" ready: " not in (line := process.stderr.readline()):
                assert line
        finally:
            process.terminate()
            process.stderr.close()
            assert process.wait(kit.PATIENCE_S) == 0


def test_texts_of_the_configuration_are_decoded() -> None:
    r"""W21: \u escapes too."""
    command = puppet()
    text = json.dumps(config(pool("p\u00e9", command=command, env={"T": "a\u0041\b\U0001f600"})))
    assert "\\u00e9" in text
    with Daemon(json.loads(text)) as daemon:
        assert daemon.stdio.call("env", {"name": "T"}, pool="p\u00e9") == "aA\b\U0001f600"


def test_tilde_spaces_and_quotes_of_a_command_reach_it_as_they_are(tmp_path: Path) -> None:
    words = ["--x", "a b", "'q'", "$HOME", "~", ""]
    with Daemon(config(pool(command=[*puppet(), *words]))) as daemon:
        pid = daemon.stdio.call("pid")
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        assert [word.decode() for word in argv[-len(words) :]] == words


def test_old_configuration_file_is_understood() -> None:
    """Keys and defaults of the daemon that this one replaces."""
    command = puppet()
    old = {
        "pools": [{"id": "calc", "command": command[0], "args": command[1:], "instances": 2}],
        "limits": {
            "max_input_buffer": 1048576,
            "max_output_queue": 4194304,
            "max_restarts": 3,
            "restart_window_sec": 60,
            "drain_timeout_sec": 5,
            "backpressure_timeout_sec": 60,
        },
    }
    with Daemon(old, "--strict") as daemon:
        client = daemon.stdio
        pid = client.call("pid", sessionId="s")
        assert client.call("pid", sessionId="s") == pid


# --- the log ----------------------------------------------------------------------------------------


def test_full_stderr_never_blocks_the_daemon() -> None:
    """W17: nobody reads it, and everything goes on; what did not fit is counted."""
    reads, writes = os.pipe()
    try:
        with Daemon(config(), "--log-level", "debug", stderr=writes, wait=False) as daemon:
            client = daemon.stdio
            for n in range(3000):
                client.start("say", {"lines": [f"garbage {n}"]}, id=n)
            for n in range(3000):
                assert client.result(n) == "said"
            for _ in range(20):
                client.call("stderr", {"text": "e" * 99 + "\n", "times": 100})
            client.call("echo")
            for _ in range(3):
                client.fail("crash")
            assert client.call("echo", 1) == 1
            client.half_close()
            assert daemon.wait() == 0
    finally:
        os.close(reads)
        os.close(writes)


def test_closed_stderr_does_no_harm() -> None:
    """W17."""
    reads, writes = os.pipe()
    os.close(reads)
    try:
        with Daemon(stderr=writes, wait=False) as daemon:
            assert daemon.stdio.call("echo", 1) == 1
            assert daemon.stop() == 0
    finally:
        os.close(writes)


def test_nothing_is_logged_for_an_answer() -> None:
    """W17: not at the level that is usual."""
    with Daemon() as daemon:
        client = daemon.stdio
        client.call("echo")
        client.until_workers("ready")
        before = len(daemon.log)
        for n in range(500):
            client.call("echo", n)
        client.call("stderr", {"text": "marker\n"})
        daemon.wait_log("marker")
        assert len(daemon.log) - before < 5


def test_stderr_of_workers_is_logged_with_their_names() -> None:
    with Daemon() as daemon:
        daemon.stdio.call("stderr", {"text": "hello\nand \x1b[31mred\n"})
        daemon.wait_log(r"INFO +worker=0 pool=p worker_stderr: hello$")
        daemon.wait_log(r"worker_stderr: and \\x1b\[31mred$")


def test_flood_on_stderr_of_a_worker_disturbs_nobody() -> None:
    with Daemon(config(pool(command=kit.shared("stderr_flood")))) as daemon:
        for n in range(3):
            assert daemon.stdio.call("echo", n) == n
        assert len(daemon.log) < 2000  # of 12288


@pytest.mark.parametrize(
    ("arguments", "env", "shown"),
    [([], {}, {"INFO"}), ([], {"DEBUG_STDIO": "1"}, {"INFO"}), ([], {"DEBUG_STDIO": "0"}, {"INFO"}),
     (["--log-level", "warning"], {}, set()), (["--log-level", "error"], {}, set())],
)  # fmt: skip
def test_level_of_the_log_can_be_chosen(arguments: list[str], env: Any, shown: set[str]) -> None:
    with Daemon(config(), *arguments, env=env, wait=False) as daemon:
        assert daemon.stdio.call("echo", 1) == 1
        assert daemon.stop() == 0
        assert {line.split()[1] for line in daemon.log} - {"DEBUG"} == shown


def test_log_can_be_json() -> None:
    with Daemon(config(), "--log-format", "json", wait=False) as daemon:
        daemon.stdio.call("stderr", {"text": 'quote " and \\ and \u00e9\n'})
        daemon.wait_log("quote")
        assert daemon.stop() == 0
        lines = [json.loads(line) for line in daemon.log]
        (said,) = (line for line in lines if line["event"] == "worker_stderr")
        assert (said["pool"], said["worker"]) == ("p", 0)
        assert 'quote " and \\ and \u00e9' in said.values()


def test_stdout_carries_messages_and_nothing_else() -> None:
    """Whatever is logged meanwhile."""
    with Daemon(config(), "--log-level", "debug") as daemon:
        client = daemon.stdio
        client.call("say", {"lines": ["garbage"]})
        client.fail("crash")
        client.call("echo")
        client.half_close()
        client.assert_ended()
