"""Own who is told that another program came to a kernel that listens, or went."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from anyio_bus._sansio.throttle import LOG_BURST, LOG_WINDOW_S, Throttle

if TYPE_CHECKING:
    from anyio_bus._io.loop import Loop
    from anyio_bus._sansio.events import ClientChanged

__all__ = ("Clients",)

logger = logging.getLogger("anyio_bus")


class Clients:
    """The functions that are called with each.

    Args:
        loop: The running event loop.
    """

    def __init__(self, loop: Loop) -> None:
        self._functions: dict[object, Callable[[ClientChanged], object]] = {}
        self._throttle = Throttle(LOG_BURST, LOG_WINDOW_S)
        self._now = loop.now

    def follow(self, function: Callable[[ClientChanged], object]) -> Callable[[], None]:
        """Call a function from now on; return what ends it."""
        key = object()
        self._functions[key] = function

        def remove() -> None:
            self._functions.pop(key, None)

        return remove

    def take(self, event: ClientChanged) -> None:
        """Hand one to all that are there still."""
        for key, function in list(self._functions.items()):
            if key in self._functions:
                self._call(function, event)

    def _call(self, function: Callable[[ClientChanged], object], event: ClientChanged) -> None:
        try:
            function(event)
        except Exception:  # the program's own; it costs this event
            left_out = self._throttle.note(self._now())
            if left_out is not None:
                text = "a callback for client %s raised%s"
                extra = {"event": "callback_raised"}
                logger.exception(text, event.client, left_out, extra=extra)
