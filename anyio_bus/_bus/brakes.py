"""Own the pauses of workers' pipes: who asked for each, and when it must end.

A worker has one stdout, so a pipe that is left unread holds up every call on that worker. A slow
reader may therefore pause a worker only while no other call is there, and only for so long.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeAlias

from anyio_bus._errors import NotSupportedError
from anyio_bus._sansio.deadlines import Deadlines
from anyio_bus._sansio.routing import Refused

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend

__all__ = ("Brakes", "SlowReader")


class SlowReader(Protocol):
    """Whose buffer is full."""

    def overflow(self) -> None:
        """End with what it holds: the worker is not kept waiting any more."""


Hold: TypeAlias = tuple[SlowReader, int]  # for whom a worker is paused


class Brakes:
    """Pauses workers for slow readers, and lets them go on.

    Args:
        backend: Returns the kernel.
        timeout_s: Longest pause in seconds; 0 for no limit.
        nudge: Told the time of each new deadline.

    Attributes:
        held: The pauses; while there are any, each new request is followed by :meth:`check`.
    """

    __slots__ = ("_allowed", "_backend", "_deadlines", "_nudge", "_timeout_s", "held")

    def __init__(
        self, backend: Callable[[], Backend], timeout_s: float, nudge: Callable[[float], None]
    ) -> None:
        self._backend = backend
        self._timeout_s = timeout_s
        self._nudge = nudge
        self.held: dict[Hold, None] = {}
        self._allowed: dict[int, int] = {}  # worker -> its requests in flight when it was paused
        self._deadlines: Deadlines[Hold] = Deadlines()

    def press(self, reader: SlowReader, worker: int, now: float) -> None:
        """Pause a worker until a reader has room; end the reader if others wait there."""
        hold = (reader, worker)
        if hold in self.held:
            return
        in_flight, queued = self._work().get(worker, (0, 0))
        others = in_flight > 1 or queued
        try:
            if not others:
                self._backend().pause(worker)
        except (Refused, NotSupportedError):
            others = True
        if others:
            reader.overflow()
            return
        self.held[hold] = None
        self._allowed.setdefault(worker, in_flight)
        if self._timeout_s:
            self._nudge(self._deadlines.add(hold, self._timeout_s, now))

    def release(self, reader: SlowReader) -> None:
        """Let a reader's workers go on, unless another reader holds them as well."""
        for hold in [hold for hold in self.held if hold[0] is reader]:
            self._release(hold)

    def _release(self, hold: Hold) -> None:
        if hold not in self.held:
            return
        del self.held[hold]
        if self._timeout_s:
            self._deadlines.discard(hold, self._timeout_s)
        worker = hold[1]
        if not any(other == worker for _, other in self.held):
            del self._allowed[worker]
            with suppress(Refused):  # it is gone
                self._backend().resume(worker)

    def forget(self, worker: int) -> None:
        """Take note that a worker's process has ended: nothing of it is paused any more."""
        for hold in [hold for hold in self.held if hold[1] == worker]:
            self._release(hold)

    def check(self) -> None:
        """End the readers on whose workers another request has come to wait."""
        work = self._work()
        for hold in list(self.held):
            worker = hold[1]
            in_flight, queued = work.get(worker, (0, 0))
            if queued or in_flight > self._allowed.get(worker, 0):
                self._end(hold)

    def next_deadline(self) -> float | None:
        """Return when the next pause has lasted long enough."""
        return self._deadlines.next()

    def expire(self, now: float) -> None:
        """End the readers whose workers have waited too long."""
        for hold in self._deadlines.expire(now):
            self._end(hold)

    def _end(self, hold: Hold) -> None:
        if hold in self.held:
            hold[0].overflow()
            self.release(hold[0])

    def _work(self) -> dict[int, tuple[int, int]]:
        """Return what each worker has in flight, and how much waits for it."""
        return {info.worker: (info.in_flight, info.queued) for info in self._backend().workers()}
