"""Own children on systems without Unix processes, by ``anyio.open_process``: no groups, no pidfd."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from anyio_bus._io.process import Exit, SpawnError

if TYPE_CHECKING:
    from anyio_bus._config import Pool

__all__ = ("PortableChild", "PortableSpawner")

_CLOSED = (anyio.ClosedResourceError, anyio.BrokenResourceError, OSError)


class PortableChild:
    """A child process behind AnyIO's process object."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._stdin_open = True
        self.pid: int = process.pid

    async def started(self) -> None:
        return

    async def run(self) -> None:
        return

    @staticmethod
    async def _read(stream: anyio.abc.ByteReceiveStream | None, max_bytes: int) -> bytes:
        if stream is None:
            return b""
        try:
            return await stream.receive(max_bytes)
        except (anyio.EndOfStream, *_CLOSED):
            return b""

    async def read_stdout(self, max_bytes: int) -> bytes:
        return await self._read(self._process.stdout, max_bytes)

    async def read_stderr(self, max_bytes: int) -> bytes:
        return await self._read(self._process.stderr, max_bytes)

    def try_write(self, buffers: Sequence[bytes | memoryview]) -> int:
        return 0

    async def room(self) -> bool:
        return False

    async def write(self, buffers: Sequence[bytes | memoryview]) -> int:
        if self._process.stdin is None or not self._stdin_open:
            raise BrokenPipeError(errno.EPIPE, "stdin is closed")
        data = b"".join(buffers)
        try:
            await self._process.stdin.send(data)
        except _CLOSED as exc:
            raise BrokenPipeError(errno.EPIPE, "stdin is closed") from exc
        return len(data)

    def unread_bytes(self) -> int | None:
        return None

    async def aclose_stdin(self) -> None:
        self._stdin_open = False
        if self._process.stdin is not None:
            with suppress(*_CLOSED):
                await self._process.stdin.aclose()

    async def wait(self) -> None:
        await self._process.wait()

    def terminate(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def reap(self) -> Exit | None:
        code = self._process.returncode
        if code is None:
            return None
        return Exit(signal=-code) if code < 0 else Exit(exit_code=code)

    async def aclose(self) -> None:
        with anyio.move_on_after(1, shield=True):
            await self._process.aclose()

    def kill_now(self, reap_s: float) -> None:
        self.kill()

    def abandon(self) -> None:
        return


class PortableSpawner:
    """Spawns with ``anyio.open_process``."""

    name = "portable"

    async def spawn(self, pool: Pool) -> PortableChild:
        merged: dict[str, str | None] = {**os.environ, **pool.env}
        env = {name: value for name, value in merged.items() if value is not None}
        try:
            process = await anyio.open_process(pool.argv, env=env, cwd=pool.cwd)
        except OSError as exc:
            permanent = exc.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR)
            raise SpawnError(exc, permanent=permanent, cwd=pool.cwd) from exc
        return PortableChild(process)

    def close(self) -> None:
        return

    def abandon(self) -> None:
        return
