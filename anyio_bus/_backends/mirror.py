"""Own what this end knows of a kernel elsewhere, between its reports: workers and sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from anyio_bus._errors import Failure, KernelCode
from anyio_bus._sansio.events import (
    KernelEvent,
    KernelStatistics,
    SessionInfo,
    WorkerChanged,
    WorkerInfo,
)
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.messages import RequestId
from anyio_bus._sansio.routing import Refused

if TYPE_CHECKING:
    from anyio_bus._backends.reports import Status

__all__ = ("Event", "Mirror", "decode_event")


class Event(msgspec.Struct):
    """The params of a ``bus/event``."""

    event: str
    pool: str = ""
    worker: int = -1
    generation: int = 0
    state: str = ""
    pid: int | None = None
    failure: Failure | None = None
    prefix: str = ""
    reason: str = ""
    size: int = 0
    id: str = ""
    sole: RequestId = None


decode_event = msgspec.json.Decoder(Event).decode


class Mirror:
    """What a kernel has said of its workers and of our sessions.

    States are as of its last word, counts as of its last report.

    Args:
        status: Its first report.
    """

    def __init__(self, status: Status) -> None:
        self.workers: dict[int, WorkerInfo] = {}
        self.failures: dict[int, Failure] = {}
        self.sessions: dict[str, SessionInfo] = {}
        self.leased: set[str] = set()
        self.take_status(status)

    def take_status(self, status: Status) -> None:
        """Take a report."""
        self.workers = {info.worker: info for info in status.workers()}
        for pool in status.pools:
            if pool.unavailable is not None:  # they may have been parked before we could hear of it
                for info in pool.workers:
                    self.failures.setdefault(info.worker, pool.unavailable)
        if status.statistics is not None:
            self.statistics: KernelStatistics = status.statistics

    def known(self, worker: int) -> WorkerInfo:
        """Return a worker.

        Raises:
            Refused: There is none of that number.
        """
        info = self.workers.get(worker)
        if info is None:
            text = f"there is no worker {worker}"
            raise Refused(
                Failure(code=KernelCode.NO_WORKER, message=text, reason="worker_gone", sent=False)
            )
        return info

    def parked(self, pool: str) -> Failure | None:
        """Return why every worker of a pool is parked; None where one is not."""
        workers = [info for info in self.workers.values() if info.pool == pool]
        if not workers or any(info.state is not State.PARKED for info in workers):
            return None
        return self.failures.get(workers[0].worker)

    def take_worker(self, event: Event) -> WorkerChanged:
        """Take note of a worker's new state; return the event for it."""
        state = State(event.state)
        known = self.workers.get(event.worker) or WorkerInfo(
            pool=event.pool,
            worker=event.worker,
            generation=event.generation,
            pid=None,
            state=state,
            in_flight=0,
            queued=0,
            queued_bytes=0,
            restarts=0,
            uptime_s=0.0,
            reason="",
            stderr_tail="",
        )
        self.workers[event.worker] = msgspec.structs.replace(
            known,
            generation=event.generation,
            restarts=max(event.generation - 1, 0),
            pid=event.pid,
            state=state,
            reason="" if event.failure is None else event.failure.message,
        )
        if event.failure is not None:
            self.failures[event.worker] = event.failure
        if state is State.STOPPED:
            del self.workers[event.worker]
            self.failures.pop(event.worker, None)
        return WorkerChanged(
            event.pool, event.worker, event.generation, state, event.pid, event.failure
        )

    def take_session(self, event: Event) -> None:
        """Take note of what became of a session."""
        if event.state == "over":
            self.sessions.pop(event.id, None)
        else:
            worker = event.worker if event.state == "bound" else None
            self.sessions[event.id] = SessionInfo(event.pool, worker, failure=event.failure)

    def check_session(self, session: str, *, rebind: bool) -> None:
        """Tell a session that it was lost with the kernel; unless it is leased, once.

        Raises:
            Refused: It was; without a lease it may begin anew.
        """
        info = self.sessions.get(session)
        if info is None or info.failure is None:
            return
        if info.failure.code != KernelCode.CONNECTION_LOST:  # the kernel says it itself
            return
        if session not in self.leased:
            del self.sessions[session]
            if rebind:
                return
        raise Refused(
            Failure(
                code=KernelCode.SESSION_LOST,
                message=f"session {session!r} is lost: {info.failure.message}",
                reason="session_lost",
                session=session,
                sent=False,
            )
        )

    def forget_session(self, session: str) -> SessionInfo | None:
        """Forget a session, and its lease; return what was known of it."""
        self.leased.discard(session)
        return self.sessions.pop(session, None)

    def come_back(self, status: Status) -> list[KernelEvent]:
        """The kernel was reached again, perhaps another one; our sessions stay lost."""
        self.failures.clear()
        self.take_status(status)
        events: list[KernelEvent] = [
            WorkerChanged(info.pool, info.worker, info.generation, info.state, info.pid)
            for info in self.workers.values()
        ]
        return events

    def lose(self, why: Failure) -> list[KernelEvent]:
        """The kernel is lost: nothing of it can be used any more."""
        self.sessions = {
            name: msgspec.structs.replace(info, worker=None, failure=why)
            for name, info in self.sessions.items()
        }
        self.failures = dict.fromkeys(self.workers, why)
        self.workers = {
            number: msgspec.structs.replace(info, state=State.PARKED, pid=None, reason=why.reason)
            for number, info in self.workers.items()
        }
        events: list[KernelEvent] = [
            WorkerChanged(info.pool, info.worker, info.generation, State.PARKED, None, why)
            for info in self.workers.values()
        ]
        return events
