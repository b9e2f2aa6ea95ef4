"""The nets under each test (``conftest.py``, ``leaks.py``) catch what they are there for."""

from __future__ import annotations

import os
import subprocess
import sys

import anyio
import pytest

from tests import leaks
from tests.conftest import bounded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_grandchild_without_its_parent_is_found_and_ended() -> None:
    before = leaks.snapshot()
    leaks.leave_orphan("sleep 100")

    left = leaks.left_since(before, dying_ms=0)

    assert len(left) == 1
    assert "sleep 100" in str(left[0])
    assert leaks.left_since(before) == []


def test_a_child_nobody_waited_for_is_found() -> None:
    before = leaks.snapshot()
    child = subprocess.Popen(["true"])

    left = leaks.left_since(before)

    assert [thing.pid for thing in left if isinstance(thing, leaks.Process)] == [child.pid]
    child.wait()


def test_an_open_pipe_is_found_at_both_ends() -> None:
    before = leaks.snapshot()
    ends = os.pipe()

    left = leaks.left_since(before)

    assert [thing.fd for thing in left if isinstance(thing, leaks.OpenFile)] == list(ends)
    for fd in ends:
        os.close(fd)


async def test_a_hanging_test_is_cancelled_where_it_hangs() -> None:
    with pytest.raises(TimeoutError):
        await bounded(anyio.sleep_forever, limit_s=0.01)()
