"""Own the requests of one conversation: which run, which wait, and the one answer of each."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from msgspec import UNSET, Raw

from anyio_bus._errors import KernelCode
from anyio_bus._io.raised import is_cancellation, is_interrupt
from anyio_bus._sansio.answers import error_frame, result_frame
from anyio_bus._sansio.codec import encode_error
from anyio_bus.worker._context import Context

if TYPE_CHECKING:
    from anyio_bus._sansio.messages import Message, RequestId
    from anyio_bus.worker._handlers import Handler
    from anyio_bus.worker._link import Link
    from anyio_bus.worker._settings import Settings, Telemetry

__all__ = ("Owner", "Requests")

logger = logging.getLogger("anyio_bus.worker")

QUEUED_BYTES = 64 * 1024 * 1024  # of params that wait, besides one frame


class Owner(Protocol):
    """The conversation."""

    @property
    def stopping(self) -> bool:
        """Whether new work is refused."""
        ...

    def start_soon(self, function: Callable[..., Any], *args: object) -> None:
        """Start a task."""

    def interrupted(self) -> None:
        """A handler raised KeyboardInterrupt: stop when everything is answered."""

    def changed(self) -> None:
        """Something ended."""


class Requests:
    """Every request that was read and not yet answered.

    Args:
        link: The way out.
        settings: The bounds.
        owner: Who starts the tasks.
    """

    def __init__(self, link: Link, settings: Settings, owner: Owner) -> None:
        self._link = link
        self._output = link.output
        self._settings = settings
        self._telemetry: Telemetry | None = settings.telemetry
        self._owner = owner
        self._threads = anyio.CapacityLimiter(settings.max_concurrency)
        self._live: dict[Context, None] = {}
        self._by_id: dict[RequestId, Context] = {}  # an id that is in use twice: the later one
        self._running = 0
        self._queue: deque[tuple[Handler, Context]] = deque()
        self._queued_bytes = 0

    @property
    def idle(self) -> bool:
        """Whether every request was answered."""
        return not self._live

    @property
    def methods(self) -> list[str]:
        """The methods of those that are not answered."""
        return sorted({context.method for context in self._live})

    def refuse(self, key: RequestId, code: int, text: str) -> None:
        """Answer with an error, from the reader."""
        self._output.put(encode_error(key, code, text), by_reader=True)

    def take(self, handler: Handler, message: Message) -> None:
        """Run a request, or let it wait, or refuse it."""
        key: RequestId = message.id  # type: ignore[assignment]
        if self._owner.stopping:
            self.refuse(key, KernelCode.SHUTTING_DOWN, "the worker is shutting down")
        elif handler.inline:
            self._call_inline(handler, Context._create(self._link, message))
        elif self._running < self._settings.max_concurrency:
            self._start(handler, self._open(message))
        elif len(self._queue) < self._settings.max_queued and self._queued_bytes <= QUEUED_BYTES:
            if isinstance(message.params, Raw):
                message.params = message.params.copy()  # not all of what was read with it
            self._queued_bytes += _size(message)
            self._queue.append((handler, self._open(message)))
        else:
            text = f"overloaded: {len(self._queue)} requests wait already"
            self.refuse(key, KernelCode.OVERLOADED, text)

    def cancel(self, key: RequestId, *, silently: bool) -> None:
        """Cancel a request that is in progress; ``silently``: without an answer."""
        context = self._by_id.get(key)
        if context is None:
            return
        context._silent = context._silent or silently
        context._scope.cancel("cancelled by the client")
        for entry in self._queue:
            if entry[1] is context:
                self._queue.remove(entry)
                self._queued_bytes -= _size(context._request)
                self._answer(context, None)
                return

    def cancel_all(self) -> None:
        """Cancel what runs, and refuse what waits."""
        while self._queue:
            _, context = self._queue.popleft()
            text = "the worker is shutting down"
            self._answer(context, encode_error(context.request_id, KernelCode.SHUTTING_DOWN, text))
        self._queued_bytes = 0
        for context in self._live:
            context._scope.cancel("the worker is shutting down")

    def credit(self, key: RequestId, size: int) -> None:
        """Let a handler send so many bytes of chunks more."""
        context = self._by_id.get(key)
        if context is not None:
            context._credited(size)

    def no_more_credit(self) -> None:
        """The client closed its end: nobody waits for credit any longer."""
        for context in self._live:
            context._no_more_credit()

    # -- the life of one -----------------------------------------------------------------------

    def _open(self, message: Message) -> Context:
        context = Context._create(self._link, message)
        self._live[context] = None
        self._by_id[context.request_id] = context
        return context

    def _start(self, handler: Handler, context: Context) -> None:
        self._running += 1
        self._owner.start_soon(self._serve, handler, context)

    async def _serve(self, handler: Handler, context: Context) -> None:  # noqa: ASYNC910
        frame: bytes | None = None
        try:
            with context._scope:
                if not context.cancelled:
                    frame = await self._outcome(handler, context)
        finally:
            self._running -= 1
            self._answer(context, frame)
            if self._queue:
                handler, context = self._queue.popleft()
                self._queued_bytes -= _size(context._request)
                self._start(handler, context)

    async def _outcome(self, handler: Handler, context: Context) -> bytes:
        """Return the frame that answers a request, when there is room for it."""
        try:
            if self._telemetry is None:
                frame = self._result(context, await handler.run(context, self._threads))
            else:
                with self._telemetry.serving(context.method, context.request_id, context.meta):
                    result = await handler.run(context, self._threads)
                frame = self._result(context, result)
        except BaseException as exc:  # noqa: ASYNC103  # whatever it is: one answer
            if is_cancellation(exc):
                raise
            frame = self._error(context, exc)
        await self._output.room()
        return frame

    def _call_inline(self, handler: Handler, context: Context) -> None:
        try:
            if self._telemetry is None:
                frame = self._result(context, handler.call(context))
            else:
                with self._telemetry.serving(context.method, context.request_id, context.meta):
                    result = handler.call(context)
                frame = self._result(context, result)
        except BaseException as exc:  # noqa: ASYNC103, BLE001
            frame = self._error(context, exc)
        context._over = True
        self._output.put(frame, by_reader=True)

    def _answer(self, context: Context, frame: bytes | None) -> None:
        context._over = True
        del self._live[context]
        if self._by_id.get(context.request_id) is context:
            del self._by_id[context.request_id]
        if not context._silent:
            key = context.request_id
            self._output.put(frame or encode_error(key, KernelCode.CANCELLED, "cancelled"))
        self._owner.changed()

    def _result(self, context: Context, result: object) -> bytes:
        limit = self._settings.max_frame_bytes
        return result_frame(context.request_id, context.method, result, limit, _report)

    def _error(self, context: Context, exc: BaseException) -> bytes:
        if is_interrupt(exc):
            self._owner.interrupted()
        limit = self._settings.max_frame_bytes
        return error_frame(context.request_id, context.method, exc, limit, _report)


def _report(text: str, exc: BaseException) -> None:
    logger.error("%s", text, exc_info=exc, extra={"event": "handler_raised"})


def _size(message: Message) -> int:
    return 0 if message.params is UNSET else memoryview(message.params).nbytes
