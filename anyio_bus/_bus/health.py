"""Own the probes that tell a worker that is slow from one that has fallen silent."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import msgspec

from anyio_bus._bus.calls import Call
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.routing import Route

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend
    from anyio_bus._bus.calls import Calls
    from anyio_bus._config import Pool, Probe
    from anyio_bus._sansio.events import WorkerInfo

__all__ = ("Health",)

logger = logging.getLogger("anyio_bus.policy")

SECOND_LOOK_S = (
    0.1  # after the timeout: what waited in the pipe while our loop was busy is read then
)


class _Check(msgspec.Struct):
    """How one process stands with its probes."""

    generation: int
    at: float  # of the next probe, or of the verdict on the one that is out
    call: Call | None = None
    written: int = 0  # what it had written when it was last looked at
    sent: int = 0
    again: bool = False


class Health:
    """Probes the ready workers of one pool, and kills those that stay silent.

    Args:
        pool: The pool.
        probe: What is asked, and when.
        backend: The kernel.
        calls: Where the probe's request goes; nobody waits for its answer.
    """

    def __init__(self, pool: Pool, probe: Probe, backend: Backend, calls: Calls) -> None:
        self._pool = pool
        self._probe = probe
        self._backend = backend
        self._calls = calls
        self._checks: dict[int, _Check] = {}

    def probes(self, info: WorkerInfo) -> int:
        """Return how many of the requests that a process was given were probes."""
        check = self._checks.get(info.worker)
        return check.sent if check is not None and check.generation == info.generation else 0

    def look(self, now: float) -> float:
        """Send the probes that are due, judge those that are over; return when to look again."""
        at = math.inf
        checks = {}
        for info in self._backend.workers():
            if info.pool != self._pool.id or info.state is not State.READY:
                continue
            check = self._checks.get(info.worker)
            if check is None or check.generation != info.generation:
                check = _Check(info.generation, now + self._probe.every_s, written=_written(info))
            checks[info.worker] = check
            if check.at <= now:
                self._act(check, info, now)
            at = min(at, check.at)
        self._checks = checks
        return at

    def _act(self, check: _Check, info: WorkerInfo, now: float) -> None:
        if check.call is None:
            self._ask(check, info, now)
        elif _written(info) != check.written or info.paused:
            check.call = None
            check.written = _written(info)
            check.at = now + self._probe.every_s
        elif not check.again:
            check.again = True
            check.at = now + SECOND_LOOK_S
        else:
            check.at = math.inf
            fault = f"was silent for {self._probe.timeout_s:g} s after {self._probe.method!r}"
            extra = {"event": "worker_silent", "pool": info.pool, "worker": info.worker}
            text = "worker %s/%s (pid %s) %s"
            logger.warning(text, info.pool, info.worker, info.pid, fault, extra=extra)
            self._backend.kill(info.worker, fault)

    def _ask(self, check: _Check, info: WorkerInfo, now: float) -> None:
        probe = self._probe
        check.at = now + probe.every_s
        before, check.written = check.written, _written(info)
        if check.written != before:
            return  # it lives, as everybody can hear
        limit = self._pool.max_in_flight
        if info.paused or (limit and info.in_flight >= limit):
            return  # it cannot be asked, or not be heard
        route = Route(info.pool, worker=info.worker, probe=True)
        given_up_s = probe.timeout_s + 2 * SECOND_LOOK_S
        check.call = self._calls.probe(probe.method, probe.params, route, given_up_s)
        if check.call is not None:
            check.sent += 1
            check.again = False
            check.at = now + probe.timeout_s


def _written(info: WorkerInfo) -> int:
    return info.bytes_in + info.stderr_bytes
