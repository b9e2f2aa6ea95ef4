"""Tests with real children run on the loops on which a process can behave differently."""

from __future__ import annotations

import pytest

from tests.conftest import PROCESS_LOOPS, Backend


@pytest.fixture(scope="module", params=PROCESS_LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    """Name the loop this test runs on."""
    backend: Backend = request.param
    return backend
