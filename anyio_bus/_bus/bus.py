"""Own the session boundary: :func:`open_bus`, and the :class:`Bus` that lives inside its block."""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar, final, overload

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec
from msgspec import UNSET, Raw, UnsetType

from anyio_bus._backends.base import Backend
from anyio_bus._backends.select import BackendOption, open_backend
from anyio_bus._bus.calls import Calls, Scope, check_timeout, raise_remote
from anyio_bus._bus.forks import abandon_in_fork
from anyio_bus._config import BusConfig, Limits, Pool, find_config, load_config
from anyio_bus._errors import (
    BusError,
    BusInternalError,
    BusStoppedError,
    InvalidArgumentError,
    InvalidStateError,
    UnknownPoolError,
    error_from_failure,
)
from anyio_bus._io.loop import Bell, current_loop
from anyio_bus._sansio.codec import decode_value, encode_notification, encode_value, swap_id
from anyio_bus._sansio.events import KernelStatistics, WorkerInfo
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.messages import Message
from anyio_bus._sansio.routing import Refused, Route

__all__ = ("Bus", "BusState", "BusStatistics", "open_bus")

T = TypeVar("T")

logger = logging.getLogger("anyio_bus")

REAP_S = 0.5  # that the last, synchronous rung may block the loop


class BusState(enum.StrEnum):
    """Where a bus stands."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FORKED = "forked"  # this process is a fork of the one that opened it


class BusStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a bus has done and holds.

    Args:
        backend: The backend in use.
        state: State of the bus.
        pending: Requests without an outcome.
        pending_bytes: Bytes of their frames.
        waiting: Callers that wait until ``max_pending`` has room.
        timeouts: Requests that ended by their own timeout.
        unhandled: Notifications and requests of workers that nobody here handled.
        kernel: The kernel's counters.
    """

    backend: str
    state: BusState
    pending: int
    pending_bytes: int
    waiting: int
    timeouts: int
    unhandled: int
    kernel: KernelStatistics


@final
class Bus:
    """A set of worker pools, from inside an ``async with open_bus(...)`` block.

    Its methods may be called from any task of the event loop that opened it.

    Owns:
        The backend and every task, process and fd of it; :func:`open_bus` ends them all.
    """

    def __init__(self) -> None:
        """Refuse: a bus is opened, not constructed."""
        msg = "use `async with open_bus(...) as bus:`"
        raise TypeError(msg)

    @classmethod
    def _create(cls, config: BusConfig, option: BackendOption, timeout: float | None) -> Bus:
        self = object.__new__(cls)
        self._config = config
        self._loop = current_loop()
        self._calls = Calls(config.limits, self._loop)
        self._calls.on_worker_changed = self._worker_changed
        self._backend: Backend = open_backend(option, config, self._calls.deliver)
        self._calls.backend = self._backend
        self._routes = {pool.id: Route(pool.id) for pool in config.pools}
        self._default = self._routes[config.pools[0].id] if len(config.pools) == 1 else None
        self._timeout = timeout
        self._state = BusState.STARTING
        self._bell = Bell()  # state, drain, workers
        self._grace: float | None = None
        self._drain_until = 0.0
        self._tasks_scope = anyio.CancelScope(shield=True)
        self._body_scope = anyio.CancelScope()
        self.fault: BusError | None = None
        return self

    def __repr__(self) -> str:
        """Show the state and the pools."""
        return f"<Bus {self._state}: pools {', '.join(self._routes)}>"

    # -- requests -----------------------------------------------------------------------------

    @overload
    async def request(
        self,
        method: str,
        params: object = ...,
        *,
        reply: type[T],
        pool: str | None = ...,
        timeout: float | None | UnsetType = ...,
        scope: Scope | None = ...,
    ) -> T: ...

    @overload
    async def request(
        self,
        method: str,
        params: object = ...,
        *,
        reply: Any = ...,
        pool: str | None = ...,
        timeout: float | None | UnsetType = ...,
        scope: Scope | None = ...,
    ) -> Any: ...

    async def request(  # noqa: PLR0913
        self,
        method: str,
        params: object = UNSET,
        *,
        reply: Any = Any,
        pool: str | None = None,
        timeout: float | None | UnsetType = UNSET,  # noqa: ASYNC109  # data of the call
        scope: Scope | None = None,
    ) -> Any:
        """Send one request to a worker of a pool and return its result.

        It goes to the least busy ready worker. While none is ready but one is starting or about to
        be restarted, and while ``Limits.max_pending`` is reached, it waits.

        Args:
            method: JSON-RPC method name, sent as it is.
            params: What encodes to a JSON object or array; left out when UNSET or None.
            reply: The type that the result is decoded into, any that msgspec knows.
            pool: The pool; may be left out where there is only one.
            timeout: Seconds from now to the answer; None for no limit; default that of the bus.
            scope: The scope that it belongs to; default the bus's own.

        Raises:
            RemoteError: The worker answered with an error object.
            WorkerLostError: The worker went away first; see its ``stderr_tail``.
            WorkerStartError: No worker came up.
            PoolUnavailableError: Every worker of the pool is parked.
            RequestTimeoutError: No answer came in time.
            OverloadedError: A queue is full.
            FrameTooLargeError: The request, or its answer, is over ``max_frame_bytes``.
            RemoteProtocolError: The result is not a ``reply``.
            ScopeCancelledError: Its scope was cancelled.
            BusStoppedError: The bus is shutting down.

        Cancellation:
            Always a checkpoint. The wait ends at once. A request of which no byte was written never
            runs; else its worker is told, and a late answer is dropped and counted.
        """
        route = self._route(pool)
        if timeout is UNSET:
            timeout = self._timeout
        else:
            check_timeout(timeout)
        message = await self._calls.request(method, params, route, timeout, scope)
        if message.error is not UNSET or message.result is UNSET:
            raise_remote(message)
        return decode_value(message.result, reply)  # type: ignore[arg-type]  # raise_remote saw to it

    async def request_raw(
        self,
        frame: bytes | str,
        *,
        pool: str | None = None,
        timeout: float | None | UnsetType = UNSET,  # noqa: ASYNC109  # data of the call
        scope: Scope | None = None,
    ) -> bytes:
        """Send a prepared JSON-RPC request and return its response line, error responses too.

        Its id is replaced on the way and restored in the response, so it may be any valid id; its
        other members keep their bytes.

        Args:
            frame: One JSON object with ``id`` and ``method``; a newline at its end is optional.
            pool: As in :meth:`request`.
            timeout: As in :meth:`request`.
            scope: As in :meth:`request`.

        Raises:
            InvalidArgumentError: It is not a request.
            BusError: As :meth:`request`, except RemoteError.

        Cancellation:
            As :meth:`request`.
        """
        line = frame.encode() if isinstance(frame, str) else bytes(frame)
        _, before, members = swap_id(line, 0)
        if before is None or "method" not in members:
            msg = "frame is not a request: it needs both id and method; send() takes the others"
            raise InvalidArgumentError(msg, field="frame")
        method = decode_value(members["method"], str, "method")
        check_timeout(None if timeout is UNSET else timeout)
        seconds = self._timeout if timeout is UNSET else timeout
        message = await self._calls.request_members(method, members, self._route(pool), seconds, scope)
        return _response_line(message, before)

    async def notify(self, method: str, params: object = UNSET, *, pool: str | None = None) -> None:
        """Send a notification to a worker of a pool; there is no answer.

        Args:
            method: JSON-RPC method name, sent as it is.
            params: What encodes to a JSON object or array; left out when UNSET or None.
            pool: As in :meth:`request`.

        Raises:
            OverloadedError: A queue is full.
            PoolUnavailableError: Every worker of the pool is parked.

        Cancellation:
            Always a checkpoint, before anything is sent.
        """
        route = self._route(pool)
        frame = encode_notification(method, params)
        await anyio.lowlevel.checkpoint()
        self._submit(frame, route)

    async def send(self, frame: bytes | str, *, pool: str | None = None, worker: int | None = None) -> None:
        """Send a prepared notification or response as it is.

        Args:
            frame: One JSON object; a newline at its end is optional.
            pool: As in :meth:`request`.
            worker: The worker that it is for; a response needs it.

        Raises:
            InvalidArgumentError: It is not JSON, or it is a request: :meth:`request_raw` takes those.

        Cancellation:
            Always a checkpoint, before anything is sent.
        """
        line = frame.encode() if isinstance(frame, str) else bytes(frame)
        _, before, members = swap_id(line, 0)
        if before is not None and "method" in members:
            msg = "frame is a request; request_raw() sends it and returns its response"
            raise InvalidArgumentError(msg, field="frame")
        route = self._route(pool)
        if worker is not None:
            route = Route(route.pool, worker=worker)
        await anyio.lowlevel.checkpoint()
        self._submit(encode_value(Raw(line.rstrip(b"\r\n")), "frame") + b"\n", route)

    def _submit(self, frame: bytes, route: Route) -> None:
        self._check_running()
        try:
            self._backend.submit(frame, route, None)
        except Refused as exc:
            raise error_from_failure(exc.failure) from None

    def _route(self, pool: str | None) -> Route:
        if self._state is not BusState.RUNNING:
            self._check_running()
        route = self._default if pool is None else self._routes.get(pool)
        if route is not None:
            return route
        names = ", ".join(map(repr, self._routes))
        if pool is None:
            msg = f"pool= must be given: this bus has several ({names})"
            raise InvalidArgumentError(msg, field="pool")
        msg = f"there is no pool {pool!r}: this bus has {names}"
        raise UnknownPoolError(msg, pool=pool, field="pool")

    def _check_running(self) -> None:
        if self._state is BusState.RUNNING:
            return
        if self._state is BusState.FORKED:
            msg = "this process is a fork of the one that opened the bus; open another one here"
            raise InvalidStateError(msg)
        if self._state is BusState.STARTING:
            msg = "the bus is not running yet"
            raise InvalidStateError(msg)
        msg = f"bus is {'shutting down' if self._state is BusState.STOPPING else 'stopped'}"
        raise BusStoppedError(msg, sent=False)

    # -- scopes -------------------------------------------------------------------------------

    @property
    def scope(self) -> Scope:
        """The root scope: every call is in it or in one of its children."""
        return self._calls.root

    @asynccontextmanager
    async def open_scope(
        self, *, name: str = "scope", deadline: float | None = None, parent: Scope | None = None
    ) -> AsyncIterator[Scope]:
        """Open a scope for calls; pass it to them as ``scope=``.

        Leaving the block cancels what is still in it.

        Args:
            name: For logs and errors.
            deadline: Time of the loop's clock (``anyio.current_time()``) at which it is cancelled.
            parent: The scope that it lies in; default the root.

        Cancellation:
            Calls in it are withdrawn.
        """
        self._check_running()
        scope = Scope(self._calls, name, parent or self._calls.root)
        if scope.parent is not None and scope.parent.cancelled:
            scope.cancel(scope.parent.cancel_reason or "cancelled")
        if deadline is not None:
            self._calls.set_deadline(scope, deadline)
        try:
            yield scope
        finally:
            self._calls.clear_deadline(scope)
            scope._close()

    # -- workers ------------------------------------------------------------------------------

    @property
    def state(self) -> BusState:
        """Where the bus stands."""
        return self._state

    @property
    def backend(self) -> str:
        """The name of the backend in use."""
        return self._backend.name

    def workers(self) -> list[WorkerInfo]:
        """Return every worker slot, as it stands."""
        return self._backend.workers()

    def statistics(self) -> BusStatistics:
        """Return the counters."""
        calls = self._calls
        return BusStatistics(
            backend=self._backend.name,
            state=self._state,
            pending=len(calls.peer.calls),
            pending_bytes=calls.pending_bytes,
            waiting=calls.waiting,
            timeouts=calls.timeouts,
            unhandled=calls.unhandled,
            kernel=self._backend.statistics(),
        )

    def _worker_changed(self) -> None:
        self._bell.ring()

    async def wait_ready(self, pool: str | None = None) -> None:
        """Wait until the workers of a pool, or of all pools, are ready.

        Args:
            pool: The pool; None for all.

        Raises:
            WorkerStartError: Every worker of a pool is parked, since it did not come up.
            PoolUnavailableError: Every worker of a pool is parked, since it died too often.
            BusStoppedError: The bus is shutting down.

        Cancellation:
            The wait ends; bound it with ``anyio.fail_after``.
        """
        await anyio.lowlevel.checkpoint()
        names = [self._route(pool).pool] if pool is not None else list(self._routes)
        while not all([self._pool_ready(name) for name in names]):
            await self._bell.wait()
            self._check_running()

    def _pool_ready(self, pool: str) -> bool:
        states = [info.state for info in self.workers() if info.pool == pool]
        if all(state is State.PARKED for state in states):
            self._primitive(lambda: self._backend.check_pool(pool))
        return all(state in (State.READY, State.PARKED) for state in states)

    async def restart_worker(self, worker: int, *, drain_s: float | None = None) -> None:
        """Replace a worker: it finishes what it has in flight, ends, and its successor starts.

        Args:
            worker: Its number (:meth:`workers`). A parked one is started at once.
            drain_s: Seconds that it has to finish; default ``Limits.drain_timeout_s``.

        Raises:
            PoolUnavailableError: There is no such worker.

        Cancellation:
            A checkpoint, before anything is done. It does not wait for the successor.
        """
        await anyio.lowlevel.checkpoint()
        self._check_running()
        seconds = self._config.limits.drain_timeout_s if drain_s is None else drain_s
        self._primitive(lambda: self._backend.drain(worker, seconds))

    async def resize(self, pool: str, instances: int) -> None:
        """Change the number of workers of a pool; those too many finish what they have first.

        Args:
            pool: The pool.
            instances: The new number, at least 1.

        Cancellation:
            A checkpoint, before anything is done. It does not wait for the workers.
        """
        if isinstance(instances, bool) or not isinstance(instances, int) or instances < 1:
            msg = f"instances must be at least 1, not {instances!r}"
            raise InvalidArgumentError(msg, field="instances")
        await anyio.lowlevel.checkpoint()
        name = self._route(pool).pool
        drain_s = self._config.limits.drain_timeout_s
        self._primitive(lambda: self._backend.resize(name, instances, drain_s))

    @staticmethod
    def _primitive(act: Callable[[], object]) -> None:
        try:
            act()
        except Refused as exc:
            raise error_from_failure(exc.failure) from None

    # -- start and stop -----------------------------------------------------------------------

    async def stop(self, *, drain_s: float = 0.0, grace_s: float = 5.0) -> None:
        """Stop the bus, from any task; return when no worker is left.

        New work is refused at once. What is in flight may finish for ``drain_s``; the rest fails
        with :class:`BusStoppedError`. Then all workers end at once: stdin closed, SIGTERM to the
        group at 40 % of ``grace_s``, SIGKILL at 80 %. A second stop with a smaller grace shortens
        the first.

        Args:
            drain_s: Seconds for what is in flight.
            grace_s: Seconds for the workers, together.

        Cancellation:
            The wait ends; the stop goes on.
        """
        await anyio.lowlevel.checkpoint()
        self._begin_stop(drain_s, grace_s)
        await self._bell.until(self._is_over, lambda: float("inf"), self._loop.now)

    def _is_over(self) -> bool:
        return self._state in (BusState.STOPPED, BusState.FORKED)

    def _begin_stop(self, drain_s: float, grace_s: float) -> None:
        check_seconds("drain_s", drain_s)
        check_seconds("grace_s", grace_s)
        until = self._loop.now() + drain_s
        if self._state in (BusState.RUNNING, BusState.STARTING):
            self._state = BusState.STOPPING
            self._grace, self._drain_until = grace_s, until
        elif self._state is BusState.STOPPING:
            self._grace = min(grace_s, grace_s if self._grace is None else self._grace)
            self._drain_until = min(until, self._drain_until)
        self._bell.ring()

    async def _run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run everything of the bus, until it is stopped; cancelled by nothing but its own scope."""
        now = self._loop.now
        try:
            with self._tasks_scope:
                async with anyio.create_task_group() as tasks:
                    await tasks.start(self._backend.run)
                    tasks.start_soon(self._calls.alarm.run)
                    if self._state is BusState.STARTING:
                        self._state = BusState.RUNNING
                    logger.info("bus is running: backend %s, pools %s", self._backend.name, ", ".join(self._routes))
                    task_status.started()
                    await self._bell.until(lambda: self._state is not BusState.RUNNING, lambda: float("inf"), now)
                    await self._bell.until(self._is_idle, lambda: self._drain_until, now)
                    self._calls.fail_all("bus is shutting down")
                    tasks.start_soon(self._stop_backend, tasks.cancel_scope)
                    await self._follow_stops()
        finally:
            if self._state is not BusState.FORKED:
                self._state = BusState.STOPPED
            self._calls.fail_all("bus is stopped")
            self._bell.ring()

    def _is_idle(self) -> bool:
        return not self._calls.peer.calls

    async def _stop_backend(self, tasks: anyio.CancelScope) -> None:
        await self._backend.stop(self._grace or 0.0)
        tasks.cancel("bus stopped")

    async def _follow_stops(self) -> None:
        """Hand every later, shorter grace to the backend, which takes the shortest."""
        while True:
            grace = self._grace
            await self._bell.wait()
            if self._grace != grace:
                with anyio.move_on_after(0):
                    await self._backend.stop(self._grace or 0.0)

    async def _stop_at_exit(self, drain_s: float, grace_s: float) -> None:
        if not self._is_over():
            self._begin_stop(drain_s, grace_s)
            await self._bell.until(self._is_over, lambda: float("inf"), self._loop.now)

    def _kill_now(self) -> None:
        """Make sure, without the loop, that no process and no fd is left."""
        if self._state is not BusState.FORKED:
            self._backend.kill_now(REAP_S)

    def _abandon(self) -> None:
        """In a forked process: close what was inherited and refuse every use."""
        if not self._is_over():
            self._state = BusState.FORKED
            self._backend.abandon()


def check_seconds(name: str, value: object) -> None:
    """Refuse what is no duration in seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        msg = f"{name} must be seconds, 0 or more, not {value!r}"
        raise InvalidArgumentError(msg, field=name)


def _response_line(message: Message, key: Raw) -> bytes:
    members: dict[str, object] = {"jsonrpc": "2.0", "id": key}
    if message.session is not UNSET:
        members["sessionId"] = message.session
    if message.result is not UNSET:
        members["result"] = message.result
    if message.error is not UNSET and (message.result is UNSET or bytes(message.error) != b"null"):  # type: ignore[arg-type]
        members["error"] = message.error
    return encode_value(members, "response")


def _config(
    pools: tuple[Pool | BusConfig, ...], config: BusConfig | Mapping[str, Any] | str | os.PathLike[str] | None,
    limits: Limits | None,
) -> BusConfig:
    """Make one configuration of what :func:`open_bus` was given."""
    if len(pools) == 1 and isinstance(pools[0], BusConfig) and config is None:
        pools, config = (), pools[0]
    for pool in pools:
        if not isinstance(pool, Pool):
            msg = f"open_bus() takes Pool objects, not {type(pool).__name__}"
            raise InvalidArgumentError(msg, field="pools")
    if pools and config is not None:
        msg = "open_bus() takes pools or config=, not both"
        raise InvalidArgumentError(msg, field="config")
    if pools:
        return BusConfig(pools, limits or Limits())  # type: ignore[arg-type]  # checked above
    if isinstance(config, str | os.PathLike):
        config = load_config(config)
    elif isinstance(config, Mapping):
        config = BusConfig.from_mapping(dict(config))
    elif config is None:
        config = find_config()
    if not isinstance(config, BusConfig):
        msg = f"config= takes a BusConfig, a mapping or a path, not {type(config).__name__}"
        raise InvalidArgumentError(msg, field="config")
    return config if limits is None else msgspec.structs.replace(config, limits=limits)


@asynccontextmanager
async def open_bus(  # noqa: C901, PLR0913
    *pools: Pool | BusConfig,
    config: BusConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    backend: BackendOption = "auto",
    timeout: float | None = 60.0,
    drain_s: float = 0.0,
    grace_s: float = 5.0,
) -> AsyncIterator[Bus]:
    """Open a bus: start its workers, and end all of them when the block is left.

    Args:
        *pools: The pools. Without any, and without ``config``, the configuration is found as
            :func:`~anyio_bus.find_config` says.
        config: A :class:`BusConfig`, a mapping in the schema of a configuration file, or its path.
        limits: The bounds; default those of ``config``, else :class:`Limits`.
        backend: Where the kernel runs: ``"auto"``, ``"python"`` or ``Memory(...)``.
        timeout: Default timeout of requests in seconds; None for no limit.
        drain_s: Seconds for what is in flight when the block is left.
        grace_s: Seconds for the workers to end then; see :meth:`Bus.stop`.

    Yields:
        The running bus. The first workers are spawned; :meth:`Bus.wait_ready` waits for them.

    Raises:
        InvalidArgumentError: The configuration is wrong; the message names the field.
        BusInternalError: A bug of ours; please report it.

    The body's own exception comes out bare.

    Cancellation:
        Leaves the block by the same stop, within ``grace_s`` and a second.
    """
    check_timeout(timeout)
    check_seconds("drain_s", drain_s)
    check_seconds("grace_s", grace_s)
    bus = Bus._create(_config(pools, config, limits), backend, timeout)
    body_error: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            try:
                with abandon_in_fork(bus):
                    await tasks.start(bus._run)
                    with bus._body_scope:
                        yield bus
            except Exception as exc:  # noqa: BLE001  # the body's own; raised bare after the join
                body_error = exc
            finally:
                try:
                    with anyio.move_on_after(drain_s + grace_s + 1, shield=True):
                        await bus._stop_at_exit(drain_s, grace_s)
                finally:
                    bus._kill_now()
                    bus._tasks_scope.cancel("bus closed")
    except anyio.get_cancelled_exc_class():
        if body_error is None:
            raise
        raise body_error from None  # noqa: ASYNC104  # on trio it would be lost here
    except BaseExceptionGroup as group:
        raise _internal_error(group, body_error) from group
    if body_error is not None:
        raise body_error
    if bus.fault is not None:
        raise bus.fault


def _internal_error(group: BaseExceptionGroup[BaseException], body_error: Exception | None) -> BaseException:
    """Tell a bug of ours from what merely passes through: Ctrl-C and exits keep their class."""
    passing = group.subgroup((KeyboardInterrupt, SystemExit))
    while passing is not None:
        first = passing.exceptions[0]
        if not isinstance(first, BaseExceptionGroup):
            return first
        passing = first
    msg = "a bug of anyio_bus; please report it with the traceback below"
    error = BusInternalError(msg)
    if body_error is not None:
        error.add_note(f"the body of the block raised {body_error!r}")
    return error
