"""``bus.request`` from as many tasks as requests shall be in flight, by the loops' command line.

The same client tasks, the same worker and the same meter as ``floor/loop_event.py``: what differs
is the library between them. ``--backend`` names the backend to take.
"""

from floor._common import Figures, Options, measure, parse_options, run_in_loop

from anyio_bus import Pool, open_bus


async def main(options: Options) -> Figures:
    """Measure requests through one bus."""
    echo = Pool("echo", options.argv, instances=options.workers)
    async with open_bus(echo, backend=options.backend) as bus:
        await bus.wait_ready()
        return await measure(options, bus.request)


if __name__ == "__main__":
    parsed = parse_options()
    run_in_loop(f"request[{parsed.backend}]", parsed, main)
