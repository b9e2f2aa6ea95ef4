"""The daemon's tests are synchronous: what they test is a process of its own, on no loop of ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.daemon import kit

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]  # they look into /proc


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the daemon before the time of any test runs."""
    if any("daemon" in item.path.parts for item in session.items):
        kit.build()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it loudly where there is no daemon to test."""
    if kit.build.cache_info().currsize and kit.build() == kit.NO_COMPILER:
        terminalreporter.write_sep("*", kit.NO_COMPILER.strip("* "), red=True)


@pytest.fixture(scope="module")
def unix() -> Iterator[kit.Daemon]:
    """One daemon for all tests of a module that do not harm it: one puppet, on a unix socket."""
    yield from kit.running(unix=True)


@pytest.fixture
def client(unix: kit.Daemon) -> Iterator[kit.Client]:
    """A client of the daemon of the module."""
    with unix.connect() as client:
        yield client


@pytest.fixture
def other(unix: kit.Daemon) -> Iterator[kit.Client]:
    """One more client."""
    with unix.connect() as client:
        yield client
