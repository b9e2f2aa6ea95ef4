"""Own the requests of many tasks that go to the kernel together: those made in one step of the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from anyio_bus._errors import BusStoppedError
from anyio_bus._sansio.codec import BAD_JSON, decode_plain
from anyio_bus._sansio.events import Results

if TYPE_CHECKING:
    from anyio_bus._bus.calls import Batch, Call, Calls
    from anyio_bus._io.loop import Loop
    from anyio_bus._sansio.messages import Message, RequestId, Result
    from anyio_bus._sansio.routing import Route

__all__ = ("Row", "Rows")

MOST_TOGETHER = 256  # requests that are handed to the kernel in one step
MOST_ALONE = 64  # requests that are not looked at after two rows of a single one


class Row:
    """Requests of one kind, each with the waiter of its task.

    Args:
        loop: Makes the waiters.
        method: Of each.
        route: Where each goes.
        timeout_s: Seconds that there are for each, from when they are handed over.
        plain: All of their tasks want values; else they get answers.
        room: There may be so many.
    """

    __slots__ = (
        "_new",
        "alone",
        "items",
        "keys",
        "method",
        "plain",
        "room",
        "route",
        "timeout_s",
        "waiters",
    )

    def __init__(  # noqa: PLR0917
        self,
        loop: Loop,
        method: str,
        route: Route,
        timeout_s: float | None,
        plain: bool,
        room: int,
    ) -> None:
        self.method: str = method
        self.route: Route = route
        self.timeout_s: float | None = timeout_s
        self.plain: bool = plain
        self.room: int = room
        self.items: list[object] = []  # the params of each, until they are handed over
        self.waiters: list[Any] = []  # None in place of one that has its outcome, or was left
        self.keys: list[RequestId] | None = None  # of each, once they are a batch
        self.alone: dict[int, RequestId] | None = None  # if they are none: id(waiter) -> id
        self._new: Callable[[], Any] = loop.waiter

    def join(self, params: object) -> Any:
        """Add a request; return what its task waits for."""
        waiter = self._new()
        self.items.append(params)
        self.waiters.append(waiter)
        self.room -= 1
        return waiter


class Rows:
    """The row that is open, those that it closed, and who gets the answers to what was handed over.

    Args:
        calls: The calls of the bus.
        loop: The running event loop.
    """

    def __init__(self, calls: Calls, loop: Loop) -> None:
        self.row: Row | None = None
        self._closed: list[Row] = []  # by a request of another kind; there is an open one, then
        self._calls: Calls = calls
        self._loop: Loop = loop
        self._single = False  # the last row that was closed had a single request
        self._skipped = MOST_ALONE  # requests since there were two such rows

    def __len__(self) -> int:
        """Return the number of requests that were not handed over yet."""
        return 0 if self.row is None else sum(len(row.items) for row in (*self._closed, self.row))

    def open(self, method: str, route: Route, timeout_s: float | None, plain: bool) -> Row | None:
        """Return the row that such a request may join; None if it is to be begun by itself."""
        row = self.row
        if row is not None:
            if (
                row.room > 0
                and row.route is route
                and row.timeout_s == timeout_s
                and row.method == method
            ):
                row.plain &= plain
                return row
            single = len(row.items) == 1
            if single and self._single:
                self._skipped = 0
            self._single = single
        elif self._skipped < MOST_ALONE:
            self._skipped += 1
            return None
        calls = self._calls
        if route.envelope or not calls.numbered or not calls.backend.put_off(self.send):
            return None
        room = min(calls.room_together - len(self), MOST_TOGETHER)
        if room < 1:
            return None
        if row is not None:
            self._closed.append(row)
        self.row = row = Row(self._loop, method, route, timeout_s, plain, room)
        return row

    def send(self) -> None:
        """Hand all to the kernel: each row as one batch, or else each request in its turn."""
        if self.row is None:
            return
        rows, self._closed, self.row = [*self._closed, self.row], [], None
        for place, row in enumerate(rows):
            try:
                self._hand_over(row)
            except BaseException:  # it ends the program: nobody shall wait for ever
                error = BusStoppedError(f"request {row.method!r} failed: interrupted", sent=True)
                for waiter in [waiter for lost in rows[place:] for waiter in lost.waiters]:
                    self._loop.wake(waiter, error)
                raise

    def _hand_over(self, row: Row) -> None:
        if True in [waiter.done() for waiter in row.waiters]:  # they have just been cancelled
            pairs = zip(row.waiters, row.items, strict=True)
            left = [pair for pair in pairs if not pair[0].done()]
            row.waiters, row.items = [pair[0] for pair in left], [pair[1] for pair in left]
        items, row.items = row.items, []
        batch = None
        if len(items) > 1:
            calls = self._calls
            batch = calls.begin_many(row.method, items, row.route, row.timeout_s, None, self)
        if batch is None:
            self._begin_each(row, items)
        else:
            batch.begin_at(0)
            batch.held = row
            row.keys = batch.keys

    def _begin_each(self, row: Row, items: list[object]) -> None:
        row.alone = {}
        for waiter, params in zip(row.waiters, items, strict=True):
            try:
                call = self._calls.begin(
                    row.method, params, row.route, row.timeout_s, None, waiter=waiter
                )
            except Exception as exc:  # it is its own  # noqa: BLE001
                self._loop.wake(waiter, exc)
            else:
                row.alone[id(waiter)] = call.key
        row.waiters = []  # each is held by its call, and by its task

    def leave(self, row: Row, waiter: Any) -> None:
        """Take back the request of a task that does not wait any more, unless it is over."""
        calls = self._calls
        open_calls = calls.peer.calls
        if row.alone is not None:
            call: Any = open_calls.get(row.alone.get(id(waiter)))
            if call is not None and call.waiter is waiter:
                calls.abandon(call)
            return
        try:
            place = row.waiters.index(waiter)
        except ValueError:
            return
        if row.keys is None:
            del row.waiters[place], row.items[place]
            return
        row.waiters[place] = None
        key = row.keys[place]
        batch: Any = open_calls[key]
        calls.abandon(batch.call_of(key))
        calls.leave_batch(batch)

    # -- as the sink of what was handed over ----------------------------------------------------

    def finish(self, call: Call, outcome: Message | Exception) -> None:
        """Take what became of one request."""
        batch = call.batch
        assert batch is not None
        self._calls.leave_batch(batch)
        waiters, place = batch.held.waiters, batch.place_of(call.key)
        waiter, waiters[place] = waiters[place], None  # it is held by its task alone
        self._loop.wake(waiter, outcome)

    def finish_many(
        self,
        batches: list[Batch],
        calls: list[Batch],
        keys: Sequence[RequestId],
        answers: Sequence[Message | Result] | Results,
    ) -> None:
        """Take a run of answers to ``keys``; ``calls`` says of which of the ``batches`` each is."""
        if isinstance(answers, Results):
            values = _values_of(batches, answers)
        else:
            values = list(answers)
            keys = list(map(int, keys))  # type: ignore[arg-type]  # 7.0 is an answer to 7
        wake = self._loop.wake
        for batch, key, value in zip(calls, keys, values, strict=True):
            waiters = batch.held.waiters
            place = batch.offset + key  # type: ignore[operator]  # all ids are numbers
            wake(waiters[place], value)
            waiters[place] = None


def _values_of(batches: list[Batch], results: Results) -> list[Any]:
    """Decode results at once if plain values are wanted of all; else make them answers."""
    if False not in [batch.held.plain for batch in batches]:
        try:
            found = decode_plain(results.block)
        except BAD_JSON:  # one is no JSON to the decoder
            pass
        else:
            return found if len(results.keys) > 1 else [found]
    return results.answers()
