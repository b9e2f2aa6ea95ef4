"""Own the table of sessions: which worker's lane holds each, and which were lost with one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyio_bus._errors import Failure
from anyio_bus._sansio.events import SessionInfo

if TYPE_CHECKING:
    from anyio_bus._sansio.routing import Lane

__all__ = ("Loss", "SessionTable")


class Loss(msgspec.Struct, frozen=True):
    """A session whose worker is gone.

    One that had no lease is forgotten once somebody was told; one that had stays lost until it is
    ended, since it must never go on among others.
    """

    pool: str
    failure: Failure | None
    leased: bool


class SessionTable:
    """The sessions of a kernel.

    Args:
        max_sessions: How many may be known at a time, lost ones included.
    """

    __slots__ = ("_held", "_lost", "_max")

    def __init__(self, max_sessions: int) -> None:
        self._held: dict[str, Lane] = {}
        self._lost: dict[str, Loss] = {}  # and nobody was told yet
        self._max = max_sessions

    def __len__(self) -> int:
        """Return how many are known."""
        return len(self._held) + len(self._lost)

    def lane_of(self, session: str) -> Lane | None:
        """Return the lane that holds a session."""
        return self._held.get(session)

    def find(self, session: str) -> SessionInfo | None:
        """Report a session, None where it is not known."""
        lane = self._held.get(session)
        if lane is not None:
            return SessionInfo(lane.pool.config.id, lane.worker, len(lane.entries))
        loss = self._lost.get(session)
        return SessionInfo(loss.pool, failure=loss.failure) if loss is not None else None

    def bind(self, session: str, lane: Lane) -> None:
        """Tie a session to a lane, wherever it was before."""
        self.end(session)
        self._held[session] = lane
        lane.sessions[session] = None

    def end(self, session: str) -> None:
        """Forget a session."""
        self._lost.pop(session, None)
        lane = self._held.pop(session, None)
        if lane is not None:
            lane.sessions.pop(session, None)

    def lose(self, lane: Lane, failure: Failure | None, lease: str | None) -> None:
        """Take note that a lane is gone; ``lease`` is the session that had it for itself."""
        for session in lane.sessions:
            del self._held[session]
            self._lost[session] = Loss(lane.pool.config.id, failure, session == lease)
        lane.sessions.clear()

    def take_loss(self, session: str) -> Loss | None:
        """Return how a session was lost, and forget it if it may begin anew."""
        loss = self._lost.get(session)
        if loss is not None and not loss.leased:
            del self._lost[session]
        return loss

    def make_room(self, more: int = 0) -> bool:
        """Tell whether one more can be kept besides so many; the oldest lost one gives way."""
        if len(self) + more < self._max:
            return True
        oldest = next((key for key, loss in self._lost.items() if not loss.leased), None)
        if oldest is not None:
            del self._lost[oldest]
        return oldest is not None
