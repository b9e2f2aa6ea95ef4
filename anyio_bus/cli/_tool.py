"""Own other people's programs that a command runs, such as a compiler: none outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from anyio_bus.cli._exits import CommandError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("run_tool",)

REAP_LIMIT_S = 5.0


async def run_tool(command: Sequence[str], name: str, folder: Path, *, limit_s: float) -> int:
    """Run a program, which may start others, in a group of their own; return its exit code.

    What it says goes to stderr, what it leaves behind to a folder that goes away.

    Raises:
        CommandError: It has not ended in time.

    Cancellation:
        Kills all of the group.
    """
    env = {**os.environ, "TMPDIR": str(folder)}
    process = await anyio.open_process(
        command, stdin=subprocess.DEVNULL, stdout=2, stderr=2, env=env, start_new_session=True
    )
    async with process:
        try:
            with anyio.fail_after(limit_s):
                return await process.wait()
        except TimeoutError:
            text = f"{name} has not ended in {limit_s:g} s"
            raise CommandError(text) from None
        finally:
            with anyio.move_on_after(REAP_LIMIT_S, shield=True):
                await _end(process)


async def _end(process: anyio.abc.Process) -> None:
    if sys.platform != "win32" and process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
