"""Own the fate of every request inside a kernel: queued, handed to a worker, answered or failed.

A :class:`Router` holds the pools' queues, each worker's out-queue (:mod:`.outbox`), the
entries in flight and the sessions. It decides where a frame goes and what has been sent; whoever
does the I/O asks it for bytes and tells it what was written, what came back and who died.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from anyio_bus._errors import Failure, KernelCode
from anyio_bus._sansio.outbox import FREE, Entry, Outbox, Route, Step
from anyio_bus._sansio.profiles import cancel_frame
from anyio_bus._sansio.session_paths import Named, session_path
from anyio_bus._sansio.sessions import SessionTable

if TYPE_CHECKING:
    from msgspec import Raw

    from anyio_bus._config import Limits, Pool
    from anyio_bus._sansio.messages import RequestId

__all__ = (
    "Entry",
    "Lane",
    "Mode",
    "Outbox",
    "PoolTable",
    "Refused",
    "Route",
    "Router",
    "Step",
    "Withdrawal",
)


def _nothing(_lane: Lane) -> None:
    return


def _stray(_lane: Lane, _key: RequestId) -> None:
    return


def _moved(_session: str, _lane: Lane) -> None:
    return


MOST_PROBES = 2  # in flight on a worker: one, and one that was given up
CONTROL_RESERVE_BYTES = 1024 * 1024  # of an out-queue, for cancels, notifications and answers alone


class Refused(Exception):
    """The router takes no such frame; a value inside the kernel, never seen by users."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Withdrawal(enum.Enum):
    """What became of a withdrawn request."""

    REMOVED = "removed"  # it never runs
    CANCELLED = "cancelled"  # the worker has been told; its slot stays taken for now
    UNKNOWN = "unknown"  # it is over already


class Mode(enum.Enum):
    """What work a lane takes: which requests. What is none may always be sent to a worker."""

    CLOSED = "closed"  # none
    OPEN = "open"  # any of its pool
    HELD = "held"  # only what names it


class Lane:
    """The router's view of one incarnation of a worker."""

    __slots__ = (
        "admitted",
        "entries",
        "max_bytes",
        "max_in_flight",
        "max_served",
        "mode",
        "outbox",
        "pool",
        "served",
        "sessions",
        "waiting",
        "worker",
    )

    def __init__(self, worker: int, pool: PoolTable) -> None:
        self.max_in_flight = pool.config.max_in_flight or math.inf
        self.max_bytes = pool.limits.max_output_bytes
        self.worker = worker
        self.pool = pool
        self.mode = Mode.CLOSED
        self.admitted = False  # it was open or held once: its handshake, if any, is over
        self.served = 0  # requests that it was given
        self.max_served = pool.config.max_requests
        self.outbox = Outbox()
        self.entries: dict[RequestId, Entry] = {}  # in flight, tombstones included
        self.waiting: OrderedDict[Entry, None] = OrderedDict()  # bound to come here, once it can
        self.sessions: dict[str, None] = {}  # in the order in which they were tied

    def in_flight(self) -> int:
        """Return how many requests it has without an answer, probes aside."""
        if self.pool.config.health is None:
            return len(self.entries)
        return sum(not entry.route.probe for entry in self.entries.values())

    @property
    def queued(self) -> int:
        """What waits until it can be sent here."""
        return len(self.waiting) + (len(self.pool.queue) if self.mode is Mode.OPEN else 0)

    def sole(self) -> RequestId:
        """Return the only request in flight, probes aside; None where there are several, or none."""
        entries = self.entries
        if len(entries) == 1:
            return next(iter(entries))
        if self.pool.config.health is None or len(entries) > MOST_PROBES + 1:
            return None
        keys = [key for key, entry in entries.items() if not entry.route.probe]
        return keys[0] if len(keys) == 1 else None

    def takes(self, entry: Entry) -> bool:
        """Tell whether a frame may go into the out-queue now.

        Notifications and answers have a reserve there and wait for no request: what is in flight
        may need them to come to its end. Those of a session wait until the worker was admitted:
        nothing is to come before its handshake.
        """
        if entry.key is None:
            if not self.admitted and entry.route.session is not None:
                return False
            return self.outbox.size <= self.max_bytes + CONTROL_RESERVE_BYTES
        if self.mode is Mode.CLOSED or len(self.entries) >= self.max_in_flight:
            return False
        return self.outbox.size <= self.max_bytes


class PoolTable:
    """One pool: its lanes by worker, and the queue of what none of them has taken.

    Where entries of a session wait that no lane has yet, ``unbound`` finds them.
    """

    __slots__ = (
        "config",
        "cursor",
        "lanes",
        "limits",
        "open",
        "packs",
        "path",
        "queue",
        "queued",
        "queued_bytes",
        "unbound",
    )

    def __init__(self, config: Pool, limits: Limits) -> None:
        self.config = config
        self.limits = limits
        self.path = session_path(config.session)
        self.lanes: dict[int, Lane] = {}
        self.open: list[Lane] = []  # those with Mode.OPEN
        self.queue: OrderedDict[Entry, None] = OrderedDict()  # bound to no lane
        self.unbound: dict[str, dict[Entry, None]] = {}  # session -> its entries in the queue
        self.queued = 0  # what waits here and in the lanes
        self.queued_bytes = 0
        self.cursor = 0
        self.packs = config.idle_timeout_s > 0 and config.balance == "least_busy"

    def choose(self, entry: Entry) -> Lane | None:
        """Return the open lane for a frame that any may have, None if none takes it now."""
        lanes = self.open
        count = len(lanes)
        if count == 1:
            lane = lanes[0]
            return lane if lane.takes(entry) else None
        if self.packs and entry.route.session is None:
            self.cursor = 0  # not in turn: what is too much is to become idle
        best: Lane | None = None
        for step in range(count):
            lane = lanes[(self.cursor + step) % count]
            if not lane.takes(entry):
                continue
            if best is None or len(lane.entries) < len(best.entries):
                best = lane
                if self.config.balance == "round_robin":
                    break
        if best is not None:
            self.cursor = (lanes.index(best) + 1) % count
        return best

    def put(self, entry: Entry, lane: Lane | None) -> None:
        """Let an entry wait for a lane, or for any."""
        self.queued += 1
        self.queued_bytes += len(entry.frame)
        entry.lane = lane
        if lane is not None:
            lane.waiting[entry] = None
            return
        self.queue[entry] = None
        if entry.route.session is not None:
            self.unbound.setdefault(entry.route.session, {})[entry] = None

    def take(self, entry: Entry) -> None:
        """End the wait of an entry."""
        self.queued -= 1
        self.queued_bytes -= len(entry.frame)
        if entry.lane is not None:
            del entry.lane.waiting[entry]
            return
        del self.queue[entry]
        if entry.route.session is not None:
            same = self.unbound[entry.route.session]
            del same[entry]
            if not same:
                del self.unbound[entry.route.session]

    def bind(self, session: str, lane: Lane) -> None:
        """Let what waits in the queue for this session wait for the lane that has it now."""
        for entry in self.unbound.pop(session, ()):
            del self.queue[entry]
            entry.lane = lane
            lane.waiting[entry] = None


class Router:
    """All routing of one kernel for one client.

    Args:
        pools: Their configurations.
        limits: The bounds.
    """

    def __init__(self, pools: Iterable[Pool], limits: Limits) -> None:
        self._limits = limits
        self.pools = {pool.id: PoolTable(pool, limits) for pool in pools}
        self._live: dict[RequestId, Entry] = {}  # every request that has neither answer nor failure
        self._tombstones: set[RequestId] = set()  # ids of cancelled ones that still hold a slot
        self.sessions = SessionTable(limits.max_sessions)
        self.on_spent: Callable[[Lane], None] = _nothing  # it was given max_requests
        self.on_stray: Callable[[Lane, RequestId], None] = _stray  # it answered what is unknown
        self.on_moved: Callable[[str, Lane], None] = _moved  # a session has left this lane
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
            text = f"there is no pool {route.pool!r}"
            raise self._refuse(KernelCode.UNKNOWN_POOL, text, route, "unknown_pool")
        most = self._limits.max_frame_bytes
        if len(frame) > most:
            text = f"a frame of {len(frame)} bytes is over max_frame_bytes={most}"
            raise self._refuse(KernelCode.FRAME_TOO_LARGE, text, route, "max_frame_bytes", most)
        if pool.path is not None and route.session is None and route.worker is None:
            route = self._read_session(pool.path.read(frame), route)
        if key is not None and (key in self._live or key in self._tombstones):
            text = f"the id {key!r} is in use"
            raise self._refuse(KernelCode.INVALID_REQUEST, text, route, "duplicate_id")
        if (
            route.learns
        ):  # from here on a refusal may have made room for a session, or told its loss
            self._check_room(pool, route)
        entry = Entry(frame, route, key)
        bound = None
        if route.session is not None or route.worker is not None:
            bound = self._bound(pool, route)
        ahead = pool.queue if bound is None else bound.waiting
        lane = None
        if not ahead or key is None:  # no request overtakes one that waits
            lane = pool.choose(entry) if bound is None else bound if bound.takes(entry) else None
        if lane is not None:
            self._hand_over(entry, lane)
        else:
            self._queue(pool, entry, bound)
        if key is not None:
            self._live[key] = entry
        return lane

    @staticmethod
    def _read_session(named: Named, route: Route) -> Route:
        """Return the route of a frame that says itself which session it is for."""
        if named.session is None and not named.creates:
            return route
        return Route(route.pool, named.session, rebind=named.loads, learns=named.creates)

    def learn_session(self, lane: Lane, key: RequestId, result: Raw) -> None:
        """Tie the session that a result names to the lane that it came from."""
        entry = lane.entries.get(key)
        if entry is None or not entry.route.learns or entry.step is Step.TOMBSTONE:
            return
        session = lane.pool.path.read_result(result) if lane.pool.path is not None else None
        if session is not None:
            self.bind_session(session, lane)

    def submit_many(self, frames: list[bytes], route: Route, keys: list[RequestId]) -> Lane | None:
        """Take several requests, with ids never used before, for the only open worker of a pool.

        Returns:
            The lane whose out-queue got them all; None if none was taken, and each is to be submitted.
        """
        pool = self.pools.get(route.pool)
        if pool is None or pool.queue or len(pool.open) != 1:
            return None
        if route.session is not None or route.worker is not None or pool.path is not None:
            return None
        lane = pool.open[0]
        if lane.waiting or lane.max_served or len(lane.entries) + len(keys) > lane.max_in_flight:
            return None
        size = sum(map(len, frames))
        if lane.outbox.size + size > lane.max_bytes or size > self._limits.max_frame_bytes:
            return None
        outbox = Step.OUTBOX
        entries = [
            Entry(frame, route, key, outbox, lane) for frame, key in zip(frames, keys, strict=True)
        ]
        lane.entries.update(zip(keys, entries, strict=True))
        self._live.update(zip(keys, entries, strict=True))
        lane.served += len(keys)
        lane.outbox.extend(entries, size)
        return lane

    def _bound(self, pool: PoolTable, route: Route) -> Lane | None:
        """Return the only lane that a frame may go to, None where any of its pool will do."""
        if route.worker is not None:
            lane = pool.lanes.get(route.worker)
            if lane is None:
                text = f"worker {route.worker} of pool {route.pool!r} is not there"
                raise self._refuse(KernelCode.NO_WORKER, text, route, "worker_gone")
            return lane
        lane = self.sessions.lane_of(route.session)  # type: ignore[arg-type]  # it names one of both
        if lane is None:
            self._begin_session(pool, route)
            return None
        if lane.pool is not pool:
            text = f"session {route.session!r} is in pool {lane.pool.config.id!r}"
            raise self._refuse(KernelCode.INVALID_REQUEST, text, route, "session_elsewhere")
        return lane

    def _begin_session(self, pool: PoolTable, route: Route) -> None:
        """Let a request begin a session; refuse it where the session was lost or there is no room."""
        session: str = route.session  # type: ignore[assignment]  # only called with one
        loss = self.sessions.take_loss(session)
        if loss is not None and (loss.leased or not route.rebind):
            why = f": {loss.failure.message}" if loss.failure is not None else ""
            text = f"the worker that held session {session!r} is gone{why}"
            raise self._refuse(KernelCode.SESSION_LOST, text, route, "session_lost")
        if session not in pool.unbound:
            self._check_room(pool, route)

    def _check_room(self, pool: PoolTable, route: Route) -> None:
        if not self.sessions.make_room(len(pool.unbound)):
            most = self._limits.max_sessions
            text = f"there are max_sessions={most} sessions; end some of them"
            raise self._refuse(KernelCode.OVERLOADED, text, route, "max_sessions")

    def _queue(self, pool: PoolTable, entry: Entry, bound: Lane | None) -> None:
        limits = self._limits
        if pool.queued >= limits.max_queued:
            text = f"pool {pool.config.id!r} has max_queued={limits.max_queued} requests waiting"
            raise self._refuse(KernelCode.OVERLOADED, text, entry.route, "max_queued")
        if pool.queued_bytes > limits.max_output_bytes:
            most = limits.max_output_bytes
            text = f"pool {pool.config.id!r} has more than max_output_bytes={most} waiting"
            raise self._refuse(KernelCode.OVERLOADED, text, entry.route, "max_output_bytes")
        pool.put(entry, bound)

    def _hand_over(self, entry: Entry, lane: Lane) -> None:
        entry.lane = lane
        if entry.key is not None:
            lane.entries[entry.key] = entry
            lane.served += 1
            if lane.served == lane.max_served:
                self.on_spent(lane)
        session = entry.route.session
        if session is not None and self.sessions.lane_of(session) is None:
            self.bind_session(session, lane)
        lane.outbox.append(entry)

    def pump(self, pool: PoolTable) -> list[Lane]:
        """Hand queued frames to lanes that have room; return the lanes that got any.

        Call it whenever there is more room: after an answer, a write, a new mode.
        """
        fed: dict[Lane, None] = {}
        for lane in pool.lanes.values():
            self._feed(lane, fed)
        while pool.queue:
            entry = next(iter(pool.queue))
            target = pool.choose(entry)
            if target is None:
                break
            pool.take(entry)
            self._hand_over(entry, target)
            fed[target] = None
            self._feed(target, fed)  # what waited for the same session is bound to it now
        return list(fed)

    def _feed(self, lane: Lane, fed: dict[Lane, None]) -> None:
        while lane.waiting:
            entry = next(iter(lane.waiting))
            if not lane.takes(entry):
                return
            lane.pool.take(entry)
            self._hand_over(entry, lane)
            fed[lane] = None

    # -- answers and the end of requests ------------------------------------------------------

    def settle(self, lane: Lane, key: RequestId) -> bool:
        """Take note of a worker's answer; return whether its caller still waits for it."""
        entry = lane.entries.pop(key, None)
        if entry is None:
            self.stray_answers += 1
            self.on_stray(lane, key)
            return False
        late = entry.step is Step.TOMBSTONE
        entry.step = Step.GONE
        if late:
            self._tombstones.discard(key)
            self.late_answers += 1
            return False
        del self._live[key]
        return True

    def settle_many(self, lane: Lane, keys: list[Any]) -> bool:
        """Take note of several answers that are all waited for; False, and nothing done, if not."""
        entries = lane.entries
        if self._tombstones or len(set(keys)) < len(keys) or not entries.keys() >= set(keys):
            return False
        live = self._live
        for key in keys:
            entries.pop(key).step = Step.GONE
            del live[key]
        return True

    def blame(self, lane: Lane, key: RequestId | None) -> RequestId | None:
        """Find the request that an unreadable answer belongs to: by its id, else the only one."""
        if key is not None:
            return key if key in lane.entries else None
        return next(iter(lane.entries)) if len(lane.entries) == 1 else None

    def withdraw(self, key: RequestId, reason: str = "") -> tuple[Withdrawal, Lane | None]:
        """Give up a request: remove it if no byte was written, else tell its worker.

        Returns:
            What became of it, and the lane that has something to write or has room now.
        """
        entry = self._live.pop(key, None)
        if entry is None:
            return Withdrawal.UNKNOWN, None
        lane = entry.lane
        if lane is None or entry.step is Step.QUEUED:
            self._unqueue(entry)
            return Withdrawal.REMOVED, None
        if entry.step is Step.OUTBOX:
            lane.outbox.withdraw(entry)
            del lane.entries[key]
            return Withdrawal.REMOVED, lane
        entry.step = Step.TOMBSTONE
        self._tombstones.add(key)
        frame = cancel_frame(lane.pool.config.cancel, key, reason)
        if frame is not None:
            lane.outbox.append(Entry(frame, entry.route, None))
        return Withdrawal.CANCELLED, lane

    def _unqueue(self, entry: Entry) -> None:
        self.pools[entry.route.pool].take(entry)
        entry.frame = FREE
        entry.step = Step.GONE

    def free_tombstone(self, lane: Lane, key: RequestId) -> None:
        """Free the slot of a cancelled request that was never answered."""
        entry = lane.entries.get(key)
        if entry is not None and entry.step is Step.TOMBSTONE:
            entry.step = Step.GONE
            del lane.entries[key]
            self._tombstones.discard(key)

    def fail_queue(self, pool: PoolTable) -> list[Entry]:
        """Take out every frame of the pool that no worker has; return the requests among them."""
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
        lane.admitted = lane.admitted or mode is not Mode.CLOSED

    def drop_lane(
        self, lane: Lane, failure: Failure | None = None, lease: str | None = None
    ) -> list[Entry]:
        """Remove a dead worker's lane; return the requests that it takes along, to be failed.

        Args:
            lane: The lane.
            failure: Why, for the sessions that are lost with it.
            lease: The one of them that had the worker for itself, and is lost for good.
        """
        self.set_mode(lane, Mode.CLOSED)
        if lane.pool.lanes.get(lane.worker) is lane:
            del lane.pool.lanes[lane.worker]
        self.sessions.lose(lane, failure, lease)
        waiting = list(lane.waiting)
        for entry in waiting:
            lane.pool.take(entry)
            if entry.route.rebind and entry.route.session != lease:  # no byte of it was written
                lane.pool.put(entry, None)
        in_flight = list(lane.entries.values())
        lane.entries.clear()
        lane.outbox.clear()
        self._tombstones.difference_update(e.key for e in in_flight if e.step is Step.TOMBSTONE)
        dead = [e for e in in_flight if e.step is not Step.TOMBSTONE]
        dead += [e for e in waiting if e.key is not None and e not in lane.pool.queue]
        for entry in dead:
            del self._live[entry.key]
        return dead

    def bind_session(self, session: str, lane: Lane) -> None:
        """Tie a session to a worker before its first request; what waits for it goes along."""
        before = self.sessions.lane_of(session)
        self.sessions.bind(session, lane)
        lane.pool.bind(session, lane)
        if before is not None and before.worker != lane.worker:
            self.on_moved(session, before)

    @property
    def live(self) -> int:
        """Number of requests that have neither answer nor failure."""
        return len(self._live)

    @staticmethod
    def _refuse(
        code: int, text: str, route: Route, reason: str, limit_bytes: int | None = None
    ) -> Refused:
        return Refused(
            Failure(
                code=code,
                message=text,
                reason=reason,
                pool=route.pool,
                worker=route.worker,
                session=route.session,
                sent=False,
                limit_bytes=limit_bytes,
            )
        )
