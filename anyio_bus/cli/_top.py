"""``anyio-bus top``: the workers of a running daemon, again and again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from anyio_bus import Bus, Connect, WorkerInfo, open_bus
from anyio_bus.cli._exits import OK, WRONG_USE, CommandError
from anyio_bus.cli._loop import quiet, run_in_loop
from anyio_bus.cli._show import on_terminal

if TYPE_CHECKING:
    from anyio_bus.cli._parser import Arguments

__all__ = ("daemon_at", "execute")

CLEAR = "\x1b[H\x1b[2J"
HEAD = ("POOL", "WORKER", "STATE", "PID", "IN FLIGHT", "QUEUED", "SERVED", "SESSIONS", "UP", "WHY")
ROW = "{:<16} {:>6}  {:<9} {:>8} {:>9} {:>7} {:>8} {:>8} {:>9}  {}"
WHY_WIDTH = 60


def daemon_at(arguments: Arguments, *, admin: bool = False) -> Connect:
    """Return the daemon that a command is to look at.

    Raises:
        CommandError: The file of the token cannot be read.
    """
    token = None
    if arguments.token_file is not None:
        try:
            token = Path(arguments.token_file).read_text().strip("\n")
        except (OSError, UnicodeError) as exc:
            msg = f"--token-file {arguments.token_file}: {exc}"
            raise CommandError(msg, WRONG_USE) from exc
    url = arguments.url if "://" in arguments.url else f"unix://{Path(arguments.url).absolute()}"
    return Connect(url, token=token, admin=admin)


def execute(arguments: Arguments) -> int:
    """Run the command.

    Raises:
        ConnectionLostError: There is no daemon, or it ends.
    """
    quiet()
    live = on_terminal() and not arguments.once

    async def watch() -> int:
        async with open_bus(backend=daemon_at(arguments)) as bus:
            while True:
                await bus.refresh()
                print((CLEAR if live else "") + table(bus), flush=True)
                if arguments.once:
                    return OK
                await anyio.sleep(arguments.every)

    return run_in_loop(watch, "asyncio")


def table(bus: Bus) -> str:
    """Lay out how a bus stands."""
    kernel = bus.statistics().kernel
    first = (
        f"{kernel.workers} workers, {kernel.live_requests} requests in flight, "
        f"{kernel.queued_requests} queued, {kernel.sessions} sessions, "
        f"{kernel.worker_restarts} restarts, {kernel.bad_lines} bad lines"
    )
    rows = sorted(bus.workers(), key=lambda info: (info.pool, info.worker))
    return "\n".join([first, "", ROW.format(*HEAD).rstrip(), *map(_row, rows)])


def _row(info: WorkerInfo) -> str:
    minutes, seconds = divmod(int(info.uptime_s), 60)
    up = f"{minutes}:{seconds:02}" if info.pid else "-"
    why = " ".join(info.reason.split())[:WHY_WIDTH]
    cells = (info.in_flight, info.queued, info.served, info.sessions)
    return ROW.format(info.pool, info.worker, info.state, info.pid or "-", *cells, up, why).rstrip()
