"""Own the bound of a log that others can make us write: so many lines in a time, the rest counted."""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ("LOG_BURST", "LOG_WINDOW_S", "Throttle", "Throttles")

# For what a worker can cause with each line that it writes: enough to see what is wrong, and at
# most some kilobytes a second.
LOG_BURST = 100
LOG_WINDOW_S = 10.0


class Throttle:
    """Lets a burst of lines pass in each window of time, and counts those that it holds back.

    A window begins with the first line after the last one has ended, so a burst is never cut by a
    clock that nobody sees.

    Attributes:
        suppressed: Lines held back since the last that passed.

    Args:
        burst: Lines that pass in one window.
        window_s: Its length in seconds.
    """

    __slots__ = ("_burst", "_ends_at", "_passed", "_window_s", "suppressed")

    def __init__(self, burst: int, window_s: float) -> None:
        self._burst = burst
        self._window_s = window_s
        self._ends_at = float("-inf")
        self._passed = 0
        self.suppressed: int = 0

    def take(self, now: float) -> int | None:
        """Ask to write one line.

        Returns:
            None if it is to be held back, else how many were since the last that passed.
        """
        if now >= self._ends_at:
            self._ends_at = now + self._window_s
            self._passed = 0
        if self._passed >= self._burst:
            self.suppressed += 1
            return None
        self._passed += 1
        suppressed, self.suppressed = self.suppressed, 0
        return suppressed

    def note(self, now: float) -> str | None:
        """Ask to write one line, as :meth:`take`; return what to put at its end."""
        suppressed = self.take(now)
        if not suppressed:
            return None if suppressed is None else ""
        return f" ({suppressed} more of these were not logged)"


class Throttles:
    """A :class:`Throttle` for each of several sources, so that a loud one does not hide the others.

    Whoever knows that a source is gone drops it; nothing else bounds their number.

    Args:
        burst: As for each of them.
        window_s: As for each of them.
    """

    __slots__ = ("_burst", "_by_source", "_window_s")

    def __init__(self, burst: int, window_s: float) -> None:
        self._burst = burst
        self._window_s = window_s
        self._by_source: dict[Hashable, Throttle] = {}

    def note(self, source: Hashable, now: float) -> str | None:
        """Ask to write one line of a source, as :meth:`Throttle.note`."""
        throttle = self._by_source.get(source)
        if throttle is None:
            throttle = self._by_source[source] = Throttle(self._burst, self._window_s)
        return throttle.note(now)

    def drop(self, source: Hashable) -> None:
        """Forget a source."""
        self._by_source.pop(source, None)
