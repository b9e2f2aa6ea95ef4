"""Own the way of an async context manager into a ``with`` block of another thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from time import monotonic
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel

from anyio_bus import BusError, BusStoppedError, InvalidStateError
from anyio_bus.sync._runner import Reply, Runner, check_no_loop

__all__ = ("Batches", "Block")

T = TypeVar("T")
R = TypeVar("R")
_GONE = (BusStoppedError, InvalidStateError)  # the thread has ended, or is another process's


class _Job:
    """An async function that a thread waits for, run in the task of a block."""

    __slots__ = ("call", "reply", "scope")

    def __init__(self, call: Callable[[], Awaitable[Any]]) -> None:
        self.call = call
        self.reply = Reply()
        self.scope: anyio.CancelScope | None = None  # once it runs

    async def run(self) -> None:  # noqa: ASYNC910  # what is called has them
        try:
            with anyio.CancelScope() as self.scope:
                self.reply.set(await self.call())
        except Exception as exc:  # it is the thread's  # noqa: BLE001
            self.reply.fail(exc)
        finally:
            self.reply.fail(anyio.ClosedResourceError())  # unless it has come to an end


class Block(Generic[T]):
    """An async context manager, entered, used and left in a task of its own for other threads.

    Owns:
        That task.

    Args:
        runner: Where it lives.
        make: Makes the context manager, in the loop.
    """

    def __init__(self, runner: Runner, make: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self.runner = runner
        self.last: Callable[[], Awaitable[object]] | None = None  # run when the bus has stopped
        self._make = make
        self._scope: anyio.CancelScope | None = None
        self._opened = Reply()
        self._closers: list[Reply] = []
        self._jobs: deque[_Job] = deque()
        self._job: _Job | None = None
        self._wake = anyio.Event()
        self._used = self._leaving = self._over = False
        self._error: Exception | None = None

    # -- in the loop --------------------------------------------------------------------------

    def _start(self) -> None:
        self._scope = anyio.CancelScope()
        self.runner.live(self)
        self.runner.start_soon(self._live)

    async def _live(self) -> None:  # noqa: ASYNC910  # what is entered has them
        assert self._scope is not None
        try:
            with self._scope:
                async with self._make() as value:
                    self._opened.set(value)
                    await self._serve()
        except Exception as exc:  # raised where the block is left  # noqa: BLE001
            self._error = exc
            self._opened.fail(exc)
        finally:
            self._end()

    async def _serve(self) -> None:  # noqa: ASYNC910  # it waits, or runs what does
        while not self._leaving or (self.last and not self._closers):
            if self._jobs:
                self._job = self._jobs.popleft()
                await self._job.run()
                self._job = None
            elif self._leaving:  # the bus has stopped
                last, self.last = self.last, None
                assert last is not None
                await last()
            else:
                self._wake = anyio.Event()
                await self._wake.wait()

    def _end(self) -> None:
        self._over = True
        self.runner.gone(self)
        self._opened.fail(BusStoppedError("bus is stopped"))
        while self._jobs:
            self._jobs.popleft().reply.fail(anyio.ClosedResourceError())
        for closer in self._closers:
            closer.set()

    def finish(self) -> None:
        """The bus has stopped: fetch what can still be read, and end."""
        self._leaving = True
        self._wake.set()

    def _close(self, closer: Reply) -> None:
        if self._over:
            closer.set()
            return
        self._closers.append(closer)
        if self._job is not None and self._job.scope is not None:
            self._job.scope.cancel("the block was left")
        self.finish()

    def _give_up(self) -> None:
        if self._scope is not None:
            self._scope.cancel("the waiting thread was interrupted")

    def _put(self, job: _Job) -> None:
        if self._over or self._leaving:
            job.reply.fail(anyio.ClosedResourceError())
        else:
            self._jobs.append(job)
            self._wake.set()

    def _drop(self, job: _Job) -> None:
        if job.scope is not None:
            job.scope.cancel("the waiting thread was interrupted")
        elif job in self._jobs:
            self._jobs.remove(job)

    # -- in other threads ---------------------------------------------------------------------

    def open(self) -> T:
        """Enter the context manager; return its value."""
        check_no_loop()
        if self._used:
            msg = "this block was entered before; make another one"
            raise InvalidStateError(msg)
        self._used = True
        try:
            self.runner.post(self._start)
            value: T = self.runner.wait(self._opened)
        except BaseException:
            with suppress(*_GONE):
                self.runner.post(self._give_up)
            raise
        return value

    def run(self, call: Callable[[], Awaitable[R]], timeout: float | None = None) -> R:
        """Run an async function in the block's task, after what other threads run there.

        Raises:
            TimeoutError: It has not ended in time, and is cancelled.
            anyio.ClosedResourceError: The block was left.
        """
        check_no_loop()
        job = _Job(call)
        try:
            self.runner.post(self._put, job)
            value: R = self.runner.wait(job.reply, timeout)
        except BaseException:
            if not job.reply.over:
                with suppress(*_GONE):
                    self.runner.post(self._drop, job)
            raise
        return value

    def close(self) -> None:
        """Leave the context manager; what runs in it is cancelled."""
        closer = Reply()
        with suppress(*_GONE):
            self.runner.post(self._close, closer)
            self.runner.wait(closer)
        if self._error is not None:
            error, self._error = self._error, None
            raise error


class Batches(Generic[T]):
    """What a block receives, fetched a batch at a time, for any number of threads.

    A batch is put where all of them look for it, so that none is lost when a wait is interrupted.

    Args:
        block: The block.
        receive: Receives a batch, in the loop.
    """

    def __init__(self, block: Block[Any], receive: Callable[[], Awaitable[list[T]]]) -> None:
        self.items: deque[T] = deque()
        self._block = block
        self._receive = receive
        self._end: Exception | None = None
        block.last = self._fetch_rest

    async def _fetch(self) -> None:
        if self.items:  # fetched for another thread
            await anyio.lowlevel.checkpoint()
        else:
            self.items.extend(await self._receive())

    async def _fetch_rest(self) -> None:  # noqa: ASYNC910  # what is received has them
        try:
            while True:
                self.items.extend(await self._receive())
        except (anyio.EndOfStream, anyio.ClosedResourceError, BusError) as exc:
            self._end = exc

    def next(self, timeout: float | None = None) -> T:
        """Return the next one."""
        end = None if timeout is None else monotonic() + timeout
        while True:
            try:
                return self.items.popleft()
            except IndexError:
                self._wait(end)

    def batch(self, timeout: float | None = None, most: int | None = None) -> list[T]:
        """Return those that are there, at least one."""
        items = [self.next(timeout)]
        with suppress(IndexError):
            while most is None or len(items) < most:
                items.append(self.items.popleft())
        return items

    def _wait(self, end: float | None) -> None:
        try:
            if self._end is None:
                left = None if end is None else max(end - monotonic(), 0)
                self._block.run(self._fetch, left)
        except (BusStoppedError, anyio.ClosedResourceError):
            if self._end is None:
                raise
        if self._end is not None and not self.items:
            raise self._end

    def close(self) -> None:
        """Leave the block; forget what nobody has read."""
        self._block.close()
        self.items.clear()
