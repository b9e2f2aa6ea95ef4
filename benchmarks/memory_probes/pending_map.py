"""10,000 ``hold`` requests of one ``bus.map``, none of them answered."""

import sys

from _probe import FILL, PENDING, print_memory, read_memory, run_probe

from anyio_bus import Bus, Pool, open_bus


async def settle(bus: Bus) -> None:
    """Return when the worker has read what was sent so far: its answers come after that."""
    await bus.request("echo", {"text": ""})


async def main() -> None:
    """Start the requests and say what they have added."""
    backend, *argv = sys.argv[2:]
    pool = Pool("echo", argv, max_in_flight=0)
    async with (
        open_bus(pool, backend=backend) as bus,
        bus.map("hold", ({"text": ""} for _ in range(FILL)), in_flight=FILL),
    ):
        await settle(bus)
        before = read_memory()
        async with bus.map("hold", ({"text": ""} for _ in range(PENDING)), in_flight=PENDING):
            await settle(bus)
            print_memory(since=before)


if __name__ == "__main__":
    run_probe(main)
