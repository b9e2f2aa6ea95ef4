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
from typing import Any, TypeVar

import anyio.lowlevel

__all__ = ("AsyncioLoop",)

T = TypeVar("T")


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


class _Turns:
    """The tasks of one loop that were woken and have not gone on yet.

    A future that is set makes its loop call back its task, by a handle of its own; much of what a
    request costs would be that. So one handle calls back all that were woken before it runs. While
    an fd is served it is not asked for: those who are woken come after all else that was brought
    about, such as handlers of what came before their answers.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self._woken: deque[_Waiter] = deque()
        self._due = False  # they will be called back
        self._serving = False  # whoever serves will see to it
        self.going_on: deque[_Waiter] = self._woken  # those whose turn has begun

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
        if not (self._due or self._serving):
            self._ask(self._woken)

    def _ask(self, woken: deque[_Waiter]) -> None:
        self._due = self._due or woken is self._woken
        self.loop.call_soon(self._go_on, woken, context=Context())  # one that nothing else is in

    def _go_on(self, woken: deque[_Waiter]) -> None:
        """Have the tasks that were woken go on, each in its own context."""
        self.going_on = woken
        if woken is self._woken:
            self._due = False  # one of them may run the loop: some patch it so that it can be
        try:
            for _ in range(len(woken)):
                if woken:
                    waiter = woken.popleft()
                    waiter.context.run(waiter.step, waiter)
        finally:  # one may raise what ends the loop
            if woken and not (self._due and woken is self._woken):
                self._ask(woken)

    def serve(self, function: Callable[[], T]) -> T:
        """See :class:`Loop`."""
        if self._due:  # those who were woken before go on without the ones who are woken now
            self._woken = deque()
            self._due = False
        self._serving = True
        try:
            return function()
        finally:
            self._serving = False
            if self._woken:
                self._ask(self._woken)


class AsyncioLoop:
    """On asyncio a waiter is a future, and what reads an fd is called by the loop itself."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._turns = _turns_of(loop)
        self.now: Callable[[], float] = loop.time
        self.waiter: Callable[[], Any] = partial(_Waiter, loop=loop)
        self.wake: Callable[[Any, object], None] = self._turns.wake
        self.serve = self._turns.serve
        self.checkpoint_if_cancelled: Callable[[], Awaitable[None]] = (
            anyio.lowlevel.checkpoint_if_cancelled
        )
        self._context = _named_context()
        self.post: Callable[..., object] = partial(loop.call_soon_threadsafe, context=self._context)
        try:
            self._fd: int = loop._selector.fileno()  # type: ignore[attr-defined]
            self._ready: Any = loop._ready  # type: ignore[attr-defined]
        except Exception:  # asyncio has no public way to know, others have other names  # noqa: BLE001
            self._fd, self._ready = -1, None
        self._loop = loop
        self._served: set[int] = set()

    def idle_fd(self) -> int | None:
        """See :class:`Loop`."""
        if self._fd < 0:
            return -1
        return None if self._ready or self._turns.going_on else self._fd

    async def serve_readable(self, fd: int, function: Callable[[], bool]) -> None:
        """Let the loop itself call it: a task that waits would cost two system calls and a hop."""
        done = self._loop.create_future()

        def look() -> None:
            try:
                if self.serve(function) or done.done():
                    return
                done.set_result(None)
            except BaseException as exc:  # it is the waiting task's  # noqa: ASYNC103, BLE001
                self.forget_readable(fd)
                if not done.done():
                    done.set_exception(exc)

        self._context.copy().run(self._loop.add_reader, fd, look)
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
                self._loop.remove_reader(fd)


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
    """The turns of the loop that runs in this thread, as long as anybody uses them."""

    turns: Callable[[], _Turns | None] = staticmethod(lambda: None)


_here = _Here()


def _turns_of(loop: asyncio.AbstractEventLoop) -> _Turns:
    """Return what all share who use the running loop: what one wakes, another may have to write for."""
    turns = _here.turns()
    if turns is None or turns.loop is not loop:
        turns = _Turns(loop)
        _here.turns = weakref.ref(turns)
    return turns
