"""Own what a bus asks of asyncio: its clock, callbacks for fds, and tasks that go on together."""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any

import anyio.lowlevel

__all__ = ("AsyncioLoop", "running_loop")

PASSES = 2  # those who were woken, and the one that they wake to write what they ask for


class _Waiter(asyncio.Future[Any]):
    """A future whose task is not called back when it is set: it goes on with others.

    One task awaits it, which asks to be called back as of any other future.
    """

    __slots__ = ("context", "step")

    step: Callable[[Any], object]  # the task's next; not there before it awaits
    context: Context

    def add_done_callback(  # type: ignore[override]  # of a task alone
        self, step: Callable[[Any], object], /, *, context: Context
    ) -> None:
        self.step = step
        self.context = context

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it: its task is cancelled."""
        if not super().cancel(msg):
            return False
        with suppress(AttributeError):
            self.get_loop().call_soon(self.step, self, context=self.context)
        return True


class AsyncioLoop:
    """On asyncio a waiter is a future.

    A future that is set makes its loop call back its task later, by a handle of its own; much of what
    a request costs would be that. So those whose waiters were set are called back together: by the
    callback that found the fd readable, when it is through, else by one that is asked for.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now: Callable[[], float] = loop.time
        self.waiter: Callable[[], Any] = partial(_Waiter, loop=loop)
        self.checkpoint_if_cancelled: Callable[[], Awaitable[None]] = (
            anyio.lowlevel.checkpoint_if_cancelled
        )
        self._context = _named_context()
        self.post: Callable[..., object] = partial(loop.call_soon_threadsafe, context=self._context)
        self.loop: asyncio.AbstractEventLoop = loop
        self._served: set[int] = set()
        self._woken: deque[_Waiter] = deque()
        self._due = False  # they will be called back

    def wake(self, waiter: Any, value: object) -> None:
        """See :class:`Loop`."""
        if waiter.done():
            return
        waiter.set_result(value)
        try:
            waiter.step  # noqa: B018  # whether it is awaited
        except AttributeError:
            return
        self._woken.append(waiter)
        if not self._due:
            self._due = True
            self.loop.call_soon(self._go_on, context=self._context)

    def _go_on(self) -> None:
        """Have the tasks that were woken go on, each in its own context."""
        self._due = True
        woken = self._woken
        try:
            for _ in range(PASSES):
                for _ in range(len(woken)):
                    waiter = woken.popleft()
                    waiter.context.run(waiter.step, waiter)
        finally:  # one may raise what ends the loop
            self._due = bool(woken)
            if woken:
                self.loop.call_soon(self._go_on, context=self._context)

    async def serve_readable(self, fd: int, function: Callable[[], bool]) -> None:
        """Let the loop itself call it: a task that waits would cost two system calls and a hop."""
        done = self.loop.create_future()

        def look() -> None:
            self._due = True
            try:
                if not function() and not done.done():
                    done.set_result(None)
            except BaseException as exc:  # it is the waiting task's  # noqa: ASYNC103, BLE001
                self.forget_readable(fd)
                if not done.done():
                    done.set_exception(exc)
            self._go_on()

        self._context.copy().run(self.loop.add_reader, fd, look)
        self._served.add(fd)
        try:
            await done
        finally:
            self.forget_readable(fd)

    def forget_readable(self, fd: int) -> None:
        """See :class:`Loop`."""
        if fd in self._served:
            self._served.discard(fd)
            with suppress(RuntimeError):  # the loop is closed
                self.loop.remove_reader(fd)


def _named_context() -> Context:
    """Return a context in which AnyIO knows that asyncio runs, in a callback as well.

    Without a task it looks for the name that ``anyio.run`` has left there; ``asyncio.run`` has not,
    and neither has a thread's own context.
    """
    context = copy_context()
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context


class _Here(threading.local):
    """The loop that runs in this thread, as long as anybody uses it."""

    found: Callable[[], AsyncioLoop | None] = staticmethod(lambda: None)


_here = _Here()


def running_loop() -> AsyncioLoop:
    """Return the running loop, the same to all who ask: what one wakes goes on where another reads."""
    running = asyncio.get_running_loop()
    found = _here.found()
    if found is None or found.loop is not running:
        found = AsyncioLoop(running)
        _here.found = weakref.ref(found)
    return found
