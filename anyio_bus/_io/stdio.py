"""Own the byte streams of a worker process: async reads and writes on its stdin and stdout.

What a poller takes (pipes, sockets, terminals) is waited for with ``anyio.wait_readable`` and
``anyio.wait_writable``; for the rest (regular files, Windows) a thread reads.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from anyio_bus._io.fdguard import FdGuard
from anyio_bus._io.loop import current_loop
from anyio_bus._sansio.lines import READ_BYTES, next_read_bytes

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    _Chunks: TypeAlias = tuple[MemoryObjectSendStream[bytes], MemoryObjectReceiveStream[bytes]]

__all__ = ("Stdio", "open_stdio")

_NO_POLLING = (OSError, NotImplementedError, ValueError)  # epoll says EPERM to a file
_WINDOWS = sys.platform == "win32"  # where pipes can neither be polled nor made non-blocking


class Stdio:
    """This process's conversation, on fds of its own.

    Owns:
        The fds that it opened, the blocking mode of the one that it writes to, and a thread where
        reads cannot be polled.

    Args:
        wire_in: The fd to read.
        wire_out: The fd to write.
        threads: Read and write in threads even where the fds can be polled.
    """

    def __init__(self, wire_in: int, wire_out: int, *, threads: bool = _WINDOWS) -> None:
        self._reads_in_thread = threads
        self._writes_in_thread = threads
        self._in = wire_in
        self._out = wire_out
        self._opened: list[int] = []
        self._made_non_blocking: int | None = None
        self._chunks: _Chunks | None = None
        self._taken = threading.Semaphore(
            0
        )  # released for each chunk that the thread may follow up
        self._read_bytes = READ_BYTES
        if not threads:
            self._take_non_blocking()

    def _take_non_blocking(self) -> None:
        """Get fds on which neither a read nor a write holds up the loop.

        O_NONBLOCK belongs to the open file description, which others may share: a shell, a sibling
        in a pipeline. With one of our own nobody else sees it, even if this process is killed.
        """
        if sys.platform == "win32":
            return
        own_in = _own_description(self._in, os.O_RDONLY)
        if own_in is not None:
            self._in = own_in
            self._opened.append(own_in)
        own_out = _own_description(self._out, os.O_WRONLY)
        if own_out is not None:
            self._out = own_out
            self._opened.append(own_out)
        elif os.get_blocking(self._out):
            self._made_non_blocking = self._out
            os.set_blocking(self._out, False)

    async def receive(self) -> bytes:
        """Return what can be read, no bytes at the end.

        Raises:
            OSError: It cannot be read.

        Cancellation:
            Always a checkpoint. Nothing is lost.
        """
        while not self._reads_in_thread:
            try:
                await anyio.wait_readable(self._in)
            except _NO_POLLING:
                self._reads_in_thread = True
                break
            with suppress(BlockingIOError):
                return self._read()
        if self._chunks is None:
            self._chunks = self._start_thread()
        try:
            data = await self._chunks[1].receive()
        except anyio.EndOfStream:
            return b""
        self._taken.release()
        return data

    def _read(self) -> bytes:
        data = os.read(self._in, self._read_bytes)
        self._read_bytes = next_read_bytes(self._read_bytes, len(data))
        return data

    async def feed(self, take: Callable[[bytes], bool]) -> bool:
        """Hand over what is read, as it comes, until ``take`` wants no more or the input ends.

        As often :meth:`receive`, but the loop keeps watching the fd between two reads.

        Returns:
            Whether there may be more to read.

        Raises:
            OSError: It cannot be read.

        Cancellation:
            Nothing is lost.
        """
        more = polled = False

        def look() -> bool:
            nonlocal more, polled
            polled = True
            try:
                data = self._read()
            except BlockingIOError:
                return True
            more = bool(data)
            return more and take(data)

        if not self._reads_in_thread:
            try:
                await current_loop().serve_readable(self._in, look)
            except _NO_POLLING:
                if polled:
                    raise
            else:
                return more
        while data := await self.receive():
            if not take(data):
                return True
        return False

    def _start_thread(self) -> _Chunks:
        chunks = anyio.create_memory_object_stream[bytes](1)
        arguments = (self._in, chunks[0], self._taken, anyio.lowlevel.current_token())
        # A daemon: a read cannot be interrupted, and must not hold up the end of the process.
        name = "anyio-bus stdin"
        threading.Thread(target=_read_all, args=arguments, name=name, daemon=True).start()
        return chunks

    async def send(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            OSError: The reader is gone (``BrokenPipeError``), or it cannot be written.

        Cancellation:
            Some of it may have been written.
        """
        if self._writes_in_thread:
            await anyio.to_thread.run_sync(_write_all, self._out, data, abandon_on_cancel=True)
            return
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._out, view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._out)

    def write_at_once(self, data: bytes) -> int:
        """Write what can be written without waiting; return how many bytes that was.

        An error writes nothing: :meth:`send` will meet it.
        """
        if self._writes_in_thread:
            return 0
        try:
            return os.write(self._out, data)
        except OSError:
            return 0

    def close(self) -> None:
        """Close what was opened here, and put the blocking mode back."""
        if self._chunks is not None:
            for end in self._chunks:
                end.close()
            self._taken.release()
        if sys.platform != "win32" and self._made_non_blocking is not None:
            os.set_blocking(self._made_non_blocking, True)
            self._made_non_blocking = None
        while self._opened:
            os.close(self._opened.pop())


def _own_description(fd: int, flags: int) -> int | None:
    """Open a pipe or terminal anew, not blocking; None if that cannot be."""
    if sys.platform == "win32":
        return None
    if not (stat.S_ISFIFO(os.fstat(fd).st_mode) or os.isatty(fd)):
        return None  # a file has its offset there, a socket cannot be opened
    try:
        flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return None


def _read_all(
    fd: int,
    chunks: MemoryObjectSendStream[bytes],
    taken: threading.Semaphore,
    token: anyio.lowlevel.EventLoopToken,
) -> None:
    """Hand everything that can be read to the loop, each time that it has taken the last."""
    with suppress(BaseException):  # the loop has enough, or has ended: trio says Cancelled to that
        with suppress(OSError):
            while data := _read(fd):
                # No coroutine: the loop may end before it would have begun to run it.
                anyio.from_thread.run_sync(chunks.send_nowait, data, token=token)
                taken.acquire()
        anyio.from_thread.run_sync(chunks.close, token=token)


def _read(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, READ_BYTES)
        except BlockingIOError:  # whoever shares it wants it so
            select.select([fd], [], [])


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextmanager
def open_stdio(
    *,
    give_back: bool = True,
    threads: bool = _WINDOWS,
    stray: int = 2,
    text: Any = None,
) -> Iterator[Stdio]:
    """Take stdin and stdout away from everything else in this process, to converse on them.

    Args:
        give_back: Put them back at the end; otherwise stray output stays where it is until this
            process exits.
        threads: As for :class:`Stdio`.
        stray: As for :class:`FdGuard`.
        text: As for :class:`FdGuard`.
    """
    guard = FdGuard(stray, text)
    stdio = Stdio(guard.wire_in, guard.wire_out, threads=threads)
    try:
        yield stdio
    finally:
        stdio.close()
        if give_back:
            guard.give_back()
        else:
            guard.close()
