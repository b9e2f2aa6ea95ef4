"""What a backend cannot do: the docs, the marks of this suite and the backends themselves agree."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from anyio_bus import NotSupportedError, Probe
from tests.bus.support import until
from tests.conftest import TRIO, Backend
from tests.contract.places import CANNOT, Place

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "backends.md"
TITLE = "## What a backend cannot do"
ADMIN = "with `admin=True`"
# What the cells say, and whether that is a yes.
SAYS = {
    "yes": True,
    ADMIN: True,
    "where it runs on this system": True,
    "no": False,
    "no: the daemon's own": False,
    "no: the stream ends by overflow, the subscription loses what is oldest": False,
    "the daemon's configuration decides": False,
    "the daemon's own": False,
    "those in the container": False,
    "there are none": False,
}
POLICIES: dict[str, Any] = {
    "spares": 1,
    "health": Probe("echo", every_s=60, timeout_s=5),
    "max_requests": 100,
    "max_lifetime_s": 60,
    "max_rss_bytes": 2**40,
    "idle_timeout_s": 60,
}


@pytest.fixture(scope="module", params=[TRIO])
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    """Name the loop: one, since what a backend can do does not depend on it."""
    backend: Backend = request.param
    return backend


# --- what is asked for ----------------------------------------------------------------------------


async def ask_policies(place: Place) -> bool:
    outcomes = {name: await does(ask_pool, place, name, value) for name, value in POLICIES.items()}
    assert len(set(outcomes.values())) == 1, outcomes
    return outcomes["spares"]


async def ask_pool(place: Place, option: str, value: object) -> bool:
    async with place.bus(pool={option: value}) as bus:
        return bool(await bus.request("echo", [1]) == [1])


async def ask_own_worker(place: Place) -> bool:
    async with place.bus() as bus, bus.session(exclusive=True, env={"A": "1"}) as session:
        return bool(await session.request("echo", [1]) == [1])


async def ask_pause(place: Place) -> bool:
    async with place.bus() as bus:
        for act, paused in ((bus._backend.pause, True), (bus._backend.resume, False)):
            act(bus.workers()[0].worker)
            await bus.refresh()
            assert bus.workers()[0].paused is paused
    return True


async def ask_admin(place: Place) -> bool:
    async with place.bus() as bus:
        await bus.resize("w", 2)
        await until(lambda: len(bus.workers()) == 2)
        worker = bus.workers()[0].worker
        async with bus.tap() as frames:
            await bus.send(b'{"method":"note"}', worker=worker)
            with anyio.fail_after(5):
                seen = await frames.receive()
        await bus.restart_worker(worker)
    return (seen.method, seen.worker) == ("note", worker)


async def ask_admin_without_being_one(place: Place) -> bool:
    async with place.bus(admin=False) as bus:
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: bus.resize("w", 2),
            lambda: bus.restart_worker(0),
            lambda: bus.tap().__aenter__(),
            lambda: bus.send(b'{"method":"note"}', worker=0),
        ]
        for call in calls:
            with pytest.raises(NotSupportedError) as caught:
                await call()
            assert caught.value.backend == place.name
    return False


async def ask_ids(place: Place) -> bool:
    async with place.bus(ids="text") as bus, bus.tap() as frames:
        await bus.request("echo")
        with anyio.fail_after(5):
            return isinstance((await frames.receive()).id, str)


async def ask_pids(place: Place) -> bool:
    if place.name == "docker":
        pytest.skip(
            "the containers of this suite share the pids of the system, so that they can be seen"
        )
    async with place.bus() as bus:
        return bool(bus.workers()[0].pid == await bus.request("pid"))


async def ask_portable(place: Place) -> bool:
    return await ask_pool(place, "spawn", "portable")


async def ask_clients(place: Place) -> bool:
    async with place.bus() as bus:
        stop_listening = bus.on_client(lambda _event: None)
        stop_listening()
    return True


class Row(NamedTuple):
    """A row of the table."""

    feature: str  # of CANNOT
    says: str  # how it begins
    ask: Callable[[Place], Awaitable[bool]]


ROWS = [
    Row("policies", ", ".join(f"`{name}`" for name in POLICIES) + " of a pool", ask_policies),
    Row("own workers", "`bus.session(exclusive=True, env=..., cwd=...)`", ask_own_worker),
    Row("pause", "pausing a plain worker", ask_pause),
    Row(
        "admin",
        "`bus.resize`, `bus.restart_worker`, `bus.tap`, `bus.send(worker=...)`",
        ask_admin,
    ),
    Row("own ids", "a tap shows the ids that the bus gave", ask_ids),
    Row("pids", "the pids of `bus.workers()`", ask_pids),
    Row("portable", '`Pool(spawn="portable")`', ask_portable),
    Row("listening", "`Native(listen=...)`, `bus.on_client`", ask_clients),
]


# --- what is said ---------------------------------------------------------------------------------


def table() -> list[tuple[str, dict[str, str]]]:
    """Return each row of the page: how it begins, and what it says of each backend."""
    part = PAGE.read_text().split(TITLE)[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    (*_, local, own, shared), _, *rows = lines
    columns = [[*local.strip("| ").split(", ")], [own, "docker"], [shared]]
    assert columns == [["native", "python", "memory"], ["subprocess", "docker"], ["connect"]]
    return [(first, dict(_cells(columns, cells))) for first, *cells in rows]


def _cells(columns: list[list[str]], cells: list[str]) -> list[tuple[str, str]]:
    found = []
    for names, cell in zip(columns, cells, strict=True):
        general, *special = cell.split("; ")
        said = dict.fromkeys(names, general)
        for one in special:
            name, _, said_of_it = one.partition(": ")
            assert name in names, one
            said[name] = said_of_it
        found += said.items()
    return found


def test_the_rows_are_those_that_are_tested() -> None:
    said = [first for first, _ in table()]
    assert len(said) == len(ROWS)
    for first, row in zip(said, ROWS, strict=True):
        assert first.startswith(row.says)


def test_the_page_says_what_the_marks_say() -> None:
    for (_, said), row in zip(table(), ROWS, strict=True):
        marked = {name for name in said if row.feature in CANNOT.get(name, ())}
        assert {name for name, cell in said.items() if not SAYS[cell]} == marked, row.feature


def test_every_mark_is_a_row_of_the_page() -> None:
    used = {
        feature
        for path in Path(__file__).parent.glob("test_*.py")
        for feature in re.findall(r'needs\("([^"]+)"\)', path.read_text())
    }
    assert used
    assert used.union(*CANNOT.values()) <= {row.feature for row in ROWS}


# --- what is done ---------------------------------------------------------------------------------


async def does(call: Callable[..., Awaitable[bool]], place: Place, *arguments: object) -> bool:
    """Tell whether a backend does it; where it refuses, it names itself."""
    try:
        return await call(place, *arguments)
    except NotSupportedError as exc:
        if exc.backend != place.name or place.name not in str(exc):
            raise
        return False


BACKENDS = ("native", "python", "memory", "subprocess", "connect", "docker")


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("row", ROWS, ids=[row.feature for row in ROWS])
async def test_a_backend_does_what_the_page_says_and_refuses_the_rest(row: Row, name: str) -> None:
    cell = dict(table()[ROWS.index(row)][1])[name]
    assert await does(row.ask, Place(name)) is SAYS[cell]
    if cell == ADMIN:
        assert not await ask_admin_without_being_one(Place(name))
