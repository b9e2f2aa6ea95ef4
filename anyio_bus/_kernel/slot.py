"""Own one worker slot: it keeps a process running there, by the lifecycle table, until retired."""

from __future__ import annotations

import logging
import random
import signal as signals
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import msgspec

from anyio_bus._errors import Failure, KernelCode
from anyio_bus._io.loop import Bell
from anyio_bus._io.process import Exit, SpawnError, resident_bytes
from anyio_bus._kernel.incarnation import Incarnation
from anyio_bus._kernel.ladder import Ladder
from anyio_bus._sansio.backoff import Death, Park, RestartPolicy
from anyio_bus._sansio.events import WorkerChanged, WorkerInfo
from anyio_bus._sansio.lifecycle import Action, Event, Lifecycle, State
from anyio_bus._sansio.routing import Lane, Mode

if TYPE_CHECKING:
    from anyio_bus._config import Pool
    from anyio_bus._kernel.kernel import Kernel

__all__ = ("Lease", "Slot")

logger = logging.getLogger("anyio_bus.kernel")

HANG_UP_GRACE_S = 0.5  # a worker that closed a pipe has no answer to give
DRAIN_GRACE_S = 5.0
REAP_S = 0.5  # that SIGKILL may take
LAST_OUTPUT_S = 0.25  # for outputs that outlive the group: whoever holds them escaped it
ERROR_TAIL_BYTES = 4096  # of stderr, put into an error
_SENT_BY_OTHERS = (1, 2, 9, 15)  # SIGHUP, SIGINT, SIGKILL, SIGTERM: no program's own crash
_RETIRED = Failure(code=KernelCode.NO_WORKER, message="the worker was told to go", reason="retired")
_RESTING = (State.BACKOFF, State.PARKED, State.VACANT)


class Lease(msgspec.Struct, frozen=True):
    """What makes a worker one session's own.

    Args:
        session: That session.
        rebind: Whether the lease goes on with the worker's successor.
    """

    session: str
    rebind: bool = False


class Slot:
    """The place of one worker in its pool.

    Owns:
        The incarnation that runs in it, if any.

    Args:
        kernel: Whose slot it is.
        pool: The configuration of its pool.
        worker: Its number.
        own: Whether it is there for one lease, and ends with that.
    """

    def __init__(self, kernel: Kernel, pool: Pool, worker: int, *, own: bool = False) -> None:
        self.pool = pool
        self.worker = worker
        self.own = own
        self.lease: Lease | None = None
        self.quiet_wanted = False  # tell once nothing is in flight
        self.life = Lifecycle()
        self.incarnation: Incarnation | None = None
        self.generation = 0
        self.failure: Failure | None = None  # why it is backing off or parked
        self.held = False
        self.over = False  # stopped, and nothing of it is left
        self._kernel = kernel
        self._bell = Bell()
        self._policy = RestartPolicy(kernel.limits, random.random)
        self._wake_at = 0.0
        self._asked = False
        self._ladder: Ladder | None = None
        self._drain_until = 0.0
        self._drain_retires = False
        self._rests = False  # it is ended since it is idle: no successor until somebody asks
        self._fault = ""  # what it was killed for

    # -- commands, from any task --------------------------------------------------------------

    def spawn(self) -> None:
        """Start a process now, instead of waiting longer."""
        self._policy.reset()
        self._fire(Event.SPAWN)

    @property
    def leaving(self) -> bool:
        """Whether it is to have no successor."""
        return self.life.retired or self._drain_retires

    def drain(self, drain_s: float, *, retire: bool = False) -> None:
        """Let it finish what it has for at most ``drain_s``, then end it; no successor if ``retire``.

        One that rests is started at once.
        """
        if not retire and self.life.state in _RESTING:
            self.spawn()
            return
        self._rests = False
        until = self._kernel.loop.now() + drain_s
        draining = self.life.state is State.DRAINING
        self._drain_until = min(until, self._drain_until) if draining else until
        self._drain_retires = self._drain_retires or retire
        self._asked = True
        if retire and self.life.state not in (State.READY, State.DRAINING):
            self._fire(Event.RETIRE)
        else:
            self._fire(Event.DRAIN)

    def rest(self) -> bool:
        """End it if it is ready and idle; no successor before there is work for it."""
        inc = self.incarnation
        if inc is None or self.life.state is not State.READY:
            return False
        lane = inc.lane
        if lane.entries or lane.waiting or lane.sessions or lane.outbox.size:
            return False
        self._rests = self._asked = True
        self._drain_until = self._kernel.loop.now()
        self._fire(Event.DRAIN)
        return True

    def kill(self, fault: str = "") -> None:
        """End it now; with a fault of its own it counts as a death like any other."""
        if fault and self.life.state is not State.READY:
            return
        self._ladder = Ladder(self._kernel.loop.now(), 0.0)
        self._fault = fault
        self._asked = not fault
        self._fire(Event.KILL)

    def retire(self) -> None:
        """End it for good, by the kernel's ladder."""
        self._fire(Event.RETIRE)

    def hold(self, *, held: bool) -> None:
        """Take no work but what names it; or be as before."""
        self.held = held
        if self.incarnation is not None and self.life.state is State.READY:
            self._admit(self.incarnation)
        self.quiet_wanted = held
        if not held:
            self.lease = None
        if self.life.state is not State.STARTING:  # which would look like one start more
            self.tell()  # somebody may wait for a worker that is free, or have to take its place

    def lend(self, lease: Lease) -> None:
        """Hold it for one session, which waits for its process if there is none."""
        self.lease = lease
        self._kernel.router.bind_session(lease.session, self._lane())
        self.hold(held=True)

    def release(self) -> None:
        """End a hold or a lease; a worker that was there for the lease alone ends as well."""
        self.hold(held=False)
        if self.own:
            self.drain(0.0, retire=True)

    def _lane(self) -> Lane:
        """Return its lane; without a process it is one where work waits for the next."""
        router = self._kernel.router
        lane = router.pools[self.pool.id].lanes.get(self.worker)
        return lane if lane is not None else router.add_lane(self.worker, self.pool.id)

    def tell_quiet(self) -> None:
        """Say, if somebody waits for it, that nothing is in flight.

        While it starts, that would look like one start more; it is said when it came up.
        """
        if self.quiet_wanted and self.life.state is not State.STARTING:
            self.quiet_wanted = False
            self.tell()

    def wake(self) -> None:
        """Look again: something that it waits for may have changed."""
        self._bell.ring()

    # -- its life -----------------------------------------------------------------------------

    async def run(  # noqa: ASYNC128  # _live calls it
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep a worker here until retired; started when the first process is spawned."""
        self._fire(Event.SPAWN)
        while self.life.state is not State.STOPPED:
            if self.life.state in _RESTING:
                await self._rest()
            else:
                await self._live(task_status)
                task_status = anyio.TASK_STATUS_IGNORED
        self.over = True
        self._kernel.forget(self)
        self.tell()

    async def _rest(self) -> None:
        now = self._kernel.loop.now
        awake = await self._bell.until(
            lambda: self.life.state not in _RESTING, lambda: self._wake_at, now
        )
        if not awake:
            if self.life.state is State.PARKED:
                self._policy.reset()
            self._fire(Event.SPAWN)

    async def _live(self, started: anyio.abc.TaskStatus[None]) -> None:
        kernel = self._kernel
        self.generation += 1
        kernel.counts.worker_restarts += self.generation > 1
        try:
            child = await kernel.spawner.spawn(self.pool)
        except SpawnError as exc:
            started.started()
            self._fire(Event.EXITED, error=exc)
            return
        lane = self._lane()
        inc = Incarnation(child, lane, self._bell, kernel, kernel.limits, kernel.loop)
        inc.generation = self.generation
        self.incarnation = inc
        kernel.begin(inc)
        try:
            async with anyio.create_task_group() as tasks:
                inc.start(tasks, self._came_up)
                started.started()
                await self._oversee(inc)
                tasks.cancel_scope.cancel("worker ended")
        except BaseException:  # cut short: an edge cancel, or a bug of ours
            child.kill_now(0.5)
            await child.aclose()  # shielded and bounded where it waits
            raise
        finally:
            self.incarnation = None
        await child.aclose()

    async def _oversee(self, inc: Incarnation) -> None:
        """Wait for the end of the process, bring it about if it must be, and bury it."""
        now = self._kernel.loop.now
        await self._bell.until(lambda: self._over(inc), self._drain_deadline, now)
        inc.look_at_input()
        inc.resume()  # whoever paused it, it can only end if it is read
        if not inc.exited:
            if self.life.state is State.DRAINING:
                self._fire(Event.RETIRE if self._drain_retires else Event.DRAINED)
            elif self.life.state is not State.STOPPING:
                self._ladder = Ladder(now(), HANG_UP_GRACE_S)
                self._fire(Event.HUNG_UP)
            await self._climb(inc)
        inc.child.kill()  # its group may live on
        last_output = now() + LAST_OUTPUT_S
        await self._bell.until(lambda: inc.open_outputs <= 0, lambda: last_output, now)
        inc.exit = inc.child.reap() or Exit()
        if self._drain_retires:
            self.life.fire(Event.RETIRE)
        self._fire(Event.EXITED, inc=inc)

    def _over(self, inc: Incarnation) -> bool:
        if self.life.state is State.DRAINING and not inc.lane.entries:
            return True
        return not inc.running or self.life.state is State.STOPPING

    def _drain_deadline(self) -> float:
        return self._drain_until if self.life.state is State.DRAINING else float("inf")

    async def _climb(self, inc: Incarnation) -> None:
        """Climb the stop ladder: close stdin, SIGTERM, SIGKILL; outputs are read all the while."""
        now = self._kernel.loop.now
        stopping = self._kernel.stop_ladder is not None
        own = self._ladder or Ladder(now(), float("inf") if stopping else DRAIN_GRACE_S)

        def rung(fraction: float) -> float:
            stop = self._kernel.stop_ladder
            return min(own.at(fraction), stop.at(fraction) if stop is not None else float("inf"))

        if rung(0.8) <= now():  # a kill: neither the end of its input nor SIGTERM comes before it
            inc.child.kill()
        else:
            await inc.flush()
        with anyio.move_on_after(0.1):
            await inc.close_stdin()
        for fraction, act in ((0.4, inc.child.terminate), (0.8, inc.child.kill)):
            if await self._bell.until(lambda: inc.exited, partial(rung, fraction), now):
                return
            act()
        killed = now()
        await self._bell.until(lambda: inc.exited, lambda: max(rung(1.0), killed + REAP_S), now)

    def _came_up(self) -> None:
        self._fire(Event.UP)
        inc = self.incarnation
        if inc is not None and self.pool.ready != "spawn" and not inc.lane.entries:
            self.tell_quiet()

    # -- the table's actions ------------------------------------------------------------------

    def _fire(
        self, event: Event, *, inc: Incarnation | None = None, error: SpawnError | None = None
    ) -> None:
        before = self.life.state
        action = self.life.fire(event)
        if action in (Action.BURY, Action.FINISH):
            self._bury(inc, error, final=action is Action.FINISH)
        elif action is Action.START:
            if not self.own:
                self._kernel.regained_hope(self.pool.id)
            self._kernel.no_longer_vacant(self)
            self._asked = self._rests = False
            self._fault = ""
            self._ladder = None
        elif action is Action.ADMIT and self.incarnation is not None:
            self.failure = None
            self._admit(self.incarnation)
        elif action is Action.FORGET:
            self._end_lease(self.failure or _RETIRED)
            self._kernel.no_longer_vacant(self)
            self._kernel.lost_hope(self.pool.id, self.failure)
        elif action in (Action.CLOSE, Action.CLIMB) and self.incarnation is not None:
            self._kernel.router.set_mode(self.incarnation.lane, Mode.CLOSED)
        if self.life.state is not State.STOPPED and (
            self.life.state is not before or action is not Action.NONE
        ):
            self.tell()
        self._bell.ring()

    def _admit(self, inc: Incarnation) -> None:
        self._kernel.router.set_mode(inc.lane, Mode.HELD if self.held or self.own else Mode.OPEN)
        self._kernel.pump(inc.lane.pool)

    def _bury(self, inc: Incarnation | None, error: SpawnError | None, *, final: bool) -> None:
        """Fail what it had in flight; decide what comes next."""
        kernel = self._kernel
        failure = self._describe(inc, error)
        self.incarnation = None
        if inc is not None:
            lease = self.lease
            lost = None if lease is None or lease.rebind else lease.session
            kernel.end(inc, failure, lost)
        self._follow_lease(inc, failure)
        kernel.pump(kernel.router.pools[self.pool.id])
        if final or self.life.state is State.STOPPED:
            self._end_lease(failure)
            kernel.lost_hope(self.pool.id, failure)
            return
        now = kernel.loop.now()
        decision = self._policy.on_death(self._death(inc, error, now), now)
        self.failure = failure
        if isinstance(decision, Park):
            self.failure = msgspec.structs.replace(failure, reason=decision.reason, sent=False)
            self._wake_at = float("inf") if decision.retry_s is None else now + decision.retry_s
            self.life.fire(Event.GIVE_UP)
            logger.error(
                "worker %s/%s is parked: %s",
                self.pool.id,
                self.worker,
                _why_parked(self.failure),
                extra={"event": "worker_parked", "pool": self.pool.id, "worker": self.worker},
            )
            self._end_lease(self.failure)
            kernel.lost_hope(self.pool.id, self.failure)
        elif self._rests and self._kernel.may_rest(self):
            self.failure = None
            self._wake_at = float("inf")
            self.life.fire(Event.REST)
        else:
            self._wake_at = now + decision.delay_s
            if not self._asked:
                extra = {"event": "worker_died", "pool": self.pool.id, "worker": self.worker}
                text = "%s; starts again in %.2f s"
                logger.warning(text, failure.message, decision.delay_s, extra=extra)

    def _follow_lease(self, inc: Incarnation | None, failure: Failure) -> None:
        """After a death: the lease goes on with the successor if it may, or has not begun."""
        lease = self.lease
        if lease is None:
            return
        if lease.rebind or inc is None or not inc.up:
            self._kernel.router.bind_session(lease.session, self._lane())
        else:
            self._end_lease(failure)

    def _end_lease(self, failure: Failure) -> None:
        """No process will follow, or not for this lease: nothing is to wait for one."""
        lease, self.lease = self.lease, None
        lane = self._kernel.router.pools[self.pool.id].lanes.get(self.worker)
        if lane is not None and self.incarnation is None:
            self._kernel.drop(lane, failure, lease.session if lease is not None else None)
        if lease is None:
            return
        self.held = False
        if self.own:
            self.life.fire(Event.RETIRE)

    def _death(self, inc: Incarnation | None, error: SpawnError | None, now: float) -> Death:
        error = error or (inc.start_error if inc is not None else None)
        if inc is None or error is not None:
            return Death(0.0, started=False, permanent=error is not None and error.permanent)
        uptime = now - inc.born
        started = inc.spoke or inc.has_read or uptime >= self._kernel.limits.start_window_s
        if inc.hung_up is None and inc.exit.signal in _SENT_BY_OTHERS:
            started = True
        if self.pool.ready != "spawn":
            started = inc.up
        return Death(uptime, started=started, asked=self._asked)

    def _describe(self, inc: Incarnation | None, error: SpawnError | None) -> Failure:
        """Say what happened, for the errors of everything that waited for it."""
        error = error or (inc.start_error if inc is not None else None)
        who = f"worker {self.worker} of pool {self.pool.id!r}"
        base = Failure(code=KernelCode.NO_WORKER, message="", pool=self.pool.id, worker=self.worker)
        if error is not None:
            text = f"{who} could not be started: {self.pool.argv[0]!r}: {error}"
            return msgspec.structs.replace(
                base,
                message=text,
                reason=text,
                phase="spawn",
                errno=error.errno,
                permanent=error.permanent,
            )
        assert inc is not None  # no incarnation means that spawning failed
        started = self._death(inc, None, self._kernel.loop.now()).started
        phase = None if started or self._asked else "start"
        if inc.handshake_error is not None:
            phase = "handshake"
        ended = "; it was ended" if inc.handshake_error else " and was ended"
        how = f"{inc.hung_up}{ended}" if inc.hung_up else _how(inc.exit)
        if self._fault:
            how = f"{self._fault} and was killed"
        tail = inc.stderr.tail(ERROR_TAIL_BYTES)
        last = tail.strip().rsplit("\n", 1)[-1][-200:]
        text = f"{who} (pid {inc.child.pid}) {how}"
        if phase == "start":
            plain = self.pool.ready == "spawn"
            text += " before its first line" if plain else " before its handshake was answered"
            if inc.hung_up is None and inc.exit.exit_code == 0 and _is_python(self.pool.argv[0]):
                text += "; does it call worker.run()?"
        return msgspec.structs.replace(
            base,
            code=KernelCode.WORKER_LOST if phase is None else KernelCode.NO_WORKER,
            message=text + (f"; last on stderr: {last}" if last else ""),
            reason=how,
            phase=phase,
            pid=inc.child.pid,
            exit_code=inc.exit.exit_code,
            signal=inc.exit.signal,
            stderr_tail=tail,
        )

    # -- reports ------------------------------------------------------------------------------

    def tell(self) -> None:
        """Deliver how it stands."""
        inc = self.incarnation
        pid = inc.child.pid if inc is not None else None
        event = WorkerChanged(
            self.pool.id, self.worker, self.generation, self.life.state, pid, self.failure
        )
        self._kernel.deliver([event])

    def info(self) -> WorkerInfo:
        """Report how it stands."""
        inc = self.incarnation
        failure = self.failure or Failure(code=0, message="")
        parked = self.life.state is State.PARKED
        return WorkerInfo(
            pool=self.pool.id,
            worker=self.worker,
            generation=self.generation,
            pid=inc.child.pid if inc is not None else None,
            state=self.life.state,
            in_flight=inc.lane.in_flight() if inc is not None else 0,
            queued=inc.lane.queued if inc is not None else 0,
            queued_bytes=inc.lane.outbox.size if inc is not None else 0,
            restarts=max(0, self.generation - 1),
            uptime_s=self._kernel.loop.now() - inc.born if inc is not None else 0.0,
            reason=_why_parked(failure) if parked else failure.message,
            stderr_tail=inc.stderr.tail() if inc is not None else failure.stderr_tail,
            held=self.held,
            lease=self.lease.session if self.lease is not None else None,
            own=self.own,
            **self._activity(),
        )

    def _activity(self) -> dict[str, Any]:
        """Report what its process has done: the ground on which policies judge it."""
        inc = self.incarnation
        if inc is None:
            return {}
        pid = inc.child.pid
        asked = pid is not None and self.pool.max_rss_bytes
        return {
            "served": inc.lane.served,
            "sessions": len(inc.lane.sessions),
            "paused": inc.paused,
            "bytes_in": inc.bytes_in,
            "stderr_bytes": inc.stderr.total,
            "rss_bytes": resident_bytes(pid) if asked and pid is not None else None,
        }


def _why_parked(failure: Failure) -> str:
    if failure.permanent:  # says already that it cannot be started
        return failure.message
    return f"{failure.reason}: {failure.message}"


def _is_python(program: str) -> bool:
    """Tell whether a program may well be a worker written in Python."""
    name = program.rpartition("/")[2]
    return "python" in name or name.endswith(".py")


def _how(exit_: Exit) -> str:
    if exit_.signal is not None:
        try:
            return f"was killed by {signals.Signals(exit_.signal).name}"
        except ValueError:
            return f"was killed by signal {exit_.signal}"
    return f"exited with code {exit_.exit_code}" if exit_.exit_code is not None else "is gone"
