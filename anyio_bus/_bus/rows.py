"""Own the requests of many tasks that go to the kernel together: those made in one step of the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from anyio_bus._sansio.codec import BAD_JSON, decode_plain
from anyio_bus._sansio.events import Results

if TYPE_CHECKING:
    from anyio_bus._bus.calls import Batch, Call, Calls
    from anyio_bus._io.loop import Loop
    from anyio_bus._sansio.messages import Message, RequestId, Result
    from anyio_bus._sansio.routing import Route

__all__ = ("ALONE", "Row", "Rows")

ALONE: Final = object()  # what a waiter gets whose request is to be begun by itself
MOST_TOGETHER = 256  # requests that are handed to the kernel in one step


class Row:
    """Requests of one kind, each with the waiter of its task.

    Args:
        loop: Makes the waiters.
        method: Of each.
        route: Where each goes.
        timeout_s: Seconds that there are for each, from when they are handed over.
        plain: Their tasks want values; else answers.
        room: There may be so many.
    """

    __slots__ = (
        "_new",
        "batch",
        "items",
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
        self.waiters: list[Any] = []  # None in place of one that has its outcome
        self.batch: Batch | None = None  # what the kernel has them as
        self._new: Callable[[], Any] = loop.waiter

    def join(self, params: object) -> Any:
        """Add a request; return what its task waits for: its outcome, or ``ALONE``."""
        waiter = self._new()
        self.items.append(params)
        self.waiters.append(waiter)
        self.room -= 1
        return waiter


class Rows:
    """The row that is open, and who gets the answers to those that were handed over.

    Args:
        calls: The calls of the bus.
        loop: The running event loop.
    """

    def __init__(self, calls: Calls, loop: Loop) -> None:
        self.row: Row | None = None
        self._calls: Calls = calls
        self._loop: Loop = loop

    def __len__(self) -> int:
        """Return the number of requests that were not handed over yet."""
        return 0 if self.row is None else len(self.row.items)

    def open(self, method: str, route: Route, timeout_s: float | None, plain: bool) -> Row | None:
        """Return the row that such a request may join; None if it is to be begun by itself."""
        row = self.row
        if (
            row is not None
            and row.room > 0
            and row.route is route
            and row.plain is plain
            and row.timeout_s == timeout_s
            and row.method == method
        ):
            return row
        if row is not None:
            self.send()
        calls = self._calls
        if not calls.backend.put_off(self.send) or not _is_plain(route) or not calls.numbered:
            return None
        room = min(calls.room_together, MOST_TOGETHER)
        if room < 1:
            return None
        row = Row(self._loop, method, route, timeout_s, plain, room)
        self.row = row
        return row

    def send(self) -> None:
        """Hand the open row to the kernel; what cannot go together is left to each task."""
        row, self.row = self.row, None
        if row is None or not row.items:
            return
        items, row.items = row.items, []
        try:
            batch = self._calls.begin_many(row.method, items, row.route, row.timeout_s, None, self)
            if batch is not None:
                batch.begin_at(0)
                batch.held = row
                row.batch = batch
        finally:
            if row.batch is None:
                waiters, row.waiters = row.waiters, []
                for waiter in waiters:
                    self._loop.wake(waiter, ALONE)

    def leave(self, row: Row, waiter: Any) -> None:
        """Take back the request of a task that does not wait any more, unless it is over."""
        if waiter not in row.waiters:
            return
        place = row.waiters.index(waiter)
        batch = row.batch
        if batch is None:
            del row.waiters[place], row.items[place]
            return
        row.waiters[place] = None
        self._calls.abandon(batch.call_of(batch.keys[place]))
        self._calls.leave_batch(batch)

    # -- as the sink of what was handed over ----------------------------------------------------

    def params(self, _key: RequestId, params: object) -> object:
        """Return the params as they are."""
        return params

    def finish(self, call: Call, outcome: Message | Exception) -> None:
        """Take what became of one request."""
        batch = call.batch
        assert batch is not None
        self._calls.leave_batch(batch)
        self._give(batch, batch.place_of(call.key), outcome)

    def _give(self, batch: Batch, place: int, outcome: object) -> None:
        waiters = batch.held.waiters
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


def _is_plain(route: Route) -> bool:
    return route.session is None and route.worker is None and not route.envelope
