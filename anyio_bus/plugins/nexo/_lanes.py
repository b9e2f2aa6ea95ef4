"""Own the running of handlers: in the order they came, so many at once, on tasks used again.

A task for each event would cost more than most events do. A lane is a task that takes one job after
the other; as soon as one is suspended, the next lane goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel

from anyio_bus._io.raised import is_cancellation, is_cancelled

if TYPE_CHECKING:
    from anyio_bus._io.loop import Loop, Waiter

__all__ = ("Lanes",)

J = TypeVar("J")

QUEUED_BYTES = 16 * 1024 * 1024  # of what waits, besides one frame
_TURN = 64  # jobs that a lane does before it lets others run


class Owner(Protocol):
    """The conversation."""

    def start_soon(self, function: Callable[..., Any], *args: object) -> None:
        """Start a task."""

    def changed(self) -> None:
        """Something ended."""


class Lanes(Generic[J]):
    """A queue of jobs, and the lanes that do them.

    Args:
        owner: Who starts the tasks.
        loop: The running event loop.
        run: Does a job, in a scope that may be cancelled if the job takes too long. It must not
            raise but to pass on a cancellation.
        limit: Jobs in progress at once.
        max_queued: Jobs that wait.

    Attributes:
        running: Jobs in progress.
    """

    def __init__(
        self,
        owner: Owner,
        loop: Loop,
        run: Callable[[J, anyio.CancelScope], Awaitable[None]],
        limit: int,
        max_queued: int,
    ) -> None:
        self._owner = owner
        self._loop = loop
        self._run = run
        self._limit = limit
        self._max_queued = max_queued
        self._queue: deque[tuple[J, int]] = deque()
        self._bytes = 0
        self._idle: list[Waiter[Any]] = []
        self._scopes: set[anyio.CancelScope] = set()
        self._lanes = 0
        self._coming = False  # a lane was woken and has not run yet
        self._closed = False
        self.running = 0

    @property
    def idle(self) -> bool:
        """Whether every job is done."""
        return not (self.running or self._queue)

    @property
    def full(self) -> bool:
        """Whether no more should be put in."""
        return len(self._queue) >= self._max_queued or self._bytes > QUEUED_BYTES

    def put(self, job: J, size: int) -> None:
        """Put a job at the end of the queue."""
        self._queue.append((job, size))
        self._bytes += size
        if not self._coming:
            self._next_lane()

    def _next_lane(self) -> None:
        """Have one more lane come, if there is one."""
        if self._closed:
            return
        if self._idle:
            self._coming = True
            self._loop.wake(self._idle.pop(), None)
        elif self._lanes < self._limit:
            self._coming = True
            self._lanes += 1
            self._owner.start_soon(self._lane)

    async def _lane(self) -> None:  # noqa: ASYNC910
        clean = copy_context()
        scope = anyio.CancelScope()
        self._scopes.add(scope)
        try:
            with scope:  # handlers are what is cancelled
                await self._work(clean, scope)
        except BaseException as exc:  # noqa: ASYNC103
            # A handler of asyncio's may have cancelled the task that it ran on.
            if is_cancellation(exc) or not is_cancelled(exc):
                self._closed = True  # all ends: nobody will do what waits
                raise
        finally:
            self._scopes.discard(scope)
            self._lanes -= 1
            self._coming = False
            if self._queue:  # it only gives its place to a new one
                clean.run(self._next_lane)
            self._owner.changed()

    async def _work(self, clean: Context, scope: anyio.CancelScope) -> None:  # noqa: ASYNC910
        while not self._closed:
            self._coming = False
            turns = 0
            while self._queue:
                await self._one(scope)
                # A context variable that a handler has set, the next must not see.
                if scope.cancel_called or _changed(clean):
                    return
                turns += 1
                if turns % _TURN == 0:
                    await anyio.lowlevel.checkpoint()
            waiter = self._loop.waiter()
            self._idle.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter in self._idle:  # else it was woken as well
                    self._idle.remove(waiter)
                raise

    async def _one(self, scope: anyio.CancelScope) -> None:
        job, size = self._queue.popleft()
        self._bytes -= size
        if self._queue and not self._coming:
            self._next_lane()
        self.running += 1
        try:
            await self._run(job, scope)
        finally:
            self.running -= 1
            self._owner.changed()

    def cancel_all(self) -> None:
        """Cancel what is in progress; nobody will do what waits any more."""
        self._closed = True
        for scope in self._scopes:
            scope.cancel("the plugin is shutting down")
        self._queue.clear()
        self._bytes = 0


def _changed(clean: Context) -> bool:
    """Whether a context variable has another value than in a context."""
    try:
        return copy_context() != clean
    except Exception:  # the values' own  # noqa: BLE001
        return True
