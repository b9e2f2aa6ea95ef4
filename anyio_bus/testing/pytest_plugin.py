"""The pytest plugin: a bus for a test, that must leave nothing behind.

It is loaded by itself where anyio_bus is installed, costs nothing where it is not used, and works
with AnyIO's own plugin, so on asyncio and trio::

    ECHO = Pool("echo", [sys.executable, "-m", "anyio_bus.testing.workers.echo"])

    @pytest.mark.anyio_bus(ECHO)
    async def test_echo(bus):
        assert await bus.request("echo", {"text": "hello"}) == {"text": "hello"}

A test that uses ``bus`` needs no ``anyio`` marker: the fixture asks for ``anyio_backend``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from anyio_bus import Bus, BusHost
    from anyio_bus.testing import LeakCheck

__all__ = ("bus", "bus_backend", "bus_config", "bus_host", "bus_leak_check")

MARKER = (
    "anyio_bus(*pools, leak_check=True, **options): what the `bus` fixture opens. Arguments as of "
    "anyio_bus.open_bus(), also pools=[...]; leak_check=False lets the test leave what it likes."
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def bus_config() -> Any:
    """Override this to say what ``bus`` opens: a Pool, several, a BusConfig, a mapping or a path.

    The marker ``anyio_bus`` comes first. Without either the configuration is found as
    ``open_bus()`` alone finds it.
    """
    return None


@pytest.fixture
def bus_backend() -> Any:
    """Override or parametrize this to say on which backend ``bus`` runs.

    ::

        @pytest.mark.parametrize("bus_backend", ["python", Memory({"echo": worker})])

    With ``Memory`` and no pools given, each of its workers gets a pool of its name.
    """
    return None


@pytest.fixture
def bus_leak_check(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, a file descriptor or a task behind.

    ``bus`` and ``bus_host`` bring it along; any other test may ask for it by name. What is set up
    after it is torn down before it judges.
    """
    options = _marked(request)[1]
    if options.get("leak_check") is False:
        yield
    elif "anyio_backend" in request.fixturenames:
        request.getfixturevalue("_bus_leak_check_in_loop")
        yield
    else:
        check = _leak_check()
        with check:
            yield
        _report(check)


@pytest.fixture
async def _bus_leak_check_in_loop(anyio_backend: object) -> AsyncIterator[None]:
    check = _leak_check()
    async with check:
        yield
    _report(check)


@pytest.fixture
async def bus_host(anyio_backend: object, bus_leak_check: None) -> AsyncIterator[BusHost]:
    """Open further buses with ``await bus_host.open(pool)``, and close them in any order."""
    from anyio_bus import BusHost  # a plugin that is not used must cost nothing  # noqa: PLC0415

    async with BusHost() as host:
        yield host


@pytest.fixture
async def bus(
    request: pytest.FixtureRequest, bus_host: BusHost, bus_config: Any, bus_backend: Any
) -> AsyncIterator[Bus]:
    """A running bus with its pools, in a task of its own; stopped after the test.

    The test may stop it itself, from any task.
    """
    pools, options = _marked(request)
    options.pop("leak_check", None)
    if bus_backend is not None:
        options.setdefault("backend", bus_backend)
    if not pools and "config" not in options:
        pools, options = _with_config(bus_config, options)
    opened = await bus_host.open(*pools, **options)
    yield opened
    await bus_host.aclose(opened)


def _marked(request: pytest.FixtureRequest) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read the marker: pools of the closest one with any, options of all, closest first."""
    pools: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    for marker in request.node.iter_markers("anyio_bus"):
        named = marker.kwargs.get("pools", ())
        pools = pools or (*marker.args, *named)
        options = {**marker.kwargs, **options}
    options.pop("pools", None)
    return pools, options


def _with_config(config: Any, options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Add what the ``bus_config`` fixture returned to the arguments of ``open_bus()``."""
    from anyio_bus import Memory, Pool  # a plugin that is not used must cost nothing  # noqa: PLC0415

    if config is None and isinstance(options.get("backend"), Memory):
        from anyio_bus.testing import memory_pools  # noqa: PLC0415

        return memory_pools(options["backend"]), options
    if isinstance(config, Pool):
        return (config,), options
    if isinstance(config, Sequence) and not isinstance(config, str):
        return tuple(config), options
    if config is None:
        return (), options
    return (), {"config": dict(config) if isinstance(config, Mapping) else config, **options}


def _leak_check() -> LeakCheck:
    from anyio_bus.testing import LeakCheck  # a plugin that is not used must cost nothing  # noqa: PLC0415

    return LeakCheck(raising=False)


def _report(check: LeakCheck) -> None:
    if check.left:
        pytest.fail("\n  ".join(["the test left behind:", *check.left]), pytrace=False)
