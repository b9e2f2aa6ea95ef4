"""Own every request of a bus from its frame to its answer: ids, waiting, deadlines, withdrawal."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import anyio
import msgspec
from msgspec import UNSET, Raw

from anyio_bus._backends.base import Backend
from anyio_bus._config import Limits
from anyio_bus._errors import (
    BusError,
    BusStoppedError,
    InvalidArgumentError,
    KernelCode,
    RequestTimeoutError,
    ScopeCancelledError,
    error_from_failure,
)
from anyio_bus._io.loop import Alarm, Loop
from anyio_bus._sansio.codec import decode_error, encode_error, encode_request, encode_value
from anyio_bus._sansio.deadlines import Deadlines
from anyio_bus._sansio.events import Failed, KernelEvent, LineBad, Lines
from anyio_bus._sansio.messages import Message, is_error
from anyio_bus._sansio.peer import Peer
from anyio_bus._sansio.routing import Refused, Route, Withdrawal

__all__ = ("Call", "Calls", "Scope")

logger = logging.getLogger("anyio_bus")


class Call(msgspec.Struct, eq=False):
    """One request that waits for its answer."""

    key: int
    method: str
    size: int
    timeout_s: float | None
    scope: Scope
    waiter: Any


class Scope:
    """A group of calls that can be cancelled together; made by :meth:`Bus.open_scope`.

    Attributes:
        name: What it was called, for logs and errors.
        parent: The scope that it lies in; None for the root.
    """

    __slots__ = ("_calls", "_children", "_owner", "cancel_reason", "name", "parent", "timeout_s")

    def __init__(self, owner: Calls, name: str, parent: Scope | None) -> None:
        self._owner = owner
        self._calls: dict[Call, None] = {}
        self._children: dict[Scope, None] = {}
        self.name = name
        self.parent = parent
        self.cancel_reason: str | None = None
        self.timeout_s: float | None = None
        if parent is not None:
            parent._children[self] = None

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled; a call made in it then fails at once."""
        return self.cancel_reason is not None

    def cancel(self, reason: str = "cancelled") -> None:
        """Withdraw every call in it and in its children; may be called from any task, never waits.

        Workers are told, and the callers get :class:`ScopeCancelledError` with this reason.
        """
        if self.cancel_reason is None:
            self.cancel_reason = reason
        for child in list(self._children):
            child.cancel(reason)
        for call in self._owner.calls_of(self):
            sent = self._owner.withdraw(call, reason)
            text = f"request {call.method!r} was cancelled with scope {self.name!r}: {reason}"
            self._owner.end(call, ScopeCancelledError(text, reason=reason, sent=sent))

    def _close(self) -> None:
        self.cancel("scope closed")
        if self.parent is not None:
            self.parent._children.pop(self, None)

    def __repr__(self) -> str:
        """Show the name and what is in it."""
        calls = len(self._owner.calls_of(self))
        return f"<Scope {self.name!r}: {calls} calls, {len(self._children)} scopes>"


class Calls:
    """The calls of one bus.

    Args:
        limits: The bounds.
        loop: The running event loop.
    """

    def __init__(self, limits: Limits, loop: Loop) -> None:
        self.peer: Peer[Call] = Peer()
        self.root = Scope(self, "bus", None)
        self.backend: Backend = None  # type: ignore[assignment]  # set before anything can call
        self.pending_bytes = 0
        self.timeouts = 0
        self.unhandled = 0
        self.on_worker_changed: Callable[[], None] = _nothing
        self.on_idle: Callable[[], None] | None = None
        self._max_pending = limits.max_pending
        self._max_bytes = limits.max_output_bytes
        self._loop = loop
        self._scope_deadlines: Deadlines[Scope] = Deadlines()
        self._queue: deque[Any] = deque()  # waiters of callers that wait for room
        self._admitted = 0  # callers that were let in and have not yet run
        self.alarm = Alarm(loop, self._next_deadline, self._expire)

    # -- a call's life ------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Number of callers that wait for room."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether the next caller has to wait for room before it makes a frame."""
        return (
            len(self.peer.calls) + self._admitted >= self._max_pending
            or self.pending_bytes > self._max_bytes
            or bool(self._queue)
        )

    def begin(  # noqa: PLR0913, PLR0917
        self,
        method: str,
        params: object,
        route: Route,
        timeout_s: float | None,
        scope: Scope | None,
        members: dict[str, Raw] | None = None,
    ) -> Call:
        """Hand one request to the kernel; its caller then awaits ``call.waiter``.

        Args:
            method: Its method.
            params: Its params.
            route: Where it goes.
            timeout_s: Seconds to its answer.
            scope: The scope that it is in; None for the root.
            members: The members of a prepared request, sent instead under an id of ours.

        Raises:
            BusError: It cannot be taken; nothing of it was sent.
        """
        root = self.root
        if scope is None:
            scope = root
        if scope.cancel_reason is not None:
            raise self._scope_error(method, scope)
        loop = self._loop
        key = self.peer.new_key()
        if members is None:
            frame = encode_request(key, method, params, route.session)
        else:
            frame = encode_value({"jsonrpc": "2.0", **members, "id": key}, "frame") + b"\n"
        try:
            self.backend.submit(frame, route, key)
        except Refused as exc:
            raise error_from_failure(exc.failure) from None
        call = Call(key, method, len(frame), timeout_s, scope, loop.waiter())
        if scope is not root:  # which holds what is in no other
            scope._calls[call] = None
        self.pending_bytes += call.size
        at = self.peer.open(call, loop.now())
        if at < self.alarm.until:
            self.alarm.nudge(at)
        return call

    def abandon(self, call: Call) -> None:
        """Take back a call whose caller does not wait any more, unless it is over."""
        if call.key in self.peer.calls:
            self.withdraw(call, "cancelled by the caller")
            self._forget(call)

    @staticmethod
    def _scope_error(method: str, scope: Scope) -> BusError:
        text = f"request {method!r} was not sent: scope {scope.name!r} is cancelled: {scope.cancel_reason}"
        return ScopeCancelledError(text, reason=scope.cancel_reason, sent=False)

    def calls_of(self, scope: Scope) -> list[Call]:
        """Return the calls that are in a scope, and in none of its children."""
        if scope is self.root:
            return [call for call in self.peer.calls.values() if call.scope is scope]
        return list(scope._calls)

    def withdraw(self, call: Call, reason: str) -> bool:
        """Take a call back from the kernel; return whether any of it may have been sent."""
        return self.backend.withdraw(call.key, reason) is not Withdrawal.REMOVED

    def end(self, call: Call, outcome: Message | BusError) -> None:
        """Wake the caller with what became of its call."""
        self._forget(call)
        self._loop.wake(call.waiter, outcome)

    def _forget(self, call: Call) -> None:
        self.peer.close(call.key)
        self._leave(call)

    def _leave(self, call: Call) -> None:
        """Give back what a call that is over has held."""
        if call.scope is not self.root:
            del call.scope._calls[call]
        self.pending_bytes -= call.size
        if self._queue:
            self._let_in()
        if self.on_idle is not None and not self.peer.calls:
            self.on_idle()

    async def wait_for_room(self, method: str, timeout_s: float | None) -> None:
        """Wait until this caller's turn has come, at most for its timeout.

        Raises:
            RequestTimeoutError: It has not.
            BusStoppedError: The bus stops.
        """
        waiter = self._loop.waiter()
        self._queue.append(waiter)
        admitted = False
        try:
            with anyio.move_on_after(timeout_s):
                error: BusError | None = await waiter
                if error is not None:
                    raise error
                admitted = True
        finally:
            if waiter in self._queue:
                self._queue.remove(waiter)
            elif self._admitted:  # its place was given to it
                self._admitted -= 1
                if not admitted:
                    self._let_in()
        if not admitted:
            self.timeouts += 1
            raise self._timeout_error(method, timeout_s, sent=False)

    def _let_in(self) -> None:
        room = self._max_pending - len(self.peer.calls) - self._admitted
        if self.pending_bytes <= self._max_bytes:
            while self._queue and room > 0:
                self._loop.wake(self._queue.popleft(), None)
                self._admitted += 1
                room -= 1

    def fail_all(self, reason: str) -> None:
        """Withdraw every call of the bus: it stops."""
        for call in list(self.peer.calls.values()):
            sent = self.withdraw(call, reason)
            self.end(call, BusStoppedError(f"request {call.method!r} failed: {reason}", sent=sent))
        while self._queue:
            self._loop.wake(self._queue.popleft(), BusStoppedError(reason, sent=False))

    # -- deadlines ----------------------------------------------------------------------------

    def set_deadline(self, scope: Scope, deadline: float) -> None:
        """Cancel a scope at this time of the loop's clock."""
        now = self._loop.now()
        scope.timeout_s = deadline - now
        self.alarm.nudge(self._scope_deadlines.add(scope, scope.timeout_s, now))

    def clear_deadline(self, scope: Scope) -> None:
        """Forget a scope's deadline."""
        timeout_s = scope.timeout_s
        if timeout_s is not None:
            self._scope_deadlines.discard(scope, timeout_s)

    def _next_deadline(self) -> float | None:
        times = [
            at for at in (self.peer.next_deadline(), self._scope_deadlines.next()) if at is not None
        ]
        return min(times, default=None)

    def _expire(self, now: float) -> None:
        for call in self.peer.expire(now):
            sent = self.withdraw(call, "timeout")
            self.timeouts += 1
            self.end(call, self._timeout_error(call.method, call.timeout_s, sent=sent))
        for scope in self._scope_deadlines.expire(now):
            scope.cancel("deadline")

    @staticmethod
    def _timeout_error(method: str, timeout_s: float | None, *, sent: bool) -> BusError:
        text = f"request {method!r} got no answer within {timeout_s:g} s"
        return RequestTimeoutError(text, method=method, timeout_s=timeout_s, sent=sent)

    # -- events of the kernel -----------------------------------------------------------------

    def deliver(self, events: list[KernelEvent]) -> None:
        """Take a batch of the kernel's events."""
        for event in events:
            if type(event) is Lines:
                self._take_lines(event)
            elif type(event) is Failed:
                call = self.peer.calls.get(event.key)
                if call is not None:
                    self.end(call, error_from_failure(event.failure))
            elif type(event) is LineBad:
                prefix = event.line.prefix
                logger.warning(
                    "%s/%s: bad line (%s): %r", event.pool, event.worker, event.line.reason, prefix
                )
            else:
                self.on_worker_changed()

    def _take_lines(self, event: Lines) -> None:
        receive = self.peer.receive
        wake = self._loop.wake
        root = self.root
        for message in event.messages:
            if message.method is UNSET:
                call = receive(message)
                if call is not None:
                    if call.scope is not root or self._queue or self.on_idle is not None:
                        self._leave(call)
                    else:
                        self.pending_bytes -= call.size
                    wake(call.waiter, message)
            else:
                self._take_inbound(event.worker, message)

    def _take_inbound(self, worker: int, message: Message) -> None:
        """Answer a worker's request: nobody here handles it."""
        self.unhandled += 1
        if message.id is UNSET:
            return
        text = f"no handler for method {message.method!r}"
        frame = encode_error(message.id, KernelCode.METHOD_NOT_FOUND, text)
        info = next((w for w in self.backend.workers() if w.worker == worker), None)
        if info is not None:
            try:
                self.backend.submit(frame, Route(info.pool, worker=worker), None)
            except Refused as exc:
                logger.warning(
                    "an answer to worker %s was dropped: %s", worker, exc.failure.message
                )


def _nothing() -> None:
    return


def check_timeout(timeout: object) -> None:
    """Refuse what is no timeout in seconds."""
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
        msg = f"timeout must be seconds (0 or more) or None, not {timeout!r}"
        raise InvalidArgumentError(msg, field="timeout")


def check_seconds(name: str, value: object) -> None:
    """Refuse what is no duration in seconds."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < float("inf")
    ):
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
