"""Own how a worker's stderr reaches the log."""

from __future__ import annotations

import logging

from anyio_bus._sansio.throttle import LOG_WINDOW_S, Throttle

__all__ = ("StderrLog",)

BURST = 1000  # lines in LOG_WINDOW_S: stderr is a worker's own log, not an error

logger = logging.getLogger("anyio_bus.stderr")


class StderrLog:
    """The lines of a worker, logged as long as they are not too many.

    Args:
        pool: Its pool.
        worker: Its number.
    """

    __slots__ = ("_pool", "_throttle", "_worker")

    def __init__(self, pool: str, worker: int) -> None:
        self._pool, self._worker = pool, worker
        self._throttle = Throttle(BURST, LOG_WINDOW_S)

    @staticmethod
    def wanted() -> bool:
        """Tell whether anybody reads that log."""
        return logger.isEnabledFor(logging.INFO)

    def write(self, lines: list[str], now: float) -> None:
        """Log some lines."""
        if not self.wanted():
            return
        extra = {"event": "worker_stderr", "pool": self._pool, "worker": self._worker}
        for line in lines:
            note = self._throttle.note(now)
            if note is not None:
                logger.info("%s/%s: %s%s", self._pool, self._worker, line, note, extra=extra)
