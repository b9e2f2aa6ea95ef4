"""What a new process pays: imports, and whole programs that send one request and end.

    python benchmarks/cold.py [-p PROCESSES] [-n VALUES] WORKER

``pyperf`` runs each command so many times, and has further options. Prints one JSON line for each, in
milliseconds; what Python itself takes to start is the first of them.
"""

import argparse
import importlib.util
import json
import statistics
import sys
from pathlib import Path

import pyperf

IMPORTS = ("anyio", "anyio_bus", "stdiobus", "mcp", "acp")
PROGRAMS = Path(__file__).parent / "cold_programs"


def commands(worker: str) -> dict[str, list[str]]:
    """Return what is run, by its name; a library that is not there is left out."""
    python = sys.executable
    return {
        "python": [python, "-c", "pass"],
        "one request by hand": [python, str(PROGRAMS / "by_hand.py"), worker],
        "one request by the bus": [python, str(PROGRAMS / "by_bus.py"), worker],
        **{
            f"import {name}": [python, "-c", f"import {name}"]
            for name in IMPORTS
            if importlib.util.find_spec(name)
        },
    }


def pass_on(command: list[str], options: argparse.Namespace) -> None:
    """Give the processes of pyperf what they have to know too."""
    command.append(options.worker_program)


def main() -> None:
    """Run each command in turn."""
    runner = pyperf.Runner(add_cmdline_args=pass_on)
    runner.argparser.add_argument("worker_program", metavar="WORKER")
    options = runner.parse_args()
    for name, command in commands(options.worker_program).items():
        bench = runner.bench_command(name, command)
        if bench is not None and not options.worker:  # else this is one of pyperf's processes
            each = [round(value * 1000, 2) for value in bench.get_values()]
            line = {"program": "cold", "text": name, "median": statistics.median(each)}
            print(json.dumps(line | {"values": each}), flush=True)


if __name__ == "__main__":
    main()
