"""Where transcripts are performed: workers and clients that do a step when it is their turn."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.daemon import kit
from tests.parity.script import CLIENTS, About, Names, Script, Step

PUPPET = Path(__file__).parent / "workers" / "puppet.py"


class Client(Protocol):
    """A client: how it is told a step, whatever it is made of."""

    def send(self, frame: bytes) -> None:
        """Send a frame."""

    def expect(self, frame: bytes, names: Names) -> None:
        """Take what came next and compare it."""

    def end(self) -> None:
        """Ask for nothing more."""

    def go(self) -> None:
        """Be gone, all at once."""

    def finish(self) -> None:
        """Ask for nothing more, and see that nothing comes."""


class Workers:
    """The workers of one kernel, each at the other end of a socket of ours."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="parity-")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._folder}/w")
        self._listener.listen()
        self._unnamed: list[kit.Client] = []
        self._named: dict[str, kit.Client] = {}
        self.command = [sys.executable, "-I", "-S", str(PUPPET), f"{self._folder}/w"]

    def close(self) -> None:
        """Let go of them; they end with it."""
        for worker in (*self._unnamed, *self._named.values()):
            worker.close()
        self._listener.close()
        shutil.rmtree(self._folder)

    def come(self, count: int) -> None:
        """Wait until so many are there."""
        while len(self._unnamed) + len(self._named) < count:
            kit.ready(self._listener.fileno(), select.POLLIN, kit.Deadline(), "a worker")
            self._accept()

    def _accept(self) -> None:
        stream, _ = self._listener.accept()
        self._unnamed.append(kit.Client(stream.fileno(), stream.fileno(), stream.close))

    def get(self, name: str) -> bytes:
        """Return the next line that a worker read; whoever has one gets the name if it is new."""
        if name not in self._named:
            self._named[name] = self._first_to_read(name)
        return self._named[name].read_line(f"what {name} gets").rstrip(b"\n")

    def _first_to_read(self, name: str) -> kit.Client:
        deadline = kit.Deadline()
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        for worker in self._unnamed:
            poll.register(worker.fileno(), select.POLLIN)
        while True:
            for fd, _ in poll.poll(1000 * deadline.left(f"a worker that is {name}")):
                if fd == self._listener.fileno():
                    self._accept()
                    poll.register(self._unnamed[-1].fileno(), select.POLLIN)
                    continue
                found = next(w for w in self._unnamed if w.fileno() == fd)
                self._unnamed.remove(found)
                return found

    def send(self, name: str, line: bytes) -> None:
        """Have a worker write a line."""
        self._named[name].send(line)

    def exit(self, name: str, code: int) -> None:
        """Have a worker end; its name is free again."""
        worker = self._named.pop(name)
        worker.send(b"exit %d" % code)
        worker.assert_ended()
        worker.close()

    def assert_ended(self) -> None:
        """Assert that all end, and have read nothing that was not looked at."""
        for worker in (*self._unnamed, *self._named.values()):
            worker.assert_ended()


def configuration(about: About, command: list[str]) -> dict[str, Any]:
    """Return the configuration of a transcript, with this command in each pool."""
    program, *arguments = command
    pools = [
        {"id": name, "command": program, "args": arguments, "instances": 1, **options}
        for name, options in about.pools.items()
    ]
    return {"pools": pools, "limits": about.limits}


def perform(script: Script, workers: Workers, clients: dict[str, Client], *, exact: bool) -> None:
    """Perform a transcript to its last step; the clients are done then."""
    names = Names()
    for at, step in enumerate(script.steps, 1):
        try:
            if step.who in CLIENTS:
                _client_step(clients[step.who], step.does, step.frame, names)
            else:
                _worker_step(workers, step, names, exact=exact)
        except BaseException as error:
            error.add_note(f"{script.name}, step {at}: {step}")
            raise
    for client in clients.values():
        client.finish()


def _client_step(client: Client, does: str, frame: bytes, names: Names) -> None:
    match does:
        case "sends":
            client.send(names.fill_in(frame))
        case "sends text":
            client.send(json.loads(frame).encode())
        case "ends":
            client.end()
        case "goes":
            client.go()
        case "gets":
            client.expect(frame, names)


def _worker_step(workers: Workers, step: Step, names: Names, *, exact: bool) -> None:
    who, does, frame = step
    match does:
        case "sends":
            workers.send(who, names.fill_in(frame))
        case "sends text":
            workers.send(who, json.loads(frame).encode())
        case "exits":
            workers.exit(who, json.loads(frame))
        case "gets":
            names.check(frame, workers.get(who), exact=exact)


# --- clients of the wire --------------------------------------------------------------------------


class WireClient:
    """A client that says lines to a kernel.

    Args:
        lines: Where lines are written and read.
        exact: Whether bytes pass there as they are.
    """

    def __init__(self, lines: kit.Client, *, exact: bool = True) -> None:
        self._lines = lines
        self._exact = exact
        self._over = False

    def send(self, frame: bytes) -> None:
        self._lines.send(frame)

    def expect(self, frame: bytes, names: Names) -> None:
        line = self._lines.read_line(frame.decode()).rstrip(b"\n")
        assert line, "the connection has ended"
        names.check(frame, line, exact=self._exact)

    def end(self) -> None:
        self._lines.half_close()
        self._over = True

    def go(self) -> None:
        self._lines.close()
        self._over = True

    def finish(self) -> None:
        if not self._over:
            self.end()
        if not self._lines.closed:
            self._lines.assert_ended()


class ProgramClient(WireClient):
    """A program that says to a daemon what comes on its stdin, and writes what it hears to stdout."""

    def __init__(self, command: list[str], *, exact: bool) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        super().__init__(kit.Client.of_process(self._process), exact=exact)

    def go(self) -> None:
        self._process.kill()
        super().go()

    def finish(self) -> None:
        super().finish()
        assert self._process.wait(kit.PATIENCE_S) in {0, -signal.SIGKILL}

    def close(self) -> None:
        """End it, whatever it does."""
        self._lines.close()
        self._process.kill()
        self._process.wait()


# --- the existing daemon --------------------------------------------------------------------------


@contextlib.contextmanager
def existing_daemon(path: str, config: dict[str, Any]) -> Iterator[Callable[[], kit.Client]]:
    """Run ``stdio_bus`` on a unix socket; yield what connects to it."""
    with tempfile.TemporaryDirectory(prefix="stdio-bus-") as folder:
        file = Path(folder, "config.json")
        file.write_text(json.dumps(config))
        where = f"{folder}/s"
        command = [path, "--config", str(file), "--unix", where]
        # What it logs is not read: it would wait for its reader.
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        clients: list[kit.Client] = []

        def connect() -> kit.Client:
            stream = socket.socket(socket.AF_UNIX)
            clients.append(kit.Client(stream.fileno(), stream.fileno(), stream.close))
            stream.connect(where)
            return clients[-1]

        try:
            deadline = kit.Deadline()
            while not os.path.exists(where):
                assert process.poll() is None, "stdio_bus does not start"
                deadline.left("its socket")
                select.select([], [], [], 0.001)
            yield connect
        finally:
            for client in clients:
                client.close()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(kit.PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                pytest.fail("stdio_bus did not end")
