"""What a bus costs in memory, idle and for each pending request.

    python benchmarks/memory.py [--loop NAME] [--runs 5] [--backend NAME] -- WORKER [ARG...]

Each figure is the difference of two programs in ``memory_probes/``, run in turn in processes of
their own, from ``/proc/self/smaps_rollup``: ``rss`` is resident memory, ``private`` the part of
it that no other process shares. Medians over the runs; the worker's own memory is not counted.

``idle_bus`` is in bytes: an idle bus with one worker against the same program without it.
``pending_request`` is in bytes a request: 10,000 unanswered requests, each in its task, against
10,000 tasks that wait on an ``anyio.Event`` each, both on top of 2,000 that wait already.
``pending_map_request`` is the same of one ``bus.map``, which has no task a request, against nothing.
Prints one JSON line for each loop and figure.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from memory_probes._probe import PENDING

PROBES = Path(__file__).parent / "memory_probes"
TIMEOUT_S = 90

Reading = dict[str, int]


def run_probe(name: str, arguments: list[str]) -> Reading:
    """Run one probe in a process of its own and return its reading."""
    command = [sys.executable, str(PROBES / f"{name}.py"), *arguments]
    output = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT_S
    ).stdout
    return {field: int(value) for field, value in map(str.split, output.splitlines())}


def compare(base: str, probe: str, arguments: list[str], runs: int) -> tuple[Reading, Reading]:
    """Run two probes in turn and return the medians of each."""
    readings: dict[str, list[Reading]] = {base: [], probe: []}
    for _ in range(runs):
        for name, taken in readings.items():
            taken.append(run_probe(name, arguments))
    base_median, probe_median = (
        {field: int(statistics.median(reading[field] for reading in taken)) for field in taken[0]}
        for taken in readings.values()
    )
    return base_median, probe_median


def main() -> None:
    """Measure both figures on each loop."""
    parser = argparse.ArgumentParser(description="Measure what a bus costs in memory.")
    parser.add_argument("--loop", action="append", choices=("asyncio", "uvloop", "trio"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("argv", nargs="+", metavar="WORKER", help="after --")
    options = parser.parse_args()
    for loop in options.loop or ("asyncio", "trio"):
        for figure, base, probe, divisor in (
            ("idle_bus", "idle_loop", "idle_bus", 1),
            ("pending_request", "pending_events", "pending_requests", PENDING),
            ("pending_map_request", "nothing", "pending_map", PENDING),
        ):
            arguments = [loop, options.backend, *options.argv]
            without, with_bus = compare(base, probe, arguments, options.runs)
            line = {"program": "memory", "figure": figure, "loop": loop}
            line |= {"backend": options.backend, "runs": options.runs}
            line |= {field: (with_bus[field] - without[field]) // divisor for field in without}
            line |= {"without": without, "with": with_bus}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
