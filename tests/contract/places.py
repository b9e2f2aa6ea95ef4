"""The places where a kernel can run, each to be told apart by nothing but its name."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio.lowlevel
import pytest

from anyio_bus import Bus, BusConfig, Connect, Limits, Memory, Native, Pool, open_bus
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
    "native-listening": Setting(lambda _kinds: Native(listen="tcp://127.0.0.1:0")),
    "subprocess": Setting(lambda _kinds: "subprocess"),
    "connect": Setting(lambda _kinds: "connect"),
    "connect-tcp": Setting(lambda _kinds: "connect"),
    "connect-native": Setting(lambda _kinds: "connect"),
    "docker": Setting(lambda _kinds: on_this_system()),
    "python-portable": Setting(lambda _kinds: "python", {"ANYIO_BUS_SPAWNER": "portable"}),
    "python-no-pidfd": Setting(lambda _kinds: "python", {"ANYIO_BUS_NO_PIDFD": "1"}),
    "memory": Setting(lambda kinds: Memory({name: k.function for name, k in kinds.items()})),
}


# What a backend cannot do: the table in docs/howto/backends.md, which test_table.py compares with this.
_FROM_AFAR = frozenset({"policies", "own workers", "portable", "listening"})
CANNOT: dict[str, frozenset[str]] = {
    "native": frozenset({"portable"}),
    "native-listening": frozenset({"portable", "pause", "own ids"}),
    "python": frozenset({"listening"}),
    "memory": frozenset({"listening", "pids"}),
    "subprocess": _FROM_AFAR,
    "connect": _FROM_AFAR | {"pause", "own ids"},
    "connect-tcp": _FROM_AFAR | {"pause", "own ids"},
    "connect-native": _FROM_AFAR | {"pause", "own ids"},
    "docker": _FROM_AFAR | {"own ids", "pids"},
}
# The bus is at one end of a wire.
REMOTE = ("subprocess", "connect", "connect-tcp", "connect-native", "docker")
TOKEN = "s\u00e9cret"


@contextmanager
def daemon(
    config: BusConfig, place: Path | None = None, listen: str = "", token: str = ""
) -> Iterator[str]:
    """Run a daemon; yield its URL.

    Args:
        config: Its pools and limits.
        place: Where its files go.
        listen: A flag and the value of it; default an admin listener on a unix socket.
        token: What it asks for.
    """
    with tempfile.TemporaryDirectory(prefix="busd-") as own:  # short: a socket's path has to be
        folder = place or own
        path = Path(folder) / "config.json"
        path.write_bytes(config_json(config))
        flag, _, where = (listen or f"--admin-unix {folder}/socket").partition(" ")
        command = [find_daemon(), "--config", str(path), flag, where]
        if token:
            secret = Path(folder) / "token"
            secret.touch(0o600)
            secret.write_text(token)
            command += ["--token-file", str(secret)]
        url = f"unix://{where}"
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
            assert program.stderr is not None
            for line in program.stderr:
                if found := re.search(r" listening: tcp (\S+)", line):
                    url = f"tcp://{found[1]}"
                if " ready: " in line:
                    break
            reader = threading.Thread(target=program.stderr.read)  # its log must go somewhere
            reader.start()
            try:
                yield url
            finally:
                program.terminate()
                program.terminate()
                program.wait(10)
                reader.join()


class Place:
    """One of the places, for a test that opens buses there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.remote = name in REMOTE

    @asynccontextmanager
    async def bus(
        self,
        kinds: Mapping[str, Kind] | None = None,
        *,
        pool: Mapping[str, Any] | None = None,
        admin: bool = True,
        **options: Any,
    ) -> AsyncIterator[Bus]:
        """Open a bus with a pool of each kind, by default one of scripted workers called "w".

        Where a daemon is shared the bus is an admin of it, unless ``admin`` is False.
        """
        kinds = kinds or {"w": SCRIPTED}
        pools = [Pool(name, kind.argv, **(pool or {})) for name, kind in kinds.items()]
        options.setdefault("grace_s", 2)
        async with AsyncExitStack() as stack:
            backend = await self._backend(stack, kinds, pools, options.get("limits"), admin=admin)
            async with open_bus(*pools, backend=backend, **options) as bus:
                if kinds == {"w": SCRIPTED}:
                    await bus.wait_ready()
                yield bus

    async def _backend(
        self,
        stack: AsyncExitStack,
        kinds: Mapping[str, Kind],
        pools: list[Pool],
        limits: Limits | None,
        *,
        admin: bool,
    ) -> Any:
        """Return what open_bus() gets; what is to be there for that ends with the stack."""
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        setting = PLACES[self.name]
        for name, value in setting.env.items():
            patch.setenv(name, value)
        if self.name == "docker":
            engine = find_engine()
            if isinstance(engine, str):
                pytest.skip(f"*** NOT TESTED: {engine} ***")
            for name, value in engine.env.items():
                patch.setenv(name, value)
        elif "native" in self.name:
            need_native()
        elif self.remote:
            try:
                find_daemon()
            except FileNotFoundError as exc:
                pytest.skip(f"*** NOT TESTED: {exc} ***")
        if self.name in {"connect", "connect-tcp"}:
            config = BusConfig(tuple(pools), limits or Limits())
            tcp = self.name == "connect-tcp"
            where = {"listen": "--admin-tcp 127.0.0.1:0", "token": TOKEN} if tcp else {}
            url = stack.enter_context(daemon(config, **where))
            return Connect(url, token=TOKEN if tcp else None, admin=admin)
        if self.name == "connect-native":  # to the kernel of another bus in this process
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bus-"))
            native = Native(admin_listen=f"unix://{folder}/socket")
            host = await stack.enter_async_context(
                open_bus(*pools, backend=native, limits=limits, grace_s=2)
            )
            return Connect(host.listeners[0], admin=admin)
        return setting.backend(kinds)


all_places = pytest.mark.parametrize("place", [Place(name) for name in PLACES], ids=list(PLACES))
needs = pytest.mark.needs  # a feature of CANNOT: the test runs where the backend can do it
