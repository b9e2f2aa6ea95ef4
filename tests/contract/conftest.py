"""Which loops the suite runs on where: some places see the loop as others do, or only through AnyIO."""

from __future__ import annotations

import os

import pytest

from tests.contract.places import CANNOT
from tests.docker import kit

# Where the loop tells nothing more; or is asked on one loop alone.
ON_FEWER_LOOPS: tuple[str, ...] = ("python-portable", "python-no-pidfd")
ON_ONE_LOOP: tuple[str, ...] = ("connect-tcp", "native-listening", "connect-native", "docker")
# A run that has twenty minutes, on two cores, leaves the further loops to the kernels in this process.
if "CI" in os.environ:
    ON_FEWER_LOOPS += ("connect",)
    ON_ONE_LOOP += ("python-portable", "python-no-pidfd", "subprocess")
# What runs over TCP, too: the rest is as on a socket file.
TCP = ("test_requests.py", "test_streams.py")
FURTHER_LOOPS = ("asyncio+uvloop", "asyncio+eager")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run what differs little on asyncio and on trio alone, and each test where it can be run."""
    left_out = [item for item in items if _is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _is_left_out(item)]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the image of containers before the time of any test runs."""
    if any("[docker" in item.name or "-docker" in item.name for item in session.items):
        kit.find_engine()


def pytest_sessionfinish() -> None:
    """Remove it."""
    kit.clean_up()


def _is_left_out(item: pytest.Item) -> bool:
    nodeid = item.nodeid
    if "tests/contract/" not in nodeid:
        return False
    if "connect-tcp" in nodeid and not any(f"contract/{name}" in nodeid for name in TCP):
        return True
    needed = {feature for mark in item.iter_markers("needs") for feature in mark.args}
    if needed and isinstance(item, pytest.Function):
        place = item.callspec.params["place"]
        if needed & CANNOT.get(place.name, frozenset()):
            return True
    if "docker" in nodeid and "any_step" in nodeid:
        return True  # half a second for each bus: not a hundred starts
    if any(place in nodeid for place in ON_ONE_LOOP) and "trio" not in nodeid:
        return True
    return any(f in nodeid for f in ON_FEWER_LOOPS) and any(
        loop in nodeid for loop in FURTHER_LOOPS
    )
