"""The same program as ``idle_bus.py`` with more workers."""

import sys

import anyio
from _probe import MORE_WORKERS, SETTLE_S, print_memory, run_probe

from anyio_bus import Pool, open_bus


async def main() -> None:
    """Open the bus, idle, then say how large the process is; the workers are not counted."""
    backend, *argv = sys.argv[2:]
    async with open_bus(Pool("echo", argv, instances=1 + MORE_WORKERS), backend=backend) as bus:
        await bus.wait_ready()
        await bus.request("echo", {"text": ""})
        await anyio.sleep(SETTLE_S)
        print_memory()


if __name__ == "__main__":
    run_probe(main)
