"""Own the calls to the host: their ids, their deadlines, and who waits for which answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
from msgspec import UNSET, Raw

from anyio_bus._errors import InvalidArgumentError, RemoteError
from anyio_bus._io.loop import Alarm
from anyio_bus._sansio.codec import decode_error, encode_notification, encode_request
from anyio_bus._sansio.messages import Message, is_error
from anyio_bus._sansio.peer import Peer
from anyio_bus.plugins.nexo.errors import (
    RpcDecodeError,
    RpcError,
    RpcServerError,
    RpcTimeoutError,
    RpcTransportError,
    WireError,
)
from anyio_bus.plugins.nexo.wire import checked

if TYPE_CHECKING:
    from anyio_bus._io.loop import Loop, Waiter
    from anyio_bus.worker._output import Output

__all__ = ("HostCalls", "Pending")


class Pending:
    """A request to the host that is open.

    Args:
        key: Its id.
        timeout_s: Seconds that it has; ``None`` for no limit.
        ended: Called once, with the answer or the error.
        delta: Called with each chunk, where it is a stream.
    """

    __slots__ = ("delta", "ended", "key", "timeout_s")

    def __init__(
        self,
        key: Any,
        timeout_s: float | None,
        ended: Callable[[Message | RpcError], object],
        delta: Callable[[str], object] | None = None,
    ) -> None:
        self.key: Any = key
        self.timeout_s: float | None = timeout_s
        self.ended: Callable[[Message | RpcError], object] = ended
        self.delta: Callable[[str], object] | None = delta


class HostCalls:
    """Every request to the host that has no answer yet.

    Args:
        output: The way out.
        loop: The running event loop.
        limit_bytes: Longest frame.
        opened: Called when one is opened.
    """

    def __init__(
        self, output: Output, loop: Loop, limit_bytes: int, opened: Callable[[], object]
    ) -> None:
        self.output = output
        self.loop = loop
        self._limit_bytes = limit_bytes
        self._opened = opened
        self._peer: Peer[Pending] = Peer()
        self._alarm = Alarm(loop, self._peer.next_deadline, self._expire)
        self._over: str | None = None  # why nothing goes out any more
        self._no_calls: str | None = None  # why nothing would be answered
        self.run: Callable[[], Awaitable[None]] = self._alarm.run

    @property
    def pending(self) -> bool:
        """Whether any is open."""
        return bool(self._peer.calls)

    # -- what goes out -------------------------------------------------------------------------

    def encode(self, method: str, params: object, key: int | None = None) -> bytes:
        """Make a frame; without a key that of a notification.

        Raises:
            WireError: It is not JSON, or too large.
            RpcTransportError: Nothing goes out any more.
        """
        if self._over is not None:
            raise RpcTransportError(self._over)
        try:
            if key is None:
                frame = encode_notification(method, params)
            else:
                frame = encode_request(key, method, params)
        except InvalidArgumentError as exc:
            msg = f"{method}: {exc}"
            raise WireError(msg) from exc
        return checked(frame, self._limit_bytes)

    async def request(self, method: str, params: object, timeout: float | None) -> Raw:
        """Send a request and return its result, not yet decoded.

        Raises:
            RpcError: There is none; the class says why.
            WireError: The request is not JSON, or too large.

        Cancellation:
            Always a checkpoint. A late answer is dropped.
        """
        key = self.new_key()
        frame = self.encode(method, params, key)
        waiter: Waiter[Any] = self.loop.waiter()
        wake = self.loop.wake
        call = Pending(key, timeout, lambda outcome: wake(waiter, outcome))
        self.open(call)
        try:
            if self.output.has_room:
                self.output.put(frame)
            else:
                with anyio.move_on_after(timeout):
                    await self.output.room()
                    self.output.put(frame)
            if len(self._peer.calls) == 1:
                self.output.expect_answer()
            outcome = await waiter
        finally:
            self._peer.close(key)
        if isinstance(outcome, RpcError):
            raise outcome
        return result_of(outcome)

    def new_key(self) -> int:
        """Return an id that was never used before.

        Raises:
            RpcTransportError: There will be no more answers.
        """
        if self._no_calls is not None:
            raise RpcTransportError(self._no_calls)
        return self._peer.new_key()  # type: ignore[return-value]

    def open(self, call: Pending) -> None:
        """Wait for the answer to a request."""
        until = self._peer.open(call, self.loop.now())
        if call.timeout_s is not None:
            self._alarm.nudge(until)
        self._opened()

    def close(self, key: int) -> None:
        """Forget a request; a late answer is dropped."""
        self._peer.close(key)

    # -- what comes in -------------------------------------------------------------------------

    def receive(self, answer: Message) -> bool:
        """Take an answer; False if nobody waits for it."""
        if type(answer.id) is not int:
            return False
        call = self._peer.receive(answer)
        if call is not None:
            call.ended(answer)
        return call is not None

    def delta(self, key: int, chunk: str) -> bool:
        """Take a chunk; False if there is no such stream."""
        call = self._peer.calls.get(key)
        if call is None or call.delta is None:
            return False
        self._peer.renew(call, self.loop.now())
        call.delta(chunk)
        return True

    def fail(self, key: int, error: RpcError) -> None:
        """End one request."""
        call = self._peer.close(key)
        if call is not None:
            call.ended(error)

    def fail_all(self, text: str) -> None:
        """End all that are open; more can still be opened."""
        for key in list(self._peer.calls):
            self.fail(key, RpcTransportError(text))  # type: ignore[arg-type]

    def refuse(self, text: str) -> None:
        """End all that are open, and refuse more; events still go out."""
        self._no_calls = self._no_calls or text
        self.fail_all(text)

    def close_down(self, text: str) -> None:
        """End all that are open; nothing goes out any more."""
        self._over = self._over or text
        self.refuse(text)

    def _expire(self, now: float) -> None:
        for call in self._peer.expire(now):
            call.ended(RpcTimeoutError(call.timeout_s or 0.0))


def result_of(answer: Message) -> Raw:
    """Return the result in an answer.

    Raises:
        RpcServerError: It is an error.
        RpcDecodeError: It is neither.
    """
    if is_error(answer):
        error = decode_error(answer.error)  # type: ignore[arg-type]
        if isinstance(error, RemoteError):
            raise RpcServerError(error.code, error.message, error.data)
        msg = f"the host's answer cannot be read: {error}"
        raise RpcDecodeError(msg)
    if answer.result is UNSET:
        msg = "the host's answer has neither result nor error"
        raise RpcDecodeError(msg)
    return answer.result
