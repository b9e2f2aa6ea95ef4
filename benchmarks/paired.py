"""Run programs that print one JSON line each in turn, A B A B, and compare their rates.

    python benchmarks/paired.py --a 'CMD' --b 'CMD' [--more 'CMD'] [--pairs 7] [--json FILE]

Ratios are against A: 0.80 says that the program reached 80 % of A's rate in that pair. A noisy
machine moves both programs of a pair, so read the median of the ratios before any rate. Where
all programs report ``cpu_us``, its ratio is printed too: neighbours move it less. The first
pair warms caches up and is not counted. Each program has ``--timeout`` seconds.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PACKAGES = (
    *("anyio", "trio", "uvloop", "msgspec", "cffi", "anyio-bus"),
    *("stdiobus", "mcp", "agent-client-protocol", "nexoai", "pyperf"),
)
ROOT = Path(__file__).parent.parent
FIELDS = ("rate", "p50_us", "p99_us", "cpu_us")
COMPARED = ("rate", "cpu_us")
STOP_LIMIT_S = 5
LOG_BYTES = 4000  # of the end of what a program that failed has logged

Result = dict[str, Any]


def run_lines(command: str, timeout_s: float) -> list[Result]:
    """Run one program and return its JSON lines; it is ended by its pid when time is up.

    What else it prints is not read, and what it logs is shown when it fails: rivals log a lot.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            shlex.split(command), stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except BaseException as exc:  # noqa: ASYNC103
            process.kill()  # its worker sees the end of its stdin
            process.wait(STOP_LIMIT_S)
            if isinstance(exc, subprocess.TimeoutExpired):
                raise SystemExit(  # noqa: ASYNC104  # there is no event loop here
                    f"no result after {timeout_s} s: {command}"
                ) from None
            raise
        lines = [line for line in output.splitlines() if line.startswith("{")]
        if process.returncode != 0 or not lines:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_BYTES))
            print(log.read().decode(errors="replace"), file=sys.stderr)
            raise SystemExit(f"exit code {process.returncode}, {len(lines)} lines: {command}")
    return [json.loads(line) for line in lines]


def run_once(command: str, timeout_s: float) -> Result:
    """Run one program and return its JSON line."""
    return run_lines(command, timeout_s)[-1]


def run_rounds(commands: list[str], pairs: int, timeout_s: float) -> list[list[Result]]:
    """Run all programs in turn, once to warm up and then ``pairs`` times."""
    rounds: list[list[Result]] = []
    for number in range(pairs + 1):
        results = [run_once(command, timeout_s) for command in commands]
        if number:
            rounds.append(results)
            print(f"pair {number}: {describe_round(results)}", flush=True)
    return rounds


def describe_round(results: list[Result]) -> str:
    """Return the rates of one round and their ratios to the first."""
    first, *others = (result["rate"] for result in results)
    return f"a {first:,.0f}/s" + "".join(
        f"  {name} {rate:,.0f}/s  {name}/a {rate / first:.3f}"
        for name, rate in zip(names(len(results))[1:], others, strict=True)
    )


def names(count: int) -> list[str]:
    """Return a, b, c, ... for so many programs."""
    return [chr(ord("a") + index) for index in range(count)]


def median_of(results: list[Result], field: str) -> float | None:
    """Return the median of one field, None where a program has none."""
    values = [result[field] for result in results if result.get(field) is not None]
    return statistics.median(values) if values else None


def compare(results: list[Result], first: list[Result], field: str) -> Result | None:
    """Return the ratio of one field in each pair, and its spread; None where one has none."""
    if any(result.get(field) is None for result in (*results, *first)):
        return None
    ratios = [ours[field] / theirs[field] for ours, theirs in zip(results, first, strict=True)]
    spread = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return spread | {"each": ratios}


def summarize(commands: list[str], rounds: list[list[Result]]) -> list[Result]:
    """Return one row per program: its medians, and its ratios to the first."""
    columns = [list(column) for column in zip(*rounds, strict=True)]
    return [
        {"name": name, "command": command}
        | {field: median_of(results, field) for field in FIELDS}
        | {f"{field}_ratio": compare(results, columns[0], field) for field in COMPARED}
        for name, command, results in zip(names(len(commands)), commands, columns, strict=True)
    ]


def print_summary(rows: list[Result]) -> None:
    """Print medians of each program and the spread of its ratios."""
    for row in rows:
        times = "".join(
            f", {field[:3]} {row[field]:,.1f} us" for field in FIELDS[1:] if row[field] is not None
        )
        print(f"{row['name']}: median {row['rate']:,.0f}/s{times}  {row['command']}")
    for field in COMPARED:
        for row in rows[1:]:
            if (ratio := row[f"{field}_ratio"]) is not None:
                spread = f"min {ratio['min']:.3f}, max {ratio['max']:.3f}"
                print(f"{field} {row['name']}/a: median {ratio['median']:.3f}, {spread}")


def describe_commit() -> str | None:
    """Return the commit that is measured, None outside of a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    return None


def describe_cpu() -> str | None:
    """Return the model of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return None


def describe_machine() -> Result:
    """Return what a figure is worth little without; no names, no paths."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": versions,
        "commit": describe_commit(),
        "cpu": describe_cpu(),
        "cpus": os.cpu_count(),
        "cpus_allowed": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "machine": platform.machine(),
    }


def without_paths(command: str) -> str:
    """Return the command with absolute paths cut to their last part."""
    return shlex.join(
        Path(word).name if word.startswith("/") else word for word in shlex.split(command)
    )


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description="Compare the rates of programs, run in turn.")
    parser.add_argument("--a", required=True, metavar="CMD", help="the reference")
    parser.add_argument("--b", required=True, metavar="CMD")
    parser.add_argument("--more", action="append", default=[], metavar="CMD")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--timeout", type=float, default=60, help="seconds for each program")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.pairs < 1:
        parser.error("--pairs must be positive")
    commands = [options.a, options.b, *options.more]
    rounds = run_rounds(commands, options.pairs, options.timeout)
    rows = summarize([without_paths(command) for command in commands], rounds)
    print_summary(rows)
    if options.json is not None:
        written = {"machine": describe_machine(), "programs": rows, "rounds": rounds}
        options.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
