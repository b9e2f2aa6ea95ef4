"""What a bus costs in memory, idle and for each pending request.

    python benchmarks/memory.py [--loop NAME] [--runs 5] [--backend NAME] -- WORKER [ARG...]

Each figure is the difference of two programs in ``memory_probes/``, run in turn in processes of
their own, from ``/proc/self/smaps_rollup``: ``rss`` is resident memory, ``private`` the part of
it that no other process shares. Medians over the runs; the worker's own memory is not counted.

``idle bus`` is in bytes: an idle bus with one worker against the same program without it.
``idle worker`` is in bytes a worker: the same bus with 17 workers against that with one.
``pending request, more than a task that waits for an event`` is in bytes a request: 10,000
unanswered requests, each in its task, against 10,000 tasks that wait on an ``anyio.Event`` each,
both on top of 2,000 that wait already.
``pending map request`` is the same of one ``bus.map``, which has no task a request, against nothing.
Prints one JSON line for each loop and figure.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from floor._common import KEEPING_BYTECODE
from memory_probes._probe import MORE_WORKERS, PENDING

PROBES = Path(__file__).parent / "memory_probes"
TIMEOUT_S = 90
OVER_EVENT = "pending request, more than a task that waits for an event"

Reading = dict[str, int]


def run_probe(name: str, arguments: list[str]) -> Reading:
    """Run one probe in a process of its own and return its reading."""
    command = [sys.executable, str(PROBES / f"{name}.py"), *arguments]
    output = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
        env=KEEPING_BYTECODE,
    ).stdout
    return {field: int(value) for field, value in map(str.split, output.splitlines())}


def compare(base: str, probe: str, arguments: list[str], runs: int) -> dict[str, list[Reading]]:
    """Run two probes in turn and return the readings of each."""
    readings: dict[str, list[Reading]] = {base: [], probe: []}
    for _ in range(runs):
        for name, taken in readings.items():
            taken.append(run_probe(name, arguments))
    return readings


def medians_of(taken: list[Reading]) -> Reading:
    """Return the median of each field."""
    return {
        field: int(statistics.median(reading[field] for reading in taken)) for field in taken[0]
    }


def main() -> None:
    """Measure both figures on each loop."""
    parser = argparse.ArgumentParser(description="Measure what a bus costs in memory.")
    parser.add_argument("--loop", action="append", choices=("asyncio", "uvloop", "trio"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("argv", nargs="+", metavar="WORKER", help="after --")
    options = parser.parse_args()
    for loop in options.loop or ("asyncio", "trio"):
        run_probe("idle_bus", [loop, options.backend, *options.argv])  # compiles what it imports
        for figure, base, probe, divisor in (
            ("idle bus", "idle_loop", "idle_bus", 1),
            ("idle worker", "idle_bus", "idle_workers", MORE_WORKERS),
            (OVER_EVENT, "pending_events", "pending_requests", PENDING),
            ("pending map request", "nothing", "pending_map", PENDING),
        ):
            arguments = [loop, options.backend, *options.argv]
            readings = compare(base, probe, arguments, options.runs)
            without, with_bus = (medians_of(readings[name]) for name in (base, probe))
            pairs = zip(readings[base], readings[probe], strict=True)
            each = [(more["rss"] - less["rss"]) // divisor for less, more in pairs]
            line = {"program": "memory", "figure": figure, "loop": loop}
            line |= {"text": f"{loop}: {figure}", "values": each}
            line |= {"backend": options.backend, "runs": options.runs}
            line |= {field: (with_bus[field] - without[field]) // divisor for field in without}
            line |= {"without": without, "with": with_bus}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
