"""Own the choice of a backend from what ``open_bus(backend=...)`` was given."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from anyio_bus._backends.docker import Docker, open_container
from anyio_bus._backends.greeting import GREETING_S, check_remote, greet
from anyio_bus._backends.links import Connect, Link, Subprocess, dial, spawn_daemon
from anyio_bus._backends.listening import Native
from anyio_bus._backends.memory import Memory, open_memory
from anyio_bus._backends.native import open_native, why_not_native
from anyio_bus._backends.python import open_python
from anyio_bus._backends.reports import Status
from anyio_bus._backends.wire import Wire
from anyio_bus._config import BusConfig, Limits, Pool
from anyio_bus._errors import InvalidArgumentError, NotSupportedError, UnknownPoolError
from anyio_bus._io.launch import check_launch

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend
    from anyio_bus._sansio.events import Deliver

__all__ = ("BackendOption", "Reached", "closed_on_error", "open_backend", "reach")

BackendOption: TypeAlias = (
    Literal["auto", "native", "python", "subprocess"]
    | Memory
    | Subprocess
    | Connect
    | Docker
    | Native
)
REAP_S = 1.0


class Reached(msgspec.Struct):
    """A kernel elsewhere that has answered, until a bus takes it over."""

    link: Link
    greeting: tuple[Status, bytes]
    again: Connect | None = None  # how to reach it once more, where that is wanted

    async def reach(self) -> tuple[Link, tuple[Status, bytes]]:
        """Make another link to it."""
        assert self.again is not None
        found = await reach(self.again, None)
        assert found is not None
        return found.link, found.greeting

    def config(self, config: BusConfig | None, limits: Limits | None) -> BusConfig:
        """Return the pools as this end is to see them: as it was told, else as they are there.

        Raises:
            UnknownPoolError: There is no such pool there.
        """
        there = [pool.id for pool in self.greeting[0].pools]
        if config is None:
            return BusConfig(tuple(Pool(name, ["-"]) for name in there), limits or Limits())
        for pool in config.pools:
            if pool.id not in there:
                msg = f"{self.link.name} has no pool {pool.id!r}; there are: {', '.join(there)}"
                raise UnknownPoolError(msg, pool=pool.id)
        return config


@contextmanager
def closed_on_error(option: BackendOption | Reached) -> Iterator[None]:
    """End a kernel that was reached if no bus comes of it."""
    try:
        yield
    except BaseException:
        if isinstance(option, Reached):
            option.link.kill(REAP_S)
        raise


async def reach(option: BackendOption, config: BusConfig | None) -> Reached | None:
    """Reach the kernel where that is elsewhere; None where it is not.

    Raises:
        NotSupportedError: There is no daemon to be started, or it cannot do what a pool asks for.
        ConnectionLostError: It cannot be reached.

    Cancellation:
        What was begun is ended.
    """
    name = os.environ.get("ANYIO_BUS_BACKEND") if option == "auto" else option
    if name == "subprocess":
        option = Subprocess()
    if sys.platform == "win32" and isinstance(option, Subprocess | Connect | Docker):
        msg = "a kernel in another process needs a Unix"
        raise NotSupportedError(msg)
    if isinstance(option, Subprocess):
        assert config is not None  # only a daemon that is there already has pools of its own
        check_remote(config, "subprocess")
        for pool in config.pools:
            check_launch(pool, "posix")
        link = spawn_daemon(option, config)
    elif isinstance(option, Connect):
        if config is not None:
            check_remote(config, "connect")
        link = await dial(option)
    elif isinstance(option, Docker):
        if config is not None:
            check_remote(config, "docker")
        return Reached(*await open_container(option, config))
    else:
        return None
    try:
        wanted = option if isinstance(option, Connect) and option.reconnect else None
        limit_s = option.timeout_s if isinstance(option, Connect) else GREETING_S
        return Reached(link, await greet(link, limit_s), wanted)
    except BaseException:
        link.kill(REAP_S)
        raise


def open_backend(option: BackendOption | Reached, config: BusConfig, deliver: Deliver) -> Backend:
    """Make the backend that was asked for; ``"auto"`` is the best that is there.

    ``ANYIO_BUS_BACKEND`` says what ``"auto"`` means.

    Raises:
        InvalidArgumentError: There is none of that name.
        NotSupportedError: It is not there, or cannot do what a pool asks for.
    """
    if isinstance(option, Reached):
        again = None if option.again is None else option.reach
        return Wire(option.link, option.greeting, config, deliver, again)
    if isinstance(option, Memory):
        return open_memory(config, deliver, option)
    if isinstance(option, Native):
        return open_native(config, deliver, option)
    name = str(option)
    if option == "auto":
        name = os.environ.get("ANYIO_BUS_BACKEND") or "auto"
        if name == "auto":
            name = "native" if why_not_native(config) is None else "python"
    if name == "native":
        return open_native(config, deliver)
    if name == "python":
        return open_python(config, deliver)
    what = f"ANYIO_BUS_BACKEND={name!r}" if option == "auto" else f"backend={option!r}"
    raise _no_such(what, name)


def _no_such(what: str, name: str) -> InvalidArgumentError:
    if name == "memory":
        msg = f"{what} needs workers: Memory(workers={{'pool': worker}})"
    elif name == "connect":
        msg = f"{what} needs to know where: Connect('unix:///path')"
    elif name == "docker":
        msg = f"{what} needs an image: Docker('image')"
    else:
        msg = (
            f"{what}: there are 'auto', 'native', 'python', 'subprocess', Subprocess(...), "
            "Native(...), Connect(...), Docker(...) and Memory(...)"
        )
    return InvalidArgumentError(msg, field="backend")
