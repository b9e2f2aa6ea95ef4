"""Own children on Unix: own pipes, own session and group, exit seen apart from the pipes' end.

The process is spawned in the calling thread, since Linux ties PDEATHSIG to it, through an exec shim
that sets it; every fd of ours is close-on-exec.
"""

from __future__ import annotations

import errno
import math
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from anyio_bus._io.guarding import Guard
from anyio_bus._io.launch import launch_options
from anyio_bus._io.process import Exit, SpawnError

if TYPE_CHECKING:
    from anyio_bus._config import Pool

assert sys.platform != "win32"  # also tells the type checkers

__all__ = ("PosixChild", "PosixSpawner")

_HERE = os.path.dirname(__file__)
_PERMANENT = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ENOEXEC,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.E2BIG,
    errno.ENAMETOOLONG,
    errno.EINVAL,
}


def _environment(pool: Pool) -> dict[str, str]:
    merged: dict[str, str | None] = {**os.environ, **pool.env}
    return {name: value for name, value in merged.items() if value is not None}


def _open_pidfd(pid: int) -> int | None:
    if sys.platform != "linux" or os.environ.get("ANYIO_BUS_NO_PIDFD"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


FEW_BUFFERS = 8  # more small ones are copied into one faster than the system takes them in one call


class PosixChild:
    """A child process of this one.

    Owns:
        Its pipes, its pidfd, and the process until it is reaped.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], fds: dict[str, int], spawner: PosixSpawner
    ) -> None:
        self._process = process
        self._fds = fds
        self._spawner = spawner
        self.pid: int = process.pid

    async def started(self) -> None:
        fd = self._fds.get("exec")
        if fd is None:
            return
        raw = await self._read("exec", 32)
        self._close("exec")
        if raw:
            number, _, option = raw.decode().partition(" ")
            code = int(number)
            error = OSError(code, os.strerror(code))
            raise SpawnError(error, permanent=code in _PERMANENT, option=option)

    async def run(self) -> None:
        return

    async def _read(self, name: str, max_bytes: int) -> bytes:
        while (fd := self._fds.get(name)) is not None:
            try:
                await anyio.wait_readable(fd)
            except anyio.ClosedResourceError:
                return b""
            try:
                return os.read(fd, max_bytes)
            except BlockingIOError:
                continue
            except OSError:
                return b""
        return b""

    def read_stdout(self, max_bytes: int) -> Awaitable[bytes]:
        return self._read("stdout", max_bytes)

    def read_stderr(self, max_bytes: int) -> Awaitable[bytes]:
        return self._read("stderr", max_bytes)

    def try_write(self, buffers: Sequence[bytes | memoryview]) -> int:
        fd = self._fds.get("stdin")
        if fd is None:
            raise BrokenPipeError(errno.EPIPE, "stdin is closed")
        try:
            if len(buffers) < FEW_BUFFERS:
                return os.writev(fd, buffers) if len(buffers) > 1 else os.write(fd, buffers[0])
            return os.write(fd, b"".join(buffers))
        except BlockingIOError:
            return 0

    async def room(self) -> bool:
        try:
            await anyio.wait_writable(self._fds["stdin"])
        except anyio.ClosedResourceError:
            raise BrokenPipeError(errno.EPIPE, "stdin is closed") from None
        return True

    async def write(self, buffers: Sequence[bytes | memoryview]) -> int:
        while not (written := self.try_write(buffers)):
            await self.room()
        return written

    def unread_bytes(self) -> int | None:
        import fcntl  # Unix only  # noqa: PLC0415
        import termios  # noqa: PLC0415

        fd = self._fds.get("stdin")
        if fd is None:
            return None
        count = bytearray(struct.calcsize("i"))
        try:
            fcntl.ioctl(fd, termios.FIONREAD, count)
        except OSError:
            return None
        (unread,) = struct.unpack("i", count)
        return int(unread)

    async def aclose_stdin(self) -> None:
        self._close("stdin")

    async def wait(self) -> None:
        fd = self._fds.get("pidfd")
        if fd is not None:
            with suppress(anyio.ClosedResourceError):
                await anyio.wait_readable(fd)
        elif self._process.returncode is None:
            await anyio.to_thread.run_sync(
                _wait_in_thread,
                self._process,
                abandon_on_cancel=True,
                limiter=anyio.CapacityLimiter(math.inf),
            )

    def _signal_group(self, number: int) -> None:
        # Not reaped: nobody else can have this pid. Darwin reaps in _wait_in_thread.
        if self._process.returncode is None or sys.platform == "darwin":
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGCONT)

    def terminate(self) -> None:
        self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        self._signal_group(signal.SIGKILL)

    def reap(self) -> Exit | None:
        code = self._process.poll()
        if code is None:
            return None
        self._spawner.unguard(self.pid)
        return Exit(signal=-code) if code < 0 else Exit(exit_code=code)

    async def aclose(self) -> None:
        self._close_all()

    def kill_now(self, reap_s: float) -> None:
        self.kill()
        limit = time.monotonic() + reap_s
        while self.reap() is None and time.monotonic() < limit:
            fd = self._fds.get("pidfd")
            if fd is not None:
                poll = select.poll()  # unlike select() it takes fds of 1024 and above
                poll.register(fd, select.POLLIN)
                poll.poll(1000 * max(0.0, limit - time.monotonic()))
            else:
                time.sleep(0.001)  # the last rung is synchronous, and bounded
        self._close_all()

    def abandon(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        self._process.returncode = 0  # it is the parent's child, not ours

    def _close(self, name: str) -> None:
        fd = self._fds.pop(name, None)
        if fd is not None:
            anyio.notify_closing(fd)
            os.close(fd)

    def _close_all(self) -> None:
        for name in tuple(self._fds):
            self._close(name)


def _wait_in_thread(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "darwin":  # cannot wait without reaping
        process.wait()
    else:
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


class PosixSpawner:
    """Spawns with :class:`subprocess.Popen` through the exec shim.

    Owns:
        The watchdog process of pools with ``guard=True``, if there are any.
    """

    name = "posix"

    def __init__(self) -> None:
        self._guard = Guard()

    async def spawn(self, pool: Pool) -> PosixChild:
        with ExitStack() as ours_on_failure, ExitStack() as theirs:
            try:
                if pool.guard:
                    self._guard.open()
                fds, process = self._popen(pool, ours_on_failure, theirs)
            except OSError as exc:
                raise SpawnError(exc, permanent=exc.errno in _PERMANENT, cwd=pool.cwd) from exc
            ours_on_failure.pop_all()
        if pool.guard:
            self._guard.add(process.pid)
        pidfd = _open_pidfd(process.pid)
        if pidfd is not None:
            fds["pidfd"] = pidfd
        return PosixChild(process, fds, self)

    def _popen(
        self, pool: Pool, ours_on_failure: ExitStack, theirs: ExitStack
    ) -> tuple[dict[str, int], subprocess.Popen[bytes]]:
        def pipe(*, child_reads: bool) -> tuple[int, int]:
            read_end, write_end = os.pipe()
            ours, its = (write_end, read_end) if child_reads else (read_end, write_end)
            ours_on_failure.callback(os.close, ours)
            theirs.callback(os.close, its)
            os.set_blocking(ours, False)
            return ours, its

        stdin, its_stdin = pipe(child_reads=True)
        stdout, its_stdout = pipe(child_reads=False)
        stderr, its_stderr = pipe(child_reads=False)
        fds = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        argv: list[str] = list(pool.argv)
        pass_fds: tuple[int, ...] = ()
        env = _environment(pool)
        if sys.executable:
            fds["exec"], its_exec = pipe(child_reads=False)
            pass_fds = (its_exec,)
            locale = f"={env['LC_CTYPE']}" if "LC_CTYPE" in env else ""
            shim = (
                sys.executable,
                "-I",
                "-S",
                os.path.join(_HERE, "_shim.py"),
                str(its_exec),
                str(os.getpid()),
                locale,
                launch_options(pool),
            )
            argv = [*shim, *argv]
        process = subprocess.Popen(
            argv,
            stdin=its_stdin,
            stdout=its_stdout,
            stderr=its_stderr,
            env=env,
            cwd=pool.cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        return fds, process

    def unguard(self, pid: int) -> None:
        """Take a group that is gone from the watchdog's list."""
        self._guard.discard(pid)

    def close(self) -> None:
        self._guard.close()

    def abandon(self) -> None:
        self._guard.abandon()
