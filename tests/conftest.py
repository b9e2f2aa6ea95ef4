"""The event loops every async test runs on, as data, and two nets under each test.

The nets: a test that leaves a process or a file descriptor behind fails with their names, and an
async test that hangs is cancelled where it waits, a little before pytest-timeout would end it.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from inspect import iscoroutinefunction
from typing import Any

import anyio
import pytest
import uvloop

from tests import leaks

Backend = tuple[str, dict[str, Any]]

NET_SHARE = 0.75  # of the test's own timeout: late enough for slow machines, early enough to win


def eager_loop() -> asyncio.AbstractEventLoop:
    """Make a loop whose tasks run at once, up to their first real wait (Python 3.12 or newer)."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    return loop


ASYNCIO = pytest.param(("asyncio", {"debug": True}), id="asyncio")
UVLOOP = pytest.param(("asyncio", {"loop_factory": uvloop.new_event_loop}), id="asyncio+uvloop")
EAGER = pytest.param(("asyncio", {"loop_factory": eager_loop}), id="asyncio+eager")
TRIO = pytest.param(("trio", {}), id="trio")

PROCESS_LOOPS = [ASYNCIO, UVLOOP, TRIO]  # with real children the task factory proves nothing new
LOOPS = [ASYNCIO, UVLOOP, *([EAGER] if sys.version_info >= (3, 12) else []), TRIO]


@pytest.fixture(scope="module", params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    """Name the loop this test runs on; a test that is for one of them says why."""
    backend: Backend = request.param
    return backend


def pytest_configure() -> None:
    leaks.mark_this_run()
    uvloop.new_event_loop().close()  # what libuv opens once per process is no leak of a test


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, grandchildren included, or an open fd."""
    if "sansio" in request.path.parts:  # synchronous and without I/O: nothing to leave
        yield
        return
    before = leaks.snapshot()
    yield
    left = leaks.left_since(before)
    if left:
        pytest.fail("the test left behind:\n" + "\n".join(f"  {thing}" for thing in left))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    test = pyfuncitem.obj
    limit_s = _net_s(pyfuncitem)
    if limit_s and iscoroutinefunction(test):
        pyfuncitem.obj = bounded(test, limit_s)
    return (yield)


def _net_s(item: pytest.Function) -> float:
    """Return how long the test may take, or 0 where nothing must interrupt it."""
    _, options = item.funcargs.get("anyio_backend") or ("", {})
    if "clock" in options or item.config.getoption("usepdb"):
        return 0  # an autojump clock would jump straight to the net's deadline
    marker = item.get_closest_marker("timeout")
    stated = marker.args[0] if marker and marker.args else item.config.getini("timeout")
    return NET_SHARE * float(stated)


def bounded(
    test: Callable[..., Awaitable[object]], limit_s: float
) -> Callable[..., Awaitable[object]]:
    """Wrap an async test so that it is cancelled, and shows where, once its time is up."""

    @functools.wraps(test)
    async def under_net(**fixtures: object) -> object:
        with anyio.fail_after(limit_s):
            return await test(**fixtures)

    return under_net
