"""Own this process's stdin and stdout, without blocking the event loop.

Neither is made non-blocking: the setting would be shared with the shell that started us. What can
be waited for is waited for; what cannot, a file, never blocks for long and is read in a thread.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import NamedTuple

import anyio
import anyio.lowlevel
import anyio.to_thread

__all__ = ("LineReader", "LineWriter", "Oversize")

READ_BYTES = 64 * 1024  # the size of a Linux pipe: more cannot be there at once
WRITE_BYTES = 4096  # PIPE_BUF: a pipe that is ready to be written takes so much without blocking
MAX_LINE_BYTES = 64 * 1024 * 1024  # as much as a frame may have by default


def _can_wait(fd: int) -> bool:
    """Tell whether the event loop can wait for a descriptor: pipes, sockets, terminals."""
    if sys.platform == "win32":
        return False
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


class Oversize(NamedTuple):
    """A line that is over the limit: its size is all that is left of it."""

    size: int

    def __str__(self) -> str:
        return f"a line of {self.size} bytes is over the limit of {MAX_LINE_BYTES}"


class LineReader:
    """The lines of a descriptor, without their line ends.

    Args:
        fd: The descriptor; it stays open.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._waits = _can_wait(fd)
        self._buffer = bytearray()
        self._searched = 0  # bytes of it that are known to hold no newline
        self._skipped = 0  # bytes of a line that is too long
        self._ended = False

    async def read_line(self) -> bytes | Oversize | None:
        """Return the next line, or what there is of one that is too long; None at the end.

        Cancellation:
            Always a checkpoint. Nothing is lost: what has been read stays for the next call.
        """
        await anyio.lowlevel.checkpoint()
        while True:
            at = self._buffer.find(b"\n", self._searched)
            if at >= 0:
                return self._take(at)
            self._searched = len(self._buffer)
            if self._searched > MAX_LINE_BYTES:
                self._skipped += self._searched
                self._buffer.clear()
                self._searched = 0
            if self._ended:
                return self._take(self._searched) if self._buffer or self._skipped else None
            data = await self._read()
            self._ended = not data
            self._buffer += data

    def _take(self, end: int) -> bytes | Oversize:
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        skipped, self._skipped = self._skipped, 0
        if skipped or len(line) > MAX_LINE_BYTES:
            return Oversize(skipped + len(line))
        return line.removesuffix(b"\r")

    async def _read(self) -> bytes:
        while self._waits:
            await anyio.wait_readable(self._fd)
            try:
                return os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                continue
        return await anyio.to_thread.run_sync(os.read, self._fd, READ_BYTES, abandon_on_cancel=True)


class LineWriter:
    """Whole lines to a descriptor, from any task.

    Args:
        fd: The descriptor; it stays open.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._waits = _can_wait(fd)
        self._turn = anyio.Lock()

    async def write(self, line: bytes) -> None:
        """Write a line; the newline is added.

        Raises:
            BrokenPipeError: Nobody reads it any more.

        Cancellation:
            A line that has been begun is left unfinished: its reader sees the end of the output.
        """
        async with self._turn:
            rest = memoryview(line + b"\n")
            while rest:
                if self._waits:
                    await anyio.wait_writable(self._fd)
                try:
                    rest = rest[os.write(self._fd, rest[:WRITE_BYTES]) :]
                except BlockingIOError:
                    continue
