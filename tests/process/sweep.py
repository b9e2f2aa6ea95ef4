"""The cancel sweep (:func:`anyio_bus.testing.cancel_sweep`) with asyncio's own, edge cancels.

``Task.cancel`` is delivered once, and goes through every shield of AnyIO; frameworks send it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from anyio_bus.testing import LeakCheck
from tests.process.kit import patience

ROUNDS = 1000  # an operation that takes more steps is not swept, it hangs


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine that says when it is about to take a step."""

    def __init__(self, inner: Coroutine[Any, Any, Any], step: Callable[[], None]) -> None:
        self._inner = inner
        self._step = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def send(self, value: Any) -> Any:
        self._step()
        return self._inner.send(value)

    def throw(self, *args: Any) -> Any:
        self._step()
        return self._inner.throw(*args)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()


@contextmanager
def _each_step(step: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()

    def counted(loop: Any, coroutine: Any, **options: Any) -> Any:
        return asyncio.Task(_Counted(coroutine, step), loop=loop, **options)

    loop.set_task_factory(counted)
    try:
        yield
    finally:
        loop.set_task_factory(before)


async def _round(operation: Callable[[], Awaitable[object]], moments: set[int]) -> bool:
    """Run the operation in a task, cancel that at these steps; return whether it got that far."""
    taken = 0

    def step() -> None:
        nonlocal taken
        taken += 1
        if taken in moments:
            task.cancel()

    async def run() -> None:
        await operation()

    with _each_step(step):
        task = asyncio.get_running_loop().create_task(run())
        with patience():
            await asyncio.wait([task])
    if not task.cancelled():
        task.result()  # too late for the cancel, or it came in the very last step
    return taken >= min(moments)


async def native_cancel_sweep(operation: Callable[[], Awaitable[object]], again: int) -> int:
    """Cancel at the k-th step and once more ``again`` steps later (0: only once), for each k.

    A step is one turn of any task. After each round no process, fd or task may be left.
    """
    for number in range(1, ROUNDS):
        async with LeakCheck():
            reached = await _round(operation, {number, number + again})
        if not reached:
            return number
    msg = f"the operation takes more than {ROUNDS} steps"
    raise AssertionError(msg)
