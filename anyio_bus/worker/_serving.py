"""Own one conversation of a worker with its client: what is read, what is written, how it ends.

The reader never waits for a handler, so answers, cancels and credit always get through.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from msgspec import UNSET

from anyio_bus._errors import FrameTooLargeError, KernelCode
from anyio_bus._io.loop import Bell, current_loop
from anyio_bus._sansio.codec import decode_block
from anyio_bus._sansio.lines import LineSplitter, Oversize
from anyio_bus._sansio.messages import PREFIX_BYTES, BadLine, Message, RequestId
from anyio_bus._sansio.profiles import CANCEL_METHODS, SILENT_METHODS
from anyio_bus.worker._answers import oversize_id, refusal_of_line
from anyio_bus.worker._link import Link
from anyio_bus.worker._notices import Notices
from anyio_bus.worker._output import Output
from anyio_bus.worker._requests import Requests

if TYPE_CHECKING:
    from anyio_bus.worker._handlers import Handler
    from anyio_bus.worker._settings import Settings

__all__ = ("CONTROL_METHODS", "Conversation", "Receive", "Send")

logger = logging.getLogger("anyio_bus.worker")

CREDIT_METHOD = "bus/credit"
CONTROL_METHODS = frozenset({CREDIT_METHOD, *CANCEL_METHODS})
CANCEL_GRACE_S = 1.0  # for what handlers do when they are cancelled, and for the last answers

Receive = Callable[[], Awaitable[bytes]]
Send = Callable[[bytes], Awaitable[None]]
_GONE = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


class _Credit(msgspec.Struct):
    id: RequestId
    bytes: int


_credit = msgspec.json.Decoder(_Credit)
_cancel = msgspec.json.Decoder(dict[str, Any])
_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Conversation:
    """What one client and this worker say to each other.

    Owns:
        A task group: the reader, the writer, a task for each request that runs, and one for all
        notifications.

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
        self._methods = methods
        self._notifications = notifications
        self._settings = settings
        self._loop = current_loop()
        self._output = Output(send, self._loop)
        self._link = Link(self._output, self._loop, settings.max_frame_bytes, settings.cancel)
        self._link.telemetry = settings.telemetry
        self._requests = Requests(self._link, settings, self)
        self._notices = Notices(self._link, settings, self)
        self._tasks = anyio.create_task_group()
        self._stop_asked = anyio.Event()
        self._hurry = False
        self._bell = Bell()
        self._fault: BaseException | None = None

    # -- the course of it ----------------------------------------------------------------------

    async def run(
        self,
        receive: Receive,
        signals: AsyncIterator[object] | None = None,
        on_stuck: Callable[[], object] | None = None,
    ) -> None:
        """Serve until the input ends or a signal comes; then finish what is in progress.

        Args:
            receive: Returns bytes, none at the end.
            signals: Yields when the worker is to stop; what is in progress may finish at the first,
                and is cancelled at the next.
            on_stuck: Called when handlers have not ended although they were cancelled.

        Raises:
            KeyboardInterrupt: A handler raised it; everything was answered.
            Exception: ``receive`` or ``send`` raised something that is not the pipe's end.

        Cancellation:
            Cancels the handlers and ends.
        """
        async with self._tasks:
            self.start_soon(self._write)
            self.start_soon(self._read, receive)
            if self._notifications:
                self.start_soon(self._notices.run)
            if signals is not None:
                self.start_soon(self._heed, signals)
            await self._stop_asked.wait()
            await self._wind_up(on_stuck)
            self._tasks.cancel_scope.cancel("the worker is done")
        if self._fault is not None:
            raise self._fault

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

    def start_soon(self, function: Callable[..., Any], *args: object) -> None:
        """Start a task."""
        self._tasks.start_soon(function, *args)  # type: ignore[unused-awaitable,unused-ignore]

    @property
    def _idle(self) -> bool:
        return self._requests.idle and self._notices.idle

    @property
    def stopping(self) -> bool:
        """Whether new work is refused."""
        return self._stop_asked.is_set()

    def _stop(self, *, hurry: bool = False) -> None:
        """Take no new work; with ``hurry`` do not wait for what is in progress either."""
        self._hurry = self._hurry or hurry
        self._stop_asked.set()
        self._bell.ring()

    def changed(self) -> None:
        """Something ended."""
        if self.stopping:
            self._bell.ring()

    def interrupted(self) -> None:
        """A handler raised KeyboardInterrupt: stop when everything is answered."""
        self._fault = self._fault or KeyboardInterrupt()
        self._stop()

    async def _heed(self, signals: AsyncIterator[object]) -> None:
        async for _ in signals:
            self._stop(hurry=self.stopping)

    # -- the wire ------------------------------------------------------------------------------

    async def _write(self) -> None:  # noqa: ASYNC910
        try:
            await self._output.run()
        except _GONE as exc:
            logger.debug("the client is gone: %r", exc, extra={"event": "client_gone"})
        except Exception as exc:  # `send` is not ours; raised again by run()  # noqa: BLE001
            self._fault = self._fault or exc
        self._stop(hurry=True)

    async def _read(self, receive: Receive) -> None:  # noqa: ASYNC910
        splitter = LineSplitter(self._settings.max_frame_bytes)
        try:
            while data := await receive():
                for item in splitter.feed(data):
                    self._take(item)
                await self._output.room_for_reader()
        except _GONE as exc:
            logger.debug("the client is gone: %r", exc, extra={"event": "client_gone"})
        except Exception as exc:  # `receive` is not ours; raised again by run()  # noqa: BLE001
            self._fault = self._fault or exc
        rest = splitter.close()
        if rest:
            text = "the last line has no newline, it is discarded: %r"
            logger.warning(text, rest[:PREFIX_BYTES], extra={"event": "bad_line"})
        self._link.hang_up()
        self._requests.no_more_credit()
        self._stop()

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
