"""Shared by the tests of the testing kit."""

from __future__ import annotations

import pytest


@pytest.fixture
def short_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a leak check finds here stays: no need to wait for it."""
    monkeypatch.setattr("anyio_bus.testing._leaks.SETTLE_S", 0.05)
