"""Own what differs between the event loops: their clock, and a waiter cheaper than an event.

This is the one seam that knows asyncio from trio; everything else is written against AnyIO.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import anyio

__all__ = ("Alarm", "Bell", "Loop", "Waiter", "current_loop")

T = TypeVar("T")


class Waiter(Protocol[T]):
    """A value that one task waits for, once."""

    def set(self, value: T) -> None:
        """Hand over the value; the second and later calls do nothing."""

    def wait(self) -> Awaitable[T]:
        """Wait for the value. Cancelling the wait leaves the waiter unset."""


class Loop(Protocol):
    """The running event loop."""

    def now(self) -> float:
        """Return its clock, in seconds."""

    def waiter(self) -> Waiter[Any]:
        """Make a waiter."""


class _AsyncioWaiter(Generic[T]):
    __slots__ = ("_future",)

    def __init__(self, future: Any) -> None:
        self._future = future

    def set(self, value: T) -> None:
        if not self._future.done():
            self._future.set_result(value)

    def wait(self) -> Awaitable[T]:
        return self._future  # type: ignore[no-any-return]


class _TrioWaiter(Generic[T]):
    __slots__ = ("_is_set", "_lowlevel", "_task", "_value")

    def __init__(self, lowlevel: Any) -> None:
        self._lowlevel = lowlevel
        self._task: Any = None
        self._is_set = False
        self._value: T | None = None

    def set(self, value: T) -> None:
        if self._is_set:
            return
        self._is_set = True
        self._value = value
        if self._task is not None:
            task, self._task = self._task, None
            self._lowlevel.reschedule(task)

    async def wait(self) -> T:
        if self._is_set:
            await self._lowlevel.checkpoint()
        else:
            self._task = self._lowlevel.current_task()
            await self._lowlevel.wait_task_rescheduled(self._abort)
        return self._value  # type: ignore[return-value]

    def _abort(self, _raise_cancel: object) -> Any:
        self._task = None
        return self._lowlevel.Abort.SUCCEEDED


class _AsyncioLoop:
    def __init__(self, loop: Any) -> None:
        self.now: Callable[[], float] = loop.time
        self._create_future = loop.create_future

    def waiter(self) -> Waiter[Any]:
        return _AsyncioWaiter(self._create_future())


class _TrioLoop:
    def __init__(self, lowlevel: Any) -> None:
        self.now: Callable[[], float] = lowlevel.current_clock().current_time
        self.waiter: Callable[[], Waiter[Any]] = partial(_TrioWaiter, lowlevel)


def current_loop() -> Loop:
    """Return the event loop that runs the calling task."""
    trio = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            pass
        else:
            return _TrioLoop(trio.lowlevel)
    return _AsyncioLoop(sys.modules["asyncio"].get_running_loop())


class Bell:
    """Wakes whoever waits for it, each time it rings; a wait begun later waits for the next ring."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        """Wake all that wait."""
        event, self._event = self._event, anyio.Event()
        event.set()

    async def wait(self) -> None:
        """Wait for the next ring."""
        await self._event.wait()

    async def until(
        self, done: Callable[[], bool], deadline: Callable[[], float], now: Callable[[], float]
    ) -> bool:
        """Wait until a condition holds, checked at each ring; False if its deadline came first.

        The deadline is asked for anew at each ring, so it may move.
        """
        while not done():
            event = self._event
            with anyio.move_on_after(deadline() - now()):
                await event.wait()
            if not done() and deadline() <= now():
                return False
        return True


class Alarm:
    """One task that waits for the earliest of many deadlines kept elsewhere.

    Args:
        loop: Whose clock the deadlines use.
        next_at: Returns the earliest deadline, None where there is none.
        fire: Called with the current time when it has come.
    """

    __slots__ = ("_bell", "_fire", "_loop", "_next_at", "_until")

    def __init__(
        self, loop: Loop, next_at: Callable[[], float | None], fire: Callable[[float], None]
    ) -> None:
        self._loop = loop
        self._next_at = next_at
        self._fire = fire
        self._bell = Bell()
        self._until = float("inf")

    def nudge(self, at: float) -> None:
        """Take note of a new deadline; wake the task only if it comes before all others."""
        if at < self._until:
            self._until = at
            self._bell.ring()

    async def run(self) -> None:
        """Fire deadlines as they come, until cancelled."""
        now = self._loop.now
        while True:
            at = self._next_at()
            self._until = float("inf") if at is None else at
            await self._bell.until(lambda: False, lambda: self._until, now)
            self._fire(now())
