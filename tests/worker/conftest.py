"""Worker processes run on each loop that a program can choose."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def loop(request: pytest.FixtureRequest) -> str:
    """Name the loop inside the worker process: the argument of its program."""
    name: str = request.param
    return name
