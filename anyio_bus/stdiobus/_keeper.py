"""Own the buses of one client: one task holds them open, whoever starts and whoever stops them."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

import anyio_bus
from anyio_bus import BusHost

if TYPE_CHECKING:
    from anyio_bus.stdiobus._places import Option

__all__ = ("Keeper",)

END_GRACE_S = 5.0  # for the workers when the event loop ends and nobody has called stop()


class Keeper:
    """Holds a bus for each pool open in a task of its own, from :meth:`open` until a stop.

    A client is started and stopped by any task, so no task of the program can own its buses. On
    asyncio this one is a task of the loop, cancelled with all others when ``asyncio.run`` ends; on
    trio a system task, cancelled by trio when the main task has ended. Both wait for it, so it
    cannot outlive the loop; being cancelled, it stops the buses in order. Nothing but a
    cancellation comes out of it: what goes wrong is kept in ``error``.

    Owns:
        The task, and in it a :class:`anyio_bus.BusHost` with the buses.

    Args:
        configs: A configuration for each pool.
        backend: As for :func:`anyio_bus.open_bus`.
        session: The id of the client's own session, which goes on with another worker when its
            worker dies.
        handlers: As for :func:`anyio_bus.open_bus`.
    """

    def __init__(
        self,
        configs: Mapping[str, anyio_bus.BusConfig],
        backend: Option,
        session: str,
        handlers: Mapping[str, Callable[..., Any]],
    ) -> None:
        self.buses: dict[str, anyio_bus.Bus] = {}
        self.error: Exception | None = None
        self._configs = configs
        self._options: dict[str, Any] = {"backend": backend, "handlers": handlers}
        self._session = session
        self._grace_s = math.inf
        self._asked = anyio.Event()
        self._opened = anyio.Event()
        self._closed = anyio.Event()
        self._stopping = anyio.CancelScope()
        self._task: Any = None

    async def open(self) -> None:
        """Open the buses.

        Raises:
            BusError: One of them could not be opened; none is.

        Cancellation:
            They are killed and closed again first, within five seconds.
        """
        self._task = _start(self._run)
        try:
            await self._opened.wait()
        except BaseException:
            self.ask_to_stop(0.0)
            with anyio.move_on_after(END_GRACE_S, shield=True):
                await self._closed.wait()  # noqa: ASYNC102
            raise
        if self.error is not None:
            raise self.error

    def ask_to_stop(self, grace_s: float) -> None:
        """Have the buses stopped, or stopped sooner than was asked for before."""
        if self._closed.is_set() or grace_s >= self._grace_s:
            return
        self._grace_s = grace_s
        self._asked.set()
        self._stopping.cancel("a shorter stop")

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return self._closed.is_set()

    async def wait_closed(self) -> None:
        """Wait until nothing is left.

        Cancellation:
            The wait ends; the stop goes on.
        """
        await self._closed.wait()

    async def _run(self) -> None:  # noqa: ASYNC910  # waits for the stop
        try:
            async with BusHost() as host, AsyncExitStack() as sessions:
                for pool, config in self._configs.items():
                    bus = await host.open(
                        config, ids="text", timeout=None, grace_s=END_GRACE_S, **self._options
                    )
                    session = bus.session(id=self._session, rebind=True)
                    await sessions.enter_async_context(session)
                    self.buses[pool] = bus
                self._opened.set()
                await self._asked.wait()
                await self._stop()
        except Exception as exc:  # whoever opens, or has opened, gets it  # noqa: BLE001
            self.error = exc
        finally:
            self._opened.set()
            self._closed.set()

    async def _stop(self) -> None:
        """Stop all buses at once; begin anew when a shorter stop is asked for."""
        while True:
            with anyio.CancelScope() as self._stopping:
                async with anyio.create_task_group() as tasks:
                    for bus in self.buses.values():
                        tasks.start_soon(partial(bus.stop, grace_s=self._grace_s))
                return


def _start(run: Callable[[], Awaitable[None]]) -> Any:
    """Start a task that no task of the program owns."""
    trio = sys.modules.get("trio")
    if trio is not None:
        try:
            return trio.lowlevel.spawn_system_task(run, name="anyio_bus.stdiobus")
        except RuntimeError:  # trio does not run here
            pass
    loop = asyncio.get_running_loop()
    return loop.create_task(run(), name="anyio_bus.stdiobus")  # type: ignore[arg-type]
