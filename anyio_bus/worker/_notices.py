"""Own the notifications that have a handler: one after another, in the order they came."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import anyio

from anyio_bus._io.loop import Bell
from anyio_bus._io.raised import is_cancellation, is_interrupt
from anyio_bus._sansio.binding import InvalidParamsError
from anyio_bus.worker._context import Context

if TYPE_CHECKING:
    from anyio_bus._sansio.messages import Message
    from anyio_bus.worker._handlers import Handler
    from anyio_bus.worker._link import Link
    from anyio_bus.worker._requests import Owner
    from anyio_bus.worker._settings import Settings

__all__ = ("Notices",)

logger = logging.getLogger("anyio_bus.worker")


class Notices:
    """The lane of notifications; a handler holds up those behind it, and nothing else.

    Args:
        link: The way out.
        settings: The bounds.
        owner: The conversation.
    """

    def __init__(self, link: Link, settings: Settings, owner: Owner) -> None:
        self._link = link
        self._settings = settings
        self._owner = owner
        self._thread = anyio.CapacityLimiter(1)
        self._queue: deque[tuple[Handler, Context]] = deque()
        self._current: Context | None = None
        self._bell = Bell()

    @property
    def idle(self) -> bool:
        """Whether all of them were handled."""
        return self._current is None and not self._queue

    @property
    def methods(self) -> list[str]:
        """The method of the one that is being handled."""
        return [] if self._current is None else [self._current.method]

    def take(self, handler: Handler, message: Message) -> None:
        """Put a notification in line; drop it if too many wait."""
        context = Context._create(self._link, message)
        if handler.inline:
            try:
                handler.call(context)
            except BaseException as exc:  # noqa: ASYNC103, BLE001
                self._report(context, exc)
        elif len(self._queue) < self._settings.max_queued:
            self._queue.append((handler, context))
            self._bell.ring()
        else:
            text = "%r is dropped: %d notifications wait"
            extra = {"event": "notification_dropped"}
            logger.warning(text, message.method, len(self._queue), extra=extra)

    async def run(self) -> None:
        """Handle what comes, for ever."""
        while True:
            while not self._queue:
                await self._bell.wait()
            handler, context = self._queue.popleft()
            self._current = context
            try:
                with context._scope:
                    await self._handle(handler, context)
            finally:
                self._current = None
                self._owner.changed()

    async def _handle(self, handler: Handler, context: Context) -> None:  # noqa: ASYNC910
        try:
            await handler.run(context, self._thread)
        except BaseException as exc:  # noqa: ASYNC103  # it costs this one
            if is_cancellation(exc):
                raise
            self._report(context, exc)

    def _report(self, context: Context, exc: BaseException) -> None:
        if is_interrupt(exc):
            self._owner.interrupted()
        if isinstance(exc, InvalidParamsError):
            extra = {"event": "invalid_params"}
            logger.warning("notification %r: invalid params: %s", context.method, exc, extra=extra)
        else:
            extra = {"event": "handler_raised"}
            logger.error("the handler of %r raised", context.method, exc_info=exc, extra=extra)

    def cancel_all(self) -> None:
        """Cancel the one that is being handled, and drop what waits."""
        self._queue.clear()
        if self._current is not None:
            self._current._scope.cancel("the worker is shutting down")
