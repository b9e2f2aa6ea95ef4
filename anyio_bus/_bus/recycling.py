"""Own the end of workers that are old, spent, swollen or idle, without losing a request."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from anyio_bus._sansio.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio_bus._backends.base import Backend
    from anyio_bus._bus.spares import Spares
    from anyio_bus._config import Pool
    from anyio_bus._sansio.events import WorkerInfo

__all__ = ("Recycling", "Resting")

logger = logging.getLogger("anyio_bus.policy")

RSS_EVERY_S = 5.0  # between two looks at the memory of workers; a younger one is not judged by it
SESSIONS_EVERY_S = 1.0  # between two looks whether the sessions of a worker that is due are over
RETRY_S = 60.0  # after a replacement that did not come up
IDLE_LOOKS = 4  # within an idle timeout: it may be overrun by this part of it


class Recycling:
    """Replaces workers of one pool that are due, one at a time: first the successor, then the end.

    The successor is a spare, or a new worker that is started for it. The old one gets no new work
    when that is ready, and finishes what it has, however long that takes. One that holds a session,
    or is leased, is left in service until that is over.

    Args:
        pool: The pool.
        backend: The kernel.
        spares: The pool's spares, if it has any.
    """

    def __init__(self, pool: Pool, backend: Backend, spares: Spares | None) -> None:
        self._pool = pool
        self._backend = backend
        self._spares = spares
        self._old = (-1, 0)  # number and generation of what is being replaced
        self._new: int | None = None
        self._retry_at = 0.0

    def look(self, now: float) -> float:
        """Replace what is due; return when to look again if nothing happens."""
        workers = {info.worker: info for info in self._backend.workers()}
        if self._new is not None:
            return self._go_on(workers.get(self._old[0]), workers.get(self._new), now)
        ready = [
            info
            for info in workers.values()
            if info.pool == self._pool.id and info.state is State.READY
        ]
        due = [(info, why) for info in ready if (why := self._why(info))]
        free = [(info, why) for info, why in due if self._may_go(info)]
        if free and now < self._retry_at:
            return self._retry_at
        if free:
            self._replace(*free[0])
        return self._next_look(ready, now, waiting=bool(due))

    def _why(self, info: WorkerInfo) -> str:
        """Say why a worker is due; nothing where it is not."""
        pool = self._pool
        if pool.max_lifetime_s and info.uptime_s >= pool.max_lifetime_s:
            return f"it is {info.uptime_s:.0f} s old"
        if pool.max_requests and info.served >= pool.max_requests:
            return f"it was given {info.served} requests"
        swollen = pool.max_rss_bytes and (info.rss_bytes or 0) >= pool.max_rss_bytes
        if swollen and info.uptime_s >= RSS_EVERY_S:
            return f"it holds {info.rss_bytes} bytes"
        return ""

    def _may_go(self, info: WorkerInfo) -> bool:
        spare = self._spares is not None and info.worker in self._spares
        return not info.sessions and (spare or not info.held)

    def _next_look(self, ready: list[WorkerInfo], now: float, *, waiting: bool) -> float:
        at = math.inf
        if self._pool.max_lifetime_s:
            left = (self._pool.max_lifetime_s - info.uptime_s for info in ready)
            at = min((now + seconds for seconds in left if seconds > 0), default=at)
        if self._pool.max_rss_bytes:
            at = min(at, now + RSS_EVERY_S)
        return min(at, now + SESSIONS_EVERY_S) if waiting else at

    def _replace(self, info: WorkerInfo, why: str) -> None:
        spares = self._spares
        if spares is None:
            self._old = info.worker, info.generation
            self._new = self._backend.spawn(self._pool.id)
        elif info.worker in spares or spares.relieve(info.worker):
            self._backend.drain(info.worker, math.inf)
        else:
            return  # until one is ready
        extra = {"event": "worker_replaced", "pool": info.pool, "worker": info.worker}
        logger.info("worker %s/%s is replaced: %s", info.pool, info.worker, why, extra=extra)

    def _go_on(self, old: WorkerInfo | None, new: WorkerInfo | None, now: float) -> float:
        """Go on with a replacement that is under way."""
        leaves = None  # the one that is too many
        if (
            new is None
            or old is None
            or old.state is not State.READY
            or self._old[1] != old.generation
        ):
            leaves = new  # somebody else ended one of them
        elif new.state is State.PARKED:
            leaves = new
            self._retry_at = now + RETRY_S
            text = "worker %s/%s is not replaced: its successor did not come up: %s"
            extra = {"event": "worker_not_replaced", "pool": old.pool, "worker": old.worker}
            logger.warning(text, old.pool, old.worker, new.reason, extra=extra)
        elif new.state is not State.READY:
            return math.inf
        elif not self._may_go(old):
            return now + SESSIONS_EVERY_S
        else:
            leaves = old
        self._new = None
        if leaves is not None:
            self._backend.drain(leaves.worker, math.inf, retire=True)
        return now


class Resting:
    """Ends workers of one pool that were idle for ``idle_timeout_s``; the kernel starts them again.

    Args:
        pool: The pool.
        backend: The kernel.
        spares: The pool's spares, if it has any.
        probes: Returns how many of the requests that a process was given were not a user's.
    """

    def __init__(
        self,
        pool: Pool,
        backend: Backend,
        spares: Spares | None,
        probes: Callable[[WorkerInfo], int],
    ) -> None:
        self._id = pool.id
        self._timeout_s = pool.idle_timeout_s
        self._backend = backend
        self._spares = spares
        self._probes = probes
        self._idle: dict[int, tuple[tuple[int, int], float]] = {}  # its use by then, since when

    def look(self, now: float) -> float:
        """End what is idle; return when to look again."""
        at = math.inf
        idle = {}
        for info in self._backend.workers():
            if info.pool != self._id or info.state is not State.READY or info.held:
                continue
            use = info.generation, info.served - self._probes(info)
            if info.in_flight or info.sessions:
                at = min(at, now + self._timeout_s / IDLE_LOOKS)
                continue
            before = self._idle.get(info.worker)
            since = before[1] if before is not None and before[0] == use else now
            if since + self._timeout_s <= now and self._rest(info.worker):
                extra = {"event": "worker_rests", "pool": info.pool, "worker": info.worker}
                text = "worker %s/%s rests: it was idle"
                logger.info(text, info.pool, info.worker, extra=extra)
                continue
            idle[info.worker] = use, since
            at = min(at, max(since + self._timeout_s, now + self._timeout_s / IDLE_LOOKS))
        self._idle = idle
        return at

    def _rest(self, worker: int) -> bool:
        rests = self._backend.rest(worker)
        if rests and self._spares is not None:
            self._spares.let_rest(worker)
        return rests
