"""What a comparison is made of, and what runs it; ``suite.py`` has the table of them."""

import contextlib
import importlib.metadata
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import paired
from _busd import find_daemon, find_floor, make_config, pool
from _report import Row, describe

TIMEOUT_S = 120
LISTING_TIMEOUT_S = 600
QUICK_PAIRS, FULL_PAIRS = 3, 7

Result = dict[str, Any]
Round = dict[str, Result]  # by the label of the program


class Program(NamedTuple):
    """A command that prints one JSON line.

    ``{time}`` is how long it runs, ``{worker}`` the worker; ``{driver}``, ``{relay}``, ``{daemon}`` and
    ``{config}`` are other programs of the floor, our daemon and its configuration.
    """

    label: str
    command: str
    needs: str = ""  # a distribution, or an environment variable in capitals


class Claim(NamedTuple):
    """What is said of programs, by their labels; the limits are of the median over the rounds."""

    text: str
    how: str
    of: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None


class Comparison(NamedTuple):
    """Programs that are run in turn, and what is claimed of them."""

    name: str
    question: str
    programs: list[Program]
    claims: list[Claim]
    quick: bool = True
    seconds: float = 0.5  # that each program is timed for
    pairs: int = FULL_PAIRS
    quick_pairs: int = QUICK_PAIRS
    warm_up: bool = True  # by a round that is not counted
    timeout_s: float = TIMEOUT_S  # of each program


class Listing(NamedTuple):
    """A script that takes its own medians and prints one JSON line for each figure.

    ``{runs}`` in its command is how often it measures; the worker follows.
    """

    name: str
    question: str
    command: str
    unit: str
    runs: int
    quick_runs: int
    needs: str = ""
    quick: bool = True


def value_of(claim: Claim, results: Round) -> float:
    """Return what one round says of a claim."""
    first, *others = (results[label] for label in claim.of)
    if claim.how == "rate":  # of the first, to the other
        return float(first["rate"] / others[0]["rate"])
    if claim.how == "cpu":
        return float(first["cpu_us"] / others[0]["cpu_us"])
    if claim.how == "slowdown":  # how much longer the first takes for a request than the other
        return float(others[0]["rate"] / first["rate"])
    if claim.how == "step":  # the slowdown of two, to that of two others
        ours, theirs = others[0]["rate"] / first["rate"], others[2]["rate"] / others[1]["rate"]
        return float(ours / theirs)
    if claim.how == "tail":  # of one program
        return float(first["p99_us"] / first["p50_us"])
    if claim.how == "more ms":
        return float(first["p50_us"] - others[0]["p50_us"]) / 1000
    if claim.how == "ms":
        return float(first["p50_us"]) / 1000
    assert claim.how == "stop ms", claim.how
    return float(first["stop_us"]) / 1000


def is_met(claim: Claim, value: float) -> bool | None:
    """Tell whether a claim is kept; None where nothing was promised."""
    if claim.at_least is not None:
        return value >= claim.at_least
    return None if claim.at_most is None else value <= claim.at_most


# --- running it ------------------------------------------------------------------------------------


def why_missing(program: Program | Listing) -> str:
    """Return what a program lacks, nothing if it can be run."""
    for need in program.needs.split():
        if need.isupper():
            if not os.environ.get(need):
                return f"{need} is not set"
            continue
        try:
            importlib.metadata.version(need)
        except importlib.metadata.PackageNotFoundError:
            return f"{need} is not installed"
    return ""


@contextlib.contextmanager
def placed() -> Iterator[dict[str, str]]:
    """Yield what stands for the names in commands."""
    worker = find_floor("echo_worker")
    with tempfile.TemporaryDirectory(prefix="anyio-bus-suite-") as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(make_config([pool("echo", worker)])))
        names = {name: find_floor(name) for name in ("driver", "relay")}
        yield {**names, "worker": worker, "daemon": find_daemon(), "config": str(config)}


def command_of(command: str, names: dict[str, str], seconds: float) -> str:
    """Return a command that can be run."""
    limited = any(option in command for option in ("--count", "--n "))
    filled = command.format(**names, time="" if limited else f"--seconds {seconds:g}")
    head, *rest = shlex.split(filled)
    return shlex.join([sys.executable if head == "python" else head, *rest])


def judge(comparison: Comparison, rounds: list[Round], missing: dict[str, str]) -> list[Row]:
    """Return a row for each claim."""
    rows = []
    for claim in comparison.claims:
        row = Row(comparison.name, comparison.question, claim.text, [])
        if claim.at_least is not None:
            row = row._replace(target=f"at least {claim.at_least:g}", limit=claim.at_least)
        elif claim.at_most is not None:
            row = row._replace(target=f"at most {claim.at_most:g}", limit=claim.at_most)
        lacks = {missing[label]: None for label in claim.of if label in missing}
        if lacks:
            rows.append(row._replace(why_not="left out: " + ", ".join(lacks)))
            continue
        values = [value_of(claim, results) for results in rounds]
        met = is_met(claim, statistics.median(values))
        unit = "ms" if claim.how.endswith("ms") else "x"
        rows.append(row._replace(values=values, unit=unit, met=met))
    return rows


def compare(comparison: Comparison, names: dict[str, str], pairs: int) -> tuple[list[Row], Result]:
    """Run the programs of one comparison in turn."""
    missing = {p.label: why for p in comparison.programs if (why := why_missing(p))}
    for label, why in missing.items():
        print(f"  LEFT OUT: {label}: {why}", flush=True)
    present = [program for program in comparison.programs if program.label not in missing]
    commands = [command_of(program.command, names, comparison.seconds) for program in present]
    rounds: list[Round] = []
    for number in range(not comparison.warm_up, pairs + 1):
        results = [paired.run_once(command, comparison.timeout_s) for command in commands]
        if number:
            rounds.append({p.label: result for p, result in zip(present, results, strict=True)})
    programs = paired.summarize(
        [paired.without_paths(command) for command in commands],
        [list(results.values()) for results in rounds],
    )
    for program, summary in zip(present, programs, strict=True):
        summary["name"] = program.label
    rows = judge(comparison, rounds, missing)
    return rows, {"left_out": missing, "programs": programs, "rounds": rounds}


def list_figures(listing: Listing, names: dict[str, str], runs: int) -> tuple[list[Row], Result]:
    """Run a program that takes its own medians."""
    if why := why_missing(listing):
        return [
            Row(listing.name, listing.question, "all of it", [], why_not=f"left out: {why}")
        ], {}
    command = f"python benchmarks/{listing.command} {{worker}}".replace("{runs}", str(runs))
    command = command_of(command, names, 0)
    lines = paired.run_lines(command, LISTING_TIMEOUT_S)
    rows = [
        Row(listing.name, listing.question, line["text"], line["values"], listing.unit)
        for line in lines
    ]
    return rows, {"command": paired.without_paths(command), "lines": lines}


def attempt(
    one: Comparison | Listing, names: dict[str, str], pairs: int | None, *, full: bool
) -> tuple[list[Row], Result]:
    """Run one of the suite; where a program fails there is a row that says so."""
    try:
        if isinstance(one, Listing):
            return list_figures(one, names, one.runs if full else one.quick_runs)
        usual = one.pairs if full else one.quick_pairs
        return compare(one, names, pairs or usual)
    except SystemExit as exc:  # of paired.py
        why = f"FAILED: {paired.without_paths(str(exc))}"
        return [Row(one.name, one.question, "all of it", [], why_not=why)], {}


def run(
    chosen: list[Comparison | Listing], pairs: int | None, *, full: bool
) -> tuple[list[Row], dict[str, Result]]:
    """Run what was chosen, and print each row as it is known."""
    rows: list[Row] = []
    readings: dict[str, Result] = {}
    with placed() as names:
        for one in chosen:
            print(f"{one.name}: {one.question}", flush=True)
            began = time.monotonic()
            found, readings[one.name] = attempt(one, names, pairs, full=full)
            for row in found:
                print(f"  {describe(row)}", flush=True)
            print(f"  {time.monotonic() - began:.1f} s", flush=True)
            rows += found
    return rows, readings
