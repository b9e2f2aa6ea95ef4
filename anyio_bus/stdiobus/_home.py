"""Own the thread that a blocking client's event loop runs in, and the way into it."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
from anyio.from_thread import BlockingPortal

from anyio_bus.stdiobus.errors import InvalidStateError, TransportError

__all__ = ("Home",)

T = TypeVar("T")

LOOK_S = 1.0  # between looks at whether the loop still runs


class _Job:
    """One async function that a thread waits for.

    The wait is the acquisition of a plain lock, which Ctrl-C may interrupt at any point; that of a
    ``Future`` is Python code, and would leave its lock held.
    """

    def __init__(self, function: Callable[[], Awaitable[Any]]) -> None:
        self._function = function
        self._over = threading.Lock()
        self._over.acquire()
        self._scope: anyio.CancelScope | None = None
        self._given_up = False
        self._value: Any = None
        self._error: Exception | None = TransportError("Bus is shutting down")

    async def run(self) -> None:  # noqa: ASYNC910  # the function has them
        """Do it; called in the loop."""
        try:
            with anyio.CancelScope() as self._scope:  # noqa: ASYNC912
                if not self._given_up:
                    self._value = await self._function()
                    self._error = None
        except Exception as exc:  # for the thread that waits  # noqa: BLE001
            self._error = exc
        finally:
            self._over.release()

    async def cancel(self) -> None:
        """Nobody waits any more; called in the loop."""
        self._given_up = True
        if self._scope is not None:
            self._scope.cancel("its caller was interrupted")
        await anyio.lowlevel.checkpoint()

    def wait(self, may_come: Callable[[], bool]) -> Any:
        """Wait for it, or until it cannot come any more; called in the thread."""
        while not self._over.acquire(timeout=LOOK_S):
            if not may_come():  # the loop ended before it took the job
                break
        if self._error is not None:
            raise self._error
        return self._value


class Home:
    """A thread with an asyncio loop; Ctrl-C may come at any point of what its users wait for.

    (:mod:`anyio_bus.sync` has such a thread as well; that one belongs to a single bus, while a
    client here has one bus for each pool, and a life that is longer than theirs.)

    Owns:
        The thread, from :meth:`open` to :meth:`close`.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._portal: BlockingPortal | None = None
        self._ready = threading.Lock()  # held until there is a portal, or there will be none
        self._ready.acquire()
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="anyio_bus.stdiobus", daemon=True)

    def _run(self) -> None:
        try:
            anyio.run(self._live)
        finally:
            if self._portal is None:
                self._ready.release()

    async def _live(self) -> None:
        async with BlockingPortal() as portal:
            self._portal = portal
            self._ready.release()
            if not self._given_up:
                await portal.sleep_until_stopped()

    def open(self) -> None:
        """Start the thread."""
        self._thread.start()
        self._ready.acquire()

    def close(self) -> None:
        """End the thread, and wait for it; what still runs in its loop is cancelled by that."""
        if os.getpid() != self._pid:  # a fork: there is no such thread here
            return
        self._given_up = True
        if self._portal is not None:
            with suppress(RuntimeError):  # it has ended already
                self._portal.start_task_soon(self._portal.stop, True)
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
        job = _Job(function)
        self._post(job.run)
        try:
            result: T = job.wait(self._thread.is_alive)
        except (KeyboardInterrupt, SystemExit):
            self._post(job.cancel)
            raise
        return result

    def run(self, function: Callable[[], T]) -> T:
        """Call a plain function in the loop, from any thread and from its own.

        Raises:
            InvalidStateError: This is a forked process.
        """
        self._check_process()
        if self._portal is None or threading.current_thread() is self._thread:
            return function()

        async def call() -> T:
            """Call it, as a task does."""
            await anyio.lowlevel.checkpoint()
            return function()

        return self.wait(call)

    def _post(self, function: Callable[[], Awaitable[None]]) -> None:
        try:
            assert self._portal is not None  # it is open
            self._portal.start_task_soon(function)
        except RuntimeError as exc:
            msg = "Bus not running: its thread has ended"
            raise InvalidStateError(msg) from exc

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            msg = "this process is a fork of the one that started the bus; start another one here"
            raise InvalidStateError(msg)
