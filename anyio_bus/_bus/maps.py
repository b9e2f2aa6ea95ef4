"""Own ``bus.map``: many requests of one method in flight at once, without a task for each."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import anyio
import anyio.lowlevel
from msgspec import UNSET

from anyio_bus._bus.calls import result_of
from anyio_bus._errors import BusError, InvalidArgumentError
from anyio_bus._io.loop import Bell
from anyio_bus._sansio.codec import decode_plain, decode_value
from anyio_bus._sansio.messages import Message

if TYPE_CHECKING:
    from anyio_bus._bus.calls import Batch, Call, Calls
    from anyio_bus._sansio.messages import RequestId

__all__ = ("Begin", "MapResults", "open_map")

T_co = TypeVar("T_co", covariant=True)
Begin = Callable[[object, "MapResults[Any]"], "Call"]  # params, sink
BeginMany = Callable[[list[object], "MapResults[Any]"], "Batch | None"]

MOST_AT_ONCE = 1024  # requests that are made in one step: their lists are short-lived
FREE_TURNS = 64  # results that are taken without a checkpoint


@final
class MapResults(Generic[T_co]):
    """The results of :meth:`Bus.map` as they are iterated over.

    At most ``in_flight`` requests are made and not yet read, so a slow reader slows the requests,
    and slow requests the reading of the params.

    Owns:
        The requests in flight and the results that were not read.

    Attributes:
        index: The place, from 0, of the params that the last result belongs to; -1 before it.
    """

    def __init__(self) -> None:
        """Refuse: a bus makes them."""
        msg = "use `async with bus.map(...) as results:`"
        raise TypeError(msg)

    index: int
    _calls: Calls
    _begin: Begin
    _reply: Any
    _ordered: bool
    _return_errors: bool
    _begin_many: BeginMany
    _room: int
    _refill: int  # room for so many is worth making requests
    _next: int  # place of the next params
    _head: int  # place of the next result in order
    _open: int  # calls without an outcome
    _done: dict[int, Message | Exception]  # place -> outcome
    _ready: deque[int]  # places, as they were done
    _params: Iterator[object] | None  # those of a plain iterable
    _fed_by_task: bool
    _exhausted: bool
    _fault: Exception | None  # of the params' own iterator
    _turns: int
    _waiter: Any
    _bell: Bell

    @classmethod
    def _create(
        cls,
        calls: Calls,
        begin: tuple[Begin, BeginMany],
        reply: Any,
        *,
        ordered: bool,
        return_errors: bool,
    ) -> MapResults[Any]:
        self: MapResults[Any] = object.__new__(cls)
        self.index = -1
        self._calls = calls
        self._begin, self._begin_many = begin
        self._reply = reply
        self._ordered = ordered
        self._return_errors = return_errors
        self._room = self._next = self._head = self._open = 0
        self._refill = 1
        self._done = {}
        self._ready = deque()
        self._params = self._fault = self._waiter = None
        self._fed_by_task = self._exhausted = False
        self._turns = FREE_TURNS
        self._bell = Bell()
        return self

    # -- what goes in -------------------------------------------------------------------------

    def _start(self, in_flight: int) -> None:
        self._room = in_flight
        self._refill = max(1, in_flight // 4)

    def _feed(self) -> None:
        """Make as many requests as there is room for."""
        while self._room and self._params is not None:
            wanted = min(self._room, MOST_AT_ONCE)
            items: list[object] = []
            try:
                items.extend(islice(self._params, wanted))
            except Exception as exc:  # raised where the results are read  # noqa: BLE001
                self._fault = exc
            if len(items) < wanted:
                self._params = None
            if items:
                try:
                    self._add(items)
                except (
                    BusError
                ) as exc:  # there is to be no new work; what is in flight is had first
                    self._fault = exc
                    self._params = None
            self._exhausted = self._params is None

    def _add(self, items: list[object]) -> None:
        """Make a request of each; all at once if nothing is in the way."""
        batch = self._begin_many(items, self)
        places = range(self._next, self._next + len(items))
        self._next += len(items)
        self._room -= len(items)
        if batch is not None:
            batch.first = places.start
            self._open += len(items)
            return
        for place, params in zip(places, items, strict=True):
            try:
                self._begin(params, self).waiter = place  # nobody awaits it
                self._open += 1
            except Exception as exc:  # it costs this request  # noqa: BLE001
                self._done[place] = exc
                if not self._ordered:
                    self._ready.append(place)
                self._wake()

    def params(self, _key: RequestId, params: object) -> object:
        """Return the params as they are."""
        return params

    def finish(self, call: Call, outcome: Message | Exception) -> None:
        """Take what became of a request."""
        self._open -= 1
        batch = call.batch
        if batch is None:
            place: int = call.waiter
        else:
            place = batch.place_of(call.key)
            self._calls.leave_batch(batch)
        self._done[place] = outcome
        if not self._ordered:
            self._ready.append(place)
        elif place != self._head:
            return
        if self._waiter is not None:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            self._calls.wake(waiter)

    # -- what comes out -----------------------------------------------------------------------

    def __aiter__(self) -> MapResults[T_co]:
        """Iterate over the results."""
        return self

    async def __anext__(self) -> T_co:
        """Return the next result, or raise what its request ended with."""
        place = self._head
        if not self._turns or not self._ordered or place not in self._done:
            place = await self._find()
        self._turns -= 1
        outcome = self._done.pop(place)
        self._head = place + 1
        self.index = place
        self._room += 1
        if self._room >= self._refill:
            self._make_room_known()
        if type(outcome) is Message and outcome.error is UNSET and self._reply is Any:
            return decode_plain(outcome.result)  # type: ignore[no-any-return, arg-type]  # noqa: ASYNC910  # see FREE_TURNS
        result: T_co = self._value(outcome)
        return result  # noqa: ASYNC910  # see FREE_TURNS

    async def _find(self) -> int:
        """Return the place of the next result; a checkpoint if it has to wait or it is time."""
        place = self._next_place() if self._turns else None
        if place is None:
            place = await self._wait()
            self._turns = FREE_TURNS
        return place  # noqa: ASYNC910  # see FREE_TURNS

    def _make_room_known(self) -> None:
        if self._fed_by_task:
            self._bell.ring()
        else:
            self._feed()

    def _is_ready(self) -> bool:
        """Tell whether the next result can be had without a wait."""
        return self._turns > 0 and (
            bool(self._ready) or (self._ordered and self._head in self._done)
        )

    def _next_place(self) -> int | None:
        if not self._ordered:
            return self._ready.popleft() if self._ready else None
        return self._head if self._head in self._done else None

    async def _wait(self) -> int:
        """Wait for a result; always a checkpoint."""
        if self._room:
            self._make_room_known()
        if self._done:
            await anyio.lowlevel.checkpoint()
        while (place := self._next_place()) is None:
            if self._exhausted and not self._open and not self._done:
                await anyio.lowlevel.checkpoint()
                if self._fault is not None:
                    raise self._fault
                raise StopAsyncIteration
            if self._waiter is not None:
                raise anyio.BusyResourceError("iterating over")
            self._waiter = waiter = self._calls.waiter()
            try:
                await waiter
            finally:
                if self._waiter is waiter:
                    self._waiter = None
        return place  # noqa: ASYNC910  # what is ready was waited for above

    def _value(self, outcome: Message | Exception) -> Any:
        try:
            if not isinstance(outcome, Message):
                raise outcome
            raw = outcome.result if outcome.error is UNSET else result_of(outcome)
            return decode_value(raw, self._reply)  # type: ignore[arg-type]
        except Exception as exc:
            if self._return_errors:
                return exc
            self._close()
            raise

    # -- the end ------------------------------------------------------------------------------

    def _close(self) -> None:
        """Withdraw what is in flight and forget what was not read."""
        self._params = None
        self._exhausted = True
        self._room = 0
        calls = [call for call in self._calls.peer.calls.values() if call.sink is self]
        for call in reversed(calls if self._open else ()):
            self._calls.abandon(call)
            if call.batch is not None:
                self._calls.leave_batch(call.batch)
        self._open = 0
        self._done.clear()
        self._ready.clear()
        self._wake()

    async def _feed_from(self, params: AsyncIterable[object]) -> None:  # noqa: ASYNC910
        """Make requests of what an asynchronous iterable gives, while there is room."""
        iterator = aiter(params)
        try:
            try:
                async for item in iterator:
                    while not self._room:
                        await self._bell.wait()
                    self._add([item])
            finally:
                aclose = getattr(iterator, "aclose", None)
                if aclose is not None:  # a generator, which may be suspended at its yield
                    await aclose()  # noqa: ASYNC102
        except Exception as exc:  # raised where the results are read  # noqa: BLE001
            self._fault = exc
        self._exhausted = True
        self._wake()


@asynccontextmanager
async def open_map(
    results: MapResults[Any],
    params: Iterable[object] | AsyncIterable[object],
    in_flight: int,
) -> AsyncIterator[MapResults[Any]]:
    """Run the requests of a map while the block lasts."""
    if not isinstance(params, Iterable | AsyncIterable) or isinstance(params, str | bytes):
        msg = f"params must be an iterable of params, not {type(params).__name__}"
        raise InvalidArgumentError(msg, field="params")
    await anyio.lowlevel.checkpoint()
    results._start(in_flight)
    try:
        if isinstance(params, AsyncIterable):
            results._fed_by_task = True
            body_error: Exception | None = None
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(results._feed_from, params)
                try:
                    yield results
                except Exception as exc:  # raised bare, after the join  # noqa: BLE001
                    body_error = exc
                told = results._fault
                tasks.cancel_scope.cancel("map left")
            if body_error is not None:
                raise body_error
            if results._fault is not None and results._fault is not told:
                raise results._fault  # of the iterable, as it was closed
        else:
            results._params = iter(params)
            results._feed()
            yield results
    finally:
        results._close()
