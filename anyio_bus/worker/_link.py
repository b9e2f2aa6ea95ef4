"""Own a worker's end of one conversation: frames out, and the requests it makes to its client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from anyio_bus._errors import FrameTooLargeError, RequestTimeoutError, TransportError
from anyio_bus._sansio.codec import decode_error, decode_value, encode_request
from anyio_bus._sansio.messages import Message, RequestId, is_error
from anyio_bus._sansio.peer import Peer
from anyio_bus._sansio.profiles import cancel_frame

if TYPE_CHECKING:
    from anyio_bus._io.loop import Loop, Waiter
    from anyio_bus.worker._output import Output
    from anyio_bus.worker._settings import Telemetry

__all__ = ("Link",)


class _Call:
    """A request to the client that waits for its answer. Its deadline is the caller's own."""

    __slots__ = ("key", "method", "timeout_s", "waiter")

    def __init__(self, key: RequestId, method: str, waiter: Waiter[Any]) -> None:
        self.key = key
        self.method = method
        self.timeout_s: float | None = None
        self.waiter = waiter


class Link:
    """What contexts share.

    Args:
        output: The way out.
        loop: The running event loop.
        max_frame_bytes: Longest frame.
        cancel: The profile in which the client is told of a cancelled request.
    """

    def __init__(self, output: Output, loop: Loop, max_frame_bytes: int, cancel: str) -> None:
        self.output = output
        self.max_frame_bytes = max_frame_bytes
        self.telemetry: Telemetry | None = None
        self._loop = loop
        self._cancel = cancel
        self._peer: Peer[_Call] = Peer()
        self._hung_up = False

    def checked(self, frame: bytes) -> bytes:
        """Return a frame that is not too large.

        Raises:
            FrameTooLargeError: It is.
        """
        if len(frame) > self.max_frame_bytes:
            msg = f"frame of {len(frame)} bytes is over max_frame_bytes={self.max_frame_bytes}"
            raise FrameTooLargeError(msg, limit_bytes=self.max_frame_bytes, sent=False)
        return frame

    async def send(self, frame: bytes) -> None:
        """Queue a frame when there is room. Always a checkpoint."""
        self.checked(frame)
        await anyio.lowlevel.checkpoint()
        await self.output.room()
        self.output.put(frame)

    async def request(
        self, method: str, params: object, reply: Any, timeout: float | None, session: str | None
    ) -> Any:
        """Send a request to the client and return its result."""
        if self._hung_up:
            msg = f"request {method!r} to the client: it has closed its end"
            raise TransportError(msg, sent=False)
        call = _Call(self._peer.new_key(), method, self._loop.waiter())
        frame = self.checked(encode_request(call.key, method, params, session))
        outcome = await self._outcome(call, frame, timeout)
        if isinstance(outcome, Exception):
            raise outcome
        if is_error(outcome):
            raise decode_error(outcome.error)
        return decode_value(outcome.result, reply)

    async def _outcome(self, call: _Call, frame: bytes, timeout: float | None) -> Any:
        """Return the answer, or what came instead; a client no longer waited for is told."""
        sent = False
        self._peer.open(call, 0)
        try:
            with anyio.move_on_after(timeout):
                await self.send(frame)
                sent = True
                if len(self._peer.calls) == 1:
                    self.output.expect_answer()
                return await call.waiter
        finally:
            if self._peer.close(call.key) is not None and sent:
                notice = cancel_frame(self._cancel, call.key, "no longer waited for")
                if notice is not None:
                    self.output.put(notice)
        msg = f"the client did not answer request {call.method!r} within {timeout} s"
        raise RequestTimeoutError(msg, method=call.method, timeout_s=timeout, sent=sent)

    def receive(self, answer: Message) -> None:
        """Hand an answer of the client to whoever waits for it."""
        call = self._peer.receive(answer)
        if call is not None:
            self._loop.wake(call.waiter, answer)

    def fail(self, key: RequestId, error: Exception) -> bool:
        """End one request to the client; False if it is not open."""
        call = self._peer.close(key)
        if call is not None:
            self._loop.wake(call.waiter, error)
        return call is not None

    def hang_up(self) -> None:
        """The client has closed its end: nothing will be answered any more."""
        self._hung_up = True
        for call in list(self._peer.calls.values()):
            msg = f"the client closed its end before it answered request {call.method!r}"
            self.fail(call.key, TransportError(msg))
