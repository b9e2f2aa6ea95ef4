"""Which loops the suite runs on where: the fallbacks of a spawner see the loop only through AnyIO."""

from __future__ import annotations

import pytest

FALLBACKS = ("python-portable", "python-no-pidfd")
FURTHER_LOOPS = ("asyncio+uvloop", "asyncio+eager")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the fallbacks on asyncio and on trio alone."""
    left_out = [item for item in items if _is_left_out(item.nodeid)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _is_left_out(item.nodeid)]


def _is_left_out(nodeid: str) -> bool:
    if "tests/contract/" not in nodeid:
        return False
    return any(f in nodeid for f in FALLBACKS) and any(loop in nodeid for loop in FURTHER_LOOPS)
