"""10,000 tasks, each of which waits for the answer to a ``hold`` request."""

import sys

import anyio
from _probe import FILL, PENDING, print_memory, read_memory, run_probe

from anyio_bus import Bus, Pool, open_bus


async def hold(bus: Bus, tg: anyio.abc.TaskGroup, count: int) -> None:
    """Start so many requests that are never answered; return when the worker has read them."""
    for _ in range(count):
        tg.start_soon(bus.request, "hold", {"text": ""})
    await anyio.wait_all_tasks_blocked()
    await bus.request("echo", {"text": ""})  # one pipe: its answer comes after their frames


async def main() -> None:
    """Start the requests and say what they have added."""
    backend, *argv = sys.argv[2:]
    pool = Pool("echo", argv, max_in_flight=0)
    async with open_bus(pool, backend=backend) as bus, anyio.create_task_group() as tg:
        await hold(bus, tg, FILL)
        before = read_memory()
        await hold(bus, tg, PENDING)
        print_memory(since=before)
        tg.cancel_scope.cancel()


if __name__ == "__main__":
    run_probe(main)
