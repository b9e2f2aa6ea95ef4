"""What the daemon's tests share: the daemon as a process, and clients that speak raw lines to it.

All of it blocks, under deadlines: what is tested is a program of its own, and no loop of ours.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

import anyio_bus

ROOT = Path(__file__).parents[2]
WORKERS = Path(__file__).parent / "workers"
SHARED = Path(anyio_bus.__file__).parent / "testing" / "workers"
PATIENCE_S = 10  # for what takes milliseconds: only a hang takes longer

Message = dict[str, Any]

# Restarts at once, or the tests would wait for the delays that a real program wants.
FAST = {"restart_delay_s": 0.001, "restart_delay_max_s": 0.002, "park_retry_s": 0}


# --- the program ----------------------------------------------------------------------------------


def find_daemon() -> str:
    """Return the daemon: the one that ``ANYIO_BUSD`` names, else the one of this checkout.

    That one is built first; without a compiler the test is skipped.
    """
    named = os.environ.get("ANYIO_BUSD")
    if named:
        assert shutil.which(named), f"ANYIO_BUSD names {named}, which is no program"
        return named
    if missing := build():
        if missing == NO_COMPILER:
            pytest.skip(missing)
        pytest.fail(missing)
    return str(ROOT / "kernel" / "build" / "anyio-busd")


NO_COMPILER = (
    "*** THE DAEMON IS NOT TESTED: no C compiler here. ANYIO_BUSD names one that is built. ***"
)


@functools.cache
def build() -> str:
    """Build the daemon, once; return why there is none, or ""."""
    if os.environ.get("ANYIO_BUSD"):
        return ""
    compiler = os.environ.get("CC", "cc").split()[0]
    if not shutil.which(compiler) or not shutil.which("make"):
        return NO_COMPILER
    make = ["make", "-C", str(ROOT / "kernel"), "build/anyio-busd"]
    done = subprocess.run(make, capture_output=True, text=True, check=False, timeout=300)
    return "" if done.returncode == 0 else f"the daemon was not built:\n{done.stderr}"


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a daemon: a sanitizer's own exit code is no other's."""
    sanitizer = f"{os.environ.get('ASAN_OPTIONS', '')}:exitcode=99"
    return {**os.environ, "ASAN_OPTIONS": sanitizer.lstrip(":"), **more}


def run(*arguments: str, stdin: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
    """Run the daemon to its end."""
    return subprocess.run(
        [find_daemon(), *arguments],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
        env=environment(**more),
    )


# --- configurations -------------------------------------------------------------------------------


def puppet(*arguments: str) -> list[str]:
    """Return the command of a worker that does what it is asked to (``workers/puppet.py``)."""
    return [sys.executable, "-I", "-S", str(WORKERS / "puppet.py"), *arguments]


def shared(name: str, *arguments: str) -> list[str]:
    """Return the command of a worker of ``anyio_bus.testing.workers``."""
    return [sys.executable, "-I", "-S", str(SHARED / f"{name}.py"), *arguments]


def pool(name: str = "p", command: list[str] | None = None, **options: Any) -> Message:
    """Return a pool of puppets, or of what is said."""
    return {"id": name, "command": command or puppet(), **options}


def config(*pools: Message, limits: Message | None = None, **more: Any) -> Message:
    """Return a configuration of these pools, or of one of a puppet."""
    return {"pools": list(pools) or [pool()], "limits": {**FAST, **(limits or {})}, **more}


# --- waiting --------------------------------------------------------------------------------------


class Deadline:
    """The end of a bounded wait."""

    def __init__(self) -> None:
        self._end = time.monotonic() + PATIENCE_S

    def left(self, what: str) -> float:
        """Return the seconds left; without any the test fails, and says what did not come."""
        left = self._end - time.monotonic()
        if left <= 0:
            pytest.fail(f"did not come: {what}")
        return left


def ready(fd: int, events: int, deadline: Deadline, what: str) -> None:
    """Wait until a descriptor is ready."""
    poll = select.poll()
    poll.register(fd, events)
    while not poll.poll(1000 * deadline.left(what)):
        pass


def wait_dead(*pids: int) -> None:
    """Wait until processes are gone that are not our children, or zombies that nobody reaps."""
    deadline = Deadline()
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ready(pidfd, select.POLLIN, deadline, f"the end of process {pid}")
        finally:
            os.close(pidfd)


def wait_begun(pid: int) -> None:
    """Wait until a process has an environment: until then it is not seen to be ours."""
    deadline = Deadline()
    while not Path(f"/proc/{pid}/environ").read_bytes():
        deadline.left(f"the environment of process {pid}")


# --- clients --------------------------------------------------------------------------------------


class Client:
    """One connection: lines as they are, or as JSON."""

    def __init__(self, reads: int, writes: int, close: Callable[[], None]) -> None:
        self._reads, self._writes, self._close = reads, writes, close
        self._buffer = bytearray()
        self._searched = 0
        self._next = 1_000_001  # far from what tests choose
        self._ended = False
        self.closed = False
        self.others: list[Message] = []  # came while something else was waited for
        for fd in (reads, writes):
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)

    @classmethod
    def of_process(cls, process: subprocess.Popen[bytes]) -> Self:
        """Return a client at the pipes of a process, which are its own from here on."""
        reads, writes = process.stdout, process.stdin
        assert reads
        assert writes
        ends = os.dup(reads.fileno()), os.dup(writes.fileno())
        reads.close()
        writes.close()
        process.stdin = process.stdout = None

        def close() -> None:
            os.close(ends[0])
            if client._writes != -1:
                os.close(ends[1])

        client = cls(*ends, close)
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor that it reads from."""
        return self._reads

    def close(self) -> None:
        """Go away, all at once."""
        close, self._close = self._close, lambda: None
        self.closed = True
        close()

    def half_close(self) -> None:
        """Ask for nothing more."""
        if self._reads != self._writes:
            os.close(self._writes)
            self._writes = -1
        else:
            with socket.socket(fileno=os.dup(self._writes)) as stream:
                stream.shutdown(socket.SHUT_WR)

    # -- writing

    def send(self, *messages: Message | bytes) -> None:
        """Send messages, or lines as they are."""
        self.send_bytes(b"".join(_line(message) for message in messages))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes; what comes meanwhile is read, so that nobody waits for the other."""
        rest = memoryview(data)
        deadline = Deadline()
        while rest:
            try:
                rest = rest[os.write(self._writes, rest[: 1 << 20]) :]
            except BlockingIOError:
                self._wait_to_write(deadline)

    def _wait_to_write(self, deadline: Deadline) -> None:
        poll = select.poll()
        poll.register(self._writes, select.POLLOUT)
        poll.register(self._reads, select.POLLIN | (select.POLLOUT if self._one_fd() else 0))
        poll.poll(1000 * deadline.left("room to write"))
        self._fill()

    def _one_fd(self) -> bool:
        return self._reads == self._writes

    def notify(self, method: str, params: object = None, **top: Any) -> None:
        """Send a notification."""
        self.send({"jsonrpc": "2.0", "method": method, "params": params, **top})

    def start(self, method: str, params: object = None, **top: Any) -> Any:
        """Send a request and return its id."""
        if "id" not in top:
            top["id"] = self._next
            self._next += 1
        self.send(
            {"jsonrpc": "2.0", "method": method, "params": {} if params is None else params, **top}
        )
        return top["id"]

    # -- reading

    def _fill(self) -> bool:
        try:
            data = os.read(self._reads, 1 << 20)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        self._ended = not data
        self._buffer += data
        return True

    def read_line(self, what: str = "a line") -> bytes:
        """Return the next line as it is, b"" at the end."""
        deadline = Deadline()
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            if self._ended:
                assert not self._buffer, f"half a line at the end: {bytes(self._buffer)!r}"
                return b""
            if not self._fill():
                ready(self._reads, select.POLLIN, deadline, what)
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        self._searched = 0
        return line

    def read(self, what: str = "a message") -> Message:
        """Return the next message."""
        line = self.read_line(what)
        assert line, f"the connection has ended; did not come: {what}"
        message: Message = json.loads(line)
        return message

    def answer(self, key: object) -> Message:
        """Return the response to a request; what else comes is kept in ``others``."""
        for at, message in enumerate(self.others):
            if "method" not in message and same_id(message["id"], key):
                return self.others.pop(at)
        while True:
            message = self.read(f"the answer to {key!r}; there were {str(self.others)[:2000]}")
            if "method" not in message and same_id(message["id"], key):
                return message
            self.others.append(message)

    def result(self, key: object) -> Any:
        """Return the result of a request; it must have one."""
        response = self.answer(key)
        assert "result" in response, response
        return response["result"]

    def error(self, key: object) -> Message:
        """Return the error of a request; it must have one."""
        response = self.answer(key)
        assert "error" in response, response
        error: Message = response["error"]
        return error

    def call(self, method: str, params: object = None, **top: Any) -> Any:
        """Send a request and return its result."""
        return self.result(self.start(method, params, **top))

    def fail(self, method: str, params: object = None, **top: Any) -> Message:
        """Send a request that fails and return its error."""
        return self.error(self.start(method, params, **top))

    def incoming(self, method: str) -> Message:
        """Return the next notification or request of that method; what else comes is kept."""
        for at, message in enumerate(self.others):
            if message.get("method") == method:
                return self.others.pop(at)
        while (message := self.read(f"a {method}; there were {self.others}")).get(
            "method"
        ) != method:
            self.others.append(message)
        return message

    def assert_quiet(self) -> None:
        """Assert that nothing came that was not read: the answer to this is the next thing."""
        assert not self.others, self.others
        key = self.start("bus/status")
        message = self.read()
        assert message.get("id") == key, message

    def assert_ended(self) -> None:
        """Assert that the other side closes, and says nothing before."""
        assert self.read_line("the end of the connection") == b""

    def status(self) -> Message:
        """Return what ``bus/status`` answers."""
        found: Message = self.call("bus/status")
        return found

    def workers(self, name: str | None = None) -> list[Message]:
        """Return the reports on the workers of a pool, or of all."""
        pools = self.status()["pools"]
        return [w for p in pools if name in {None, p["id"]} for w in p["workers"]]

    def statistics(self) -> Message:
        """Return the counters."""
        found: Message = self.status()["statistics"]
        return found

    def until(self, condition: Callable[[Message], object], what: str = "that state") -> Message:
        """Ask for the status until it is so; return it."""
        deadline = Deadline()
        while not condition(status := self.status()):
            deadline.left(f"{what}: {json.dumps(status)[:3000]}")
        return status

    def until_workers(self, state: str, count: int = 1) -> list[Message]:
        """Wait until so many workers are in a state; return how these stand then."""

        def found(status: Message) -> list[Message]:
            workers = [worker for p in status["pools"] for worker in p["workers"]]
            return [worker for worker in workers if worker["state"] == state]

        status = self.until(lambda s: len(found(s)) >= count, f"{count} workers that are {state}")
        return found(status)


def _line(message: Message | bytes) -> bytes:
    if isinstance(message, bytes):
        return message + b"\n"
    return json.dumps(message).encode() + b"\n"


def same_id(left: object, right: object) -> bool:
    """Tell 1 from "1", and from True."""
    return type(left) is type(right) and left == right


# --- the daemon -----------------------------------------------------------------------------------


class Daemon:
    """A running daemon; it is gone, and found healthy, when the block is over."""

    def __init__(
        self,
        configuration: Message | None = None,
        *arguments: str,
        stdio: bool | None = None,
        unix: bool = False,
        tcp: bool = False,
        admin: bool = False,
        stderr: int = subprocess.PIPE,
        wait: bool = True,
        stdin: int = subprocess.PIPE,
        stdout: int = subprocess.PIPE,
        **popen: Any,
    ) -> None:
        program = find_daemon()
        self.folder = tempfile.mkdtemp(prefix="busd-")
        self.clients: list[Client] = []
        self.log: list[str] = []
        self._changed = threading.Condition()
        self._log_ended = False
        path = Path(self.folder, "config.json")
        path.write_text(json.dumps(configuration or config()))
        self.unix_path, self.admin_path = f"{self.folder}/s", f"{self.folder}/a"
        words = [program, "--config", str(path), *arguments]
        words += ["--unix", self.unix_path] if unix else []
        words += ["--admin-unix", self.admin_path] if admin else []
        words += ["--tcp", "127.0.0.1:0"] if tcp else []
        listeners = {"--unix", "--tcp", "--admin-unix", "--admin-tcp"}
        listens = any(word in listeners for word in words)
        self.has_stdio = not listens if stdio is None else stdio
        words += ["--stdio"] if self.has_stdio and listens else []
        if not self.has_stdio:
            stdout = subprocess.DEVNULL
            stdin = subprocess.DEVNULL if stdin == subprocess.PIPE else stdin
        more = popen.pop("env", {})
        try:
            self.process = subprocess.Popen(
                words, stdin=stdin, stdout=stdout, stderr=stderr, env=environment(**more), **popen
            )
        except BaseException:
            shutil.rmtree(self.folder)
            raise
        self.pid = self.process.pid
        self._reader: threading.Thread | None = None
        try:
            self._begin(wait)
        except BaseException:
            self.close()
            raise

    def _begin(self, wait: bool) -> None:
        if self.process.stderr is not None:
            self._reader = threading.Thread(
                target=self._read_log, args=(self.process.stderr,), daemon=True
            )
            self._reader.start()
        if self.process.stdin and self.process.stdout:
            self.stdio = self._stdio()
        if wait and self._reader is not None:
            self.wait_log(r" ready: ")

    def _stdio(self) -> Client:
        client = Client.of_process(self.process)
        self.clients.append(client)
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()
        if kind is None:
            self.assert_healthy()

    # -- clients

    def connect(self) -> Client:
        """Connect to the unix socket, or else over TCP."""
        return self.connect_unix(self.unix_path) if self._has_unix() else self.connect_tcp()

    def _has_unix(self) -> bool:
        return os.path.exists(self.unix_path)

    def connect_unix(self, path: str) -> Client:
        """Connect to a unix socket."""
        stream = socket.socket(socket.AF_UNIX)
        return self._connected(stream, path)

    def connect_admin(self) -> Client:
        """Connect to the socket that gives admin rights."""
        return self.connect_unix(self.admin_path)

    def connect_tcp(self) -> Client:
        """Connect over TCP."""
        return self._connected(socket.socket(), ("127.0.0.1", self.port()))

    def _connected(self, stream: socket.socket, address: Any) -> Client:
        stream.settimeout(PATIENCE_S)
        try:
            stream.connect(address)
        except BaseException:
            stream.close()
            raise
        fd = stream.fileno()
        client = Client(fd, fd, stream.close)
        self.clients.append(client)
        return client

    def client(self) -> Client:
        """Return a client, however there is one."""
        return self.stdio if self.has_stdio else self.connect()

    def port(self) -> int:
        """Return the port that the system chose, from the log."""
        return int(self.wait_log(r"listening.* tcp .*:(\d+)")[1])

    # -- the log

    def _read_log(self, stream: Any) -> None:
        for line in stream:
            with self._changed:
                self.log.append(line.decode(errors="replace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._log_ended = True
            self._changed.notify_all()

    def wait_log(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait for the nth line of the log that matches."""
        deadline = Deadline()
        with self._changed:
            while len(found := self.find_log(pattern)) < count:
                text = "\n".join(self.log[-40:])
                assert not self._log_ended, f"the log has ended without {pattern!r}:\n{text}"
                self._changed.wait(deadline.left(f"{pattern!r} in the log:\n{text}"))
            return found[count - 1]

    def find_log(self, pattern: str) -> list[re.Match[str]]:
        """Return what matches in the log so far."""
        return [match for line in list(self.log) if (match := re.search(pattern, line))]

    # -- the end

    def signal(self, number: int) -> None:
        """Send a signal to the daemon itself."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end; return the exit code."""
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            tail = "\n".join(self.log[-40:])
            pytest.fail(f"did not come: the end of the daemon; its log:\n{tail}")
        if self._reader is not None:
            self._reader.join(PATIENCE_S)
        return code

    def stop(self) -> int:
        """End it in good order; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        """End it at once, whatever it does."""
        for client in self.clients:
            client.close()
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGINT)  # the second signal kills
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._reader is not None:
            self._reader.join(PATIENCE_S)
        for end in (self.process.stdin, self.process.stdout, self.process.stderr):
            if end is not None:
                end.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def assert_healthy(self) -> None:
        """Assert that it ended of itself, and that no sanitizer had anything to say."""
        code = self.process.returncode
        bad = re.compile(r"Sanitizer|runtime error:|\bstack smashing|double free")
        said = [line for line in self.log if bad.search(line)]
        assert not said, "\n".join(self.log)
        assert code in {0, 1, 2, -signal.SIGKILL}, f"exit code {code}:\n" + "\n".join(
            self.log[-40:]
        )


def running(
    configuration: Message | None = None, *arguments: str, **options: Any
) -> Iterator[Daemon]:
    """Yield a daemon, for a fixture that many tests share."""
    pools = (configuration or config())["pools"]
    with Daemon(configuration, *arguments, **options) as daemon:
        for number in range(sum(p.get("instances", 1) for p in pools)):
            pid = daemon.wait_log(r"worker_ready: .*pid (\d+)", number + 1)[1]
            wait_begun(int(pid))
        yield daemon


class Gate:
    """What a puppet's ``wait`` waits for."""

    def __init__(self, daemon: Daemon) -> None:
        self.path = f"{daemon.folder}/gate"
        os.mkfifo(self.path)

    def open(self) -> None:
        """Let it go on."""
        deadline = Deadline()
        while True:
            try:
                os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # nobody is there yet
                deadline.left("a worker at the gate")
                select.select([], [], [], 0.001)
            else:
                return
