"""Own what differs between the event loops: their clock, and a waiter cheaper than an event.

This is the one seam that knows asyncio from trio, with ``asyncio_loop``, which is loaded where there is
asyncio; everything else is written against AnyIO.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

import anyio
import msgspec
from msgspec import UNSET

__all__ = ("Alarm", "Bell", "Loop", "Waiter", "current_loop", "running_loop_name")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Waiter(Protocol[T_co]):
    """A value that one task awaits, once."""

    def __await__(self) -> Generator[Any, Any, T_co]:
        """Wait for the value."""
        ...

    def done(self) -> bool:
        """Tell whether it was set, or the wait for it was cancelled."""
        ...


class Loop(Protocol):
    """The running event loop."""

    def now(self) -> float:
        """Return its clock, in seconds."""
        ...

    def waiter(self) -> Waiter[Any]:
        """Make a waiter."""
        ...

    def checkpoint_if_cancelled(self) -> Awaitable[None]:
        """Raise if the calling task is in a cancelled scope; else go on without a checkpoint."""
        ...

    def wake(self, waiter: Waiter[Any], value: object, /) -> None:
        """Hand a waiter its value; for one that has it already, or is cancelled, nothing happens."""

    def idle_fd(self) -> int | None:
        """Return the fd on which it would sleep now; None if it would not, -1 if nobody can tell."""

    def serve(self, function: Callable[[], T], /) -> T:
        """Call what wakes waiters: their tasks go on after all else that it has asked the loop for."""
        ...

    def post(self, function: Callable[..., object], *args: Any) -> object:
        """Have the loop call a function soon; from any thread, and from a signal handler.

        Raises:
            RuntimeError: The loop has ended.
        """

    async def serve_readable(self, fd: int, function: Callable[[], bool]) -> None:
        """Call a function each time that an fd is readable, until it returns False.

        What it raises comes out here. The fd stays open until then, or is forgotten before.
        """

    def forget_readable(self, fd: int) -> None:
        """Have :meth:`serve_readable` let go of an fd: its number may be another's soon."""


class _TrioWaiter(msgspec.Struct, eq=False):
    lowlevel: Any
    task: Any = None
    value: Any = UNSET

    def __await__(self) -> Generator[Any, Any, Any]:
        if self.value is not UNSET:
            return self._checkpoint().__await__()
        self.task = self.lowlevel.current_task()
        return self.lowlevel.wait_task_rescheduled(self._abort).__await__()  # type: ignore[no-any-return]

    async def _checkpoint(self) -> object:
        await self.lowlevel.checkpoint()
        return self.value

    def done(self) -> bool:
        return self.value is not UNSET

    def _abort(self, _raise_cancel: object) -> Any:
        self.task = self.value = None
        return self.lowlevel.Abort.SUCCEEDED

    def unwrap(self) -> object:
        """Return the value, as the ``outcome.Outcome`` that trio asks for when its task goes on."""
        return self.value


class _TrioLoop:
    """On trio a waiter is the task itself, put to sleep and rescheduled."""

    def __init__(self, lowlevel: Any) -> None:
        self.now: Callable[[], float] = lowlevel.current_clock().current_time
        self.waiter: Callable[[], Waiter[Any]] = partial(_TrioWaiter, lowlevel)
        self.post: Callable[..., object] = lowlevel.current_trio_token().run_sync_soon
        try:
            runner = lowlevel.current_task()._runner
            polled = runner.io_manager
            self._fd: int = (
                polled._epoll if hasattr(polled, "_epoll") else polled._kqueue
            ).fileno()
            self._ready: Any = runner.runq
        except Exception:  # trio has no public way to know; another has other names  # noqa: BLE001
            self._fd, self._ready = -1, None
        self._lowlevel = lowlevel
        self._reschedule = lowlevel.reschedule
        self.checkpoint_if_cancelled: Callable[[], Awaitable[None]] = (
            lowlevel.checkpoint_if_cancelled
        )

    async def serve_readable(self, fd: int, function: Callable[[], bool]) -> None:
        wait, closed = self._lowlevel.wait_readable, sys.modules["trio"].ClosedResourceError
        with suppress(closed):  # it was forgotten
            while True:
                await wait(fd)
                if not function():
                    return

    def idle_fd(self) -> int | None:
        return None if self._ready else self._fd

    def serve(self, function: Callable[[], T], /) -> T:
        return function()  # who goes on first is left to chance, as always on trio

    def forget_readable(self, fd: int) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._lowlevel.notify_closing(fd)

    def wake(self, waiter: Any, value: object) -> None:
        if waiter.value is not UNSET:
            return
        waiter.value = value
        if waiter.task is not None:
            self._reschedule(waiter.task, waiter)


def _running_trio() -> Any:
    """Return ``trio.lowlevel`` where trio runs in the calling thread, else None."""
    # not there while another thread is just loading trio
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    return lowlevel if lowlevel is not None and lowlevel.in_trio_run() else None


def current_loop() -> Loop:
    """Return the event loop that runs the calling task."""
    lowlevel = _running_trio()
    if lowlevel is not None and lowlevel.in_trio_task():  # in guest mode others run in its thread
        return _TrioLoop(lowlevel)
    from anyio_bus._io.asyncio_loop import AsyncioLoop  # noqa: PLC0415  # asyncio is not missing

    return AsyncioLoop()


def running_loop_name() -> str | None:
    """Return the name of the event loop that runs in the calling thread; None where there is none."""
    if _running_trio() is not None:
        return "trio"
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return "asyncio"
    return None


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

    Attributes:
        until: What its task waits for now; only an earlier deadline needs a :meth:`nudge`.

    Args:
        loop: Whose clock the deadlines use.
        next_at: Returns the earliest deadline, None where there is none.
        fire: Called with the current time when it has come.
    """

    __slots__ = ("_bell", "_fire", "_loop", "_next_at", "until")

    def __init__(
        self, loop: Loop, next_at: Callable[[], float | None], fire: Callable[[float], None]
    ) -> None:
        self._loop = loop
        self._next_at = next_at
        self._fire = fire
        self._bell = Bell()
        self.until: float = float("inf")

    def nudge(self, at: float) -> None:
        """Take note of a new deadline; wake the task only if it comes before all others."""
        if at < self.until:
            self.until = at
            self._bell.ring()

    async def run(self) -> None:
        """Fire deadlines as they come, until cancelled."""
        now = self._loop.now
        while True:
            at = self._next_at()
            self.until = float("inf") if at is None else at
            await self._bell.until(lambda: False, lambda: self.until, now)
            self._fire(now())
