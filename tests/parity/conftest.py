"""Parity is tested synchronously: what is performed are programs, each a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import kit
from tests.parity.stage import Workers

CLIENTS = Path(__file__).parent / "clients"

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]  # as the tests of the daemon


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the daemon before the time of any test runs."""
    if any("parity" in item.path.parts for item in session.items):
        kit.build()


@pytest.fixture
def workers() -> Iterator[Workers]:
    """What the workers of a transcript are at the other end of."""
    workers = Workers()
    yield workers
    workers.close()


@pytest.fixture(scope="session")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the command of the client in C, which is built here."""
    compiler = os.environ.get("CC", "cc").split()
    if not shutil.which(compiler[0]):
        pytest.skip("NOT TESTED with a client in C: there is no C compiler here")
    program = tmp_path_factory.mktemp("client") / "client"
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    build = [*compiler, *flags, "-o", str(program), str(CLIENTS / "client.c")]
    done = subprocess.run(build, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [str(program)]


@pytest.fixture(scope="session")
def node_client() -> list[str]:
    """Return the command of the client on Node."""
    if not shutil.which("node"):
        pytest.skip("NOT TESTED with a client on Node: there is no node here")
    return ["node", str(CLIENTS / "client.mjs")]
