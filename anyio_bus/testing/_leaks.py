"""Own the check that nothing is left behind: processes, file descriptors, tasks.

A grandchild whose parent died is no child of ours any more, but it still carries the environment it
was born with: so while a check is open, a mark stands in this process's environment.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, final

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("LeakCheck", "LeakError")

MARK = "ANYIO_BUS_LEAK_CHECK"
SETTLE_S = 2.0  # for what is on its way out: a killed process takes its time to be gone
LOOK_EVERY_S = 0.005

_FD_FOLDERS = ("/proc/self/fd", "/dev/fd")
# What others keep for the whole life of a process, and start when it is needed first.
_NOT_OURS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
_RUNNER_CALL = "TestRunner._call_in_runner_task"  # AnyIO's pytest plugin makes one for each phase


class LeakError(AssertionError):
    """Something was left behind; the message lists it."""


class _Process(NamedTuple):
    """A process that was not there before."""

    pid: int

    def describe(self) -> str:
        return f"process {self.pid}: {_command(self.pid)}"


class _File(NamedTuple):
    """One open file descriptor of this process."""

    fd: int
    target: str

    def describe(self) -> str:
        return f"fd {self.fd}: {self.target}"


class _Task(NamedTuple):
    """One task of the running event loop."""

    task: Any

    def describe(self) -> str:
        coroutine = self.task.get_coro() if hasattr(self.task, "get_coro") else self.task.coro
        name = (
            self.task.name
            if isinstance(getattr(self.task, "name", None), str)
            else self.task.get_name()
        )
        return f"task {name}: {getattr(coroutine, '__qualname__', coroutine)}"


_Thing = _Process | _File | _Task


@final
class LeakCheck:
    """Fails if the block leaves a process, a file descriptor or a task behind.

    ::

        async with LeakCheck():
            async with open_bus(pool) as bus:
                ...

    As ``async with`` it sees tasks, and lets the loop run for a moment before it judges; as
    ``with`` it is for code without a loop. Processes are seen through ``/proc``, orphaned
    grandchildren included; those that are left are killed, so that one leak is reported once.
    Where there is no ``/proc`` only descriptors and tasks are checked.

    If the block raises, its exception comes out, with a note on what was left.

    Args:
        raising: False leaves the verdict in ``left`` instead of raising.

    Attributes:
        left: What was left, one line each; known once the block is left.

    Raises:
        LeakError: Something was left; the message lists it.

    Cancellation:
        The check itself is shielded; it takes two seconds at most, and only if something is left.
    """

    def __init__(self, *, raising: bool = True) -> None:
        self.left: list[str] = []
        self._raising = raising
        self._mark = uuid.uuid4().hex
        self._pids: frozenset[int] = frozenset()
        self._before: frozenset[_Thing] = frozenset()
        self._outer: str | None = None

    def __enter__(self) -> LeakCheck:
        """Remember what is there."""
        self._outer = os.environ.get(MARK)
        os.environ[MARK] = self._mark if self._outer is None else f"{self._outer}:{self._mark}"
        self._pids = _pids()
        self._before = frozenset([*_files(), *_tasks()])
        return self

    def __exit__(
        self, kind: object, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Compare."""
        limit = time.monotonic() + SETTLE_S
        while (left := self._left()) and time.monotonic() < limit:
            _wait_a_little(limit)
        self._judge(left, exc)

    async def __aenter__(self) -> LeakCheck:
        """Remember what is there."""
        await anyio.lowlevel.checkpoint()
        return self.__enter__()

    async def __aexit__(
        self, kind: object, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the loop finish what is on its way out, and compare."""
        limit = time.monotonic() + SETTLE_S
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
            while (left := self._left()) and time.monotonic() < limit:
                await anyio.lowlevel.checkpoint()
                _wait_a_little(limit)
        self._judge(left, exc)

    def _left(self) -> list[_Thing]:
        processes = _ours(_pids() - self._pids, self._mark.encode())
        others: list[_Thing] = [*_files(), *_tasks()]
        return [*processes, *(thing for thing in others if thing not in self._before)]

    def _judge(self, left: list[_Thing], exc: BaseException | None) -> None:
        if self._outer is None:
            os.environ.pop(MARK, None)
        else:
            os.environ[MARK] = self._outer
        self._before = frozenset()
        self.left = [thing.describe() for thing in left]
        for thing in left:
            if isinstance(thing, _Process):
                _kill(thing.pid)
        if not left or not self._raising:
            return
        text = "\n  ".join(["left behind:", *self.left])
        if exc is None:
            raise LeakError(text)
        exc.add_note(text)


def _wait_a_little(limit: float) -> None:
    """Give real time to the kernel, whatever clock the loop has, and the collector its chance."""
    if limit - time.monotonic() > SETTLE_S - 4 * LOOK_EVERY_S:
        gc.collect()
    time.sleep(LOOK_EVERY_S)


# --- processes ----------------------------------------------------------------------------------


def _pids() -> frozenset[int]:
    try:
        return frozenset(int(name) for name in os.listdir("/proc") if name.isdigit())
    except OSError:
        return frozenset()


def _ours(pids: frozenset[int], mark: bytes) -> Iterator[_Process]:
    """Pick our children, and what was born under this mark; younger than the mark they all are."""
    me = os.getpid()
    for pid in sorted(pids):
        with suppress(OSError):  # it ended while we looked, or it is not ours to read
            parent = int(_read(pid, "stat").rpartition(b")")[2].split()[1])
            if parent != me and mark not in _read(pid, "environ"):
                continue
            if not any(other in _read(pid, "cmdline") for other in _NOT_OURS):
                yield _Process(pid)


def _read(pid: int, what: str) -> bytes:
    with open(f"/proc/{pid}/{what}", "rb", buffering=0) as file:
        return file.read()


def _command(pid: int) -> str:
    try:
        line = _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
        return (
            line
            or f"{_read(pid, 'comm').decode(errors='replace').strip()} (ended, never waited for)"
        )
    except OSError:
        return "(ended)"


def _kill(pid: int) -> None:
    if sys.platform != "win32":
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)  # where it is a child of ours; init reaps the others


# --- file descriptors ---------------------------------------------------------------------------


def _files() -> Iterator[_File]:
    folder = next(filter(os.path.isdir, _FD_FOLDERS), None)
    for name in os.listdir(folder) if folder is not None else ():
        with suppress(OSError):  # the descriptor of this very listing
            fd = int(name)
            status = os.fstat(fd)
            try:
                target = os.readlink(f"{folder}/{name}")
            except OSError:
                target = f"device {status.st_dev}, inode {status.st_ino}"
            yield _File(fd, target)


# --- tasks --------------------------------------------------------------------------------------


def _tasks() -> list[_Task]:
    """List the tasks of the running loop; none where none runs."""
    trio = sys.modules.get("trio")
    if trio is not None:
        try:
            return [_Task(task) for task in _below(trio.lowlevel.current_root_task())]
        except RuntimeError:
            pass
    asyncio = sys.modules.get("asyncio")
    try:
        tasks = asyncio.all_tasks() if asyncio is not None else ()
    except RuntimeError:
        return []
    names = [(task, getattr(task.get_coro(), "__qualname__", "")) for task in tasks]
    return [_Task(task) for task, name in names if name != _RUNNER_CALL]


def _below(task: Any) -> list[Any]:
    if task is None:
        return []
    children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return [task, *(below for child in children for below in _below(child))]
