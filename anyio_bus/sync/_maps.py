"""Own ``map`` for threads: params are read where the results are, requests run in the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sized
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import anyio

from anyio_bus import InvalidArgumentError, MapResults
from anyio_bus.sync._blocks import Block

if TYPE_CHECKING:
    from types import TracebackType

    from anyio_bus.sync._runner import Runner

__all__ = ("SyncMapResults",)

T_co = TypeVar("T_co", covariant=True)
Make = Callable[[AsyncIterable[object]], AbstractAsyncContextManager[MapResults[Any]]]

REFILLS = 4  # that a full pipeline is fed in: each is one hop, and no worker runs dry meanwhile


class _Feed:
    """Params on their way into the loop."""

    def __init__(self) -> None:
        self._items: deque[object] = deque()
        self._over = False
        self._wake: anyio.Event | None = None

    def add(self, items: list[object], *, over: bool) -> None:
        """Take params; called in the loop."""
        self._items.extend(items)
        self._over = over
        if self._wake is not None:
            self._wake.set()

    def __aiter__(self) -> _Feed:
        return self

    async def __anext__(self) -> object:  # noqa: ASYNC910  # the results have checkpoints
        while not self._items:
            if self._over:
                raise StopAsyncIteration
            self._wake = anyio.Event()
            await self._wake.wait()
        return self._items.popleft()


@final
class SyncMapResults(Generic[T_co]):
    """The results of :meth:`SyncBus.map` as they are iterated over, by one thread.

    The params are read in this thread, between the results: an iterable that blocks holds up
    nothing but the results, and may itself use the bus.

    Owns:
        The requests in flight and the results that were not read.

    Attributes:
        index: The place, from 0, of the params that the last result belongs to; -1 before it.
    """

    def __init__(
        self, runner: Runner, make: Make, params: Iterable[object], in_flight: int
    ) -> None:
        """Made by a bus."""
        if not isinstance(params, Iterable) or isinstance(params, str | bytes):
            msg = f"params must be an iterable of params, not {type(params).__name__}"
            raise InvalidArgumentError(msg, field="params")
        self.index: int = -1
        self._runner = runner
        self._feed = _Feed()
        self._block = Block(runner, lambda: make(self._feed))
        self._params: Iterator[object] | None = iter(params)
        self._fault: Exception | None = None  # of the params' own iterator
        self._may_block = not isinstance(params, Sized)  # and then no item waits for the next one
        self._most = in_flight
        self._room = in_flight
        self._ready: deque[tuple[int, Any, Exception | None]] = deque()

    def __enter__(self) -> SyncMapResults[T_co]:
        """Send the first requests."""
        self._results = self._block.open()
        try:
            self._refill()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Withdraw what is in flight and forget what was not read."""
        self.close()

    def __iter__(self) -> SyncMapResults[T_co]:
        """Iterate over the results."""
        return self

    def __next__(self) -> T_co:
        """Return the next result, or raise what its request ended with."""
        if self._params is not None and (self._room * REFILLS >= self._most or not self._ready):
            self._refill()
        while not self._ready:
            try:
                self._block.run(self._fetch)
            except anyio.EndOfStream:
                if self._fault is not None:
                    raise self._fault from None
                raise StopIteration from None
        self.index, result, error = self._ready.popleft()
        self._room += 1
        if error is not None:
            self.close()
            raise error
        value: T_co = result
        return value

    def _refill(self) -> None:
        """Send requests while there is room."""
        items: list[object] = []
        while self._room and self._params is not None:
            try:
                items.append(next(self._params))
            except StopIteration:
                self._params = None
            except Exception as exc:  # raised after the results that are there  # noqa: BLE001
                self._params = None
                self._fault = exc
            else:
                self._room -= 1
            if self._may_block and items:
                self._runner.post(partial(self._feed.add, items, over=False))
                items = []
        if items or self._params is None:
            self._runner.post(partial(self._feed.add, items, over=self._params is None))

    async def _fetch(self) -> None:
        """Take the results that have come, at least one; called in the loop."""
        results = self._results
        while True:
            try:
                result = await anext(results)
            except StopAsyncIteration:
                if self._ready:
                    return
                raise anyio.EndOfStream from None
            except Exception as exc:  # raised where it is read  # noqa: BLE001
                self._ready.append((results.index, None, exc))
                return
            self._ready.append((results.index, result, None))
            if not results._is_ready():
                return

    def close(self) -> None:
        """Withdraw what is in flight and forget what was not read; leaving the block does the same."""
        self._params = None
        self._block.close()
        self._ready.clear()
