"""Tests with real children run on the loops on which a process can behave differently."""

from __future__ import annotations

import pytest

from tests.conftest import PROCESS_LOOPS, Backend

WAYS = {
    "posix": {},
    "posix-no-pidfd": {"ANYIO_BUS_NO_PIDFD": "1"},
    "portable": {"ANYIO_BUS_SPAWNER": "portable"},
}


@pytest.fixture(scope="module", params=PROCESS_LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    """Name the loop this test runs on."""
    backend: Backend = request.param
    return backend


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one way of spawning."""
    for name in ("ANYIO_BUS_SPAWNER", "ANYIO_BUS_NO_PIDFD"):
        monkeypatch.delenv(name, raising=False)
    for name, value in WAYS[request.param].items():
        monkeypatch.setenv(name, value)
    return str(request.param)
