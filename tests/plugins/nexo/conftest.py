"""Plugins run on asyncio and trio; uvloop where it could differ."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import ASYNCIO, TRIO, Backend
from tests.plugins.nexo.kit import Plugin, plugin


@pytest.fixture(scope="module", params=[ASYNCIO, TRIO])
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    """Name the loop of a test in this process."""
    backend: Backend = request.param
    return backend


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def loop(request: pytest.FixtureRequest) -> str:
    """Name the loop inside the plugin process."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def shared(loop: str) -> Iterator[Plugin]:
    """One plugin process for tests that leave it as they found it."""
    with plugin(loop) as process:
        assert process.alive()  # it has come so far that the net under each test knows it
        yield process
        assert process.end() == 0


@pytest.fixture
def fresh(loop: str) -> Iterator[Plugin]:
    """A plugin process of the test's own."""
    with plugin(loop) as process:
        yield process
