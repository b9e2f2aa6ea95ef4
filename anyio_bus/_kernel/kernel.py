"""Own the kernel in Python: its pools, its router, and the task group of its slots."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import anyio
import anyio.abc
import msgspec
from msgspec import UNSET

from anyio_bus._errors import Failure, KernelCode
from anyio_bus._io.loop import Alarm, Bell, current_loop
from anyio_bus._kernel.ladder import Ladder
from anyio_bus._kernel.slot import Lease, Slot
from anyio_bus._sansio.codec import encode_requests
from anyio_bus._sansio.deadlines import Deadlines
from anyio_bus._sansio.events import (
    Deliver,
    Failed,
    KernelEvent,
    KernelStatistics,
    LineBad,
    Lines,
    SessionInfo,
    WorkerInfo,
)
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.messages import BadLine, Message, RequestId
from anyio_bus._sansio.routing import Entry, Lane, PoolTable, Refused, Route, Router, Withdrawal

if TYPE_CHECKING:
    from anyio_bus._config import BusConfig, Pool
    from anyio_bus._io.process import Spawner
    from anyio_bus._kernel.incarnation import Incarnation
    from anyio_bus._sansio.tapping import Tap

__all__ = ("Kernel",)

logger = logging.getLogger("anyio_bus.kernel")

STRAY_ID_CHARACTERS = 100
_ALIVE = frozenset(
    {State.STARTING, State.READY, State.DRAINING, State.STOPPING, State.BACKOFF, State.VACANT}
)


_GONE = Failure(code=KernelCode.NO_WORKER, message="no worker is left", reason="retired")


class _Counts(msgspec.Struct):
    """Counters that only grow."""

    bad_lines: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    cancelled: int = 0
    messages_in: int = 0
    messages_out: int = 0
    routing_errors: int = 0
    stderr_bytes: int = 0
    withdrawn: int = 0
    worker_restarts: int = 0


class Kernel:
    """Supervises the workers of all pools and decides the fate of every request.

    Everything but :meth:`run` and :meth:`stop` is synchronous and runs in the loop's thread.

    Owns:
        The slots and the task group that they run in.

    Args:
        config: Pools and limits.
        spawner: How processes are started.
        deliver: Takes each batch of events, at once; it must not block or raise.
        name: What the backend that uses it is called.
    """

    def __init__(
        self, config: BusConfig, spawner: Spawner, deliver: Deliver, name: str = "python"
    ) -> None:
        self.name = name
        self.borrow = self.refresh = None
        self.listeners: tuple[str, ...] | None = None
        self.limits = config.limits
        self.spawner = spawner
        self.deliver = deliver
        self.router = Router(config.pools, config.limits)
        self.router.on_spent = self._spent
        self.router.on_moved = self._moved
        self.router.on_stray = self._note_stray
        self.loop = current_loop()
        self.stop_ladder: Ladder | None = None
        self._pools = {pool.id: pool for pool in config.pools}
        self._next_worker = 0
        self.slots: dict[int, Slot] = {}
        for pool in config.pools:
            for _ in range(pool.instances):
                self._add_slot(pool)
        self._running: dict[Lane, Incarnation] = {}
        self._vacant: dict[str, list[Slot]] = {}  # those that rest until a request needs them
        self._unavailable: dict[str, Failure] = {}  # pools of which every slot is parked, and why
        self._tombstones: Deadlines[tuple[Lane, RequestId]] = Deadlines()
        self._alarm = Alarm(self.loop, self._tombstones.next, self._free_tombstones)
        self._tasks: anyio.abc.TaskGroup | None = None
        self._stopped = Bell()
        self._over = False
        self.counts = _Counts()
        self.on_frames: Tap | None = None  # looked at once for each write and each batch of reads

    # -- running ------------------------------------------------------------------------------

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Run until stopped; started when every slot has spawned its first process."""
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._alarm.run)
                for slot in list(self.slots.values()):
                    await self._tasks.start(slot.run)
                task_status.started()
                await self._stopped.until(self._all_stopped, lambda: float("inf"), self.loop.now)
                self._tasks.cancel_scope.cancel("kernel stopped")
        finally:
            self._over = True
            self.spawner.close()
            self._stopped.ring()

    def _all_stopped(self) -> bool:
        if self.stop_ladder is None:
            return False
        return all(slot.over for slot in self.slots.values())

    async def stop(self, grace_s: float, drain_s: float = 0.0) -> None:
        """End every worker, all at once, and wait until none is left.

        Called again with a smaller grace, it shortens the first stop. There is nobody else for whom
        ``drain_s`` would be.

        Cancellation:
            The wait ends; the stop goes on.
        """
        ladder = Ladder(self.loop.now(), grace_s)
        self.stop_ladder = (
            ladder if self.stop_ladder is None else self.stop_ladder.shortened(ladder)
        )
        for slot in self.slots.values():
            slot.retire()
        self._stopped.ring()
        await self._stopped.until(lambda: self._over, lambda: float("inf"), self.loop.now)

    def kill_now(self, reap_s: float) -> None:
        """Without the loop: kill and reap what is left, within ``reap_s`` for all of it."""
        left = [
            slot.incarnation.child for slot in self.slots.values() if slot.incarnation is not None
        ]
        for child in left:
            child.kill()
        limit = self.loop.now() + reap_s
        for child in left:
            child.kill_now(max(0.0, limit - self.loop.now()))
        self.spawner.close()

    def abandon(self) -> None:
        """In a forked process: close every fd, touch nothing else."""
        for slot in self.slots.values():
            if slot.incarnation is not None:
                slot.incarnation.child.abandon()
        self.spawner.abandon()

    # -- frames towards workers ---------------------------------------------------------------

    def submit(self, frame: bytes, route: Route, key: RequestId) -> None:
        """Take a frame to a worker. ``key`` is its id if it is a request, else None.

        Raises:
            Refused: It cannot be taken; nothing of it was sent.
        """
        try:
            if self._unavailable:
                self.check_pool(route.pool)
            lane = self.router.submit(frame, route, key)
        except Refused:
            self.counts.routing_errors += 1
            raise
        self.counts.messages_out += 1
        if self._vacant:
            self._rouse(route, lane)
        if lane is not None and lane.outbox.size == len(frame):  # else its writer is at work
            self._wake_writer(lane)

    def _rouse(self, route: Route, lane: Lane | None) -> None:
        """Start a slot that rests, if a frame has found every running worker of its pool busy."""
        slots = self._vacant.get(route.pool)
        if not slots or route.worker is not None:
            return
        if lane is None or (len(lane.entries) > 1 and route.session is None):
            slots[0].spawn()

    def put_off(self, _hand_over: Callable[[], None], /) -> bool:
        """Say that everything is to be submitted at once: writes are put together elsewhere."""
        return False

    def submit_many(
        self, method: str, items: Sequence[object], route: Route, keys: list[RequestId], room: int
    ) -> int:
        """Take several requests at once; 0 if none was, and each is to be submitted."""
        frames = encode_requests(keys, method, items, route.envelope)
        if self._unavailable or len(frames) > room:
            return 0
        each = [line + b"\n" for line in frames[:-1].split(b"\n")]
        lane = self.router.submit_many(each, route, keys) if len(each) == len(keys) else None
        if lane is None:
            return 0
        self.counts.messages_out += len(keys)
        if self._vacant:
            self._rouse(route, lane)
        self._wake_writer(lane)
        return len(frames)

    def withdraw(self, key: RequestId, reason: str = "") -> Withdrawal:
        """Give up a request: it never runs, or its worker is told."""
        outcome, lane = self.router.withdraw(key, reason)
        if outcome is Withdrawal.UNKNOWN:
            return outcome
        self.counts.withdrawn += 1
        if lane is None:
            return outcome
        if outcome is Withdrawal.CANCELLED:
            self.counts.cancelled += 1
            self._alarm.nudge(
                self._tombstones.add((lane, key), self.limits.cancel_grace_s, self.loop.now())
            )
            self._wake_writer(lane)
        else:
            self.pump(lane.pool)
            self._tell_if_empty(lane)
        return outcome

    def pump(self, pool: PoolTable) -> None:
        """Hand out queued requests."""
        for lane in self.router.pump(pool):
            self._wake_writer(lane)

    def _wake_writer(self, lane: Lane) -> None:
        inc = self._running.get(lane)
        if inc is not None:
            inc.wake_writer()

    def _free_tombstones(self, now: float) -> None:
        for lane, key in self._tombstones.expire(now):
            self.router.free_tombstone(lane, key)
            self.pump(lane.pool)
            self._tell_if_empty(lane)

    def _tell_if_empty(self, lane: Lane) -> None:
        if not lane.entries:
            slot = self.slots.get(lane.worker)
            if slot is None:
                return
            if slot.life.state is State.DRAINING:
                slot.wake()
            slot.tell_quiet()

    # -- messages from workers ----------------------------------------------------------------

    def receive(self, inc: Incarnation, messages: list[Message | BadLine]) -> None:
        """Take a batch of one worker's messages: settle what they answer, deliver what is wanted."""
        lane = inc.lane
        self.counts.messages_in += len(messages)
        events = self._settle_run(inc, messages) if len(messages) > 1 else None
        if events is None:
            events = self._settle(inc, messages)
        if events:
            self.deliver(events)
        if lane.pool.queue or lane.waiting:
            self.pump(lane.pool)
        self._tell_if_empty(lane)

    def note_handshake(self) -> None:
        """Count the answer to a handshake."""
        self.counts.messages_in += 1

    def _settle_run(
        self, inc: Incarnation, messages: list[Message | BadLine]
    ) -> list[KernelEvent] | None:
        """Settle a batch that is all of one kind, as most are, in one step; None if it is not."""
        lane = inc.lane
        run: list[Any] = messages
        answers = [message for message in messages if message.method is UNSET]
        only: Literal["answers", "calls"] = "answers"
        sole: RequestId = None
        if not answers:
            only = "calls"
            sole = lane.sole()
        elif len(answers) < len(messages) or not self._settle_all(lane, messages):
            return None
        inc.spoke = True
        return [Lines(lane.pool.config.id, lane.worker, run, sole, only)]

    def _settle_all(self, lane: Lane, messages: list[Message | BadLine]) -> bool:
        """Settle a batch of answers in one step; False if any of them needs a closer look."""
        if lane.pool.path is not None or BadLine in set(map(type, messages)):
            return False
        return self.router.settle_many(lane, [message.id for message in messages])

    def _settle(self, inc: Incarnation, messages: list[Message | BadLine]) -> list[KernelEvent]:
        """Settle what a batch answers, and return what of it is to be delivered."""
        lane = inc.lane
        settle = self.router.settle
        named = lane.pool.path is not None  # answers may name sessions
        pool_id, worker = lane.pool.config.id, lane.worker
        wanted: list[Message] = []
        events: list[KernelEvent] = []
        noted = False  # whether a notification is among what is wanted
        sole: RequestId = None
        for message in messages:
            if isinstance(message, BadLine):
                if wanted:
                    events.append(Lines(pool_id, worker, wanted, sole))
                    wanted = []
                    noted = False
                self._take_bad_line(lane, message, events)
                continue
            inc.spoke = True
            if message.method is not UNSET:
                wanted.append(message)
                if not noted:
                    noted = True
                    sole = lane.sole()
                continue
            key: RequestId = message.id  # type: ignore[assignment]  # an answer has an id
            if named and message.result is not UNSET:
                self.router.learn_session(lane, key, message.result)
            if settle(lane, key):
                wanted.append(message)
            else:
                self._tombstones.discard((lane, key), self.limits.cancel_grace_s)
            if noted:  # what comes after this answer may be another request's
                events.append(Lines(pool_id, worker, wanted, sole))
                wanted = []
                noted = False
                sole = None
        if wanted:
            events.append(Lines(pool_id, worker, wanted, sole))
        return events

    def _take_bad_line(self, lane: Lane, line: BadLine, events: list[KernelEvent]) -> None:
        """A bad line costs only itself; one over the limit costs the request that it answers."""
        self.counts.bad_lines += 1
        events.append(LineBad(lane.pool.config.id, lane.worker, line))
        if line.size <= self.limits.max_frame_bytes or line.id is None:
            return
        key = self.router.blame(lane, None if line.id is UNSET else line.id)
        if key is not None and self.router.settle(lane, key):
            who = f"worker {lane.worker} of pool {lane.pool.config.id!r}"
            limit = f"max_frame_bytes={self.limits.max_frame_bytes}"
            failure = Failure(
                code=KernelCode.FRAME_TOO_LARGE,
                message=f"{who} answered with a line of {line.size} bytes, over {limit}",
                pool=lane.pool.config.id,
                worker=lane.worker,
                limit_bytes=self.limits.max_frame_bytes,
            )
            events.append(Failed(key, failure))

    def _note_stray(self, lane: Lane, key: RequestId) -> None:
        """Tell of the first answer of a process that no request waits for."""
        inc = self._running.get(lane)
        if inc is None or inc.strayed:
            return
        inc.strayed = True
        pool, worker = lane.pool.config.id, lane.worker
        shown = msgspec.json.encode(key).decode()[:STRAY_ID_CHARACTERS]
        extra = {"event": "stray_answer", "pool": pool, "worker": worker}
        text = "worker %s/%s answered id %s, which no request waits for"
        logger.warning(text, pool, worker, shown, extra=extra)

    # -- called by slots ----------------------------------------------------------------------

    def fail(self, entries: Iterable[Entry], failure: Failure) -> None:
        """Deliver the failure of requests, each with its own word on whether it was sent."""
        events: list[KernelEvent] = [
            Failed(entry.key, msgspec.structs.replace(failure, sent=entry.sent))
            for entry in entries
            if entry.key is not None
        ]
        if events:
            self.deliver(events)

    def begin(self, inc: Incarnation) -> None:
        """Let what the router hands to this incarnation's lane wake its writer."""
        self._running[inc.lane] = inc

    def end(self, inc: Incarnation, failure: Failure, lease: str | None) -> None:
        """Fail what an incarnation takes along, and keep its counters."""
        del self._running[inc.lane]
        self.counts.bytes_in += inc.bytes_in
        self.counts.bytes_out += inc.bytes_out
        self.counts.stderr_bytes += inc.stderr.total
        self.drop(inc.lane, failure, lease)

    def drop(self, lane: Lane, failure: Failure, lease: str | None) -> None:
        """Fail what a lane has, and lose its sessions; ``lease`` is the one that had it alone."""
        self.fail(self.router.drop_lane(lane, failure, lease), failure)

    def lost_hope(self, pool_id: str, failure: Failure | None) -> None:
        """A slot is parked or gone: if none of its pool is left, fail what waits there.

        One that is parked says why, rather than one that was told to go.
        """
        slots = self._slots_of(pool_id)
        if not any(slot.life.state in _ALIVE for slot in slots):
            parked = (slot.failure for slot in slots if slot.life.state is State.PARKED)
            failure = next(parked, None) or failure or _GONE
            reason = self._unavailable[pool_id] = _unavailable(pool_id, failure)
            self.fail(self.router.fail_queue(self.router.pools[pool_id]), reason)
        self._stopped.ring()

    def regained_hope(self, pool_id: str) -> None:
        """A slot of this pool starts a process."""
        self._unavailable.pop(pool_id, None)

    def may_rest(self, slot: Slot) -> bool:
        """Whether a slot can do without a process for now; if so, the next that needs it starts it."""
        if self.router.pools[slot.pool.id].queue:
            return False
        self._vacant.setdefault(slot.pool.id, []).append(slot)
        return True

    def no_longer_vacant(self, slot: Slot) -> None:
        """A slot that may have rested starts a process, or is retired."""
        slots = self._vacant.get(slot.pool.id, [])
        if slot in slots:
            slots.remove(slot)
            if not slots:
                del self._vacant[slot.pool.id]

    def _spent(self, lane: Lane) -> None:
        """A worker was given ``max_requests``: whoever replaces it may want to know."""
        slot = self.slots.get(lane.worker)
        if slot is not None:
            slot.tell()

    def forget(self, slot: Slot) -> None:
        """Drop a slot that was retired and is gone."""
        if self.stop_ladder is None:
            del self.slots[slot.worker]
        self._stopped.ring()

    # -- primitives ---------------------------------------------------------------------------

    def _add_slot(self, pool: Pool, *, own: bool = False) -> Slot:
        slot = Slot(self, pool, self._next_worker, own=own)
        self.slots[self._next_worker] = slot
        self._next_worker += 1
        return slot

    def _slots_of(self, pool_id: str) -> list[Slot]:
        """Return the slots that serve a pool, without those of one session's own."""
        return [s for s in self.slots.values() if s.pool.id == pool_id and not s.own]

    def _slot(self, worker: int) -> Slot:
        slot = self.slots.get(worker)
        if slot is None:
            text = f"there is no worker {worker}"
            raise Refused(
                Failure(code=KernelCode.NO_WORKER, message=text, reason="worker_gone", sent=False)
            )
        return slot

    def spawn(
        self,
        pool_id: str,
        *,
        session: str | None = None,
        rebind: bool = False,
        env: Mapping[str, str | None] | None = None,
        cwd: str | None = None,
    ) -> int:
        """Add a slot to a pool and start it; return its number.

        With a session it is leased to that from the start, does not count as one of the pool's
        instances, and ends with its lease.
        """
        pool = self._pools[pool_id]
        if env or cwd is not None:
            merged = {**pool.env, **(env or {})}
            pool = msgspec.structs.replace(pool, env=merged, cwd=pool.cwd if cwd is None else cwd)
        slot = self._add_slot(pool, own=session is not None)
        if session is not None:
            slot.lend(Lease(session, rebind))
        if self._tasks is not None:
            self._tasks.start_soon(slot.run)
        return slot.worker

    def resize(self, pool_id: str, instances: int, drain_s: float) -> None:
        """Add slots to a pool, or drain and retire the last of them."""
        slots = [s for s in self._slots_of(pool_id) if not s.leaving]
        for _ in range(len(slots), instances):
            self.spawn(pool_id)
        for slot in slots[instances:]:
            slot.drain(drain_s, retire=True)

    def hear(self, pool_id: str, on: bool) -> None:
        """Nothing depends on it: each notification is handed over."""

    def check_pool(self, pool_id: str) -> None:
        """Refuse, with the stored reason, if every slot of the pool is parked."""
        failure = self._unavailable.get(pool_id)
        if failure is not None:
            raise Refused(failure)

    def drain(self, worker: int, drain_s: float, *, retire: bool = False) -> None:
        """Let a worker finish what it has, then end it; its successor starts unless ``retire``."""
        self._slot(worker).drain(drain_s, retire=retire)

    def rest(self, worker: int) -> bool:
        """End a worker that is idle, until a request finds every other one busy."""
        return self._slot(worker).rest()

    def kill(self, worker: int, fault: str = "") -> None:
        """Kill a worker now; its successor starts. What it did wrong stands in its failure."""
        self._slot(worker).kill(fault)

    def hold(self, worker: int) -> None:
        """Give a worker no work but what names it."""
        self._slot(worker).hold(held=True)

    def release(self, worker: int) -> None:
        """End a hold or a lease."""
        self._slot(worker).release()

    def lease(self, worker: int, session: str, *, rebind: bool = False) -> None:
        """Keep a worker for one session: a hold, with the session bound to it.

        It ends with the session, or with the worker unless ``rebind``.
        """
        slot = self._slot(worker)
        if slot.lease is not None:
            text = f"worker {worker} is leased already"
            raise Refused(
                Failure(code=KernelCode.NO_WORKER, message=text, reason="leased", sent=False)
            )
        slot.lend(Lease(session, rebind))

    def end_session(self, session: str) -> None:
        """Forget a session; end its lease."""
        info = self.router.sessions.find(session)
        self.router.sessions.end(session)
        if info is not None and info.worker is not None:
            self._end_lease(session, info.worker)

    def _moved(self, session: str, lane: Lane) -> None:
        """A session was tied to another worker: the one that it had for itself is free."""
        self._end_lease(session, lane.worker)

    def _end_lease(self, session: str, worker: int) -> None:
        slot = self.slots.get(worker)
        if slot is not None and slot.lease is not None and slot.lease.session == session:
            slot.release()

    def find_session(self, session: str) -> SessionInfo | None:
        """Report a session; None where it is not known."""
        return self.router.sessions.find(session)

    def pause(self, worker: int) -> None:
        """Leave a worker's stdout unread until :meth:`resume`."""
        slot = self._slot(worker)
        if slot.incarnation is not None and slot.life.state is not State.STOPPING:
            slot.incarnation.pause()

    def resume(self, worker: int) -> None:
        """Read a worker's stdout again."""
        inc = self._slot(worker).incarnation
        if inc is not None:
            inc.resume()

    def tap(self, callback: Tap | None) -> None:
        """Show every line of every pipe to ``callback``, which must not raise; None ends it."""
        self.on_frames = callback

    # -- reports ------------------------------------------------------------------------------

    def workers(self) -> list[WorkerInfo]:
        """Report every slot."""
        return [slot.info() for slot in self.slots.values()]

    def statistics(self) -> KernelStatistics:
        """Report the counters."""
        alive = [slot.incarnation for slot in self.slots.values() if slot.incarnation is not None]
        router = self.router
        counts = self.counts
        return KernelStatistics(
            messages_in=counts.messages_in,
            messages_out=counts.messages_out,
            bytes_in=counts.bytes_in + sum(inc.bytes_in for inc in alive),
            bytes_out=counts.bytes_out + sum(inc.bytes_out for inc in alive),
            stderr_bytes=counts.stderr_bytes + sum(inc.stderr.total for inc in alive),
            bad_lines=counts.bad_lines,
            late_answers=router.late_answers,
            stray_answers=router.stray_answers,
            withdrawn=counts.withdrawn,
            cancelled=counts.cancelled,
            worker_restarts=counts.worker_restarts,
            routing_errors=counts.routing_errors,
            workers=len(alive),
            live_requests=router.live,
            queued_requests=sum(pool.queued for pool in router.pools.values()),
            sessions=len(router.sessions),
        )


def _unavailable(pool_id: str, failure: Failure) -> Failure:
    """Every slot is parked: give the stored reason, as the class that it has."""
    if failure.phase is not None:
        return msgspec.structs.replace(failure, sent=False)
    return Failure(
        code=KernelCode.NO_WORKER,
        message=f"pool {pool_id!r} is unavailable: {failure.reason}: {failure.message}",
        reason=failure.reason,
        pool=pool_id,
        sent=False,
        stderr_tail=failure.stderr_tail,
    )
