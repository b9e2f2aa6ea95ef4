"""The daemon under load and misuse, in miniature: ``benchmarks/faults.py`` does it at length.

Nothing is timed here: what is counted are answers, failures, processes and descriptors.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.daemon import kit

BENCHMARKS = kit.ROOT / "benchmarks"
LIMIT = 1024 * 1024  # of a line: long enough to be torn, short enough for a test

Result = tuple[dict[str, Any], Any]


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the C programs of the benchmarks in a folder of their own."""
    if not shutil.which(os.environ.get("CC", "cc").split()[0]) or not shutil.which("make"):
        pytest.skip("no C compiler here: the worker and the load are in C")
    build = tmp_path_factory.mktemp("floor")
    make = ["make", "-s", "-C", str(BENCHMARKS / "floor"), f"BUILD={build}", "all"]
    done = subprocess.run(make, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return build


@pytest.fixture
def faults(floor: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the program as a module, its daemon the one that is tested."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("ANYIO_BUSD", kit.find_daemon())
    monkeypatch.setattr(importlib.import_module("_busd"), "FLOOR", floor)
    return importlib.import_module("faults")


def nothing_broken(run: Coroutine[Any, Any, Result]) -> dict[str, Any]:
    """Run to the end, and fail with what was broken."""
    report, verdicts = asyncio.run(run)
    assert not verdicts.counts, "\n".join(verdicts.examples)
    return report


@pytest.mark.timeout(60)
def test_each_request_is_answered_once_though_workers_are_killed(faults: ModuleType) -> None:
    run = faults.kills(count=60, rate=100, instances=2, sockets=2, settle_s=0)
    report = nothing_broken(run)
    assert report["kills"] == 60
    assert report["answered"] > 0
    assert report["failed"].get("-32050", 0) > 0


@pytest.mark.timeout(60)
def test_clients_that_vanish_leave_nothing_behind(faults: ModuleType) -> None:
    report = nothing_broken(faults.clients(seconds=2, count=20, timed=False, settle_s=0))
    assert len(report["visits"]) == 7  # each way to vanish


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "name",
    [
        "stalled_client",
        "stalled_worker",
        "flooding_worker",
        "flooded_client",
        "long_line",
        "line_over_the_limit",
        "bad_lines",
    ],
)
def test_others_are_served_beside_a_misbehaviour(faults: ModuleType, name: str) -> None:
    report = nothing_broken(faults.bad(seconds=1, only=name, limit=LIMIT, timed=False))
    assert list(report) == [name]
