"""Own the attempts of one request that may be sent again, and the one timeout that bounds them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from anyio_bus._bus.calls import timeout_text
from anyio_bus._config import Retry
from anyio_bus._errors import BusError, InvalidArgumentError, RequestTimeoutError

if TYPE_CHECKING:
    from anyio_bus._bus.calls import Calls

__all__ = ("Attempts", "check_retry")


def check_retry(retry: Any) -> None:
    """Refuse what does not say when a request is sent again."""
    if not isinstance(retry, Retry):
        count = retry if type(retry) is int and retry > 0 else 3
        msg = f"retry must be a Retry or None, not {retry!r}; for example Retry(attempts={count})"
        raise InvalidArgumentError(msg, field="retry")


class Attempts:
    """The attempts of one request.

    Args:
        calls: The calls of the bus, for their clock.
        retry: When it is sent again.
        timeout_s: Seconds for all attempts and the pauses between them; None for no limit.

    Attributes:
        sent: Whether any byte of any of them may have reached a worker.
    """

    __slots__ = ("_calls", "_count", "_last", "_retry", "_timeout_s", "_until", "sent")

    def __init__(self, calls: Calls, retry: Retry, timeout_s: float | None) -> None:
        self._calls = calls
        self._retry = retry
        self._timeout_s = timeout_s
        self._until = math.inf if timeout_s is None else calls.now() + timeout_s
        self._count = 0  # of those that have failed
        self._last: BusError | None = None
        self.sent: bool = False

    @property
    def left_s(self) -> float | None:
        """What the next attempt has of the timeout."""
        if self._timeout_s is None or not self._count:
            return self._timeout_s
        return max(self._until - self._calls.now(), 0.0)

    def renew(self, now: float) -> None:
        """Start the timeout anew: there was progress."""
        if self._timeout_s is not None:
            self._until = now + self._timeout_s

    def pause_after(self, error: BusError) -> float | None:
        """Take what became of an attempt.

        Returns:
            Seconds until the next one; None where there is none, and the error is to be raised.
        """
        self._count += 1
        sent = getattr(error, "sent", True)
        self.sent |= sent
        pause_s = self._retry.delay_s(self._count)
        if self._retry.allows(error, self._count) and self._calls.now() + pause_s < self._until:
            self._last = error.with_traceback(None)  # else it would hold its own caller
            return pause_s
        if not sent and self.sent:
            error.sent = True  # type: ignore[attr-defined]  # of an attempt before
        if isinstance(error, RequestTimeoutError) and self._last is not None:
            error.args = (timeout_text(error.method, error.pool, self._timeout_s),)
            error.timeout_s = self._timeout_s  # it had what was left of that
            error.__cause__ = self._last
        return None
