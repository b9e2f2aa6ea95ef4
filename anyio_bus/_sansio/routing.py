"""Own the fate of every request inside a kernel: queued, handed to a worker, answered or failed.

A :class:`Router` holds the pools' queues, each worker's out-queue with its write offset, the entries
in flight and the sessions. It decides where a frame goes and what has been sent; whoever does the
I/O asks it for bytes and tells it what was written, what came back and who died.
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Iterable

import msgspec

from anyio_bus._config import Limits, Pool
from anyio_bus._errors import Failure, KernelCode
from anyio_bus._sansio.messages import RequestId
from anyio_bus._sansio.profiles import cancel_frame

__all__ = ("Entry", "Lane", "Mode", "Outbox", "PoolTable", "Refused", "Route", "Router", "Step", "Withdrawal")

_FREE = b""
CONTROL_RESERVE_BYTES = 1024 * 1024  # of an out-queue, for cancels, notifications and answers alone


class Route(msgspec.Struct, frozen=True):
    """Where a frame goes.

    Args:
        pool: The pool's id.
        session: Keep it on the worker that holds this session.
        worker: Send it to this worker and no other.
    """

    pool: str
    session: str | None = None
    worker: int | None = None


class Step(enum.IntEnum):
    """How far the frame of an entry has come."""

    QUEUED = 0  # in the queue of its pool or lane; no worker took it
    OUTBOX = 1  # in a worker's out-queue; no byte was written
    SENT = 2  # at least one byte was written: it may have reached the worker
    TOMBSTONE = 3  # cancelled after that; keeps its slot until the late answer or the grace is over
    GONE = 4  # answered, failed or removed


class Entry:
    """One frame on its way; a request has a key, everything else has None."""

    __slots__ = ("frame", "key", "lane", "route", "step")

    def __init__(self, frame: bytes, route: Route, key: RequestId) -> None:  # noqa: D107
        self.frame = frame
        self.route = route
        self.key = key
        self.step = Step.QUEUED
        self.lane: Lane | None = None

    @property
    def sent(self) -> bool:
        """False guarantees that no byte of it reached a worker."""
        return self.step >= Step.SENT


class Refused(Exception):  # noqa: N818
    """The router takes no such frame; a value inside the kernel, never seen by users."""

    def __init__(self, failure: Failure) -> None:  # noqa: D107
        super().__init__(failure.message)
        self.failure = failure


class Withdrawal(enum.Enum):
    """What became of a withdrawn request."""

    REMOVED = "removed"  # it never runs
    CANCELLED = "cancelled"  # the worker has been told; its slot stays taken for now
    UNKNOWN = "unknown"  # it is over already


class Outbox:
    """The frames that wait for one pipe, in order, and how much of the first has been written."""

    __slots__ = ("_dead", "_entries", "_offset", "size")

    def __init__(self) -> None:  # noqa: D107
        self._entries: deque[Entry] = deque()
        self._offset = 0  # bytes of the first entry that are written
        self._dead = 0  # entries that were withdrawn where they stand
        self.size = 0  # bytes left to write

    def append(self, entry: Entry) -> None:
        """Queue a whole frame."""
        entry.step = Step.OUTBOX
        self._entries.append(entry)
        self.size += len(entry.frame)

    def withdraw(self, entry: Entry) -> None:
        """Take out an entry of which no byte was written."""
        self.size -= len(entry.frame)
        entry.frame = _FREE
        entry.step = Step.GONE
        self._dead += 1
        if self._dead > 64 and self._dead * 2 > len(self._entries):
            self._entries = deque(e for e in self._entries if e.step is not Step.GONE or e.frame)
            self._dead = 0

    def buffers(self, max_buffers: int, max_bytes: int) -> list[bytes | memoryview]:
        """Return what is to be written next, without removing it."""
        out: list[bytes | memoryview] = []
        total = 0
        offset = self._offset
        for entry in self._entries:
            if entry.frame:
                out.append(memoryview(entry.frame)[offset:] if offset else entry.frame)
                total += len(entry.frame) - offset
                offset = 0
                if total >= max_bytes or len(out) >= max_buffers:
                    break
        return out

    def advance(self, written: int) -> None:
        """Take note that this many bytes more have been written."""
        self.size -= written
        entries = self._entries
        while entries:
            entry = entries[0]
            left = len(entry.frame) - self._offset
            if not entry.frame:
                self._dead -= 1
            elif written < left:
                if written:
                    self._offset += written
                    _mark_sent(entry)
                return
            else:
                written -= left
                _mark_sent(entry)
                entry.frame = _FREE
            self._offset = 0
            entries.popleft()

    def clear(self) -> list[Entry]:
        """Drop and return everything that is left."""
        left = [entry for entry in self._entries if entry.step is not Step.GONE]
        self._entries.clear()
        self._offset = self._dead = self.size = 0
        return left


def _mark_sent(entry: Entry) -> None:
    if entry.step is Step.OUTBOX:
        entry.step = Step.SENT


class Mode(enum.Enum):
    """What work a lane takes."""

    CLOSED = "closed"  # none
    OPEN = "open"  # any of its pool
    HELD = "held"  # only what names it


class Lane:
    """The router's view of one incarnation of a worker."""

    __slots__ = ("entries", "mode", "outbox", "pool", "sessions", "waiting", "worker")

    def __init__(self, worker: int, pool: PoolTable) -> None:  # noqa: D107
        self.worker = worker
        self.pool = pool
        self.mode = Mode.CLOSED
        self.outbox = Outbox()
        self.entries: dict[RequestId, Entry] = {}  # in flight, tombstones included
        self.waiting: OrderedDict[Entry, None] = OrderedDict()  # must come here, and it is full
        self.sessions: set[str] = set()

    @property
    def full(self) -> bool:
        """Whether another request has to wait."""
        limit = self.pool.config.max_in_flight
        return (0 < limit <= len(self.entries)) or self.outbox.size > self.pool.limits.max_output_bytes


class PoolTable:
    """One pool: its lanes by worker, and the queue of what none of them has taken."""

    __slots__ = ("config", "cursor", "lanes", "limits", "open", "queue", "queued_bytes")

    def __init__(self, config: Pool, limits: Limits) -> None:  # noqa: D107
        self.config = config
        self.limits = limits
        self.lanes: dict[int, Lane] = {}
        self.open: list[Lane] = []  # those with Mode.OPEN
        self.queue: OrderedDict[Entry, None] = OrderedDict()
        self.queued_bytes = 0
        self.cursor = 0

    def choose(self) -> Lane | None:
        """Return the open lane that takes the next request without a session, None if all are full."""
        lanes = self.open
        count = len(lanes)
        if count == 1:
            return None if lanes[0].full else lanes[0]
        best: Lane | None = None
        for step in range(count):
            lane = lanes[(self.cursor + step) % count]
            if lane.full:
                continue
            if best is None or len(lane.entries) < len(best.entries):
                best = lane
                if self.config.balance == "round_robin":
                    break
        if best is not None:
            self.cursor = (lanes.index(best) + 1) % count
        return best


class Router:
    """All routing of one kernel for one client.

    Args:
        pools: Their configurations.
        limits: The bounds.
    """

    def __init__(self, pools: Iterable[Pool], limits: Limits) -> None:  # noqa: D107
        self._limits = limits
        self.pools = {pool.id: PoolTable(pool, limits) for pool in pools}
        self._live: dict[RequestId, Entry] = {}  # every request that has neither answer nor failure
        self._sessions: dict[str, Lane | None] = {}  # None: its worker died and nobody was told yet
        self.late_answers = 0
        self.stray_answers = 0

    # -- frames towards workers ---------------------------------------------------------------

    def submit(self, frame: bytes, route: Route, key: RequestId) -> Lane | None:
        """Take a frame; return the lane whose out-queue got it, None if it waits.

        Raises:
            Refused: It breaks a limit, or its pool, worker or session is not there.
        """
        pool = self.pools.get(route.pool)
        if pool is None:
            raise self._refuse(KernelCode.UNKNOWN_POOL, f"there is no pool {route.pool!r}", route, "unknown_pool")
        if len(frame) > self._limits.max_frame_bytes:
            text = f"a frame of {len(frame)} bytes is over max_frame_bytes={self._limits.max_frame_bytes}"
            raise self._refuse(
                KernelCode.FRAME_TOO_LARGE, text, route, "max_frame_bytes", self._limits.max_frame_bytes
            )
        entry = Entry(frame, route, key)
        lane, bound = self._target(pool, entry)
        if lane is not None and (not lane.full if key is not None else _has_reserve(lane)):
            self._hand_over(entry, lane)
            if key is not None:
                self._live[key] = entry
            return lane
        self._queue(pool, entry, bound)
        if key is not None:
            self._live[key] = entry
        return None

    def _target(self, pool: PoolTable, entry: Entry) -> tuple[Lane | None, Lane | None]:
        """Return (the lane for it now, the lane that it is bound to)."""
        route = entry.route
        if route.worker is not None:
            lane = pool.lanes.get(route.worker)
            if lane is None:
                text = f"worker {route.worker} of pool {route.pool!r} is not there"
                raise self._refuse(KernelCode.NO_WORKER, text, route, "worker_gone")
            return lane, lane
        if route.session is not None and route.session in self._sessions:
            lane = self._sessions[route.session]
            if lane is None:
                del self._sessions[route.session]
                text = f"the worker that held session {route.session!r} is gone"
                raise self._refuse(KernelCode.SESSION_LOST, text, route, "session_lost")
            return lane, lane
        if pool.queue and entry.key is not None:
            return None, None
        return pool.choose() if entry.key is not None else self._any_open(pool), None

    @staticmethod
    def _any_open(pool: PoolTable) -> Lane | None:
        lane = pool.choose()
        return lane if lane is not None or not pool.open else pool.open[pool.cursor % len(pool.open)]

    def _queue(self, pool: PoolTable, entry: Entry, bound: Lane | None) -> None:
        if len(pool.queue) >= self._limits.max_queued:
            text = f"pool {pool.config.id!r} has max_queued={self._limits.max_queued} requests waiting"
            raise self._refuse(KernelCode.OVERLOADED, text, entry.route, "max_queued")
        if pool.queued_bytes > self._limits.max_output_bytes:
            text = f"pool {pool.config.id!r} has more than max_output_bytes={self._limits.max_output_bytes} waiting"
            raise self._refuse(KernelCode.OVERLOADED, text, entry.route, "max_output_bytes")
        pool.queued_bytes += len(entry.frame)
        if bound is not None:
            entry.lane = bound
            bound.waiting[entry] = None
        else:
            pool.queue[entry] = None

    def _hand_over(self, entry: Entry, lane: Lane) -> None:
        entry.lane = lane
        if entry.key is not None:
            lane.entries[entry.key] = entry
        session = entry.route.session
        if session is not None and session not in self._sessions:
            self._sessions[session] = lane
            lane.sessions.add(session)
        lane.outbox.append(entry)

    def pump(self, pool: PoolTable) -> list[Lane]:
        """Hand queued requests to lanes that have room; return the lanes that got any."""
        fed: dict[Lane, None] = {}
        for lane in pool.lanes.values():
            while lane.waiting and not lane.full and lane.mode is not Mode.CLOSED:
                self._dequeue(pool, lane.waiting, lane)
                fed[lane] = None
        while pool.queue:
            entry = next(iter(pool.queue))
            session = entry.route.session
            bound = self._sessions.get(session) if session is not None else None
            if bound is not None and bound.full:  # its session began while it waited
                pool.queue.popitem(last=False)
                entry.lane = bound
                bound.waiting[entry] = None
                continue
            target = bound or (pool.choose() if entry.key is not None else self._any_open(pool))
            if target is None:
                break
            self._dequeue(pool, pool.queue, target)
            fed[target] = None
        return list(fed)

    def _dequeue(self, pool: PoolTable, queue: OrderedDict[Entry, None], lane: Lane) -> None:
        entry, _ = queue.popitem(last=False)
        pool.queued_bytes -= len(entry.frame)
        self._hand_over(entry, lane)

    # -- answers and the end of requests ------------------------------------------------------

    def settle(self, lane: Lane, key: RequestId) -> bool:
        """Take note of a worker's answer; return whether its caller still waits for it."""
        entry = lane.entries.pop(key, None)
        if entry is None:
            self.stray_answers += 1
            return False
        late = entry.step is Step.TOMBSTONE
        entry.step = Step.GONE
        if late:
            self.late_answers += 1
            return False
        del self._live[key]
        return True

    def blame(self, lane: Lane, key: RequestId | None) -> RequestId | None:
        """Find the live request that an unreadable answer belongs to: by its id, or the only one."""
        if key is None or key not in lane.entries:
            if len(lane.entries) != 1:
                return None
            key = next(iter(lane.entries))
        return key

    def withdraw(self, key: RequestId, reason: str = "") -> tuple[Withdrawal, Lane | None]:
        """Give up a request: remove it if no byte was written, else tell its worker.

        Returns:
            What became of it, and the lane that has something to write or has room now.
        """
        entry = self._live.pop(key, None)
        if entry is None:
            return Withdrawal.UNKNOWN, None
        lane = entry.lane
        if entry.step is Step.QUEUED:
            self._unqueue(entry)
            return Withdrawal.REMOVED, None
        if lane is None:  # pragma: no cover - an entry past QUEUED has a lane
            return Withdrawal.UNKNOWN, None
        if entry.step is Step.OUTBOX:
            lane.outbox.withdraw(entry)
            del lane.entries[key]
            return Withdrawal.REMOVED, lane
        entry.step = Step.TOMBSTONE
        frame = cancel_frame(lane.pool.config.cancel, key, reason)
        if frame is not None and lane.mode is not Mode.CLOSED:
            lane.outbox.append(Entry(frame, entry.route, None))
        return Withdrawal.CANCELLED, lane

    def _unqueue(self, entry: Entry) -> None:
        pool = self.pools[entry.route.pool]
        queue = entry.lane.waiting if entry.lane is not None else pool.queue
        del queue[entry]
        pool.queued_bytes -= len(entry.frame)
        entry.frame = _FREE
        entry.step = Step.GONE

    def free_tombstone(self, lane: Lane, key: RequestId) -> None:
        """Free the slot of a cancelled request that was never answered."""
        entry = lane.entries.get(key)
        if entry is not None and entry.step is Step.TOMBSTONE:
            entry.step = Step.GONE
            del lane.entries[key]

    def fail_queue(self, pool: PoolTable) -> list[Entry]:
        """Take out every request of the pool that no worker has; return them."""
        entries = list(pool.queue)
        for lane in pool.lanes.values():
            entries += lane.waiting
        for entry in entries:
            self._unqueue(entry)
            self._live.pop(entry.key, None)
        return [entry for entry in entries if entry.key is not None]

    # -- workers ------------------------------------------------------------------------------

    def add_lane(self, worker: int, pool_id: str) -> Lane:
        """Make the lane of a new incarnation, closed."""
        pool = self.pools[pool_id]
        lane = pool.lanes[worker] = Lane(worker, pool)
        return lane

    def set_mode(self, lane: Lane, mode: Mode) -> None:
        """Open, hold or close a lane; what it has in flight stays."""
        pool = lane.pool
        if (lane.mode is Mode.OPEN) != (mode is Mode.OPEN):
            if mode is Mode.OPEN:
                pool.open.append(lane)
            else:
                pool.open.remove(lane)
        lane.mode = mode

    def drop_lane(self, lane: Lane) -> list[Entry]:
        """Remove a dead worker's lane; return the requests that it takes along, to be failed."""
        self.set_mode(lane, Mode.CLOSED)
        if lane.pool.lanes.get(lane.worker) is lane:
            del lane.pool.lanes[lane.worker]
        for session in lane.sessions:
            self._sessions[session] = None
        lane.sessions.clear()
        dead = [entry for entry in lane.entries.values() if entry.step is not Step.TOMBSTONE]
        for entry in lane.waiting:
            lane.pool.queued_bytes -= len(entry.frame)
            if entry.key is not None:
                dead.append(entry)
        lane.waiting.clear()
        lane.entries.clear()
        lane.outbox.clear()
        for entry in dead:
            del self._live[entry.key]
        return dead

    def bind_session(self, session: str, lane: Lane) -> None:
        """Tie a session to a worker before its first request."""
        self.end_session(session)
        self._sessions[session] = lane
        lane.sessions.add(session)

    def end_session(self, session: str) -> None:
        """Forget a session."""
        lane = self._sessions.pop(session, None)
        if lane is not None:
            lane.sessions.discard(session)

    @property
    def sessions(self) -> int:
        """Number of sessions that are known."""
        return len(self._sessions)

    @property
    def live(self) -> int:
        """Number of requests that have neither answer nor failure."""
        return len(self._live)

    @staticmethod
    def _refuse(code: int, text: str, route: Route, reason: str, limit_bytes: int | None = None) -> Refused:
        return Refused(
            Failure(
                code=code,
                message=text,
                reason=reason,
                pool=route.pool,
                worker=route.worker,
                sent=False,
                limit_bytes=limit_bytes,
            )
        )


def _has_reserve(lane: Lane) -> bool:
    """Whether a notification or an answer still fits: they do not count as requests."""
    return lane.outbox.size <= lane.pool.limits.max_output_bytes + CONTROL_RESERVE_BYTES
