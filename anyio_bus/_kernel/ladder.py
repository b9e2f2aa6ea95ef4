"""Own the times of a stop: when each rung of the ladder comes."""

from __future__ import annotations

import msgspec

__all__ = ("Ladder",)


class Ladder(msgspec.Struct, frozen=True):
    """A stop that began at ``started`` and has ``grace_s`` seconds until everything is reaped."""

    started: float
    grace_s: float

    def at(self, fraction: float) -> float:
        """Return when this fraction of the grace is over."""
        return self.started + fraction * self.grace_s

    def shortened(self, other: Ladder) -> Ladder:
        """Return the one that ends first."""
        return other if other.at(1.0) < self.at(1.0) else self
