"""What the worker tests share: a client in this process, and one with a worker process."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyio_bus.worker import Worker, _output

PROGRAMS = Path(__file__).parent / "programs"
WAIT_S = 5  # for what takes milliseconds: only a hang takes longer

Message = dict[str, Any]


def line(message: object) -> bytes:
    """Make one line of a message."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def request(key: Any, method: str, params: Any = None, **members: Any) -> Message:
    """Make a request."""
    call = {"jsonrpc": "2.0", "id": key, "method": method, **members}
    return call if params is None else {**call, "params": params}


def notification(method: str, params: Any = None) -> Message:
    """Make a notification."""
    return {"jsonrpc": "2.0", "method": method, "params": params or {}}


class Looks:
    """Takes the place of what looks for answers, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(_output, "linger", lambda loop: self)

    def is_due(self) -> bool:
        return True

    def __call__(self) -> None:
        self.count += 1


class Client:
    """The other end of a worker that serves a stream in this process."""

    def __init__(self) -> None:
        self._to_worker, self._input = anyio.create_memory_object_stream[bytes](math.inf)
        self._output, self._from_worker = anyio.create_memory_object_stream[bytes](math.inf)
        self._messages: deque[Message] = deque()
        self._rest = b""
        self._keys = 0
        self.reading = anyio.Event()  # while it is not set, what the worker writes is not taken
        self.reading.set()
        self.writes: list[bytes] = []
        self.fail_with: Exception | None = None
        self.ended = anyio.Event()

    # -- the worker's side

    async def receive(self) -> bytes:
        try:
            return await self._input.receive()
        except anyio.EndOfStream:
            return b""

    async def send(self, data: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self.writes.append(data)
        if self.fail_with is not None:
            raise self.fail_with
        await self.reading.wait()
        self._output.send_nowait(data)

    async def serve(self, worker: Worker) -> None:
        try:
            await worker.serve_stream(self.receive, self.send)
        finally:
            self.ended.set()
            self._output.close()

    # -- the test's side

    def write(self, *messages: Any) -> None:
        """Send messages, or lines as they are, in one piece."""
        data = b"".join(m if isinstance(m, bytes) else line(m) for m in messages)
        self._to_worker.send_nowait(data)

    def start(self, method: str, params: Any = None, **members: Any) -> int:
        """Send a request; return its id."""
        self._keys += 1
        self.write(request(self._keys, method, params, **members))
        return self._keys

    async def call(self, method: str, params: Any = None, **members: Any) -> Message:
        """Send a request; return the next message, which must be its answer."""
        key = self.start(method, params, **members)
        answer = await self.next()
        assert answer.get("id") == key, answer
        return answer

    async def next(self) -> Message:
        """Return the next message of the worker."""
        with anyio.fail_after(WAIT_S):
            while not self._messages:
                data = self._rest + await self._from_worker.receive()
                *lines, self._rest = data.split(b"\n")
                self._messages += [json.loads(text) for text in lines]
        return self._messages.popleft()

    async def take(self, count: int) -> list[Message]:
        """Return the next messages."""
        return [await self.next() for _ in range(count)]

    async def end(self) -> None:
        """Close the worker's input and wait until it has ended."""
        self._to_worker.close()
        with anyio.fail_after(WAIT_S):
            await self.ended.wait()

    async def rest(self) -> list[Message]:
        """End the worker; return all that it still wrote."""
        await self.end()
        found = []
        while True:
            try:
                found.append(await self.next())
            except anyio.EndOfStream:
                assert not self._rest, "a torn frame"
                return found

    def close(self) -> None:
        for stream in (self._to_worker, self._input, self._output, self._from_worker):
            stream.close()


@asynccontextmanager
async def serving(worker: Worker) -> AsyncIterator[Client]:
    """Serve in the background; at the end the worker must end by itself, and say nothing more."""
    client = Client()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.serve, worker)  # noqa: ASYNC113  # what is sent waits for it
            yield client
            assert await client.rest() == []
    finally:
        client.close()


class Child:
    """A worker process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.stdin: Any = process.stdin  # None where it is not a pipe
        self.stdout: Any = process.stdout
        self.stderr: Any = process.stderr

    def write(self, *messages: Any) -> None:
        """Send messages, or lines as they are."""
        self.stdin.write(b"".join(m if isinstance(m, bytes) else line(m) for m in messages))
        self.stdin.flush()

    def read(self) -> Message:
        """Return the next message."""
        text = self.stdout.readline()
        assert text.endswith(b"\n"), f"no whole line: {text!r}"
        message: Message = json.loads(text)
        return message

    def call(self, method: str, params: Any = None, key: Any = 1) -> Message:
        """Send a request; return the next message."""
        self.write(request(key, method, params))
        return self.read()

    def finish(self, *messages: Any) -> tuple[list[Message], str]:
        """Send messages, end the input; return the rest of the wire, and stderr, when it is dead."""
        data = b"".join(m if isinstance(m, bytes) else line(m) for m in messages)
        out, err = self.process.communicate(data, timeout=15)
        assert not out or out.endswith(b"\n"), f"a torn frame: {out[-100:]!r}"
        return [json.loads(text) for text in out.splitlines()], err.decode()


@contextmanager
def child(*arguments: str, **options: Any) -> Iterator[Child]:
    """Run a program of ``programs/`` or, with a dot in its name, a module; kill it at the end."""
    name, *rest = arguments
    where = ["-m", name] if "." in name else [str(PROGRAMS / f"{name}.py")]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, *where, *rest]
    with subprocess.Popen(command, **{**pipes, "start_new_session": True, **options}) as process:
        try:
            yield Child(process)
        finally:
            process.kill()
