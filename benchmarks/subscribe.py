"""What a subscriber that never reads costs its neighbours.

    python benchmarks/subscribe.py [--loop NAME] [--count N] [--pairs 7] -- WORKER [ARG...]

A worker sends N notifications and then its answer, in turns with a subscriber that reads all of them
alone and with one more that never reads. Prints one JSON line with the medians of the time until the
answer, in milliseconds, and of the ratios of each pair.
"""

import argparse
import json
import statistics
import time

import anyio

from anyio_bus import Bus, Pool, Subscription, open_bus


async def drain(notes: Subscription, count: int) -> None:
    """Read so many notifications."""
    while count:
        count -= len(await notes.receive_batch())


async def answer_ms(bus: Bus, count: int, *, lazy: bool) -> float:
    """Return how long an answer takes that comes after so many notifications."""
    async with (
        bus.subscribe(max_queue=count) as notes,
        bus.subscribe("chunk" if lazy else "none", max_queue=10),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(drain, notes, count)
        began_ns = time.perf_counter_ns()
        await bus.request("stream", {"count": count})
        took_ns = time.perf_counter_ns() - began_ns
    if notes.dropped:
        raise AssertionError(f"{notes.dropped} notifications were dropped")
    return took_ns / 1e6


async def main(options: argparse.Namespace) -> None:
    """Measure in pairs and print the medians."""
    pairs = []
    async with open_bus(Pool("echo", options.argv)) as bus:
        await answer_ms(bus, options.count, lazy=True)
        for _ in range(options.pairs):
            alone = await answer_ms(bus, options.count, lazy=False)
            pairs.append((alone, await answer_ms(bus, options.count, lazy=True)))
    result = {
        "program": "subscribe",
        "loop": options.loop,
        "count": options.count,
        "alone_ms": statistics.median(alone for alone, _ in pairs),
        "with_lazy_ms": statistics.median(lazy for _, lazy in pairs),
        "ratio": statistics.median(lazy / alone for alone, lazy in pairs),
    }
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "trio"), default="asyncio")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("argv", nargs="+", metavar="WORKER", help="after --")
    parsed = parser.parse_args()
    anyio.run(
        main,
        parsed,
        backend="trio" if parsed.loop == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if parsed.loop == "uvloop" else {},
    )
