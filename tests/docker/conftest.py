"""The tests of containers run on a real engine, or say loudly that they did not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conftest import ASYNCIO, TRIO, Backend
from tests.docker import kit

NOT_TESTED = "THE DOCKER BACKEND IS NOT TESTED"


LOOPS = [TRIO] if "CI" in os.environ else [ASYNCIO, TRIO]  # as in tests/contract/conftest.py


@pytest.fixture(scope="module", params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    """Name the loop: one of each kind, for containers are slow, and tell loops apart no further."""
    backend: Backend = request.param
    return backend


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[kit.Engine]:
    """Return the engine; no test leaves a container there."""
    found = kit.find_engine()
    if isinstance(found, str):
        pytest.skip(f"*** {NOT_TESTED}: {found} ***")
    for name, value in found.env.items():
        monkeypatch.setenv(name, value)
    yield found
    left = found.containers()
    if left:
        found.run("rm", "--force", *left, check=False)
        pytest.fail(f"the test left containers: {' '.join(left)}")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the image before the time of any test runs."""
    if any("docker" in item.path.parts for item in session.items):
        kit.find_engine()


def pytest_sessionfinish() -> None:
    """Remove the image."""
    kit.clean_up()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it loudly where there is no engine."""
    if kit.find_engine.cache_info().currsize and isinstance(reason := kit.find_engine(), str):
        terminalreporter.write_sep("*", f"{NOT_TESTED}: {reason}", red=True)
