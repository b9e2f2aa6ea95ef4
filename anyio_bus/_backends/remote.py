"""Own the way to a kernel elsewhere: reached, greeted, and then taken over by a bus."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from anyio_bus._backends.docker import Docker, open_container
from anyio_bus._backends.greeting import GREETING_S, check_remote, greet
from anyio_bus._backends.links import Connect, Link, Subprocess, dial, spawn_daemon
from anyio_bus._backends.reports import Status
from anyio_bus._backends.wire import Wire
from anyio_bus._config import BusConfig, Limits, Pool
from anyio_bus._errors import NotSupportedError, UnknownPoolError
from anyio_bus._io.launch import check_launch

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend
    from anyio_bus._sansio.events import Deliver

__all__ = ("Reached", "reach")

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

    def open_with(self, config: BusConfig, deliver: Deliver) -> Backend:
        """Make the backend of a bus of it."""
        again = None if self.again is None else self.reach
        return Wire(self.link, self.greeting, config, deliver, again)

    def close(self) -> None:
        """End it: no bus comes of it."""
        self.link.kill(REAP_S)


async def reach(option: Subprocess | Connect | Docker, config: BusConfig | None) -> Reached:
    """Reach the kernel, and hear what it says of itself.

    Raises:
        NotSupportedError: There is no daemon to be started, or it cannot do what a pool asks for.
        ConnectionLostError: It cannot be reached.

    Cancellation:
        What was begun is ended.
    """
    if sys.platform == "win32":
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
    else:
        if config is not None:
            check_remote(config, "docker")
        return Reached(*await open_container(option, config))
    try:
        wanted = option if isinstance(option, Connect) and option.reconnect else None
        limit_s = option.timeout_s if isinstance(option, Connect) else GREETING_S
        return Reached(link, await greet(link, limit_s), wanted)
    except BaseException:
        link.kill(REAP_S)
        raise
