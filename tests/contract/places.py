"""The places where a kernel can run, each to be told apart by nothing but its name."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio.lowlevel
import pytest

from anyio_bus import Bus, BusConfig, Connect, Limits, Memory, Pool, open_bus
from anyio_bus._backends.reports import config_json
from anyio_bus._daemon import find_daemon
from tests.bus.support import need_native, scripted
from tests.bus.workers.scripted import serve
from tests.docker.kit import find_engine, on_this_system

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
    "connect": Setting(lambda _kinds: "connect"),
    "docker": Setting(lambda _kinds: on_this_system()),
    "python-portable": Setting(lambda _kinds: "python", {"ANYIO_BUS_SPAWNER": "portable"}),
    "python-no-pidfd": Setting(lambda _kinds: "python", {"ANYIO_BUS_NO_PIDFD": "1"}),
    "memory": Setting(lambda kinds: Memory({name: k.function for name, k in kinds.items()})),
}


# What a backend cannot do, in the words of the table in docs/howto/backends.md.
CANNOT: dict[str, frozenset[str]] = {
    "subprocess": frozenset({"policies", "own workers", "spawn"}),
    "connect": frozenset({"policies", "own workers", "spawn", "pause", "own ids"}),
    "docker": frozenset({"policies", "own workers", "spawn", "own ids"}),
}


@contextmanager
def daemon(config: BusConfig, place: Path | None = None) -> Iterator[str]:
    """Run a daemon with an admin listener; yield its URL."""
    with tempfile.TemporaryDirectory(prefix="busd-") as own:  # short: a socket's path has to be
        folder = place or own
        path = Path(folder) / "config.json"
        path.write_bytes(config_json(config))
        command = [find_daemon(), "--config", str(path), "--admin-unix", f"{folder}/socket"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
            assert program.stderr is not None
            for line in program.stderr:
                if " ready: " in line:
                    break
            reader = threading.Thread(target=program.stderr.read)  # its log must go somewhere
            reader.start()
            try:
                yield f"unix://{folder}/socket"
            finally:
                program.terminate()
                program.terminate()
                program.wait(10)
                reader.join()


class Place:
    """One of the places, for a test that opens buses there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.remote = name in CANNOT  # the kernel is in another process

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
        with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
            for name, value in setting.env.items():
                patch.setenv(name, value)
            if self.name == "docker":
                engine = find_engine()
                if isinstance(engine, str):
                    pytest.skip(f"*** NOT TESTED: {engine} ***")
                for name, value in engine.env.items():
                    patch.setenv(name, value)
            elif self.name == "native":
                need_native()
            elif self.remote:
                try:
                    find_daemon()
                except FileNotFoundError as exc:
                    pytest.skip(f"*** NOT TESTED: {exc} ***")
            backend = setting.backend(kinds)
            if backend == "connect":
                config = BusConfig(tuple(pools), options.get("limits") or Limits())
                backend = Connect(stack.enter_context(daemon(config)), admin=True)
            async with open_bus(*pools, backend=backend, **options) as bus:
                if kinds == {"w": SCRIPTED}:
                    await bus.wait_ready()
                yield bus


all_places = pytest.mark.parametrize("place", [Place(name) for name in PLACES], ids=list(PLACES))
needs = pytest.mark.needs  # a feature of CANNOT: the test runs where the backend can do it
