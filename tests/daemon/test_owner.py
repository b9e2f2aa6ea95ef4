"""A daemon that somebody owns: what it is told on stdin, and its end with that."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon import kit
from tests.daemon.kit import Client, Daemon, Gate, config

OWNED = ["--config", "-", "--token-file", "-", "--admin-tcp", "127.0.0.1:0", "--end-with-stdin"]
TOKEN = "s\u00e9cret"
MIB = 1024 * 1024


class Owner:
    """The end of a daemon's stdin that is held."""

    def __init__(self) -> None:
        self.reads, self.writes = os.pipe()

    def say(self, *lines: str) -> None:
        os.write(self.writes, "".join(f"{line}\n" for line in lines).encode())

    def leave(self) -> None:
        for fd in (self.reads, self.writes):
            if fd != -1:
                os.close(fd)
        self.reads = self.writes = -1


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.leave()


@contextmanager
def owned(owner: Owner, **limits: object) -> Iterator[Daemon]:
    owner.say(json.dumps(config(limits=limits)), TOKEN)
    with Daemon(None, *OWNED, stdin=owner.reads) as daemon:
        yield daemon


def admitted(daemon: Daemon) -> Client:
    client = daemon.connect_tcp()
    client.call("bus/auth", {"token": TOKEN})
    return client


def test_owner_gives_configuration_and_token_and_is_the_admin(owner: Owner) -> None:
    with owned(owner) as daemon:
        client = admitted(daemon)
        assert client.call("echo", 1) == 1
        assert client.call("bus/tap", {"off": True}) is not None
        words = Path(f"/proc/{daemon.pid}/cmdline").read_bytes()
        assert TOKEN.encode() not in words + Path(f"/proc/{daemon.pid}/environ").read_bytes()


def test_owner_may_leave_a_worker_unread(owner: Owner) -> None:
    with owned(owner) as daemon:
        client = admitted(daemon)
        for action, paused in (("pause", True), ("resume", False)):
            assert client.call("bus/worker", {"worker": 0, "do": action}) == {}
            assert [worker["paused"] for worker in client.workers()] == [paused]


def test_admin_listener_on_tcp_lets_nobody_in_without_the_token(owner: Owner) -> None:
    with owned(owner) as daemon:
        client = daemon.connect_tcp()
        assert client.fail("bus/tap", {"off": True})["data"]["reason"] == "unauthorized"
        client.assert_ended()


def test_end_of_its_stdin_ends_an_owned_daemon_and_its_workers(owner: Owner) -> None:
    with owned(owner) as daemon:
        pid = admitted(daemon).call("pid")
        owner.leave()
        daemon.wait_log("stopping: stdin has ended")
        assert daemon.wait() == 0
        kit.wait_dead(pid)


def test_what_is_in_flight_at_the_end_of_stdin_may_finish(owner: Owner) -> None:
    with owned(owner) as daemon:
        client, gate = admitted(daemon), Gate(daemon)
        client.start("wait", {"path": gate.path}, id="w")
        owner.leave()
        daemon.wait_log("stopping")
        gate.open()
        assert client.result("w") == "waited"
        assert daemon.wait() == 0


def test_end_of_stdin_is_seen_once(owner: Owner) -> None:
    """It would be there again in every step: a daemon that drains would burn a core."""
    with owned(owner, drain_timeout_sec=2) as daemon:
        client = admitted(daemon)
        client.start("hold", {"name": "x"}, id="h")
        owner.leave()
        assert client.error("h")["code"] == -32055
        stat = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
        assert sum(map(int, stat[11:13])) < 50  # hundredths of a second
        assert daemon.wait() == 0


def test_more_lines_on_stdin_are_read_and_dropped(owner: Owner) -> None:
    with owned(owner) as daemon:
        client = admitted(daemon)
        for _ in range(4):  # together more than a pipe holds
            os.write(owner.writes, b'{"id":1,"method":"echo"}\n' * 1000)
            assert client.call("echo", 1) == 1
        owner.leave()
        assert daemon.wait() == 0


def test_client_on_stdin_may_be_the_owner_beside_others() -> None:
    with Daemon(None, "--end-with-stdin", unix=True, stdio=True) as daemon:
        other = daemon.connect()
        assert other.call("echo", 1) == 1
        assert daemon.stdio.call("echo", 2) == 2
        daemon.stdio.half_close()
        assert daemon.wait() == 0


def test_token_alone_may_come_on_stdin(owner: Owner) -> None:
    owner.say(TOKEN)
    arguments = ["--tcp", "127.0.0.1:0", "--token-file", "-"]
    with Daemon(config(), *arguments, stdin=owner.reads) as daemon:
        assert admitted(daemon).call("echo", 1) == 1
        owner.leave()  # which is nothing to this one
        assert admitted(daemon).call("echo", 1) == 1


def test_configuration_is_checked_where_it_comes_on_stdin() -> None:
    done = kit.run("--config", "-", "--check-config", stdin=json.dumps(config()).encode())
    assert (done.returncode, done.stdout) == (0, b"stdin: ok\n")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "stdin: "),
        (b"{}\nt\n", "pools"),
        (b"CONFIG", "a token of one line is needed"),
        (b"CONFIG\n\n", "a token of one line is needed"),
        (b"CONFIG\na\0b\n", "no token"),
        (b"CONFIG\n" + b"x" * 4097 + b"\n", "no token"),
        (b" " * (4 * MIB + 1) + b"\nt\n", "it has more than 4194304 bytes"),
        (b" " * (5 * MIB), "too long"),
    ],
)
def test_stdin_that_says_something_else_is_an_error(said: bytes, why: str) -> None:
    said = said.replace(b"CONFIG", json.dumps(config()).encode())
    done = kit.run(*OWNED, stdin=said)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert why in done.stderr.decode()
