"""The end: of a client's input, of the daemon by signals, and of its workers with it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import kit
from tests.daemon.kit import Daemon, Gate, config, pool, puppet

WAYS: list[dict[str, bool]] = [{}, {"unix": True}, {"tcp": True}]
NAMES = ["stdio", "unix", "tcp"]
LINGERS = pool(command=puppet("--linger", "--ignore-term"))


# --- the end of input -------------------------------------------------------------------------------


def test_end_of_stdin_ends_the_daemon_with_0() -> None:
    """W3."""
    with Daemon() as daemon:
        pid = daemon.stdio.call("pid")
        daemon.stdio.half_close()
        daemon.stdio.assert_ended()
        assert daemon.wait() == 0
        kit.wait_dead(pid)


def test_end_of_stdin_finishes_what_is_pending() -> None:
    """W3, W18: the answers still come, those of queued requests too."""
    with Daemon(config(pool(max_in_flight=1))) as daemon:
        client, gate = daemon.stdio, Gate(daemon)
        client.start("wait", {"path": gate.path}, id="w")
        client.start("echo", 1, id="queued")
        client.half_close()
        gate.open()
        assert client.result("w") == "waited"
        assert client.result("queued") == 1
        client.assert_ended()
        assert daemon.wait() == 0


def test_daemon_that_waits_at_the_end_of_stdin_burns_nothing() -> None:
    """W3: it neither polls nor logs while the last answer is awaited."""
    with Daemon(config(pool(), pool("q"), limits={"drain_timeout_sec": 4})) as daemon:
        client = daemon.stdio
        client.start("hold", {"name": "x"}, id="h", pool="p")
        client.half_close()
        pid = int(daemon.wait_log(r"pool=q worker_ready: .*pid (\d+)")[1])
        before = len(daemon.log)
        stat = Path(f"/proc/{daemon.pid}/stat")

        def ticks() -> int:
            return sum(int(field) for field in stat.read_text().rpartition(")")[2].split()[11:13])

        begin = ticks()
        for n in range(5):  # five lives of a process of its own take their time
            os.kill(pid, signal.SIGKILL)
            pid = int(daemon.wait_log(r"pool=q worker_ready: .*pid (\d+)", n + 2)[1])
        assert ticks() - begin < 20  # hundredths of a second
        assert len(daemon.log) - before < 100
        assert client.error("h")["code"] == -32055  # drain_timeout_sec bounds it
        assert daemon.wait() == 0


def test_program_in_a_pipeline_gets_its_answer() -> None:
    """W3: ``echo '{...}' | anyio-busd --config ...``."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(config()))
        file.flush()
        done = kit.run("--config", file.name, stdin=b'{"id":1,"method":"echo","params":[]}\n')
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"jsonrpc": "2.0", "id": 1, "result": []}


@pytest.mark.parametrize("name", ["file", "null"])
def test_stdin_may_be_a_file_or_dev_null(name: str) -> None:
    """W4: epoll refuses these; that is no reason to fail."""
    with tempfile.TemporaryFile() as file:
        file.write(b'{"id":1,"method":"echo","params":[]}\n' if name == "file" else b"")
        file.seek(0)
        stdin = file.fileno() if name == "file" else subprocess.DEVNULL
        with Daemon(stdin=stdin, wait=False) as daemon:
            assert daemon.wait() == 0
            assert daemon.process.stdout
            got = daemon.process.stdout.read()
    assert (b'"id": 1' in got) == (name == "file")


@pytest.mark.parametrize("how", WAYS[1:], ids=NAMES[1:])
def test_half_closed_socket_gets_its_answers_and_is_closed(how: Any) -> None:
    """W14."""
    with Daemon(**how) as daemon:
        for n in range(20):
            with daemon.connect() as client:
                client.send({"id": n, "method": "echo", "params": n})
                client.half_close()
                assert client.read()["result"] == n
                client.assert_ended()


def test_half_closed_socket_is_closed_when_its_last_answer_was_given() -> None:
    """W14."""
    with Daemon(unix=True) as daemon:
        client, other = daemon.connect(), daemon.connect()
        client.start("hold", {"name": "x"}, id=1)
        client.half_close()
        other.until(lambda _: other.call("holding") == ["x"])
        other.call("release")
        assert client.result(1) == {"held": "x"}
        client.assert_ended()


def test_connection_that_is_gone_is_forgotten() -> None:
    with Daemon(unix=True, tcp=True) as daemon:
        watcher = daemon.connect()
        watcher.call("echo")
        fds = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        for _ in range(50):
            for connect in (daemon.connect_tcp, daemon.connect):
                with connect() as client:
                    client.start("echo")
        watcher.until(lambda status: status["statistics"]["clients"] == 1)
        assert len(os.listdir(f"/proc/{daemon.pid}/fd")) == fds
        assert watcher.call("echo", 1) == 1


def test_reader_of_stdout_that_goes_away_ends_the_daemon() -> None:
    """Its only client is gone: there is nobody to serve."""
    with Daemon() as daemon:
        client = daemon.stdio
        client.call("echo")
        os.close(client._reads)
        devnull = os.open("/dev/null", os.O_RDONLY)
        client._reads = devnull
        client._close = lambda: (os.close(client._writes), os.close(devnull))  # type: ignore[assignment]
        client.start("echo")
        assert daemon.wait() in {0, 1}


def test_listening_daemon_outlives_its_clients() -> None:
    with Daemon(unix=True, stdio=True) as daemon:
        daemon.stdio.half_close()
        with daemon.connect() as client:
            assert client.call("echo", 1) == 1
        with daemon.connect() as client:
            assert client.call("echo", 2) == 2


def test_client_on_stdio_whose_input_has_ended_is_no_client_any_more() -> None:
    """Beside listeners: it gets what it waits for, and is closed then; another may be the sole one."""
    with Daemon(unix=True, stdio=True) as daemon:
        client = daemon.connect()
        daemon.stdio.half_close()
        daemon.wait_log("client_done")
        assert client.statistics()["clients"] == 1


# --- signals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("how", WAYS, ids=NAMES)
def test_signal_ends_the_daemon_with_0(how: Any, number: signal.Signals) -> None:
    """W4."""
    with Daemon(config(pool(instances=2)), **how) as daemon:
        client = daemon.client()
        pids = [client.call("pid") for _ in range(2)]
        daemon.signal(number)
        client.assert_ended()
        assert daemon.wait() == 0
        kit.wait_dead(*pids)


def test_drain_forwards_what_is_in_flight_and_refuses_what_comes() -> None:
    """W18: answers, notifications and requests of workers are passed on while it drains."""
    with Daemon(unix=True) as daemon:
        client, gate = daemon.connect(), Gate(daemon)
        client.start("wait", {"path": gate.path}, id="w")
        client.start("flood", {"count": 3}, id="f")
        client.start("ask", {"request": {"id": "q", "method": "question"}}, id="a")
        client.until(lambda s: s["statistics"]["live_requests"] == 3)
        daemon.signal(signal.SIGTERM)
        client.until(lambda s: s["state"] == "draining")
        assert client.fail("echo")["code"] == -32055
        gate.open()
        assert client.result("w") == "waited"
        assert [client.incoming("flood")["params"]["n"] for _ in range(3)] == [0, 1, 2]
        assert client.result("f") == 3
        client.send({"id": client.incoming("question")["id"], "result": "answered"})
        assert client.result("a")["result"] == "answered"
        client.assert_ended()
        assert daemon.wait() == 0


@pytest.mark.parametrize("how", WAYS, ids=NAMES)
def test_what_is_pending_after_the_drain_time_fails_with_32055(how: Any) -> None:
    """W18."""
    with Daemon(config(limits={"drain_timeout_sec": 0.05}), **how) as daemon:
        client = daemon.client()
        client.start("hold", {"name": "x"}, id="h")
        client.call("holding")
        daemon.signal(signal.SIGTERM)
        error = client.error("h")
        assert error["code"] == -32055
        assert error["data"]["sent"] is True
        client.assert_ended()
        assert daemon.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_kills_at_once(number: signal.Signals) -> None:
    """Whatever its workers ignore; it exits with 1."""
    with Daemon(config(LINGERS)) as daemon:
        client = daemon.stdio
        pid = client.call("pid")
        client.start("hold", {"name": "x"}, id="h")
        client.call("holding")
        daemon.signal(signal.SIGTERM)
        daemon.wait_log("stopping")
        daemon.signal(number)
        assert daemon.wait() == 1
        kit.wait_dead(pid)
        daemon.wait_log("killed")


def test_hangup_behind_another_signal_does_not_kill() -> None:
    """Some terminals send both."""
    with Daemon() as daemon:
        client, gate = daemon.stdio, Gate(daemon)
        client.start("wait", {"path": gate.path}, id="w")
        client.until(lambda s: s["statistics"]["live_requests"] == 1)
        daemon.signal(signal.SIGTERM)
        daemon.wait_log("stopping")
        daemon.signal(signal.SIGHUP)
        assert client.status()["state"] == "draining"
        gate.open()
        assert client.result("w") == "waited"
        assert daemon.wait() == 0


def test_hangup_stays_ignored_under_nohup() -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with Daemon(preexec_fn=ignore) as daemon:
        daemon.signal(signal.SIGHUP)
        assert daemon.stdio.call("echo", 1) == 1
        assert daemon.stdio.status()["state"] == "running"


def test_sigpipe_and_sigusr1_are_as_everywhere() -> None:
    with Daemon() as daemon:
        daemon.signal(signal.SIGPIPE)
        assert daemon.stdio.call("echo", 1) == 1


def test_worker_that_ignores_everything_is_killed_within_the_grace() -> None:
    """W4: its stdin is closed, it gets SIGTERM and then SIGKILL, and the daemon exits with 0."""
    with Daemon(config(LINGERS)) as daemon:
        pid = daemon.stdio.call("pid")
        assert daemon.stop() == 0
        kit.wait_dead(pid)


def test_worker_that_is_stopped_ends_as_well() -> None:
    """W12: SIGCONT comes with SIGTERM."""
    with Daemon(unix=True) as daemon:
        client = daemon.connect()
        pid = client.call("pid")
        os.kill(pid, signal.SIGSTOP)
        assert daemon.stop() == 0
        kit.wait_dead(pid)


def test_worker_started_in_the_moment_of_a_signal_is_not_left_behind() -> None:
    """W20: SIGTERM between fork and exec is not lost."""
    for _ in range(5):
        with Daemon(config(pool(instances=4))) as daemon:
            assert daemon.stop() == 0
            pids = [int(m[1]) for m in daemon.find_log(r"worker_ready: .*pid (\d+)")]
            kit.wait_dead(*pids)


MODES = ["rb", "wb", "rb", "wb"]

# --- what it inherits -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["eof", "term", "kill"])
def test_flags_of_inherited_stdin_and_stdout_are_restored(end: str) -> None:
    """W20: O_NONBLOCK is a matter of the open file, which others share."""
    with ExitStack() as stack:
        pipes = [*os.pipe(), *os.pipe()]
        theirs_in, ours_in, ours_out, theirs_out = (
            stack.enter_context(os.fdopen(fd, mode, 0))
            for fd, mode in zip(pipes, MODES, strict=True)
        )
        with Daemon(stdin=theirs_in.fileno(), stdout=theirs_out.fileno()) as daemon:
            client = kit.Client(ours_out.fileno(), ours_in.fileno(), lambda: None)
            client.start("hold", {"name": "x"}, id="h")
            client.call("holding")
            assert nonblocking(theirs_in) & nonblocking(theirs_out)
            if end != "kill":
                client.call("release")
            if end == "eof":
                ours_in.close()
            else:
                daemon.signal(signal.SIGTERM)
                daemon.wait_log("stopping")
            if end == "kill":
                daemon.signal(signal.SIGTERM)
            assert daemon.wait() == (1 if end == "kill" else 0)
        assert not nonblocking(theirs_in) | nonblocking(theirs_out)


def nonblocking(file: Any) -> bool:
    return bool(fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK)


def test_one_socket_may_be_stdin_and_stdout() -> None:
    """As from inetd, or a parent with a socketpair."""
    ours, theirs = socket.socketpair()
    with ours, theirs, Daemon(stdin=theirs.fileno(), stdout=theirs.fileno()) as daemon:
        theirs.close()
        client = kit.Client(ours.fileno(), ours.fileno(), lambda: None)
        assert client.call("echo", 1) == 1
        assert len(client.call("big", {"bytes": 1 << 20})) == 1 << 20
        client.half_close()
        client.assert_ended()
        assert daemon.wait() == 0
