"""Own the decision after a worker's death: restart after how long, or park its slot and why."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from anyio_bus._config import Limits

__all__ = ("Death", "Park", "RestartPolicy", "Retry")

MOST_KEPT = 2**31 - 1  # deaths; no window is so full


class Death(msgspec.Struct, frozen=True):
    """How one incarnation of a worker ended.

    Args:
        uptime_s: Seconds that it lived.
        started: It came up: its handshake was answered; without one, it read or wrote something,
            it outlived ``start_window_s``, or somebody else killed it.
        permanent: Starting it again cannot help: its command is missing or cannot be executed.
        asked: We ended it on purpose; neither a failure nor a restart to count.
    """

    uptime_s: float
    started: bool
    permanent: bool = False
    asked: bool = False


class Retry(msgspec.Struct, frozen=True):
    """Start it again after ``delay_s``."""

    delay_s: float


class Park(msgspec.Struct, frozen=True):
    """Give up, for ``reason``; try again after ``retry_s`` on its own (None: never)."""

    reason: str
    retry_s: float | None


class RestartPolicy:
    """The restart budget of one slot.

    The delay is exponential with jitter (half fixed, half random) and starts anew after a sustained
    uptime. Starts that fail in a row, and restarts within the sliding window, have a limit each.

    Args:
        limits: The numbers.
        random: Returns a float in [0, 1).
    """

    __slots__ = ("_deaths", "_failed_starts", "_limits", "_random", "_steps")

    def __init__(self, limits: Limits, random: Callable[[], float]) -> None:
        self._limits = limits
        self._random = random
        self._deaths: deque[float] = deque(maxlen=min(limits.max_restarts, MOST_KEPT) + 1)
        self._failed_starts = 0
        self._steps = 0

    def on_death(self, death: Death, now: float) -> Retry | Park:
        """Decide what follows a death at time ``now`` (seconds)."""
        limits = self._limits
        if death.asked:
            return Retry(0.0)
        if death.permanent:
            return self._park("its command cannot be started")
        self._failed_starts = 0 if death.started else self._failed_starts + 1
        if self._failed_starts >= limits.start_attempts:
            return self._park(f"{self._failed_starts} starts in a row failed")
        if death.started and death.uptime_s >= limits.stable_after_s:
            self._steps = 0
        self._deaths.append(now)
        window_s = limits.restart_window_s
        if len(self._deaths) > limits.max_restarts and now - self._deaths[0] <= window_s:
            return self._park(f"more than max_restarts={limits.max_restarts} within {window_s:g} s")
        full = min(limits.restart_delay_s * 2.0 ** min(self._steps, 32), limits.restart_delay_max_s)
        self._steps += 1
        return Retry(full * (0.5 + 0.5 * self._random()))

    def reset(self) -> None:
        """Forget the past: the slot was restarted on request, or tries again after a park."""
        self._deaths.clear()
        self._failed_starts = 0
        self._steps = 0

    def _park(self, reason: str) -> Park:
        return Park(reason, self._limits.park_retry_s or None)
