"""Own the workers that a pool holds in reserve: which they are, and when one goes into service."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from anyio_bus._sansio.lifecycle import State

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend
    from anyio_bus._config import Pool
    from anyio_bus._sansio.events import WorkerInfo

__all__ = ("Spares",)

logger = logging.getLogger("anyio_bus.policy")

_AWAKE = (State.STARTING, State.READY)
STEPS = 10_000  # that one look may take; each brings the pool nearer to what it should be


def is_down(info: WorkerInfo) -> bool:
    """Whether a worker takes no work now, other than one that rests since there is none for it."""
    return info.state is not State.READY and not (info.state is State.VACANT and info.generation)


class Spares:
    """The spares of one pool: held workers, beside ``instances`` that serve.

    A worker that dies and a ready spare change places: the spare serves at once, and the successor
    of the dead one is held. What is leased counts as neither, so that its place is taken too.

    Args:
        pool: The pool.
        backend: The kernel.
    """

    def __init__(self, pool: Pool, backend: Backend) -> None:
        self.target = pool.instances
        self._id = pool.id
        self._count = pool.spares
        self._backend = backend
        self._numbers: set[int] = set()
        self._leaving: set[int] = set()
        self._resting: set[int] = set()

    def __contains__(self, worker: int) -> bool:
        """Whether a worker is one of the spares."""
        return worker in self._numbers

    def look(self, now: float) -> float:  # every policy takes the time
        """Bring the pool to what it should be; return when to look again if nothing happens."""
        for _ in range(STEPS):
            if not self._step():
                break
        return math.inf

    def relieve(self, worker: int) -> bool:
        """Let a ready spare take the place of a worker that serves; False where none is ready."""
        ready = [spare for spare in self._split()[1] if spare.state is State.READY]
        if ready:
            self._swap(worker, ready[0].worker)
        return bool(ready)

    def let_rest(self, worker: int) -> None:
        """Take note that a worker ends since it is idle: nobody is to take its place."""
        self._resting.add(worker)

    def _split(self) -> tuple[list[WorkerInfo], list[WorkerInfo], int]:
        """Return who serves, the spares, and how many are leased."""
        infos = [info for info in self._backend.workers() if info.pool == self._id and not info.own]
        present = {info.worker for info in infos}
        self._numbers &= present
        self._leaving &= present
        self._resting &= {info.worker for info in infos if info.state not in _AWAKE}
        staying = [info for info in infos if info.worker not in self._leaving]
        spares = [info for info in staying if info.worker in self._numbers]
        serving = [info for info in staying if not info.held]
        return serving, spares, len(staying) - len(spares) - len(serving)

    def _step(self) -> bool:
        """Change one thing; False when all is as it should be."""
        serving, spares, leased = self._split()
        down = next((w for w in serving if w.worker not in self._resting and is_down(w)), None)
        asleep = next((w for w in spares if w.state is State.VACANT and w.generation), None)
        spares.sort(key=lambda info: info.state is not State.READY)
        if down is not None and spares and spares[0].state is State.READY:
            self._swap(down.worker, spares[0].worker)
        elif asleep is not None:
            self._backend.drain(asleep.worker, 0.0)  # starts it: a spare is to be warm
        elif len(serving) < self.target and spares:
            self._promote(spares[0].worker)
        elif len(serving) > self.target:
            return self._demote(serving)
        elif len(serving) + len(spares) < self._wanted(leased):
            worker = self._backend.spawn(self._id)
            self._hold(worker)
        elif len(spares) > self._count:
            return self._retire(spares)
        else:
            return False
        return True

    def _wanted(self, leased: int) -> int:
        """Return how many are to serve or to be spare. Leases add processes, but not without end."""
        too_many_leased = max(0, leased - self.target)
        return self.target + self._count - too_many_leased

    def _swap(self, out: int, in_: int) -> None:
        extra = {"event": "spare_used", "pool": self._id, "worker": in_}
        logger.info("%s: spare %s takes the place of worker %s", self._id, in_, out, extra=extra)
        self._hold(out)
        self._promote(in_)

    def _promote(self, worker: int) -> None:
        self._numbers.discard(worker)
        self._backend.release(worker)

    def _hold(self, worker: int) -> None:
        self._backend.hold(worker)
        self._numbers.add(worker)

    def _demote(self, serving: list[WorkerInfo]) -> bool:
        free = [info for info in serving if not info.sessions]
        if not free:
            return False  # it has sessions, which would be lost
        self._hold(min(free, key=lambda info: info.in_flight).worker)
        return True

    def _retire(self, spares: list[WorkerInfo]) -> bool:
        free = [info for info in spares if not info.sessions]
        if not free:
            return False
        self._leaving.add(free[-1].worker)
        self._numbers.discard(free[-1].worker)
        self._backend.drain(free[-1].worker, math.inf, retire=True)
        return True
