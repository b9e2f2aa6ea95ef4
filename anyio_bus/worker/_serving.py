"""Own one conversation of a worker with its client: what each line means, and how it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from msgspec import UNSET

from anyio_bus._errors import FrameTooLargeError, KernelCode
from anyio_bus._sansio.codec import decode_block
from anyio_bus._sansio.lines import Oversize
from anyio_bus._sansio.messages import PREFIX_BYTES, BadLine, Message, RequestId
from anyio_bus._sansio.profiles import CANCEL_METHODS, SILENT_METHODS
from anyio_bus.worker._answers import oversize_id, refusal_of_line
from anyio_bus.worker._duplex import Duplex, Receive, Send
from anyio_bus.worker._link import Link
from anyio_bus.worker._notices import Notices
from anyio_bus.worker._requests import Requests

if TYPE_CHECKING:
    from anyio_bus.worker._handlers import Handler
    from anyio_bus.worker._settings import Settings

__all__ = ("CONTROL_METHODS", "Conversation", "Receive", "Send")

logger = logging.getLogger("anyio_bus.worker")

CREDIT_METHOD = "bus/credit"
CONTROL_METHODS = frozenset({CREDIT_METHOD, *CANCEL_METHODS})
CANCEL_GRACE_S = 1.0  # for what handlers do when they are cancelled, and for the last answers


class _Credit(msgspec.Struct):
    id: RequestId
    bytes: int


_credit = msgspec.json.Decoder(_Credit)
_cancel = msgspec.json.Decoder(dict[str, Any])
_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Conversation(Duplex):
    """What one client and this worker say to each other.

    A task runs for each request, and one for all notifications.

    Args:
        methods: The handlers of requests.
        notifications: The handlers of notifications.
        settings: The bounds.
        send: Writes bytes, all of them.
    """

    def __init__(
        self,
        methods: Mapping[str, Handler],
        notifications: Mapping[str, Handler],
        settings: Settings,
        send: Send,
    ) -> None:
        super().__init__(send, settings.max_frame_bytes)
        self._methods = methods
        self._notifications = notifications
        self._settings = settings
        self._link = Link(self._output, self._loop, settings.max_frame_bytes, settings.cancel)
        self._link.telemetry = settings.telemetry
        self._requests = Requests(self._link, settings, self)
        self._notices = Notices(self._link, settings, self)

    def _start(self) -> None:
        if self._notifications:
            self.start_soon(self._notices.run)

    async def _wind_up(self, on_stuck: Callable[[], object] | None) -> None:
        """Let what is in progress finish, then cancel it, then write what is queued."""
        now = self._loop.now
        drained_by = now() + self._settings.drain_s
        await self._bell.until(lambda: self._idle or self._hurry, lambda: drained_by, now)
        self._requests.cancel_all()
        self._notices.cancel_all()
        limit = now() + CANCEL_GRACE_S
        ended = await self._bell.until(lambda: self._idle, lambda: limit, now)
        if not ended:
            methods = self._requests.methods + self._notices.methods
            extra = {"event": "handlers_stuck"}
            logger.error("cancelled handlers did not end: %s", ", ".join(methods), extra=extra)
        with anyio.move_on_after(max(limit, 0 if self._hurry else drained_by) - now()):
            await self._output.flushed()
        if not ended and on_stuck is not None:
            on_stuck()

    @property
    def _idle(self) -> bool:
        return self._requests.idle and self._notices.idle

    def _hung_up(self) -> None:
        self._link.hang_up()
        self._requests.no_more_credit()

    # -- the wire ------------------------------------------------------------------------------

    def _take(self, item: bytes | Oversize) -> None:
        if isinstance(item, Oversize):
            self._take_oversize(item)
            return
        for message in decode_block(item):
            if isinstance(message, BadLine):
                extra = {"event": "bad_line"}
                logger.warning("bad line: %s: %r", message.reason, message.prefix, extra=extra)
                self._output.put(refusal_of_line(message), by_reader=True)
            elif message.method is UNSET:
                self._link.receive(message)
            elif message.id is UNSET:
                self._take_notification(message.method, message)
            else:
                self._take_request(message.method, message.id, message)

    def _take_oversize(self, line: Oversize) -> None:
        limit = self._settings.max_frame_bytes
        text = f"line of {line.size} bytes is over max_frame_bytes={limit}"
        logger.warning("%s: %r", text, line.prefix[:PREFIX_BYTES], extra={"event": "bad_line"})
        key, is_request = oversize_id(line)
        if is_request:
            known = None if key is UNSET else key
            self._requests.refuse(known, KernelCode.FRAME_TOO_LARGE, text)
        elif key is not UNSET:
            self._link.fail(key, FrameTooLargeError(text, limit_bytes=limit))

    def _take_request(self, method: str, key: RequestId, message: Message) -> None:
        handler = self._methods.get(method)
        if handler is None:
            text = f"method not found: {method}"
            self._requests.refuse(key, KernelCode.METHOD_NOT_FOUND, text)
        else:
            self._requests.take(handler, message)

    def _take_notification(self, method: str, message: Message) -> None:
        if method in CONTROL_METHODS:
            self._take_control(method, message)
            return
        handler = self._notifications.get(method)
        if handler is None:
            extra = {"event": "notification_unhandled"}
            logger.debug("notification %r has no handler", method, extra=extra)
        elif not self.stopping:
            self._notices.take(handler, message)

    def _take_control(self, method: str, message: Message) -> None:
        params = b"" if message.params is UNSET else message.params
        try:
            if method == CREDIT_METHOD:
                credit = _credit.decode(params)
                self._requests.credit(credit.id, max(0, credit.bytes))
            else:
                key = _cancel.decode(params)[CANCEL_METHODS[method]]
                self._requests.cancel(key, silently=method in SILENT_METHODS)
        except (*_BAD, KeyError, TypeError) as exc:  # TypeError: an id that is a list, say
            extra = {"event": "invalid_params"}
            logger.warning("notification %r: invalid params: %r", method, exc, extra=extra)
