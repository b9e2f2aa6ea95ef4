"""Own ``bus.map``: many requests of one method in flight at once, without a task for each."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, final

import anyio
import anyio.lowlevel
import msgspec
from msgspec import UNSET, Raw

from anyio_bus._bus.calls import Batch, result_of
from anyio_bus._errors import BusError, InvalidArgumentError
from anyio_bus._io.loop import Bell
from anyio_bus._sansio.codec import decode_value, decoder_of
from anyio_bus._sansio.events import Results
from anyio_bus._sansio.messages import Message, Result

if TYPE_CHECKING:
    from anyio_bus._bus.calls import Call, Calls
    from anyio_bus._sansio.messages import RequestId

Outcome: TypeAlias = Raw | Message | Exception  # a result, another answer, or none

__all__ = ("Begin", "MapResults", "open_map")

T_co = TypeVar("T_co", covariant=True)
Begin = Callable[[object, "MapResults[Any]"], "Call"]  # params, sink
BeginMany = Callable[[list[object], "MapResults[Any]"], "Batch | None"]

MOST_AT_ONCE = 1024  # requests that are made in one step: their lists are short-lived
FREE_TURNS = 64  # results that are taken without a checkpoint
COMPANY_S = 1e-4  # for which room waits for more, while results can be read: together costs less


def _in_a_row(keys: Sequence[Any], first: int) -> bool:
    """Tell whether these ids, each there once, are the numbers from ``first`` on."""
    if keys[0] != first or keys[-1] != first + len(keys) - 1:
        return False
    return sorted(keys) == keys  # of the same objects, which takes no look at them


def _of_answer(answer: Message | Result) -> Outcome:
    return answer.result if answer.error is UNSET else answer  # type: ignore[return-value]


class _Undecoded(msgspec.Struct):
    outcome: Outcome


@final
class MapResults(Generic[T_co]):
    """The results of :meth:`Bus.map` as they are iterated over.

    At most ``in_flight`` requests are made and not yet read, so a slow reader slows the requests,
    and slow requests the reading of the params.

    Owns:
        The requests in flight and the results that were not read.
    """

    def __init__(self) -> None:
        """Refuse: a bus makes them."""
        msg = "use `async with bus.map(...) as results:`"
        raise TypeError(msg)

    _calls: Calls
    _begin: Begin
    _reply: Any
    _ordered: bool
    _return_errors: bool
    _begin_many: BeginMany
    _decode: Callable[[Raw | bytes], Any]
    _decode_all: Callable[[bytes], list[Any]]
    _room: int
    _refill: int  # room for so many is worth making requests
    _next: int  # place of the next params
    _head: int  # place of the next outcome in order
    _open: int  # calls without an outcome
    _early: dict[int, Any]  # place -> what came before its turn
    _ready: list[Any]  # what can be had: values, or what is _Undecoded
    _places: deque[int]  # of each of these, unless they come in order
    _values: list[Any]  # what may be had without a look at anything else, the next one last
    _counted: int  # so many of these there were; there is no room for them yet
    _granted: int  # so many there were up to now
    _place: int  # see index, unless they come in order
    _params: Iterator[object] | None  # those of a plain iterable
    _fed_by_task: bool
    _exhausted: bool
    _fault: Exception | None  # of the params' own iterator
    _turns: int
    _since: float  # time of the last wait, or the last requests
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
        self._place = -1
        self._calls = calls
        self._begin, self._begin_many = begin
        self._reply = reply
        self._decode = decoder_of(reply).decode
        self._decode_all = decoder_of(list[reply]).decode
        self._ordered = ordered
        self._return_errors = return_errors
        self._room = self._next = self._head = self._open = self._counted = self._granted = 0
        self._values = []
        self._refill = 1
        self._early = {}
        self._ready = []
        self._places = deque()
        self._params = self._fault = self._waiter = None
        self._fed_by_task = self._exhausted = False
        self._turns = FREE_TURNS
        self._since = 0.0
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
            batch.begin_at(places.start)
            self._open += len(items)
            return
        for place, params in zip(places, items, strict=True):
            try:
                self._begin(params, self).waiter = place  # nobody awaits it
                self._open += 1
            except Exception as exc:  # it costs this request  # noqa: BLE001
                self._line_up(place, _Undecoded(exc))

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
        found = outcome if isinstance(outcome, Exception) else _of_answer(outcome)
        self._line_up(place, _Undecoded(found))

    def finish_many(
        self,
        batches: list[Batch],
        calls: list[Batch],
        keys: Sequence[RequestId],
        answers: Sequence[Message | Result] | Results,
    ) -> None:
        """Take a run of answers to ``keys``; ``calls`` says of which of the ``batches`` each is."""
        count = len(keys)
        self._open -= count
        offsets = {batch.offset for batch in batches}
        offset = offsets.pop()
        values = self._values_of(answers)
        if offsets or offset is None:
            places = list(map(Batch.place_of, calls, keys))
        elif self._ordered and not self._early and _in_a_row(keys, self._head - offset):
            self._head += count
            self._ready.extend(values)
            self._wake()
            return
        else:
            places = [offset + int(key) for key in keys]  # type: ignore[arg-type]  # 7.0 answers 7
        for place, value in zip(places, values, strict=True):
            self._line_up(place, value)

    def _values_of(self, answers: Sequence[Message | Result] | Results) -> list[Any]:
        """Decode results, all at once unless there is something about one of them."""
        try:
            if isinstance(answers, Results):
                several = len(answers.keys) > 1
                return self._decode_all(answers.block) if several else [self._decode(answers.block)]
            return [self._decode(_of_answer(answer)) for answer in answers]  # type: ignore[arg-type]
        except Exception:  # raised where that one is read  # noqa: BLE001
            each = answers.answers() if isinstance(answers, Results) else answers
            return [_Undecoded(_of_answer(answer)) for answer in each]

    def _line_up(self, place: int, value: object) -> None:
        """Take what there is of one request, which can be had when it is its turn."""
        if self._ordered and place != self._head:
            self._early[place] = value
            return
        if not self._ordered:
            self._places.append(place)
        self._ready.append(value)
        self._head += 1
        while self._early and self._head in self._early:
            self._ready.append(self._early.pop(self._head))
            self._head += 1
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            self._calls.wake(waiter)

    # -- what comes out -----------------------------------------------------------------------

    @property
    def index(self) -> int:
        """The place, from 0, of the params that the last result belongs to; -1 before it."""
        return self._granted - len(self._values) - 1 if self._ordered else self._place

    def __aiter__(self) -> MapResults[T_co]:
        """Iterate over the results."""
        return self

    async def __anext__(self) -> T_co:
        """Return the next result, or raise what its request ended with."""
        values = self._values
        if not values:
            if not self._is_ready():
                await self._wait()
                self._turns = FREE_TURNS
                self._since = monotonic()
            if not values:  # else another task has just read the last of them
                self._grant()
        value: Any = values.pop()
        if not self._ordered:
            self._place = self._places.popleft()
        if not values:
            self._settle()
        if type(value) is _Undecoded:
            value = self._value(value.outcome)
        return value  # type: ignore[no-any-return]  # noqa: ASYNC910  # see FREE_TURNS

    def _grant(self) -> None:
        """Take the results that may be read before there is anything else to do."""
        most = self._refill - self._room
        if most <= 0:  # more room is not made use of yet
            most = self._refill
        self._counted = min(len(self._ready), self._turns, most)
        self._values += self._ready[: self._counted]
        self._values.reverse()
        del self._ready[: self._counted]
        self._granted += self._counted

    def _settle(self) -> None:
        """What was granted was read: make room for as many requests, and grant more."""
        self._turns -= self._counted
        self._room += self._counted
        self._counted = 0
        if self._room >= self._refill:
            now = monotonic()
            if not self._ready or now - self._since > COMPANY_S:
                self._make_room_known()
                self._since = now
        self._grant()

    def _is_ready(self) -> bool:
        """Tell whether the next result can be had without a wait."""
        return bool(self._values or (self._turns > 0 and self._ready))

    def _make_room_known(self) -> None:
        if self._fed_by_task:
            self._bell.ring()
        else:
            self._feed()

    async def _wait(self) -> None:  # noqa: ASYNC910  # what is ready has one, what is awaited is one
        """Wait for a result; always a checkpoint."""
        if self._room:
            self._make_room_known()
        if self._ready:
            await anyio.lowlevel.checkpoint()
        while not self._ready:
            if self._exhausted and not self._open:
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

    def _value(self, outcome: Outcome) -> Any:
        try:
            if isinstance(outcome, Exception):
                raise outcome
            raw = outcome if isinstance(outcome, Raw) else result_of(outcome)
            return decode_value(raw, self._reply)
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
        self._room = self._counted = 0
        self._granted -= len(self._values)
        self._values.clear()
        calls = self._calls.open_calls() if self._open else []
        for call in reversed([call for call in calls if call.sink is self]):
            self._calls.abandon(call)
            if call.batch is not None:
                self._calls.leave_batch(call.batch)
        self._open = 0
        self._early.clear()
        self._ready.clear()
        self._places.clear()
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
