"""Own what is kept of the lines that were no messages: a ring of the last, and a bounded log."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from anyio_bus._sansio.events import BadLineInfo
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.throttle import LOG_BURST, LOG_WINDOW_S, Throttles

if TYPE_CHECKING:
    from anyio_bus._io.loop import Loop
    from anyio_bus._sansio.events import LineBad, WorkerChanged

__all__ = ("BadLines",)

logger = logging.getLogger("anyio_bus")

HINT = "; a worker logs to stderr, stdout is for messages"
KEPT_LINES = 64  # of 200 bytes each: enough to see a pattern


class BadLines:
    """The last bad lines of a bus.

    Args:
        loop: The running event loop.
    """

    def __init__(self, loop: Loop) -> None:
        self._ring: deque[BadLineInfo] = deque(maxlen=KEPT_LINES)
        self._throttles = Throttles(LOG_BURST, LOG_WINDOW_S)
        self._now = loop.now
        self._hint = HINT  # once is enough

    def take(self, event: LineBad) -> None:
        """Keep one, and log it."""
        line = event.line
        self._ring.append(
            BadLineInfo(
                pool=event.pool,
                worker=event.worker,
                prefix=line.prefix,
                reason=line.reason,
                size=line.size,
            )
        )
        note = self._throttles.note(event.worker, self._now())
        if note is not None:
            where = f"{event.pool}/{event.worker}"
            extra = {"event": "bad_line", "pool": event.pool, "worker": event.worker}
            text = "%s: bad line (%s): %r%s%s"
            hint, self._hint = self._hint, ""
            logger.warning(text, where, line.reason, line.prefix, note, hint, extra=extra)

    def recent(self) -> list[BadLineInfo]:
        """Return those that are kept, the oldest first."""
        return list(self._ring)

    def worker_changed(self, event: WorkerChanged) -> None:
        """Forget how loud a worker was that is gone for good."""
        if event.state is State.STOPPED:
            self._throttles.drop(event.worker)
