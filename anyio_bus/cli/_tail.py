"""``anyio-bus tail``: the frames of a running daemon's workers, as they pass."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio

from anyio_bus import Bus, TapFrame, open_bus
from anyio_bus.cli._exits import OK
from anyio_bus.cli._loop import quiet, run_in_loop
from anyio_bus.cli._top import daemon_at

if TYPE_CHECKING:
    from anyio_bus.cli._parser import Arguments

__all__ = ("execute",)

LOOK_S = 1.0
ARROWS = {"to_worker": "->", "from_worker": "<-"}


def execute(arguments: Arguments) -> int:
    """Run the command.

    Raises:
        ConnectionLostError: There is no daemon, or it ends.
        NotSupportedError: That is no admin listener.
    """
    quiet()

    async def follow() -> int:
        async with (
            open_bus(backend=daemon_at(arguments, admin=True)) as bus,
            bus.tap(pool=arguments.pool) as frames,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(_look_after, bus)
            async for frame in frames:
                print(line(frame), flush=True)
        return OK

    return run_in_loop(follow, "asyncio")


async def _look_after(bus: Bus) -> None:
    """Fail once the daemon is gone: no frame would tell."""
    while True:
        await bus.refresh()
        await anyio.sleep(LOOK_S)


def line(frame: TapFrame) -> str:
    """Lay out a frame: when, where, which way, what."""
    clock = time.strftime("%H:%M:%S", time.localtime(frame.time))
    where = f"{frame.pool}/{frame.worker}"
    text = frame.frame.decode("utf-8", "backslashreplace").rstrip("\n")
    lost = f"({frame.dropped} dropped) " if frame.dropped else ""
    bad = f"  [{frame.reason}]" if frame.reason else ""
    millis = int(frame.time % 1 * 1000)
    return f"{clock}.{millis:03} {where} {ARROWS[frame.direction]} {lost}{text}{bad}"
