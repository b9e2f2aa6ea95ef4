"""What the process tests share: pools of puppets, their reports, and waits for a bus to change."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
from anyio.streams.buffered import BufferedByteReceiveStream

from anyio_bus import Bus, Limits, Pool, WorkerInfo

WORKERS = Path(__file__).parent / "workers"
PATIENCE_S = 10  # for what takes milliseconds: only a hang takes longer

# Restarts at once, or the tests would wait for the delays that a real program wants.
FAST = Limits(restart_delay_s=0.001, restart_delay_max_s=0.002, park_retry_s=0)

# Answers every request with {}, starts in a millisecond, ends at EOF.
SED = ("sed", "-u", "-E", 's/.*"id":([0-9]+).*/{"id":\\1,"result":{}}/')


@contextmanager
def patience() -> Iterator[None]:
    """Bound a wait."""
    with anyio.fail_after(PATIENCE_S):
        yield


def puppet(*arguments: str) -> list[str]:
    """Return the command of a worker that does what it is asked to (``workers/puppet.py``)."""
    return [sys.executable, "-I", "-S", str(WORKERS / "puppet.py"), *arguments]


def puppets(*arguments: str, **options: Any) -> Pool:
    """Return a pool of puppets called ``"puppets"``."""
    return Pool("puppets", puppet(*arguments), **options)


class Report:
    """One process that tells what happens to it; the end of its lines proves it dead."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self._lines = BufferedByteReceiveStream(stream)

    async def line(self) -> str:
        """Return the next line, "" at the end."""
        try:
            with patience():
                return (await self._lines.receive_until(b"\n", 65536)).decode()
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            return ""

    async def until(self, wanted: str) -> list[str]:
        """Return the lines up to a wanted one; it must come."""
        lines = [await self.line()]
        while lines[-1] != wanted:
            assert lines[-1], f"it died before it said {wanted!r}: {lines}"
            lines.append(await self.line())
        return lines

    async def open_gate(self) -> None:
        """Let it go on that waits in its method ``gate``."""
        await self._stream.send(b"x")

    async def rest(self) -> list[str]:
        """Return the lines until the process is dead."""
        lines = []
        while line := await self.line():
            lines.append(line)
        return lines

    async def pid(self) -> int:
        """Return its process id, from its first line."""
        return int((await self.line()).split()[1])


class Reports:
    """Where processes report to: ``path`` is a socket."""

    def __init__(self, listener: Any, path: str) -> None:
        self._listener = listener
        self._accepted: list[anyio.abc.ByteStream] = []
        self.path = path

    async def accept(self) -> Report:
        """Return the next process that connects."""
        with patience():
            stream = await self._listener.accept()
        self._accepted.append(stream)
        return Report(stream)

    async def aclose(self) -> None:
        """Close every connection: a process that waits for us to hang up ends."""
        for stream in self._accepted:
            await stream.aclose()
        await self._listener.aclose()


@asynccontextmanager
async def open_reports() -> AsyncIterator[Reports]:
    """Listen for reports on a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="bus-") as folder:
        path = os.path.join(folder, "s")
        reports = Reports(await anyio.create_unix_listener(path), path)
        try:
            yield reports
        finally:
            with anyio.CancelScope(shield=True):
                await reports.aclose()


async def until(bus: Bus, condition: Callable[[], bool]) -> None:
    """Wait until a condition on the workers of a bus holds; it is looked at with each change."""
    with patience():
        while not condition():
            await bus._life.bell.wait()


async def until_state(bus: Bus, state: str, worker: int | None = None) -> WorkerInfo:
    """Wait until a worker (the first) is in a state; return how it stands then."""

    def found() -> WorkerInfo | None:
        infos = [i for i in bus.workers() if worker is None or i.worker == worker]
        return next((info for info in infos if info.state == state), None)

    await until(bus, lambda: found() is not None)
    info = found()
    assert info is not None
    return info


def only(bus: Bus) -> WorkerInfo:
    """Return how the sole worker stands."""
    (info,) = bus.workers()
    return info


async def polled(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds for which there is no event; look at it in each turn."""
    with patience():
        while not condition():  # noqa: ASYNC110
            await anyio.lowlevel.checkpoint()


async def pending(bus: Bus, count: int) -> None:
    """Wait until so many requests have been made."""
    await polled(lambda: bus.statistics().pending >= count)


def children() -> list[int]:
    """Return the pids of this process's children, unreaped ones included."""
    found = []
    for thread in os.listdir("/proc/self/task"):
        found += Path(f"/proc/self/task/{thread}/children").read_text().split()
    return [int(pid) for pid in found]
