"""A whole program that sends one request through a bus."""

import sys

import anyio

from anyio_bus import Pool, open_bus


async def main() -> None:
    """Ask, and check the answer."""
    async with open_bus(Pool("echo", sys.argv[1:])) as bus:
        assert await bus.request("echo", {"a": 1}) == {"a": 1}


anyio.run(main)
