"""The same program with an idle bus and one echo worker, which has answered once."""

import sys

import anyio
from _probe import SETTLE_S, print_memory, run_probe

from anyio_bus import Pool, open_bus


async def main() -> None:
    """Open the bus, idle, then say how large the process is; the worker is not counted."""
    backend, *argv = sys.argv[2:]
    async with open_bus(Pool("echo", argv), backend=backend) as bus:
        await bus.request("echo", {"text": ""})
        await anyio.sleep(SETTLE_S)
        print_memory()


if __name__ == "__main__":
    run_probe(main)
