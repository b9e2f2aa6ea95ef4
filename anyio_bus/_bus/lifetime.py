"""Own the life of a bus: the state that it is in, and the tasks that it runs until it is stopped."""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from anyio_bus._errors import BusStoppedError, InvalidStateError
from anyio_bus._io.loop import Bell, Loop

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend
    from anyio_bus._bus.calls import Calls
    from anyio_bus._bus.handlers import Handlers
    from anyio_bus._bus.policy import Policies
    from anyio_bus._sansio.events import WorkerChanged

__all__ = ("BusState", "Lifetime")

logger = logging.getLogger("anyio_bus")

HANDLERS_S = 1.0  # for what handlers do when they are cancelled, before the log names them
REAP_S = 0.5  # that the last, synchronous rung may block the loop


class BusState(enum.StrEnum):
    """Where a bus stands."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FORKED = "forked"  # this process is a fork of the one that opened it


class Lifetime:
    """Runs a backend and the deadlines of the calls, from the first spawn to the last reaped worker.

    Once it has started its tasks are shielded: nothing cancels them but :meth:`kill_now`, so that a
    cancelled block still stops in order. A start that is cancelled is none: it kills what it spawned.
    Commands are posted, from any task, and carried out by the bus's own.

    Owns:
        The task group of the bus.

    Args:
        backend: The kernel.
        calls: The calls, failed when the bus stops.
        handlers: What answers workers; their tasks are the bus's.
        loop: The running event loop.
        policies: What is done with the workers while the bus runs.
    """

    def __init__(
        self,
        backend: Backend,
        calls: Calls,
        handlers: Handlers,
        policies: Policies,
        loop: Loop,
    ) -> None:
        self.state = BusState.STARTING
        self.running_in: int | None = None  # the thread in which it runs; None while it does not
        self.bell = Bell()  # rings when the state, a worker or a call that a stop waits for changes
        self.body_scope = anyio.CancelScope()
        self.fault: BaseException | None = None
        self.at_end: list[Callable[[], None]] = []  # called when nothing more can come
        self.at_fork: list[Callable[[], None]] = []  # called in a fork, to close fds
        self._backend = backend
        self._calls = calls
        self._handlers = handlers
        self._policies = policies
        self._now = loop.now
        self._grace_s = float("inf")
        self._drain_until = float("inf")
        self._tasks_scope = anyio.CancelScope()
        self._policies_scope = anyio.CancelScope()  # nothing is started once a stop is asked for
        self._thread = threading.current_thread()
        self.thread_id: int = threading.get_ident()
        self.start_soon: Callable[..., Any]  # a task of the bus; once it is running

    def worker_changed(self, _event: WorkerChanged) -> None:
        """Wake whoever waits for a worker."""
        self.bell.ring()

    @property
    def over(self) -> bool:
        """Whether there is nothing left to stop."""
        return self.state in (BusState.STOPPED, BusState.FORKED)

    def check_running(self) -> None:
        """Refuse use before the start, after a stop was asked for, by a thread or process not its own.

        Raises:
            InvalidStateError: It is not running yet, or this is a fork or another thread.
            BusStoppedError: It stops or has stopped.
        """
        if threading.get_ident() == self.running_in:
            return
        self.check_place()
        if self.state is BusState.STARTING:
            msg = "the bus is not running yet"
            raise InvalidStateError(msg)
        msg = f"bus is {'shutting down' if self.state is BusState.STOPPING else 'stopped'}"
        raise BusStoppedError(msg, sent=False)

    def check_place(self) -> None:
        """Refuse use in a forked process, and by a thread that is not the event loop's.

        Raises:
            InvalidStateError: This is one.
        """
        self.check_process()
        self.check_thread()

    def check_thread(self) -> None:
        """Refuse use by a thread that is not the event loop's.

        Raises:
            InvalidStateError: This is one.
        """
        if threading.get_ident() != self.thread_id:
            msg = (
                f"thread {threading.current_thread().name!r} cannot use a bus of thread "
                f"{self._thread.name!r} directly: use bus.from_thread there"
            )
            raise InvalidStateError(msg)

    def check_process(self) -> None:
        """Refuse use in a forked process.

        Raises:
            InvalidStateError: This is one.
        """
        if self.state is BusState.FORKED:
            msg = "this process is a fork of the one that opened the bus; open another one here"
            raise InvalidStateError(msg)

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Run everything of the bus until it is stopped."""
        try:
            with self._tasks_scope:
                async with anyio.create_task_group() as tasks:
                    self._handlers.open(tasks.start_soon, self.interrupt)
                    self.start_soon = tasks.start_soon
                    await tasks.start(self._backend.run)
                    tasks.start_soon(self._calls.alarm.run)
                    if self.state is BusState.STARTING:
                        self._change(BusState.RUNNING)
                    if self._policies.wanted:
                        self._policies.look()  # spares are there as soon as the bus is
                        tasks.start_soon(self._run_policies)
                    logger.info(
                        "bus is running: backend %s",
                        self._backend.name,
                        extra={"event": "bus_running"},
                    )
                    task_status.started()
                    await self._wind_up(tasks)
                    tasks.cancel_scope.cancel("bus stopped")
        finally:
            if self.state is not BusState.FORKED:
                self._change(BusState.STOPPED)
            self._calls.fail_all("bus is stopped")
            for end in self.at_end:
                end()
            self.bell.ring()

    def _change(self, state: BusState) -> None:
        self.state = state
        self.running_in = self.thread_id if state is BusState.RUNNING else None

    def interrupt(self, exc: BaseException) -> None:
        """End the block with this: a handler raised what is to end the program."""
        self.fault = self.fault or exc
        self.body_scope.cancel("a handler raised what ends the program")

    async def _run_policies(self) -> None:
        with self._policies_scope:
            await self._policies.run()

    def protect(self) -> None:
        """Shield the tasks from whatever cancels the block; called when the start is over.

        Not before: whoever starts a task and is cancelled waits until it ends.
        """
        self._tasks_scope.shield = True

    async def _wind_up(self, tasks: anyio.abc.TaskGroup) -> None:
        """Wait until a stop is asked for; let calls finish; end the workers."""
        await self.bell.until(lambda: self.state is not BusState.RUNNING, _never, self._now)
        calls = self._calls
        self._policies_scope.cancel("bus is shutting down")
        handlers = self._handlers
        calls.fail_waiting("bus is shutting down")
        calls.on_idle = handlers.on_idle = self.bell.ring
        await self.bell.until(
            lambda: not calls.peer.calls and handlers.idle, lambda: self._drain_until, self._now
        )
        handlers.close("bus is shutting down")
        calls.fail_all("bus is shutting down")
        tasks.start_soon(self._follow_shorter_stops)
        await self._backend.stop(self._grace_s, self._drain_left())
        limit = self._now() + HANDLERS_S
        if not await self.bell.until(lambda: handlers.idle, lambda: limit, self._now):
            names = ", ".join(handlers.running_methods)
            extra = {"event": "handlers_stuck"}
            logger.error("cancelled handlers did not end: %s", names, extra=extra)

    def _drain_left(self) -> float:
        return max(0.0, self._drain_until - self._now())

    async def _follow_shorter_stops(self) -> None:
        while True:
            await self.bell.wait()
            with anyio.move_on_after(0):  # the backend takes a shorter one; the first stop waits
                await self._backend.stop(self._grace_s, self._drain_left())

    async def stop(self, drain_s: float, grace_s: float) -> None:
        """Ask for a stop, or for a shorter one, and wait until it is over."""
        self.ask_to_stop(drain_s, grace_s)
        await self.bell.until(lambda: self.over, _never, self._now)

    def ask_to_stop(self, drain_s: float, grace_s: float) -> None:
        """Ask for a stop, or for a shorter one."""
        if self.state in (BusState.STARTING, BusState.RUNNING):
            self._change(BusState.STOPPING)
        self._grace_s = min(grace_s, self._grace_s)
        self._drain_until = min(self._now() + drain_s, self._drain_until)
        self.bell.ring()

    def kill_now(self) -> None:
        """Make sure, without the loop, that no process and no fd is left; end the tasks."""
        if self.state is not BusState.FORKED:
            self._backend.kill_now(REAP_S)
        self._tasks_scope.cancel("bus closed")

    def abandon(self) -> None:
        """In a forked process: close what was inherited and refuse every use."""
        if not self.over:
            self._change(BusState.FORKED)
            self._backend.abandon()
            for abandon in self.at_fork:
                abandon()


def _never() -> float:
    return float("inf")
