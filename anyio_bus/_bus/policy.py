"""Own what a bus does with its workers by itself, beside what the kernel does.

Spares, recycling, resting and health are policies: each looks at how the workers stand, acts through
the kernel's primitives, and says when it wants to look again if nothing happens before.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import anyio.lowlevel

from anyio_bus._bus.health import Health
from anyio_bus._bus.recycling import Recycling, Resting
from anyio_bus._bus.spares import Spares
from anyio_bus._io.loop import Bell, Loop
from anyio_bus._sansio.routing import Refused

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend
    from anyio_bus._bus.calls import Calls
    from anyio_bus._config import BusConfig, Pool
    from anyio_bus._sansio.events import WorkerChanged, WorkerInfo

__all__ = ("Policies",)

logger = logging.getLogger("anyio_bus.policy")

REFUSED_S = 1.0  # until the next look after one that the kernel did not let through


class Policy(Protocol):
    """One thing that is done with the workers of one pool."""

    def look(self, now: float) -> float:
        """Act; return when to look again."""
        ...


class Policies:
    """The policies of a bus: one task, which sleeps until a worker changes or something is due.

    Args:
        config: Which pools want what.
        backend: The kernel.
        calls: Where probes are sent.
        loop: The running event loop.
    """

    def __init__(self, config: BusConfig, backend: Backend, calls: Calls, loop: Loop) -> None:
        self._now = loop.now
        self._bell = Bell()
        self._changed = False
        self._spares: dict[str, Spares] = {}
        self._all: list[Policy] = []
        for pool in config.pools:
            self._add(pool, backend, calls)

    def _add(self, pool: Pool, backend: Backend, calls: Calls) -> None:
        """Make what a pool asks for, nothing else."""
        spares = Spares(pool, backend) if pool.spares else None
        health = Health(pool, pool.health, backend, calls) if pool.health is not None else None
        if spares is not None:
            self._spares[pool.id] = spares
            self._all.append(spares)
        if pool.max_lifetime_s or pool.max_requests or pool.max_rss_bytes:
            self._all.append(Recycling(pool, backend, spares))
        if pool.idle_timeout_s:
            probes = health.probes if health is not None else _no_probes
            self._all.append(Resting(pool, backend, spares, probes))
        if health is not None:
            self._all.append(health)

    @property
    def wanted(self) -> bool:
        """Whether any pool asks for any of it."""
        return bool(self._all)

    def worker_changed(self, _event: WorkerChanged) -> None:
        """Look again: a worker went into another state."""
        self._changed = True
        self._bell.ring()

    def resize(self, pool: str, instances: int) -> bool:
        """Take note of a pool's new size; False where that is the kernel's alone to bring about."""
        spares = self._spares.get(pool)
        if spares is None:
            return False
        spares.target = instances
        self._changed = True
        self._bell.ring()
        return True

    def look(self) -> float:
        """Let each policy act; return when to do so again if no worker changes."""
        self._changed = False
        return min(map(self._look, self._all))

    async def run(self) -> None:
        """Look, and wait, until cancelled."""
        while True:
            at = self.look()
            await anyio.lowlevel.checkpoint()
            await self._bell.until(lambda: self._changed, lambda: at, self._now)  # noqa: B023  # in this turn

    def _look(self, policy: Policy) -> float:
        now = self._now()
        try:
            return policy.look(now)
        except Refused as exc:  # a worker that it meant is gone
            extra = {"event": "policy_refused"}
            logger.debug("the kernel refused: %s", exc.failure.message, extra=extra)
            return now + REFUSED_S


def _no_probes(_info: WorkerInfo) -> int:
    return 0
