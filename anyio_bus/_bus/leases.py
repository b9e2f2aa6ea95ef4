"""Own leases: how a session gets a worker for itself, in turn, and gives it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import anyio
import msgspec

from anyio_bus._errors import InvalidArgumentError, error_from_failure
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.routing import Refused

if TYPE_CHECKING:
    from anyio_bus._bus.bus import Bus
    from anyio_bus._sansio.events import SessionInfo, WorkerInfo

__all__ = ("Lessor", "Opening", "check_session_id")


def check_session_id(session: object, field: str = "session") -> None:
    """Refuse what is no id of a session."""
    if not isinstance(session, str) or not session:
        msg = f"{field} must be a text that is not empty, or a Session, not {session!r}"
        raise InvalidArgumentError(msg, field=field)


class Opening(msgspec.Struct, frozen=True):
    """What a session is opened with; see :meth:`Bus.session`."""

    pool: str | None
    id: str | None
    exclusive: bool = False
    rebind: bool = False
    members: dict[str, object] = {}
    env: Mapping[str, str | None] | None = None
    cwd: str | None = None

    @property
    def own(self) -> bool:
        """Whether a worker of its own is started for it."""
        return self.env is not None or self.cwd is not None

    def __post_init__(self) -> None:
        """Validate."""
        if self.id is not None:
            check_session_id(self.id, "id")
        if self.env is not None and not isinstance(self.env, Mapping):
            msg = f"env must be a mapping, not {type(self.env).__name__}"
            raise InvalidArgumentError(msg, field="env")
        if self.own and not self.exclusive:
            field = "cwd" if self.env is None else "env"
            msg = f"{field} needs exclusive=True: it is for a worker that nobody else uses"
            raise InvalidArgumentError(msg, field=field)


class Lessor:
    """Finds workers for leases; a kernel has the primitives, the choice is made here.

    Nothing of it is held by a task: a lease that does not come about is given back by ending its
    session.

    Args:
        bus: Whose workers they are.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._turns: dict[str, anyio.Lock] = {}  # of pools: who waits first gets the first

    def look_again(self) -> None:
        """A worker may be free: wake whoever waits for one."""
        if any(turn.locked() for turn in self._turns.values()):
            self._bus._life.bell.ring()

    async def take_worker(self, pool: str, session: str, opening: Opening) -> None:
        """Lease a worker and wait until it has nothing else to do.

        Raises:
            BusError: No worker came up, or the bus stops.

        Cancellation:
            The wait ends; the caller ends the session, which gives back what was leased.
        """
        backend = self._bus._backend
        if backend.borrow is not None and not opening.own:
            try:
                await backend.borrow(pool, session, rebind=opening.rebind)
            except Refused as exc:
                raise error_from_failure(exc.failure) from None
            return
        while True:
            if opening.own:
                backend.spawn(
                    pool,
                    session=session,
                    rebind=opening.rebind,
                    env=opening.env,
                    cwd=opening.cwd,
                )
            else:
                async with self._turns.setdefault(pool, anyio.Lock()):
                    worker = await self._free_worker(pool)
                    backend.lease(worker, session, rebind=opening.rebind)
            info = await self._quiet(session)
            if info is not None and info.worker is not None:
                return
            if opening.own and info is not None and info.failure is not None:
                raise error_from_failure(info.failure)

    async def _free_worker(self, pool: str) -> int:
        """Wait for a worker that neither is held nor has sessions; return the least busy one."""
        while True:
            self._bus._life.check_running()
            free = [info for info in self._bus.workers() if info.pool == pool and _is_free(info)]
            if free:
                return min(free, key=lambda info: info.in_flight).worker  # noqa: ASYNC910  # the turn was one
            resting = [info for info in self._bus.workers() if info.pool == pool and _rests(info)]
            try:
                if resting:
                    self._bus._backend.drain(resting[0].worker, 0.0)
                self._bus._backend.check_pool(pool)
            except Refused as exc:
                raise error_from_failure(exc.failure) from None
            await self._bus._life.bell.wait()

    async def _quiet(self, session: str) -> SessionInfo | None:
        """Wait until the session's worker is ready and idle, or lost."""
        while True:
            self._bus._life.check_running()
            info = self._bus._backend.find_session(session)
            if info is None or info.worker is None:
                return info  # noqa: ASYNC910  # whoever opens the session had one
            ready = any(
                worker.worker == info.worker and worker.state is State.READY
                for worker in self._bus.workers()
            )
            if ready and not info.in_flight:
                return info  # noqa: ASYNC910  # whoever opens the session had one
            await self._bus._life.bell.wait()


def _is_free(info: WorkerInfo) -> bool:
    return info.state is State.READY and not info.held and not info.sessions


def _rests(info: WorkerInfo) -> bool:
    """Whether it has no process since there was no work for it; one that is asked for starts."""
    return info.state is State.VACANT and info.generation > 0
