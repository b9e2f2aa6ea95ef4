"""Own the ``"memory"`` backend: the Python kernel, with async functions for workers.

Everything above the pipes is the real thing: framing, routing, restarts, the stop ladder.
"""

from __future__ import annotations

import errno
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import anyio
import anyio.lowlevel
import msgspec

from anyio_bus._errors import InvalidArgumentError
from anyio_bus._io.loop import Bell
from anyio_bus._io.process import Exit
from anyio_bus._kernel.kernel import Kernel

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend
    from anyio_bus._config import BusConfig, Pool
    from anyio_bus._sansio.events import Deliver

__all__ = ("Memory", "MemoryWorker", "open_memory")

PIPE_BYTES = 64 * 1024  # as much as a Linux pipe holds
SIGTERM, SIGKILL = 15, 9

Receive: TypeAlias = Callable[[], Awaitable[bytes]]
Send: TypeAlias = Callable[[bytes], Awaitable[None]]
WorkerFunction: TypeAlias = Callable[[Receive, Send], Awaitable[Any]]


class MemoryWorker(Protocol):
    """Something that serves a byte stream, as :class:`anyio_bus.worker.Worker` does."""

    async def serve_stream(self, receive: Receive, send: Send) -> None:
        """Serve until ``receive`` returns no bytes."""


class Memory(msgspec.Struct, frozen=True):
    """Options of the memory backend.

    Args:
        workers: Pool id -> a :class:`~anyio_bus.worker.Worker`, or an async function
            ``(receive, send)`` where ``receive()`` returns bytes, none at the end of input.
    """

    workers: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Validate."""
        for pool, worker in self.workers.items():
            if not callable(getattr(worker, "serve_stream", worker)):
                msg = f"Memory.workers[{pool!r}]: {worker!r} is neither a Worker nor an async function"
                raise InvalidArgumentError(msg, field="workers")

    def open_with(self, config: BusConfig, deliver: Deliver) -> Backend:
        """Make the backend."""
        return open_memory(config, deliver, self)


class _Pipe:
    """A bounded pipe of bytes inside one task group."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self.size = 0
        self._bell = Bell()
        self.closed = False

    def try_write(self, buffers: Sequence[bytes | memoryview]) -> int:
        if self.closed:
            raise BrokenPipeError(errno.EPIPE, "the pipe is closed")
        before = self.size
        for data in buffers:
            room = PIPE_BYTES - self.size
            if room <= 0:
                break
            chunk = bytes(memoryview(data)[:room])
            self._chunks.append(chunk)
            self.size += len(chunk)
        if self.size > before:
            self._bell.ring()
        return self.size - before

    async def room(self) -> None:
        while self.size >= PIPE_BYTES and not self.closed:
            await self._bell.wait()

    async def write(self, buffers: Sequence[bytes | memoryview]) -> int:
        while not (written := self.try_write(buffers)):
            await self.room()
        return written

    async def send(self, data: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        left = memoryview(data)
        while left:
            left = left[await self.write([left]) :]

    async def read(self, max_bytes: int = PIPE_BYTES) -> bytes:
        await anyio.lowlevel.checkpoint()
        while not self._chunks and not self.closed:
            await self._bell.wait()
        if not self._chunks:
            return b""
        chunk = self._chunks.popleft()
        if len(chunk) > max_bytes:
            self._chunks.appendleft(chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        self.size -= len(chunk)
        self._bell.ring()
        return chunk

    def close(self) -> None:
        self.closed = True
        self._bell.ring()


class _MemoryChild:
    """An async function that looks like a process."""

    pid = None

    def __init__(self, function: WorkerFunction) -> None:
        self._function = function
        self._stdin = _Pipe()
        self._stdout = _Pipe()
        self._stderr = _Pipe()
        self._exit: Exit | None = None
        self._ended = anyio.Event()
        self._scope = anyio.CancelScope()
        self._signal: int | None = None

    async def started(self) -> None:
        return

    async def run(self) -> None:
        code = 0
        try:
            with self._scope:
                await self._function(self._stdin.read, self._stdout.send)
        except Exception as exc:  # a worker's bug is its own death, as in a process  # noqa: BLE001
            text = "".join(traceback.format_exception(exc))
            self._stderr.try_write([text.encode(errors="backslashreplace")])
            code = 1
        finally:
            self._end(
                Exit(signal=self._signal) if self._signal is not None else Exit(exit_code=code)
            )

    def _end(self, exit_: Exit) -> None:
        self._exit = self._exit or exit_
        for pipe in (self._stdin, self._stdout, self._stderr):
            pipe.close()
        self._ended.set()

    async def read_stdout(self, max_bytes: int) -> bytes:
        return await self._stdout.read(max_bytes)

    async def read_stderr(self, max_bytes: int) -> bytes:
        return await self._stderr.read(max_bytes)

    def try_write(self, buffers: Sequence[bytes | memoryview]) -> int:
        return self._stdin.try_write(buffers)

    async def room(self) -> bool:
        await self._stdin.room()
        return True

    async def write(self, buffers: Sequence[bytes | memoryview]) -> int:
        return await self._stdin.write(buffers)

    def unread_bytes(self) -> int | None:
        return self._stdin.size

    async def aclose_stdin(self) -> None:
        self._stdin.close()

    async def wait(self) -> None:
        await self._ended.wait()

    def terminate(self) -> None:
        self._cancel(SIGTERM)

    def kill(self) -> None:
        self._cancel(SIGKILL)

    def _cancel(self, number: int) -> None:
        if self._exit is None:
            self._signal = number
            self._scope.cancel("worker killed")

    def reap(self) -> Exit | None:
        return self._exit

    async def aclose(self) -> None:
        return

    def kill_now(self, reap_s: float) -> None:
        self.kill()

    def abandon(self) -> None:
        return


class _MemorySpawner:
    name = "memory"

    def __init__(self, workers: Mapping[str, Any]) -> None:
        self._workers = workers

    async def spawn(self, pool: Pool) -> _MemoryChild:
        worker = self._workers[pool.id]
        return _MemoryChild(getattr(worker, "serve_stream", worker))

    def close(self) -> None:
        return

    def abandon(self) -> None:
        return


def open_memory(config: BusConfig, deliver: Deliver, options: Memory) -> Backend:
    """Make the backend; no worker runs before it does.

    Raises:
        InvalidArgumentError: A pool has no worker.
    """
    for pool in config.pools:
        if pool.id not in options.workers:
            msg = f"Memory.workers: there is none for pool {pool.id!r}"
            raise InvalidArgumentError(msg, field="workers")
    return Kernel(config, _MemorySpawner(options.workers), deliver, "memory")
