"""The places where a kernel can run, each to be told apart by nothing but its name."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio.lowlevel
import pytest

from anyio_bus import Bus, Memory, Pool, open_bus
from tests.bus.support import scripted
from tests.bus.workers.scripted import serve

Receive = Callable[[], Awaitable[bytes]]
Send = Callable[[bytes], Awaitable[None]]


class Kind(NamedTuple):
    """A kind of worker, as a program and as a function."""

    argv: tuple[str, ...]
    function: Callable[[Receive, Send], Awaitable[None]]


async def crash(_receive: Receive, _send: Send) -> None:
    await anyio.lowlevel.checkpoint()
    raise RuntimeError("no luck today")


SCRIPTED = Kind(scripted().argv, serve)
CRASHING = Kind((sys.executable, "-I", "-S", "-c", "raise RuntimeError('no luck today')"), crash)


class Setting(NamedTuple):
    """What open_bus(backend=...) gets for pools of these kinds, and the environment for it."""

    backend: Callable[[Mapping[str, Kind]], Any]
    env: Mapping[str, str] = {}


# One line for each.
PLACES: dict[str, Setting] = {
    "python": Setting(lambda _kinds: "python"),
    "native": Setting(lambda _kinds: "native"),
    "subprocess": Setting(lambda _kinds: "subprocess"),
    "python-portable": Setting(lambda _kinds: "python", {"ANYIO_BUS_SPAWNER": "portable"}),
    "python-no-pidfd": Setting(lambda _kinds: "python", {"ANYIO_BUS_NO_PIDFD": "1"}),
    "memory": Setting(lambda kinds: Memory({name: k.function for name, k in kinds.items()})),
}


class Place:
    """One of the places, for a test that opens buses there."""

    def __init__(self, name: str) -> None:
        self.name = name

    @asynccontextmanager
    async def bus(
        self,
        kinds: Mapping[str, Kind] | None = None,
        *,
        pool: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncIterator[Bus]:
        """Open a bus with a pool of each kind, by default one of scripted workers called "w"."""
        kinds = kinds or {"w": SCRIPTED}
        pools = [Pool(name, kind.argv, **(pool or {})) for name, kind in kinds.items()]
        options.setdefault("grace_s", 2)
        setting = PLACES[self.name]
        with pytest.MonkeyPatch.context() as patch:
            for name, value in setting.env.items():
                patch.setenv(name, value)
            async with open_bus(*pools, backend=setting.backend(kinds), **options) as bus:
                if kinds == {"w": SCRIPTED}:
                    await bus.wait_ready()
                yield bus


all_places = pytest.mark.parametrize("place", [Place(name) for name in PLACES], ids=list(PLACES))
