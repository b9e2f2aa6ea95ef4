"""Own the contract of a child process, whoever spawns it."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from anyio_bus._config import Pool

__all__ = ("Child", "Exit", "SpawnError", "Spawner", "StderrRing", "resident_bytes")


def resident_bytes(pid: int) -> int | None:
    """Return how much memory a process holds; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # gone meanwhile, or no such system
        return None


class Exit(msgspec.Struct, frozen=True):
    """How a process ended; both None where the system cannot tell."""

    exit_code: int | None = None
    signal: int | None = None


class SpawnError(Exception):
    """A process could not be started; a value inside the kernel, never seen by users."""

    def __init__(
        self, exc: OSError, *, permanent: bool, cwd: str | None = None, option: str = ""
    ) -> None:
        text = exc.strerror or str(exc)
        if option:
            text = f"{option}: {text}"
        bad_cwd = cwd is not None and (exc.filename == cwd or not os.path.isdir(cwd))
        super().__init__(f"cwd {cwd!r}: {text}" if bad_cwd else text)
        self.errno = exc.errno
        self.permanent = permanent


class Child(Protocol):
    """One child process with pipes on its stdin, stdout and stderr.

    Its owner reads both outputs until they end, waits for its exit, kills what is left of it and
    closes it, in this order.
    """

    @property
    def pid(self) -> int | None:
        """Its process id; None where it is no process."""
        ...

    async def started(self) -> None:
        """Wait until its program runs.

        Raises:
            SpawnError: It could not be executed.
        """

    async def run(self) -> None:
        """Run whatever of the child runs in this process; returns at once for a real one."""

    def read_stdout(self, max_bytes: int) -> Awaitable[bytes]:
        """Return some bytes of its stdout, none at its end."""
        ...

    def read_stderr(self, max_bytes: int) -> Awaitable[bytes]:
        """Return some bytes of its stderr, none at its end."""
        ...

    def try_write(self, buffers: Sequence[bytes | memoryview]) -> int:
        """Write to its stdin what fits now; return the number of bytes, 0 where none fits.

        Raises:
            OSError: Its stdin is closed.
        """
        ...

    async def room(self) -> bool:
        """Wait until :meth:`try_write` may take something; False at once where only a write does.

        Raises:
            OSError: Its stdin is closed.
        """
        ...

    async def write(self, buffers: Sequence[bytes | memoryview]) -> int:
        """Wait until at least one byte fits, and write.

        Raises:
            OSError: Its stdin is closed.
        """
        ...

    def unread_bytes(self) -> int | None:
        """Return how much of what was written it has not read yet; None where that is unknown."""
        ...

    async def aclose_stdin(self) -> None:
        """Let it read the end of its input; does not wait for it."""

    async def wait(self) -> None:
        """Wait for its exit; pipes held open by others do not matter. Does not reap it."""

    def terminate(self) -> None:
        """Ask it and its whole group to end."""

    def kill(self) -> None:
        """Kill it and its whole group. Safe to call at any time before :meth:`reap`."""

    def reap(self) -> Exit | None:
        """Return how it ended, None while it lives."""
        ...

    async def aclose(self) -> None:
        """Close its pipes; it has been reaped."""

    def kill_now(self, reap_s: float) -> None:
        """Without waiting for the loop: kill, reap for at most so many seconds, close."""

    def abandon(self) -> None:
        """In a forked process: close its fds and touch nothing else."""


class Spawner(Protocol):
    """Starts child processes in one of the ways that this system has."""

    name: str

    async def spawn(self, pool: Pool) -> Child:
        """Start a worker of this pool. There is no checkpoint after the process exists.

        Raises:
            SpawnError: It could not be started.
        """
        ...

    def close(self) -> None:
        """Give up what the spawner itself holds."""

    def abandon(self) -> None:
        """In a forked process: close the fds of the spawner itself and touch nothing else."""


class StderrRing:
    """The last bytes of a worker's stderr, and its lines as they are completed.

    Args:
        max_bytes: Bytes to keep.
    """

    LINE_BYTES = 8192  # of one log line; the rest of a longer one is cut into more lines

    __slots__ = ("_max", "_open", "_ring", "total")

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._ring = bytearray()
        self._open = b""
        self.total = 0

    def feed(self, data: bytes) -> list[str]:
        """Take a chunk; return the lines that it ends, without their line ends."""
        self.total += len(data)
        self._ring += data[-self._max :]
        if len(self._ring) > self._max:
            del self._ring[: len(self._ring) - self._max]
        *whole, rest = (self._open + data).split(b"\n")
        *cut, self._open = self._pieces(rest)
        return [_text(piece) for line in whole for piece in self._pieces(line)] + [*map(_text, cut)]

    def close(self) -> list[str]:
        """End it; return the last line if it has no line end."""
        rest, self._open = self._open, b""
        return [_text(rest)] if rest else []

    def _pieces(self, line: bytes) -> list[bytes]:
        size = self.LINE_BYTES
        return [line[at : at + size] for at in range(0, len(line), size)] or [b""]

    def tail(self, max_bytes: int | None = None) -> str:
        """Return the last bytes as text."""
        data = bytes(self._ring if max_bytes is None else self._ring[-max_bytes:])
        return data.decode("utf-8", "backslashreplace")


def _text(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace").rstrip("\r")
