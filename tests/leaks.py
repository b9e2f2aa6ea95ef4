"""What a test may leave behind: processes and file descriptors, by name.

A grandchild that lost its parent is no child of ours any more. It still carries the environment it
was born with, so the run puts a mark there and looks for it in every process it can read.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import NamedTuple

MARK = "ANYIO_BUS_TEST_RUN"
KTHREADD = 2  # the parent of the kernel's own threads, which have no environment
DYING_MS = 2000  # a killed process takes its time to be gone; one that lives this long is a leak


class Process(NamedTuple):
    """One incarnation of a process id."""

    pid: int
    started: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid}: {self.command}"


class OpenFile(NamedTuple):
    """One open file descriptor of this process."""

    fd: int
    target: str

    def __str__(self) -> str:
        return f"fd {self.fd}: {self.target}"


class Snapshot(NamedTuple):
    """What exists at one moment."""

    processes: frozenset[Process]
    files: frozenset[OpenFile]


def mark_this_run() -> None:
    """Mark the environment, and with it every process started from here on."""
    os.environ[MARK] = f"{os.getpid()}-{uuid.uuid4().hex}"


def snapshot() -> Snapshot:
    """List our living descendants, our unreaped children and our open files."""
    if sys.platform != "linux":
        return Snapshot(frozenset(), frozenset())
    return Snapshot(frozenset(_processes()), frozenset(_files()))


def left_since(before: Snapshot, dying_ms: int = DYING_MS) -> list[Process | OpenFile]:
    """Return what is new since ``before`` and stays; the processes among it are killed."""
    now = snapshot()
    if left := now.processes - before.processes:
        _wait_until_dead(left, dying_ms)
        now = snapshot()
        left = now.processes - before.processes
    for process in left:
        _kill(process.pid)
    return [*sorted(left), *sorted(now.files - before.files)]


def leave_orphan(command: str) -> None:
    """Start a process whose parent ends at once; returns when it can be seen.

    While it becomes another program it has no environment, and shows no mark.
    """
    subprocess.run(["sh", "-c", f"setsid {command} >/dev/null 2>&1 &"], check=True, timeout=10)
    while not any(process.command.strip() == command for process in snapshot().processes):
        pass


def _processes() -> Iterator[Process]:
    me = os.getpid()
    mark = f"{MARK}={os.environ[MARK]}".encode()
    listed = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {me}
    _strangers.intersection_update(listed)
    for pid in listed - _strangers:
        with suppress(OSError):  # it ended while we looked
            state, parent, started = _stat(pid)
            environment = b"" if parent == me else _environment(pid)
            if parent == me or mark in environment:
                yield Process(pid, started, _command(pid, state))
            elif environment or parent == KTHREADD:  # none: a zombie, or between fork and exec
                _strangers.add(pid)


# Whose environment lacks the mark will not get it later; without this, looking at each process of
# the machine twice would take longer than most tests.
_strangers: set[int] = set()


def _read(pid: int, what: str) -> bytes:
    with open(f"/proc/{pid}/{what}", "rb", buffering=0) as file:
        return file.read()


def _environment(pid: int) -> bytes:
    try:
        return _read(pid, "environ")
    except PermissionError:
        return b"not ours to read"


def _stat(pid: int) -> tuple[str, int, str]:
    fields = _read(pid, "stat").decode().rpartition(")")[2].split()
    return fields[0], int(fields[1]), fields[19]


def _command(pid: int, state: str) -> str:
    if state == "Z":
        return f"{_read(pid, 'comm').decode().strip()} (ended, never waited for)"
    return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace")


def _files() -> Iterator[OpenFile]:
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor of this very listing
            yield OpenFile(int(name), os.readlink(f"/proc/self/fd/{name}"))


def _wait_until_dead(processes: Iterable[Process], dying_ms: int) -> None:
    with ExitStack() as stack:
        for process in processes:
            with suppress(OSError):
                pidfd = os.pidfd_open(process.pid)
                stack.callback(os.close, pidfd)
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                poll.poll(dying_ms)


def _kill(pid: int) -> None:
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
