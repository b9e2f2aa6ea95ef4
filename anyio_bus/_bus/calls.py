"""Own every request of a bus from its frame to its answer: ids, waiting, deadlines, withdrawal."""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

import anyio
import msgspec
from msgspec import UNSET, Raw, UnsetType

from anyio_bus._bus.brakes import Brakes
from anyio_bus._bus.rows import Rows
from anyio_bus._errors import (
    BusError,
    BusStoppedError,
    InvalidArgumentError,
    RequestTimeoutError,
    ScopeCancelledError,
    error_from_failure,
)
from anyio_bus._io.loop import Alarm, Loop
from anyio_bus._sansio.codec import (
    decode_error,
    encode_request,
    encode_value,
)
from anyio_bus._sansio.deadlines import Deadlines
from anyio_bus._sansio.events import (
    ChunkLines,
    ClientChanged,
    Failed,
    KernelEvent,
    LineBad,
    Lines,
    Results,
    WorkerChanged,
)
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.messages import Message, RequestId, Result, is_error
from anyio_bus._sansio.peer import Peer
from anyio_bus._sansio.profiles import CANCEL_METHODS
from anyio_bus._sansio.routing import Refused, Route, Withdrawal

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend
    from anyio_bus._bus.observing import Observer
    from anyio_bus._config import Limits

__all__ = ("Batch", "Call", "Calls", "Ids", "Scope", "Sink")

Ids: TypeAlias = Literal["number", "text"]
_Order: TypeAlias = tuple[object, Route, dict[str, Raw] | None]  # params, route, members
_ENDED = frozenset({State.BACKOFF, State.PARKED, State.STOPPED, State.VACANT})


class Sink(Protocol):
    """Who takes the outcome of a call instead of a waiting task."""

    def params(self, key: RequestId, params: object, /) -> object:
        """Return the params to be sent, with what the sink adds to them."""

    def finish(self, call: Call, outcome: Message | Exception, /) -> None:
        """Take what became of it."""


class BatchSink(Protocol):
    """Who takes the outcomes of calls that were begun at once."""

    def finish(self, call: Call, outcome: Message | Exception, /) -> None:
        """Take what became of one of them."""

    def finish_many(
        self,
        batches: list[Batch],
        calls: list[Batch],
        keys: Sequence[RequestId],
        answers: Sequence[Message | Result] | Results,
        /,
    ) -> None:
        """Take a run of answers to ``keys``; ``calls`` says of which of the ``batches`` each is."""


class Call(msgspec.Struct, eq=False):
    """One request that waits for its answer: a task at ``waiter``, or ``sink``.

    Of several that were begun at once, ``batch`` has the deadline.
    """

    key: RequestId
    method: str
    timeout_s: float | None
    scope: Scope
    waiter: Any
    sink: Any = None
    pool: str = ""
    size: int = 0  # of its frame, once there is one
    batch: Batch | None = None


class Batch(msgspec.Struct, eq=False):
    """Calls that were begun at once, in their order, with the one deadline that they share.

    It stands for each of them in the table of open calls, where an answer finds it.
    """

    method: str
    pool: str
    keys: list[RequestId]
    size: int  # of the frame of each, on average
    left: int  # of them without an outcome
    scope: Scope
    sink: Any
    deadline_s: float | None
    offset: int | None = None  # from an id to a place as the sink counts; None: ids are no numbers
    first: int = 0  # place of the first of them
    held: Any = None  # the sink's own
    key: RequestId = None  # each has its own
    timeout_s: float | None = None  # none has its own

    def begin_at(self, place: int) -> None:
        """Let the first of them have this place, and so on."""
        self.first = place
        key = self.keys[0]
        self.offset = place - key if type(key) is int else None  # they were made in a row

    def place_of(self, key: RequestId) -> int:
        """Return the place of one of them."""
        if self.offset is None:
            return self.first + self.keys.index(key)
        return self.offset + int(key)  # type: ignore[arg-type]  # 7.0 is an answer to 7

    def call_of(self, key: RequestId) -> Call:
        """Return one of them as a call of its own."""
        return Call(key, self.method, None, self.scope, None, self.sink, self.pool, self.size, self)


class Member(Protocol):
    """What a scope holds besides calls."""

    def _cancel_with(self, scope: Scope, reason: str) -> None:
        """End: the scope was cancelled."""


class Scope:
    """A group of calls and running handlers, cancelled together; made by :meth:`Bus.open_scope`.

    Attributes:
        name: What it was called, for logs and errors.
        parent: The scope that it lies in; None for the root.
    """

    __slots__ = (
        "_calls",
        "_children",
        "_members",
        "_owner",
        "cancel_reason",
        "name",
        "parent",
        "timeout_s",
    )

    def __init__(self, owner: Calls, name: str, parent: Scope | None) -> None:
        self._owner = owner
        self._calls: dict[Call, None] = {}
        self._children: dict[Scope, None] = {}
        self._members: dict[Member, None] = {}
        self.name: str = name
        self.parent: Scope | None = parent
        self.cancel_reason: str | None = None
        self.timeout_s: float | None = None
        if parent is not None:
            parent._children[self] = None

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled; a call made in it then fails at once."""
        return self.cancel_reason is not None

    def cancel(self, reason: str = "cancelled") -> None:
        """Withdraw all that is in it and in its children; may be called from any task, never waits.

        Workers are told, and the callers get :class:`ScopeCancelledError` with this reason.
        Handlers are cancelled, and the requests that they serve answered with -32800.
        """
        self._owner.check_thread()
        tree: list[Scope] = [self]
        for scope in tree:  # all are marked before a call ends, so that none is let in meanwhile
            if scope.cancel_reason is None:
                scope.cancel_reason = reason
            tree.extend(scope._children)
        for scope in tree:
            for call in reversed(self._owner.calls_of(scope)):  # those without a frame are the last
                sent = self._owner.withdraw(call, reason)
                text = f"request {call.method!r} was cancelled with scope {scope.name!r}: {reason}"
                self._owner.end(call, ScopeCancelledError(text, reason=reason, sent=sent))
            for member in list(scope._members):
                member._cancel_with(scope, reason)

    def _close(self) -> None:
        self.cancel("scope closed")
        if self.parent is not None:
            self.parent._children.pop(self, None)

    def __repr__(self) -> str:
        """Show the name and what is in it."""
        calls = len(self._owner.calls_of(self))
        return f"<Scope {self.name!r}: {calls} calls, {len(self._children)} scopes>"


class _Rest:
    """A request between two attempts: a task that waits at ``waiter`` for its time, or an error."""

    __slots__ = ("_method", "_owner", "_sent", "waiter")

    def __init__(self, owner: Calls, method: str, *, sent: bool) -> None:
        self._owner = owner
        self._method = method
        self._sent = sent
        self.waiter: Any = owner.waiter()

    def _cancel_with(self, scope: Scope, reason: str) -> None:
        text = f"request {self._method!r} was cancelled with scope {scope.name!r}: {reason}"
        self._end(ScopeCancelledError(text, reason=reason, sent=self._sent))

    def stop(self, reason: str) -> None:
        self._end(BusStoppedError(f"request {self._method!r} failed: {reason}", sent=self._sent))

    def _end(self, error: BusError) -> None:
        self._owner._loop.wake(self.waiter, error)


class Calls:
    """The calls of one bus.

    Args:
        limits: The bounds.
        loop: The running event loop.
        ids: What the ids of requests are.
    """

    def __init__(self, limits: Limits, loop: Loop, ids: Ids = "number") -> None:
        self.peer: Peer[Call | Batch] = Peer(_new_key(ids))
        self.root: Scope = Scope(self, "bus", None)
        self.backend: Backend = None  # type: ignore[assignment]  # set before anything can call
        self.pending_bytes: int = 0
        self.timeouts: int = 0
        self.unhandled: int = 0
        # What workers send by themselves, to whoever serves it; each is called in the loop's thread.
        self.on_request: Callable[[Lines, Message], None] = _nothing
        self.on_cancel: Callable[[Lines, Message], bool] = _not_ours
        self.on_bad_line: Callable[[LineBad], None] = _ignore
        self.on_client: Callable[[ClientChanged], None] = _ignore
        self.worker_listeners: list[Callable[[WorkerChanged], None]] = []
        self.on_idle: Callable[[], None] | None = None
        self.check_thread: Callable[[], None] = _no_check
        self.on_chunks: Callable[[ChunkLines], bool] = _not_chunks
        self.on_notifications: Callable[[Lines, list[Message]], None] = _nothing_with
        self.observer: Observer | None = None  # answers reach it through its own `deliver`
        self._max_pending = limits.max_pending
        self._max_bytes = limits.max_output_bytes
        self._loop = loop
        self._scope_deadlines: Deadlines[Scope] = Deadlines()
        self._batches: Deadlines[Batch] = Deadlines()
        self._queue: OrderedDict[Call, _Order] = OrderedDict()  # in order: they wait for room
        self.numbered: bool = ids == "number"
        self.rows: Rows = Rows(self, loop)
        self._resting: dict[_Rest, None] = {}
        self.alarm: Alarm = Alarm(loop, self._next_deadline, self._expire)
        self.now: Callable[[], float] = loop.now
        self.checkpoint_if_cancelled: Callable[[], Awaitable[None]] = loop.checkpoint_if_cancelled
        self.max_frame_bytes: int = limits.max_frame_bytes
        self.brakes: Brakes = Brakes(
            lambda: self.backend, limits.backpressure_timeout_s, self.alarm.nudge
        )

    # -- a call's life ------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Number of calls that wait for room; they have no frame yet."""
        return len(self._queue)

    @property
    def pending(self) -> int:
        """Number of calls that the kernel has, or is to have in this step of the loop."""
        return len(self.peer.calls) + len(self.rows) - len(self._queue)

    @property
    def _full(self) -> bool:
        return self.pending >= self._max_pending or self.pending_bytes > self._max_bytes

    def begin(  # noqa: PLR0917
        self,
        method: str,
        params: object,
        route: Route,
        timeout_s: float | None,
        scope: Scope | None,
        members: dict[str, Raw] | None = None,
        sink: Sink | None = None,
        waiter: Any = None,
    ) -> Call:
        """Hand one request to the kernel, or let it wait for room; its caller awaits ``waiter``.

        Args:
            method: Its method.
            params: Its params.
            route: Where it goes.
            timeout_s: Seconds to its answer.
            scope: The scope that it is in; None for the root.
            members: The members of a prepared request, sent instead under an id of ours.
            sink: Takes the outcome; None where a task awaits it.
            waiter: What that task awaits, where there is one already.

        Raises:
            BusError: It cannot be taken; nothing of it was sent.
        """
        if self.rows.row is not None:
            self.rows.send()  # it was first
        root = self.root
        scope = root if scope is None else self.checked_scope(scope)
        if scope.cancel_reason is not None:
            raise self._scope_error(method, scope)
        loop = self._loop
        if sink is None and waiter is None:
            waiter = loop.waiter()
        call = Call(self.peer.new_key(), method, timeout_s, scope, waiter, sink, route.pool)
        if self.observer is not None:
            params = self.observer.begun(call.key, method, params, route.pool)
        if (
            self._queue
            or len(self.peer.calls) >= self._max_pending
            or self.pending_bytes > self._max_bytes
        ):
            self._queue[call] = (params, route, members)
        else:
            try:
                self._submit(call, params, route, members)
            except BaseException as exc:
                self._observe_end(call, exc)
                raise
        if scope is not root:  # which holds what is in no other
            scope._calls[call] = None
        at = self.peer.open(call, loop.now())
        if at < self.alarm.until:
            self.alarm.nudge(at)
        return call

    def probe(self, method: str, params: object, route: Route, timeout_s: float) -> Call | None:
        """Send a request of the bus's own, past those that wait for room; nobody awaits it.

        Returns:
            The call; None if the kernel does not take it.
        """
        loop = self._loop
        waiter = loop.waiter()
        call = Call(self.peer.new_key(), method, timeout_s, self.root, waiter, None, route.pool)
        try:
            self._submit(call, params, route, None)
        except BusError:
            return None
        self.alarm.nudge(self.peer.open(call, loop.now()))
        return call

    def begin_many(  # noqa: PLR0917
        self,
        method: str,
        items: list[object],
        route: Route,
        timeout_s: float | None,
        scope: Scope | None,
        sink: BatchSink,
    ) -> Batch | None:
        """Hand several requests to the kernel at once, if nothing is in the way of any of them.

        Returns:
            What they have in common; None if it has to be tried with each.

        Raises:
            ScopeCancelledError: So it would be with each, and with all that may come.
        """
        if scope is not None and scope.cancel_reason is not None:
            raise self._scope_error(method, scope)
        self.rows.send()  # they were first
        if scope is not None or len(items) > self.room_together:
            return None
        peer = self.peer
        keys = peer.new_keys(len(items))
        room = self._max_bytes - self.pending_bytes
        try:
            size = self.backend.submit_many(method, items, route, keys, room)
        except InvalidArgumentError:
            return None
        if size == 0:
            return None
        count = len(keys)
        size = -(-size // count)
        batch = Batch(method, route.pool, keys, size, count, self.root, sink, timeout_s)
        self.pending_bytes += batch.size * count
        if timeout_s is not None:
            self.alarm.nudge(self._batches.add(batch, timeout_s, self.now()))
        peer.calls.update(dict.fromkeys(keys, batch))
        return batch

    @property
    def room_together(self) -> int:
        """Number of requests that may be begun at once now; 0 if each is to be begun by itself."""
        if self._queue or self.brakes.held or self.observer is not None:
            return 0
        if self.root.cancel_reason is not None or self.pending_bytes > self._max_bytes:
            return 0
        return self._max_pending - len(self.peer.calls)

    def leave_batch(self, batch: Batch, count: int = 1) -> None:
        """So many of its calls have their outcome."""
        batch.left -= count
        if not batch.left and batch.deadline_s is not None:
            self._batches.discard(batch, batch.deadline_s)

    def _submit(
        self, call: Call, params: object, route: Route, members: dict[str, Raw] | None
    ) -> None:
        if call.sink is not None:
            params = call.sink.params(call.key, params)
        if members is None:
            frame = encode_request(call.key, call.method, params, None, route.envelope)
        else:
            frame = encode_value({"jsonrpc": "2.0", **members, "id": call.key}, "frame") + b"\n"
        try:
            self.backend.submit(frame, route, call.key)
        except Refused as exc:
            raise error_from_failure(exc.failure) from None
        call.size = len(frame)
        self.pending_bytes += call.size
        if self.brakes.held:
            self.brakes.check()

    def abandon(self, call: Call) -> None:
        """Take back a call whose caller does not wait any more, unless it is over."""
        if call.key in self.peer.calls:
            self.withdraw(call, "cancelled by the caller")
            self._forget(call)
            if self.observer is not None:
                self.observer.abandoned(call.key)

    def _observe_end(self, call: Call, error: BaseException) -> None:
        if self.observer is not None:
            self.observer.ended(call.key, error)

    @staticmethod
    def _scope_error(method: str, scope: Scope) -> BusError:
        why = f"scope {scope.name!r} is cancelled: {scope.cancel_reason}"
        text = f"request {method!r} was not sent: {why}"
        return ScopeCancelledError(text, reason=scope.cancel_reason, sent=False)

    def new_scope(self, name: str, parent: Scope | None) -> Scope:
        """Make a scope in another one, cancelled if that is."""
        parent = self.checked_scope(parent, "parent")
        scope = Scope(self, name, parent)
        if parent.cancel_reason is not None:
            scope.cancel(parent.cancel_reason)
        return scope

    def checked_scope(self, scope: Any, field: str = "scope") -> Scope:
        """Return a scope that was given, the root where there is none; refuse all else."""
        if scope is None:
            return self.root
        if type(scope) is not Scope or scope._owner is not self:
            raise _strange_scope(field, scope)
        return scope

    def calls_of(self, scope: Scope) -> list[Call]:
        """Return the calls that are in a scope, and in none of its children."""
        if scope is self.root:
            return [call for call in self.open_calls() if call.scope is scope]
        return list(scope._calls)

    def open_calls(self) -> list[Call]:
        """Return the calls that are open, in the order in which they were made."""
        return [_call_of(key, entry) for key, entry in self.peer.calls.items()]

    def withdraw(self, call: Call, reason: str) -> bool:
        """Take a call back; return whether any of it may have been sent."""
        if self._queue.pop(call, None) is not None:
            return False
        return self.backend.withdraw(call.key, reason) is not Withdrawal.REMOVED

    def end(self, call: Call, outcome: Message | BusError) -> None:
        """Tell whoever made a call what became of it."""
        self._forget(call)
        self._tell(call, outcome)

    def _tell(self, call: Call, outcome: Message | Exception) -> None:
        if isinstance(outcome, Exception):
            self._observe_end(call, outcome)
        if call.sink is None:
            self._loop.wake(call.waiter, outcome)
        else:
            call.sink.finish(call, outcome)

    def waiter(self) -> Any:
        """Make what a task waits for that waits for something else than the outcome of a call."""
        self.check_thread()
        return self._loop.waiter()

    def wake(self, waiter: Any) -> None:
        """Wake a task that waits for something else than the outcome of a call."""
        self._loop.wake(waiter, None)

    def renew(self, call: Call, timeout_s: float | None) -> float:
        """Start a call's timeout anew, all of it: there was progress; return the time."""
        now = self.now()
        if call.timeout_s == timeout_s:
            self.peer.renew(call, now)
        elif self.peer.close(call.key) is not None:  # it had what its last attempts had left
            call.timeout_s = timeout_s
            self.peer.open(call, now)
        return now

    def _forget(self, call: Call) -> None:
        self.peer.close(call.key)
        self._leave(call)

    def _leave(self, call: Call) -> None:
        """Give back what a call that is over has held."""
        if call.scope is not self.root:
            del call.scope._calls[call]
        self.pending_bytes -= call.size
        self._make_use_of_room()

    def _let_in(self) -> None:
        """Hand to the kernel what waits, in order, as far as there is room."""
        while self._queue and not self._full:
            call, order = self._queue.popitem(last=False)
            try:
                if call.scope.cancelled:
                    raise self._scope_error(call.method, call.scope)
                self._submit(call, *order)
            except Exception as exc:  # its caller's, not that of whoever made room  # noqa: BLE001
                self.peer.close(call.key)
                call.scope._calls.pop(call, None)
                self._tell(call, exc)

    async def rest(self, method: str, delay_s: float, scope: Scope | None, *, sent: bool) -> None:
        """Wait before a request is tried again; its scope and a stop of the bus end it.

        Raises:
            ScopeCancelledError: The scope was cancelled.
            BusStoppedError: There is to be no new work.

        Cancellation:
            Always a checkpoint.
        """
        scope = scope or self.root
        rest = _Rest(self, method, sent=sent)
        self._resting[rest] = scope._members[rest] = None
        try:
            if scope.cancel_reason is not None:
                rest._cancel_with(scope, scope.cancel_reason)
            with anyio.move_on_after(delay_s):
                raise await rest.waiter
        finally:
            del self._resting[rest], scope._members[rest]

    def fail_waiting(self, reason: str) -> None:
        """End every call that waits for room, or to be tried again: there is to be no new work."""
        self.rows.send()
        for rest in self._resting:
            rest.stop(reason)
        while self._queue:
            call, _ = self._queue.popitem()
            self.end(call, _stopped(call, reason, sent=False))

    def fail_all(self, reason: str) -> None:
        """Withdraw every call of the bus: it stops."""
        self.fail_waiting(reason)
        for call in self.open_calls():
            sent = self.withdraw(call, reason)
            self.end(call, _stopped(call, reason, sent=sent))

    # -- deadlines ----------------------------------------------------------------------------

    def set_deadline(self, scope: Scope, deadline: float) -> None:
        """Cancel a scope at this time of the loop's clock."""
        now = self._loop.now()
        scope.timeout_s = deadline - now
        self.alarm.nudge(self._scope_deadlines.renew(scope, scope.timeout_s, now))

    def clear_deadline(self, scope: Scope) -> None:
        """Forget a scope's deadline."""
        timeout_s = scope.timeout_s
        if timeout_s is not None:
            self._scope_deadlines.discard(scope, timeout_s)

    def _next_deadline(self) -> float | None:
        times = [
            at
            for at in (
                self.peer.next_deadline(),
                self._scope_deadlines.next(),
                self._batches.next(),
                self.brakes.next_deadline(),
            )
            if at is not None
        ]
        return min(times, default=None)

    def _expire(self, now: float) -> None:
        expired: list[Call] = self.peer.expire(now)  # type: ignore[assignment]  # no batch has one
        for batch in self._batches.expire(now):
            late = [key for key in batch.keys if self.peer.calls.pop(key, None) is not None]
            expired += map(batch.call_of, late)
        # All at once, so that none of them gets the room of another.
        unsent = {call for call in expired if self._queue.pop(call, None) is not None}
        for call in expired:
            sent = call not in unsent and self.withdraw(call, "timeout")
            self.timeouts += 1
            timeout_s = call.timeout_s if call.batch is None else call.batch.deadline_s
            self.end(call, self._timeout_error(call, timeout_s, sent=sent))
        for scope in self._scope_deadlines.expire(now):
            scope.cancel("deadline")
        self.brakes.expire(now)

    @staticmethod
    def _timeout_error(call: Call, timeout_s: float | None, *, sent: bool) -> BusError:
        text = timeout_text(call.method, call.pool, timeout_s)
        facts = {"method": call.method, "pool": call.pool, "timeout_s": timeout_s}
        return RequestTimeoutError(text, sent=sent, **facts)

    # -- events of the kernel -----------------------------------------------------------------

    def deliver(self, events: list[KernelEvent]) -> None:
        """Take a batch of the kernel's events."""
        for event in events:
            if type(event) is Lines:
                self._take_lines(event)
            elif type(event) is Results:
                self._take_results(event)
            elif type(event) is ChunkLines:
                if not self.on_chunks(event):
                    self.deliver(event.as_lines())  # type: ignore[arg-type]  # list is invariant
            elif type(event) is Failed:
                entry = self.peer.calls.get(event.key)
                if entry is not None:
                    call = _call_of(event.key, entry)
                    self.end(call, error_from_failure(event.failure))
            elif type(event) is LineBad:
                self.on_bad_line(event)
            elif type(event) is ClientChanged:
                self.on_client(event)
            else:
                self._take_change(event)  # type: ignore[arg-type]  # what is left of the union

    def _take_change(self, event: WorkerChanged) -> None:
        if event.state in _ENDED:
            self.brakes.forget(event.worker)
        for listen in self.worker_listeners:
            listen(event)

    def _take_results(self, event: Results) -> None:
        if len(event.keys) > 1:
            self._take_answers(event.keys, event)
        else:
            self._take_answer(event.answers()[0])  # type: ignore[arg-type]  # of fewer members

    def _take_lines(self, event: Lines) -> None:
        if event.only == "answers":
            self._take_answers([answer.id for answer in event.messages], event.messages)  # type: ignore[misc]  # it has one
        elif event.only == "calls" and _all_notes(event.messages):
            self.on_notifications(event, event.messages)
        else:
            self._take_each(event)

    def _take_answers(self, keys: Sequence[RequestId], answers: list[Message] | Results) -> None:
        calls = self.peer.receive_many(keys)
        if self._take_batches(calls, keys, answers):
            return
        each: list[Any] = answers.answers() if isinstance(answers, Results) else answers
        root = self.root
        wake = self._loop.wake
        freed = 0
        for key, entry, answer in zip(keys, calls, each, strict=True):
            if entry is None:
                continue
            call = entry if type(entry) is Call else _call_of(key, entry)
            if call.scope is not root or self._queue or self.on_idle is not None:
                self._leave(call)
            else:
                freed += call.size
            if call.sink is None:
                wake(call.waiter, answer)
            else:
                call.sink.finish(call, answer)
        self.pending_bytes -= freed

    def _take_batches(
        self,
        calls: list[Call | Batch | None],
        keys: Sequence[RequestId],
        answers: list[Message] | Results,
    ) -> bool:
        """Settle a run of answers to one sink's calls that were begun at once; False if it is not."""
        if not calls or type(calls[0]) is not Batch:
            return False
        first = calls[0]
        counts = {first: len(calls)} if calls.count(first) == len(calls) else Counter(calls)
        if {type(entry) for entry in counts} != {Batch}:
            return False
        batches: list[Batch] = list(counts)  # type: ignore[arg-type]
        sink = batches[0].sink
        if any(batch.sink is not sink for batch in batches):
            return False
        for batch in batches:
            self.pending_bytes -= batch.size * counts[batch]
            self.leave_batch(batch, counts[batch])
        sink.finish_many(batches, calls, keys, answers)
        self._make_use_of_room()
        return True

    def _make_use_of_room(self) -> None:
        if self._queue:
            self._let_in()
        if self.on_idle is not None and not self.peer.calls:
            self.on_idle()

    def _take_answer(self, answer: Message) -> None:
        entry = self.peer.receive(answer)
        if entry is not None:
            call = _call_of(answer.id, entry)
            self._leave(call)
            self._tell(call, answer)

    def _take_each(self, event: Lines) -> None:
        notes: list[Message] = []
        for message in event.messages:
            if notes and (message.method is UNSET or message.id is not UNSET):
                self.on_notifications(event, notes)  # they came before this answer or request
                notes = []
            if message.method is UNSET:
                self._take_answer(message)
            elif message.id is not UNSET:
                self.on_request(event, message)
            elif message.method not in CANCEL_METHODS or not self.on_cancel(event, message):
                notes.append(message)
        if notes:
            self.on_notifications(event, notes)


def _new_key(ids: Ids) -> Callable[[], RequestId]:
    """Return what makes the ids of a bus's requests."""
    if ids not in get_args(Ids):
        msg = f"ids must be 'number' or 'text', not {ids!r}"
        raise InvalidArgumentError(msg, field="ids")
    count = itertools.count(1)
    if ids == "number":
        return count.__next__
    prefix = os.urandom(8).hex()  # so that no two buses use the same
    return lambda: f"{prefix}-{next(count)}"


def _call_of(key: RequestId | UnsetType, entry: Call | Batch) -> Call:
    """Return what is open under an id as one call."""
    return entry.call_of(key) if type(entry) is Batch else entry  # type: ignore[arg-type, return-value]


def timeout_text(method: str | None, pool: str | None, timeout_s: float | None) -> str:
    """Return the sentence of a timeout."""
    return f"request {method!r} got no answer from pool {pool!r} within {timeout_s:g} s"


def _no_check() -> None:
    return


def _all_notes(messages: list[Message]) -> bool:
    """Tell whether a run without answers holds nothing but notifications that cancel nothing."""
    if [message for message in messages if message.id is not UNSET]:
        return False
    return CANCEL_METHODS.keys().isdisjoint({message.method for message in messages})


def _nothing(_event: Lines, _message: Message) -> None:
    return


def _ignore(_event: LineBad | ClientChanged) -> None:
    return


def _not_ours(_event: Lines, _message: Message) -> bool:
    return False


def _not_chunks(_event: ChunkLines) -> bool:
    return False


def _nothing_with(_event: Lines, _notes: list[Message]) -> None:
    return


def _strange_scope(field: str, scope: object) -> InvalidArgumentError:
    if isinstance(scope, Scope):
        msg = f"{field}: {scope!r} is of another bus"
    else:
        msg = f"{field} must be a Scope from bus.open_scope(), not {scope!r}"
    return InvalidArgumentError(msg, field=field)


def _stopped(call: Call, reason: str, *, sent: bool) -> BusStoppedError:
    return BusStoppedError(f"request {call.method!r} failed: {reason}", sent=sent)


def _is_number(value: object) -> bool:
    """Tell whether a value can be added to a time; an integer may be too large for that."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= sys.float_info.max


def check_timeout(timeout: Any) -> None:
    """Refuse what is no timeout in seconds."""
    if timeout is None:
        return
    if not _is_number(timeout) or not timeout >= 0:
        msg = f"timeout must be seconds (0 or more) or None, not {timeout!r}"
        raise InvalidArgumentError(msg, field="timeout")


def check_count(name: str, value: Any) -> None:
    """Refuse what is no number of things, at least one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"{name} must be at least 1, not {value!r}"
        raise InvalidArgumentError(msg, field=name)


def check_deadline(deadline: Any) -> None:
    """Refuse what is no time of a clock."""
    if not _is_number(deadline) or math.isnan(deadline):
        msg = f"deadline must be a time of the loop's clock, not {deadline!r}"
        raise InvalidArgumentError(msg, field="deadline")


def check_seconds(name: str, value: Any) -> None:
    """Refuse what is no duration in seconds."""
    if not _is_number(value) or not 0 <= value < math.inf:
        msg = f"{name} must be seconds, 0 or more, not {value!r}"
        raise InvalidArgumentError(msg, field=name)


def result_of(response: Message) -> Raw:
    """Return the raw result of a response.

    Raises:
        RemoteError: It is an error.
        RemoteProtocolError: It is an error that is no JSON-RPC error object.
    """
    if response.error is not UNSET and is_error(response):
        raise decode_error(response.error)
    return response.result  # type: ignore[return-value]  # what is no error has a result
