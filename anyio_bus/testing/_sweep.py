"""Own the cancel sweep: an operation is cancelled before each of its steps in turn."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from inspect import isawaitable
from typing import Any

import anyio
import anyio.lowlevel

from anyio_bus.testing._leaks import LeakCheck

__all__ = ("cancel_sweep",)

MAX_STEPS = 10_000  # an operation that takes more of them polls, or is too large to sweep


async def cancel_sweep(
    operation: Callable[[], Awaitable[object]],
    *,
    check: Callable[[], object] | None = None,
    check_leaks: bool = True,
    max_steps: int = MAX_STEPS,
) -> int:
    """Cancel an operation before its k-th step, for k = 1, 2, and so on until it finishes.

    ::

        async def one_request() -> None:
            async with open_bus(pool) as bus:
                await bus.request("echo")

        assert await cancel_sweep(one_request) > 10

    A step is one resumption of the operation's task, or of a task that it started. The operation is
    called anew for each round, and not cancelled in the last one.

    Args:
        operation: An async function without arguments.
        check: Called after each round, awaited if it returns an awaitable; it raises if the
            operation left something in the wrong state.
        check_leaks: Whether each round may leave no process, file descriptor or task behind.
        max_steps: Give up after so many rounds.

    Returns:
        The number of steps before which the operation was cancelled.

    Raises:
        LeakError: A round left something behind.
        AssertionError: It is not over after ``max_steps`` rounds.
        BaseException: What ``operation`` or ``check`` raises; a note names the step.

    Cancellation:
        Ends the round that runs, and the sweep.
    """
    for cancel_at in range(1, max_steps + 1):
        try:
            if not await _round(operation, check, cancel_at, check_leaks=check_leaks):
                return cancel_at - 1
        except Exception as exc:
            exc.add_note(
                f"cancel_sweep: the operation was to be cancelled before its step {cancel_at}"
            )
            raise
    msg = f"the operation has more than max_steps={max_steps} steps"
    raise AssertionError(msg)


async def _round(
    operation: Callable[[], Awaitable[object]],
    check: Callable[[], object] | None,
    cancel_at: int,
    *,
    check_leaks: bool,
) -> bool:
    """Run the operation once; return whether it came as far as the step in question."""
    async with AsyncExitStack() as stack:
        if check_leaks:
            await stack.enter_async_context(LeakCheck())
        with anyio.CancelScope() as scope:
            steps = _Steps(scope, cancel_at)
            with steps.counted():
                await steps.count(operation)
        if check is not None:
            outcome = check()
            if isawaitable(outcome):
                await outcome
    await anyio.lowlevel.checkpoint()
    return steps.taken >= cancel_at


_running: ContextVar[_Steps | None] = ContextVar("_running", default=None)


class _Steps:
    """Counts the steps of one operation, and cancels its scope before one of them.

    Which task belongs to the operation is told by a context variable, since a task inherits the
    context of the one that started it.
    """

    def __init__(self, scope: anyio.CancelScope, cancel_at: int) -> None:
        self.taken = 0
        self._scope = scope
        self._cancel_at = cancel_at
        self._on_trio = False

    def step(self) -> None:
        self.taken += 1
        if self.taken == self._cancel_at:
            self._scope.cancel(f"cancel_sweep: before step {self.taken}")

    async def count(self, operation: Callable[[], Awaitable[object]]) -> None:
        """Run the operation in this task."""
        if self._on_trio:
            self.step()  # its first step is part of one that has begun
            await operation()
        else:
            await _CountedCoroutine(_call(operation), self)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Inside the block the steps of this task, and of those that it starts, are counted."""
        token = _running.set(self)
        try:
            with self._hooked():
                yield
        finally:
            _running.reset(token)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        trio = sys.modules.get("trio")
        self._on_trio = trio is not None and trio.lowlevel.in_trio_task()
        if self._on_trio:
            trio.lowlevel.add_instrument(self)  # type: ignore[union-attr]
            try:
                yield
            finally:
                trio.lowlevel.remove_instrument(self)  # type: ignore[union-attr]
        else:
            with self._task_factory():
                yield

    def before_task_step(self, task: Any) -> None:
        """Trio calls this, as it calls an :class:`trio.abc.Instrument`."""
        if task.context.get(_running) is self:
            self.step()

    @contextmanager
    def _task_factory(self) -> Iterator[None]:
        """On asyncio, make every task that the operation starts count its steps."""
        asyncio = sys.modules["asyncio"]
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        make = before
        if before is None or _is_eager(asyncio, before):  # AnyIO starts no task eagerly either
            make = _plain_task

        def factory(loop: Any, coroutine: Coroutine[Any, Any, Any], **options: Any) -> Any:
            if _running.get() is self:
                coroutine = _CountedCoroutine(coroutine, self)
            return make(loop, coroutine, **options)

        loop.set_task_factory(factory)
        try:
            yield
        finally:
            loop.set_task_factory(before)


async def _call(operation: Callable[[], Awaitable[object]]) -> None:
    await operation()


def _is_eager(asyncio: Any, factory: Any) -> bool:
    eager = getattr(asyncio, "eager_task_factory", None)
    return eager is not None and getattr(factory, "__code__", None) is eager.__code__


def _plain_task(loop: Any, coroutine: Any, **options: Any) -> Any:
    return sys.modules["asyncio"].Task(coroutine, loop=loop, **options)


class _CountedCoroutine(Coroutine[Any, Any, Any]):
    """A coroutine that reports each of its steps before it is taken."""

    def __init__(self, inner: Coroutine[Any, Any, Any], steps: _Steps) -> None:
        self._inner = inner
        self._steps = steps

    def send(self, value: Any) -> Any:
        self._steps.step()
        return self._inner.send(value)

    def throw(self, *args: Any) -> Any:
        self._steps.step()
        return self._inner.throw(*args)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> _CountedCoroutine:
        return self

    def __iter__(self) -> _CountedCoroutine:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def __getattr__(self, name: str) -> Any:
        """Show everything else of it: AnyIO asks whether it has started."""
        return getattr(self._inner, name)
