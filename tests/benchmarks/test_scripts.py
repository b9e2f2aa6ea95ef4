"""Each script of the benchmarks runs and counts right, in miniature; nothing is timed here."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.daemon import kit

BENCHMARKS = kit.ROOT / "benchmarks"
COUNT = 64

Result = dict[str, Any]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the worker of the benchmarks."""
    if not shutil.which(os.environ.get("CC", "cc").split()[0]) or not shutil.which("make"):
        pytest.skip("no C compiler here: the worker is in C")
    build = tmp_path_factory.mktemp("floor")
    make = ["make", "-s", "-C", str(BENCHMARKS / "floor"), f"BUILD={build}"]
    made = f"{build}/echo_worker"
    done = subprocess.run([*make, made], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return made


def run(*arguments: str) -> list[Result]:
    """Run a program of the benchmarks and return its lines."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=kit.ROOT, capture_output=True, text=True, check=False, timeout=15
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


SCRIPTS = [
    "floor/loop_event.py --in-flight 8",
    "floor/loop_waiter.py --in-flight 8 --loop trio",
    "floor/loop_pipelined.py --in-flight 8",
    "floor/loop_chunks.py",
    "request.py --in-flight 8 --sessions 3",
    "request.py --in-flight 8 --held 100 --reply 100000 --loop trio",
    "map.py --in-flight 8",
    "stream.py --streams 3 --one-by-one --loop trio",
    "stream.py --chunks acp",
    "fanout.py --subscribers 2",
    "blocking.py --in-flight 2",
    "mixed.py --beside garbage",
]


@pytest.mark.parametrize("command", SCRIPTS)
def test_script_checks_its_answers_and_does_what_it_counts(command: str, worker: str) -> None:
    script, *options = command.split()
    (line,) = run(f"benchmarks/{script}", *options, "--count", str(COUNT), "--", worker)
    assert line["count"] == COUNT
    assert line["rate"] > 0


@pytest.mark.parametrize("by_hand", ["", "--by-hand"])
def test_starts_are_timed_to_the_first_answer_and_to_the_end(by_hand: str, worker: str) -> None:
    (line,) = run("benchmarks/start.py", *by_hand.split(), "--count", "2", "--", worker)
    assert line["count"] == 2
    assert line["p50_us"] > 0
    assert line["stop_us"] > 0


def test_plain_asyncio_has_the_command_line_and_the_line_of_the_others(worker: str) -> None:
    rival = "benchmarks.rivals.plain_asyncio"
    (line,) = run("-m", rival, "--in-flight", "8", "--count", str(COUNT), "--", worker)
    assert line["count"] == COUNT


@pytest.mark.skipif(sys.platform != "linux", reason="processor time is read from /proc")
@pytest.mark.parametrize("what", ["events", "publishes", "tools", "calls", "starts"])
def test_nexo_plugin_is_asked_and_its_answers_are_checked(what: str) -> None:
    count = 1 if what == "starts" else COUNT
    options = ("--loop", "trio", "--in-flight", "8", "--count", str(count))
    (line,) = run("benchmarks/nexo.py", what, *options)
    assert line["count"] == count
    assert line["rate"] > 0


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return what runs comparisons, as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("_suite")


def make_comparison(suite: ModuleType) -> Any:
    options = f"--count {COUNT} -- {{worker}}"
    return suite.Comparison(
        "small",
        "`request`, one in flight",
        [
            suite.Program("loop", f"python benchmarks/floor/loop_event.py {options}"),
            suite.Program("bus", f"python benchmarks/request.py {options}"),
            suite.Program("absent", "python nothing.py", needs="no-such-distribution"),
        ],
        [
            suite.Claim("rate", "rate", ("bus", "loop"), at_least=1e9),
            suite.Claim("slowdown", "slowdown", ("bus", "loop"), at_most=1e9),
            suite.Claim("to a rival", "rate", ("bus", "absent"), at_least=1),
        ],
        warm_up=False,
    )


def test_comparison_judges_its_claims_and_leaves_out_a_rival_that_is_not_there(
    suite: ModuleType, worker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(kit.ROOT)
    rows, reading = suite.attempt(make_comparison(suite), {"worker": worker}, 1, full=False)
    assert [row.met for row in rows] == [False, True, None]
    assert rows[2].why_not == "left out: no-such-distribution is not installed"

    report = importlib.import_module("_report")
    settings = {"full": False, "load": 0.0}
    report.report(tmp_path / "out.json", rows, {"small": reading}, settings)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["rows"][0]["values"] == rows[0].values
    assert len(written["comparisons"]["small"]["rounds"]) == 1
    assert str(tmp_path.parent) not in json.dumps(written)  # no path of this machine
    table = (tmp_path / "out.md").read_text()
    assert "1 of 2 targets met." in table
    assert "| to a rival | left out: no-such-distribution is not installed |" in table


def test_program_that_fails_is_a_row_of_the_table(suite: ModuleType) -> None:
    broken = suite.Comparison("broken", "?", [suite.Program("a", "python -c 1/0")], [])
    ((row,), reading) = suite.attempt(broken, {}, 1, full=False)
    assert row.why_not.startswith("FAILED: exit code 1")
    assert reading == {}


@pytest.mark.usefixtures("suite")
@pytest.mark.parametrize("chosen", [("--full",), ("--only", "nexo-calls-1")])
def test_what_is_of_two_cores_is_left_out_on_one(
    chosen: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = importlib.import_module("suite")

    def names(*options: str) -> set[str]:
        monkeypatch.setattr(sys, "argv", ["suite.py", *chosen, *options])
        return {one.name for one in table.choose(table.parse())}

    assert names() - names("--one-core") == {"nexo-calls-1-two-cores"}
    assert "nexo-calls-1-one-core" in names("--one-core")


def test_names_of_the_suite_are_different_and_its_labels_known(suite: ModuleType) -> None:
    table = importlib.import_module("suite").SUITE
    names = [one.name for one in table]
    assert len(names) == len(set(names))
    for one in table:
        if isinstance(one, suite.Comparison):
            labels = [program.label for program in one.programs]
            assert len(labels) == len(set(labels)), one.name
            assert {label for claim in one.claims for label in claim.of} <= set(labels), one.name
