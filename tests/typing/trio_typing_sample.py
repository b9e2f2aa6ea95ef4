"""A program that still has trio-typing installed, for the nox sessions ``trio_typing_*``.

It is type-checked with the stubs that trio-typing puts in the place of trio's own types, with and
without its mypy plugin, and then run.
"""

from __future__ import annotations

import sys

import trio
import trio_typing

from anyio_bus import Bus, Pool, open_bus


async def ask(
    bus: Bus,
    message: str,
    *,
    task_status: trio_typing.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    answer = await bus.request("echo", {"message": message})
    task_status.started(str(answer))
    await trio.sleep_forever()


async def ask_in_background(nursery: trio_typing.Nursery, bus: Bus, message: str) -> str:
    answer: str = await nursery.start(ask, bus, message)
    return answer


async def main() -> None:
    pool = Pool("echo", [sys.executable, "-m", "anyio_bus.testing.workers.echo"])
    async with open_bus(pool) as bus, trio.open_nursery() as nursery:
        with trio.fail_after(30):
            print(await ask_in_background(nursery, bus, "hello"))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
