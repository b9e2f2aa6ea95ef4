"""Own ``map`` for threads: params are read where the results are, requests run in the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

from anyio_bus import InvalidArgumentError, MapResults
from anyio_bus.sync._blocks import Block

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from anyio_bus.sync._runner import Runner

__all__ = ("SyncMapResults",)

T_co = TypeVar("T_co", covariant=True)
REFILLS = 4  # that a full pipeline is fed in: each is one hop, and no worker runs dry meanwhile


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
        self,
        runner: Runner,
        make: Callable[[], AbstractAsyncContextManager[MapResults[Any]]],
        params: Iterable[object],
        in_flight: int,
    ) -> None:
        """Made by a bus."""
        if not isinstance(params, Iterable) or isinstance(params, str | bytes):
            msg = f"params must be an iterable of params, not {type(params).__name__}"
            raise InvalidArgumentError(msg, field="params")
        self.index: int = -1
        self._runner = runner
        self._block = Block(runner, make)
        self._params: Iterator[object] | None = iter(params)
        self._fault: Exception | None = None  # of the params' own iterator
        self._unsent: deque[object] = deque()
        self._posted = False  # whether the loop is to look at them
        self._refused: Exception | None = None
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
            if self._room == self._most:  # nothing is in flight, and nothing will be
                raise self._fault or StopIteration
            self._block.run(self._fetch)
        self.index, result, error = self._ready.popleft()
        self._room += 1
        if error is not None:
            self.close()
            raise error
        value: T_co = result
        return value

    def _refill(self) -> None:
        """Send requests while there is room."""
        while self._room and self._params is not None:
            try:
                item = next(self._params)
            except StopIteration:
                self._params = None
            except Exception as exc:  # raised after the results that are there  # noqa: BLE001
                self._params = None
                self._fault = exc
            else:
                self._room -= 1
                self._unsent.append(item)
                if not self._posted:  # each is on its way before the next one is asked for
                    self._posted = True
                    self._runner.post(self._send)

    # -- in the loop --------------------------------------------------------------------------

    def _send(self) -> None:
        """Send requests for the params that are there; what cannot be sent is an outcome too."""
        self._posted = False
        items = [self._unsent.popleft() for _ in range(len(self._unsent))]
        try:
            if items:
                self._results._add(items)
        except Exception as exc:  # of all of them: the bus is stopped, say  # noqa: BLE001
            self._refused = exc

    async def _fetch(self) -> None:
        """Take the results that have come, at least one."""
        results = self._results
        self._send()  # if a Ctrl-C came before it was posted
        if self._refused is not None:
            raise self._refused
        while True:  # noqa: ASYNC913  # they have one per 64
            try:
                result = await anext(results)
            except Exception as exc:  # raised where it is read  # noqa: BLE001
                self._ready.append((results.index, None, exc))
                return  # noqa: ASYNC910  # one in so many is enough
            self._ready.append((results.index, result, None))
            if not results._is_ready():
                return  # noqa: ASYNC910  # one in so many is enough

    # -- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """Withdraw what is in flight and forget what was not read; leaving the block does the same."""
        self._params = None
        self._block.close()
        self._ready.clear()
