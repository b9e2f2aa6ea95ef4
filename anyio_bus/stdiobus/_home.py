"""Own the thread that a blocking client's event loop runs in, and the way into it."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from anyio_bus.stdiobus.errors import InvalidStateError

__all__ = ("Home",)

T = TypeVar("T")


class Home:
    """A thread with an asyncio loop; Ctrl-C may come at any point of what its users wait for.

    (:mod:`anyio_bus.sync` has such a thread as well; that one belongs to a single bus, while a
    client here has one bus for each pool, and a life that is longer than theirs.)

    Owns:
        The thread, from :meth:`open` to :meth:`close`.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._portal: Future[BlockingPortal] = Future()
        self._given_up = False
        self._thread = threading.Thread(
            target=anyio.run, args=(self._live,), name="anyio_bus.stdiobus", daemon=True
        )

    async def _live(self) -> None:
        async with BlockingPortal() as portal:
            self._portal.set_result(portal)
            if not self._given_up:
                await portal.sleep_until_stopped()

    def open(self) -> None:
        """Start the thread."""
        self._thread.start()
        self._portal.result()

    def close(self) -> None:
        """End the thread, and wait for it; what still runs in its loop is cancelled by that."""
        if os.getpid() != self._pid:  # a fork: there is no such thread here
            return
        self._given_up = True
        if self._portal.done():
            portal = self._portal.result()
            with suppress(RuntimeError):  # it has ended already
                portal.start_task_soon(portal.stop, True)
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    def wait(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run an async function in the loop and wait for its result; Ctrl-C cancels it.

        Raises:
            InvalidStateError: This is the thread itself, or a forked process.
        """
        self._check_process()
        if threading.current_thread() is self._thread:
            msg = "a handler called what waits: in the bus's own thread it would never end"
            raise InvalidStateError(msg)
        future = self._portal.result().start_task_soon(function)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def run(self, function: Callable[[], T]) -> T:
        """Call a plain function in the loop, from any thread and from its own.

        Raises:
            InvalidStateError: This is a forked process.
        """
        self._check_process()
        if threading.current_thread() is self._thread or not self._portal.done():
            return function()
        return self._portal.result().call(function)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            msg = "this process is a fork of the one that started the bus; start another one here"
            raise InvalidStateError(msg)
