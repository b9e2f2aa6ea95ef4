"""Own what workers write, as these names show it: lines, notifications, bounded subscriptions."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, final

import anyio
import anyio.lowlevel
import msgspec

from anyio_bus.stdiobus._questions import Questions
from anyio_bus.stdiobus.errors import InvalidArgumentError
from anyio_bus.stdiobus.types import MessageHandler, OverflowPolicy

if TYPE_CHECKING:
    import anyio_bus

__all__ = ("Inbox", "NotificationSubscription")

logger = logging.getLogger("anyio_bus")

FREE_TURNS = 64  # notifications that a reader takes without a checkpoint


@final
class NotificationSubscription:
    """Notifications as they come, as plain objects; treat them as read-only.

    Iterating ends when it is closed or the bus has stopped, after what it holds.

    Owns:
        The notifications that nobody has read yet, at most ``max_queue``.

    Attributes:
        dropped: How many were dropped.
    """

    def __init__(
        self,
        inbox: Inbox,
        pool: str | None,
        max_queue: int,
        overflow: OverflowPolicy | str,
    ) -> None:
        if isinstance(max_queue, bool) or not isinstance(max_queue, int) or max_queue < 1:
            msg = f"max_queue must be 1 or more, not {max_queue!r}"
            raise InvalidArgumentError(msg)
        try:
            self._overflow = OverflowPolicy(overflow)
        except ValueError:
            names = ", ".join(policy.value for policy in OverflowPolicy)
            msg = f"overflow must be one of {names}, not {overflow!r}"
            raise InvalidArgumentError(msg) from None
        self.dropped: int = 0
        self._inbox = inbox
        self._pool = pool
        self._max = max_queue
        self._queue: deque[dict[str, Any]] = deque()
        self._ended = False
        self._turns = FREE_TURNS
        self._news: anyio.Event | None = None  # what a reader waits for

    def __aiter__(self) -> NotificationSubscription:
        """Iterate over the notifications."""
        return self

    async def __anext__(self) -> dict[str, Any]:
        """Return the next notification."""
        if not self._queue or not self._turns:
            await anyio.lowlevel.checkpoint()
            self._turns = FREE_TURNS
        while not self._queue:
            if self._ended:
                raise StopAsyncIteration
            if self._news is None:
                self._news = anyio.Event()
            await self._news.wait()
        self._turns -= 1
        return self._queue.popleft()  # noqa: ASYNC910  # one per 64

    def close(self) -> None:
        """End it, after what it holds; closing it again does nothing."""
        self._end()
        self._inbox.leave(self)

    def _end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    def _offer(self, pool: str, notification: dict[str, Any]) -> None:
        if self._ended or self._pool not in (None, pool):
            return
        if len(self._queue) >= self._max:
            if self._overflow is OverflowPolicy.CLOSE:
                self.close()
                return
            self.dropped += 1
            if self._overflow is OverflowPolicy.DROP:
                return
            self._queue.popleft()
        self._queue.append(notification)
        self._wake()


class Inbox:
    """Hands each line that a worker writes to whoever asked for it; where nobody has, none is read.

    Owns:
        The hooks in the buses, while anybody listens.

    Args:
        renumbered: Whether the ids of workers' requests are others here than in their lines. Then
            such a request is shown as it is served, with the id that its answer has to have.
    """

    def __init__(self, *, renumbered: bool = False) -> None:
        self._renumbered = renumbered
        self.questions: Questions = Questions(self._show if renumbered else None)
        self._on_message: list[MessageHandler] = []
        self._on_notification: list[MessageHandler] = []
        self._subscriptions: dict[NotificationSubscription, None] = {}
        self._buses: dict[str, anyio_bus.Bus] = {}
        self._hooks: list[anyio_bus.MessageHook] = []
        self._ended = False

    # -- who listens --------------------------------------------------------------------------

    def on_message(self, handler: MessageHandler) -> None:
        """Add a function for each line."""
        self._on_message.append(_checked(handler))
        self.questions.heard = True
        self._listen()

    def on_notification(self, handler: MessageHandler) -> None:
        """Add a function for each notification."""
        self._on_notification.append(_checked(handler))
        self._listen()

    def join(self, subscription: NotificationSubscription) -> None:
        """Add a subscription."""
        if self._ended:
            subscription._end()
            return
        self._subscriptions[subscription] = None
        self._listen()

    def leave(self, subscription: NotificationSubscription) -> None:
        """Remove a subscription."""
        self._subscriptions.pop(subscription, None)
        if not (self._on_message or self._on_notification or self._subscriptions):
            self._unhook()

    def open(self, buses: dict[str, anyio_bus.Bus]) -> None:
        """The buses run."""
        self._buses = buses
        if self._on_message or self._on_notification or self._subscriptions:
            self._listen()

    def end(self) -> None:
        """Nothing more can come."""
        self._ended = True
        self._unhook()
        for subscription in list(self._subscriptions):
            subscription._end()
        self._subscriptions.clear()

    def _listen(self) -> None:
        if not self._hooks and not self._ended:
            self._hooks = [
                bus.on_message(partial(self._take, pool)) for pool, bus in self._buses.items()
            ]

    def _unhook(self) -> None:
        hooks, self._hooks = self._hooks, []
        for hook in hooks:
            hook.remove()

    # -- what workers write -------------------------------------------------------------------

    def _take(self, pool: str, line: str) -> None:
        if not line.strip():
            return
        message = _read(line)
        is_call = message is not None and "method" in message
        if is_call and "id" in message and self._renumbered:  # type: ignore[operator]
            return
        if is_call and "id" in message and self._on_message:  # type: ignore[operator]
            self.questions.ask(message["id"])  # type: ignore[index]
        for handler in self._on_message:
            _call(handler, line)
        if not is_call or "id" in message:  # type: ignore[operator]
            return
        for handler in self._on_notification:
            _call(handler, line)
        for subscription in list(self._subscriptions):
            subscription._offer(pool, message)  # type: ignore[arg-type]

    def _show(self, line: str) -> None:
        for handler in self._on_message:
            _call(handler, line)


def _read(line: str) -> dict[str, Any] | None:
    """Read a line that may be a request or a notification."""
    if '"method"' not in line:
        return None
    try:
        message = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _call(handler: MessageHandler, line: str) -> None:
    try:
        handler(line)
    except Exception:  # the program's own; it costs this line
        extra = {"event": "message_handler_raised"}
        logger.exception("a handler of messages raised", extra=extra)


def _checked(handler: Callable[[str], Any]) -> MessageHandler:
    if not callable(handler):
        msg = f"handler must be a function, not {handler!r}"
        raise InvalidArgumentError(msg)
    return handler
