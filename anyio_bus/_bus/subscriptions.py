"""Own the subscriptions of a bus: each a bounded queue of notifications with its own policy."""

from __future__ import annotations

import fnmatch
import logging
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final, get_args

import anyio
import anyio.lowlevel
import msgspec
from msgspec import UNSET

from anyio_bus._bus.calls import check_count
from anyio_bus._errors import InvalidArgumentError, StreamOverflowError
from anyio_bus._io.loop import Bell
from anyio_bus._sansio.codec import decoder_of
from anyio_bus._sansio.notifications import Notification, keep_only
from anyio_bus._sansio.throttle import LOG_BURST, LOG_WINDOW_S, Throttle

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from anyio_bus._bus.brakes import Brakes
    from anyio_bus._sansio.messages import Message

__all__ = ("Callback", "Filter", "Overflow", "Subscription")

logger = logging.getLogger("anyio_bus")

Overflow: TypeAlias = Literal["drop_newest", "drop_oldest", "close", "block"]
FREE_TURNS = 64  # notifications that a reader takes without a checkpoint


class _Session(msgspec.Struct):
    session: str | None = msgspec.field(default=None, name="sessionId")


_session = msgspec.json.Decoder(_Session)


class Filter:
    """Which notifications somebody follows.

    Args:
        pattern: Of the method: exact, or with ``*``, ``?`` and ``[...]`` as in file names.
        pool: Its pool; None for all.
        session: Its session, at top level or in the params; None for all.
    """

    __slots__ = ("_match", "pattern", "pool", "session")

    def __init__(self, pattern: str, pool: str | None, session: str | None) -> None:
        if not isinstance(pattern, str) or not pattern:
            msg = f"pattern must be a method, or a pattern of methods, not {pattern!r}"
            raise InvalidArgumentError(msg, field="pattern")
        self.pattern: str = pattern
        self.pool: str | None = pool
        self.session: str | None = session
        self._match = re.compile(fnmatch.translate(pattern)).match

    def takes(self, pool: str, method: str) -> bool:
        """Tell whether notifications of a pool with this method are followed."""
        return (self.pool is None or self.pool == pool) and self._match(method) is not None

    def takes_session(self, note: Message) -> bool:
        """Tell whether a notification is of the session that is followed."""
        if self.session is None or note.session == self.session:
            return True
        if note.session is not UNSET or note.params is UNSET:
            return False
        try:
            return _session.decode(note.params).session == self.session
        except msgspec.DecodeError:
            return False


class Callback:
    """A plain function that is called with each notification, at once.

    Args:
        filter: Which ones.
        function: It must not block; what it raises is logged and costs that notification.

    Attributes:
        over: Whether it was removed; it may be in the middle of a run of notifications.
    """

    __slots__ = ("_function", "_throttle", "filter", "over")

    def __init__(self, filter: Filter, function: Callable[[Notification], object]) -> None:  # noqa: A002
        self.filter = filter
        self._throttle = Throttle(LOG_BURST, LOG_WINDOW_S)
        self._function = function
        self.over: bool = False

    def offer(self, pool: str, worker: int, notes: list[Message]) -> None:
        """Hand it notifications."""
        for note in notes:
            if self.over:
                return
            self._call(pool, worker, note)

    def _call(self, pool: str, worker: int, note: Message) -> None:
        try:
            self._function(_notification(pool, worker, note, Any))
        except Exception:
            left_out = self._throttle.note(anyio.current_time())
            if left_out is not None:
                extra = {"event": "callback_raised", "pool": pool, "worker": worker}
                text = "a callback for notification %.200r raised%s"
                logger.exception(text, note.method, left_out, extra=extra)

    def end(self) -> None:
        """Nothing is to be ended."""


@final
class Subscription(anyio.abc.ObjectReceiveStream[Notification]):
    """Notifications as they come; made by :meth:`Bus.subscribe`.

    It ends when the bus stops, after what it holds. One task iterates, or several, each
    notification going to one of them.

    Owns:
        The notifications that nobody has read yet, at most ``max_queue`` (with ``"block"`` and one
        read of the pipe).

    Attributes:
        dropped: How many were dropped; :attr:`Notification.dropped` says where.
    """

    def __init__(self) -> None:
        """Refuse: a bus makes subscriptions."""
        msg = "use `async with bus.subscribe(...) as notifications:`"
        raise TypeError(msg)

    filter: Filter
    dropped: int
    _max: int
    _overflow: Overflow
    _kind: Any
    _brakes: Brakes
    _now: Callable[[], float]
    _check_thread: Callable[[], None]
    _send: MemoryObjectSendStream[Notification]
    _receive: MemoryObjectReceiveStream[Notification]
    _gap: int  # dropped since the last one that was taken ("drop_newest")
    _head_gap: int  # dropped from the head since the last read ("drop_oldest")
    _queued: int
    _ended: bool
    _bell: (
        Bell  # a task that waits in the stream itself loses what it was handed if it is cancelled
    )
    _waiting: int
    _turns: int
    _error: StreamOverflowError | None

    @classmethod
    def _create(  # noqa: PLR0917
        cls,
        filter: Filter,  # noqa: A002
        max_queue: int,
        overflow: Overflow,
        kind: Any,
        brakes: Brakes,
        now: Callable[[], float],
        check_thread: Callable[[], None],
    ) -> Subscription:
        check_count("max_queue", max_queue)
        if overflow not in get_args(Overflow):
            names = ", ".join(map(repr, get_args(Overflow)))
            msg = f"overflow must be one of {names}, not {overflow!r}"
            raise InvalidArgumentError(msg, field="overflow")
        if kind is not Any:
            decoder_of(kind)
        self = object.__new__(cls)
        self.filter = filter
        self.dropped = 0
        self._max = max_queue
        self._overflow = overflow
        self._kind = kind
        self._brakes = brakes
        self._now = now
        self._check_thread = check_thread
        size = math.inf if overflow == "block" else max_queue
        self._send, self._receive = anyio.create_memory_object_stream[Notification](size)
        self._gap = self._head_gap = self._queued = 0
        self._ended = False
        self._bell = Bell()
        self._waiting = 0
        self._turns = FREE_TURNS
        self._error = None
        return self

    # -- what the bus tells it ----------------------------------------------------------------

    def offer(self, pool: str, worker: int, notes: list[Message]) -> None:
        """Queue notifications, by the policy."""
        if self._ended:
            return
        room = self._max - self._queued
        if self._overflow == "block":
            self._put(pool, worker, notes)
            if len(notes) >= room:
                self._brakes.press(self, worker, self._now())
        elif len(notes) <= room:
            self._put(pool, worker, notes)
        elif self._overflow == "drop_oldest":
            self._put(pool, worker, self._drop_oldest(len(notes) - room, notes))
        else:
            self._put(pool, worker, notes[:room])
            if self._overflow == "close":
                self.overflow()
            else:
                self.dropped += len(notes) - room
                self._gap += len(notes) - room

    def _put(self, pool: str, worker: int, notes: list[Message]) -> None:
        if not self._waiting:
            keep_only(notes)
        for note in notes:
            notification = _notification(pool, worker, note, self._kind)
            if self._gap:
                notification.dropped = self._gap
                self._gap = 0
            self._queued += 1
            self._send.send_nowait(notification)
        if self._waiting:
            self._bell.ring()

    def _drop_oldest(self, excess: int, notes: list[Message]) -> list[Message]:
        """Drop so many of those that wait, or else of those that come; return what is left of these."""
        kept = notes[-self._max :]
        dropped = gap = len(notes) - len(kept)
        while dropped < excess:
            self._queued -= 1
            dropped += 1
            gap += 1 + self._receive.receive_nowait().dropped
        if self._queued:
            self._head_gap += gap  # before the one that is the oldest now
        else:
            self._gap += gap  # before the first of these
        self.dropped += dropped
        return kept

    def overflow(self) -> None:
        """End it with what it holds."""
        if self._error is None:
            who = f"the subscription to {self.filter.pattern!r}"
            self._error = StreamOverflowError(
                f"{who} ended: its reader was too slow (max_queue={self._max})"
            )
            self.end()

    def end(self) -> None:
        """Let nothing more come; what it holds can be read."""
        self._ended = True
        self._send.close()
        self._bell.ring()
        self._brakes.release(self)

    # -- reading ------------------------------------------------------------------------------

    def __aiter__(self) -> Subscription:
        """Iterate over the notifications, until the bus stops."""
        return self

    async def receive(self) -> Notification:
        """Return the next notification.

        Raises:
            anyio.EndOfStream: There is none left, and the bus has stopped.
            anyio.ClosedResourceError: The subscription's block was left.
            StreamOverflowError: Its policy is ``"close"`` or ``"block"`` and the reader was too
                slow; what was held has been returned before.

        Cancellation:
            None is lost. A checkpoint whenever it has to wait, and once per 64 notifications.
        """
        if not self._turns:
            self._check_thread()
            await anyio.lowlevel.checkpoint()
            self._turns = FREE_TURNS
        while True:  # noqa: ASYNC913  # it waits, or ends
            try:
                notification = self._receive.receive_nowait()
            except anyio.WouldBlock:
                self._check_thread()
                await self._wait()
            except anyio.EndOfStream:
                await anyio.lowlevel.checkpoint()  # noqa: ASYNC120  # it is raised again below
                raise self._end() from None
            else:
                self._turns -= 1
                return self._taken(notification)  # noqa: ASYNC910  # see FREE_TURNS

    async def _wait(self) -> None:
        """Wait until there may be one, or there will be none; always a checkpoint."""
        self._waiting += 1
        try:
            await self._bell.wait()
        finally:
            self._waiting -= 1
        self._turns = FREE_TURNS

    async def receive_batch(self, max_items: int | None = None) -> list[Notification]:
        """Return the notifications that have come, at least one; errors as :meth:`receive`.

        Args:
            max_items: Most of them; None for all.

        Cancellation:
            None is lost. Always a checkpoint.
        """
        self._turns = 0
        batch = [await self.receive()]
        while max_items is None or len(batch) < max_items:
            try:
                batch.append(self._taken(self._receive.receive_nowait()))
            except (anyio.WouldBlock, anyio.EndOfStream):
                break
        return batch

    def _taken(self, notification: Notification) -> Notification:
        if self._head_gap:
            notification.dropped += self._head_gap
            self._head_gap = 0
        self._queued -= 1
        if self._overflow == "block" and (self._queued * 2 == self._max or not self._queued):
            self._brakes.release(self)
        return notification

    def _end(self) -> Exception:
        return self._error or anyio.EndOfStream()

    def _close(self) -> None:
        self.end()
        self._receive.close()

    async def aclose(self) -> None:
        """End it and forget what was not read; leaving the block does the same.

        Cancellation:
            Always a checkpoint, after everything is done.
        """
        self._close()
        await anyio.lowlevel.checkpoint()


def _notification(pool: str, worker: int, note: Message, kind: Any) -> Notification:
    session = None if note.session is UNSET else note.session
    method: str = note.method  # type: ignore[assignment]  # a notification has one
    return Notification(pool, worker, method, note.params, session, 0, kind)
