"""Own the ``"native"`` backend: the C kernel inside this process, pulled through cffi.

One call steps the kernel; then its events are taken and delivered as one batch. What a worker wrote
comes as runs of whole lines, each decoded by one call. Everything runs in the loop's thread.

With listeners other programs are clients of the kernel as this one is: it keeps them apart.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import msgspec

from anyio_bus._backends.flushing import Flusher
from anyio_bus._backends.listening import Native
from anyio_bus._backends.reports import (
    config_json,
    decode_failure,
    decode_frame,
    decode_session,
    decode_status,
)
from anyio_bus._errors import (
    BusInternalError,
    Failure,
    InvalidArgumentError,
    KernelCode,
    NotSupportedError,
)
from anyio_bus._io.busy_poll import MOMENT_S, BusyPoll
from anyio_bus._io.guarding import Guard
from anyio_bus._io.launch import check_launch
from anyio_bus._io.loop import Bell, current_loop
from anyio_bus._io.process import StderrRing, resident_bytes
from anyio_bus._io.stderr_log import StderrLog
from anyio_bus._sansio.codec import encode_items, encode_value, read_scalar
from anyio_bus._sansio.events import (
    ChunkLines,
    ClientChanged,
    Deliver,
    Failed,
    KernelEvent,
    KernelStatistics,
    LineBad,
    Results,
    SessionInfo,
    WorkerChanged,
    WorkerInfo,
    lines_of,
)
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.messages import BadLine, RequestId
from anyio_bus._sansio.routing import Refused, Route, Withdrawal

if TYPE_CHECKING:
    from anyio_bus._config import BusConfig, Limits
    from anyio_bus._sansio.tapping import Tap

ffi: Any = None
lib: Any = None
_WHY_NOT = ""
try:
    from anyio_bus import _native
except ImportError as exc:
    _WHY_NOT = (
        "this install of anyio_bus has no parts in C; `anyio-bus build-native` builds them"
        if exc.name != "_cffi_backend"
        else "cffi is not installed: pip install 'anyio-bus[native]'"
    )
else:
    ffi, lib = _native.ffi, _native.lib

__all__ = ("open_native", "why_not_native")

logger = logging.getLogger("anyio_bus.kernel")

STDERR_OPEN_BYTES = 8192
BOUND_BYTES = 128  # an address with its port
ROW_BYTES = len('{"jsonrpc":"2.0","id":,"method":,"params":}')  # of a frame, besides what fills it
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
_EVENTS = {logging.WARNING: "worker_died", logging.ERROR: "worker_parked"}
LOG_STRAY = 1  # ABK_LOG_STRAY
_ONLY: dict[int, Any] = {1: "answers", 2: "calls"}
_STATES = tuple(State)  # in the order of the kernel's own
_GONE = Failure(
    code=KernelCode.SHUTTING_DOWN, message="bus is stopped", reason="shutting down", sent=False
)

_NO_MEMORY = Failure(
    code=KernelCode.OVERLOADED, message="out of memory", reason="memory", sent=False
)


def why_not_native(config: BusConfig) -> str | None:
    """Say why the C kernel cannot serve these pools here; None where it can."""
    if lib is None:
        return _WHY_NOT
    if not hasattr(os, "register_at_fork"):
        return "this system has no fork"
    spawner = os.environ.get("ANYIO_BUS_SPAWNER") or "posix"
    for pool in config.pools:
        name = spawner if pool.spawn == "auto" else pool.spawn
        if name != "posix":
            return f"Pool({pool.id!r}) asks for the {name} spawner"
    return None


def open_native(config: BusConfig, deliver: Deliver, options: Native | None = None) -> NativeKernel:
    """Make the backend, and bind what it listens on; nothing is spawned before it runs.

    Raises:
        NotSupportedError: The extension is not there, or a pool asks for what it cannot do.
        InvalidArgumentError: An option of a pool is wrong on this system, or an address is taken.
    """
    why = why_not_native(config)
    if why is not None:
        msg = f"backend='native': {why}"
        raise NotSupportedError(msg, backend="native")
    for pool in config.pools:
        check_launch(pool, "posix")
    return NativeKernel(config, deliver, options or Native())


class NativeKernel:
    """The C kernel, as a backend.

    Owns:
        The kernel, with all its processes and fds, listeners and the connections of others among
        them; the watchdog of pools with ``guard=True``.

    Args:
        config: Pools and limits.
        deliver: Takes each batch of events, at once.
        options: Where it listens.
    """

    name = "native"
    borrow = None
    refresh = None

    def __init__(self, config: BusConfig, deliver: Deliver, options: Native) -> None:
        self._config = config
        self._limits: Limits = config.limits
        self._deliver = deliver
        self._bus: Any = None
        self._over = Bell()
        self._done = False
        self._event = ffi.new("abk_event *")
        self._route = ffi.new("abk_route *")
        self._route.size = ffi.sizeof("abk_route")
        self._row = ffi.new("abk_row *")
        self._row.size = ffi.sizeof("abk_row")
        self._size = ffi.new("size_t *")
        self._last_route: Route | None = None
        self._kept: tuple[Any, ...] = ()  # what the route's pointers point to
        self._pools = {pool.id: ffi.new("char[]", pool.id.encode()) for pool in config.pools}
        self._pool_of: dict[int, str] = {}
        self._loop = current_loop()
        poll_s = options.busy_poll_s
        if poll_s is None:
            poll_s = 0.0 if self._loop.idle_fd() == -1 else MOMENT_S
        self._poll_us = max(1, round(poll_s * 1e6))
        poll = BusyPoll(self._loop, self._look) if poll_s else None
        self._flusher = Flusher(self._loop, self._write, poll)
        self._flush = self._flusher.ask
        self.put_off = self._flusher.put_off
        self._tap: Tap | None = None
        self._stderr: dict[int, tuple[StderrRing, StderrLog]] = {}
        self._guard = Guard()
        self._guarded = {pool.id for pool in config.pools if pool.guard}
        self._last_statistics: KernelStatistics | None = None
        self._last_workers: list[WorkerInfo] = []
        self._takers: dict[int, Callable[[Any, list[KernelEvent]], None]] = {
            lib.ABK_EV_LINES: self._take_lines,
            lib.ABK_EV_RESULTS: self._take_results,
            lib.ABK_EV_FAILED: self._take_failed,
            lib.ABK_EV_WORKER: self._take_worker,
            lib.ABK_EV_LINE_BAD: self._take_bad_line,
            lib.ABK_EV_STDERR: self._take_stderr,
            lib.ABK_EV_LOG: self._take_log,
            lib.ABK_EV_FRAME: self._take_frame,
            lib.ABK_EV_CLIENT: self._take_client,
        }
        self.listeners: tuple[str, ...] | None = ()
        self._create()
        try:
            self.listeners = self._listen(options)
        except BaseException:
            self.kill_now(0.0)
            raise

    def _create(self) -> None:
        text = config_json(self._config)
        options = ffi.new("abk_options *")
        options.size = ffi.sizeof("abk_options")
        options.host = True
        error = ffi.new("abk_error *")
        bus = lib.abk_create(text, len(text), options, error)
        if bus == ffi.NULL:
            raise InvalidArgumentError(_text(ffi.string(error.text)))
        self._bus = bus

    def _listen(self, options: Native) -> tuple[str, ...]:
        found: tuple[str, ...] = ()
        bound, error = ffi.new("char[]", BOUND_BYTES), ffi.new("abk_error *")
        for door in options.doors():
            kept = [ffi.new("char[]", os.fsencode(text)) for text in (door.path or "", door.host)]
            token = ffi.NULL
            if door.path is None and options.token is not None:
                token = ffi.new("char[]", options.token.encode("utf-8", "surrogatepass"))
            listener = ffi.new("abk_listener *")
            listener.size = ffi.sizeof("abk_listener")
            listener.unix_path = ffi.NULL if door.path is None else kept[0]
            listener.unix_mode = 0 if door.admin else options.unix_mode
            listener.host, listener.port = kept[1], door.port
            listener.admin, listener.token = door.admin, token
            if lib.abk_listen(self._bus, listener, bound, BOUND_BYTES, error) < 0:
                msg = f"Native.{door.field}: {_text(ffi.string(error.text))}"
                cause = OSError(error.number, os.strerror(error.number)) if error.number else None
                raise InvalidArgumentError(msg, field=door.field) from cause
            at = door.url if door.path is not None else f"tcp://{_text(ffi.string(bound))}"
            found += (at,)
        return found

    # -- running ------------------------------------------------------------------------------

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Run until stopped; started when every slot has spawned its first process."""
        error = ffi.new("abk_error *")
        try:
            if self._guarded:
                self._guard.open()
            if lib.abk_start(self._bus, error) < 0:
                raise BusInternalError(_text(ffi.string(error.text)))
            self._drain()
            task_status.started()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._flusher.run)
                await self._loop.serve_readable(lib.abk_fd(self._bus), self._step)
                tasks.cancel_scope.cancel("kernel stopped")
            if self.listeners and self._bus is not None:  # nobody is served any more
                lib.abk_kill_now(self._bus, 0.0)
                self._drain()
        finally:
            self._done = True
            self._over.ring()

    def _step(self) -> bool:
        """Do what can be done now; False once nothing is left to do."""
        bus = self._bus
        if bus is None:
            return False
        if lib.abk_step(bus, 0) > 0:
            self._drain()
        return self._bus is not None and not lib.abk_stopped(bus)

    def _write(self) -> None:
        if self._bus is not None and lib.abk_flush(self._bus) > 0:
            self._drain()

    def _look(self, idle_fd: int) -> bool:
        """Look for what workers say, for a moment; see :class:`BusyPoll`."""
        for most_us, other_fd in ((0, -1), (self._poll_us, idle_fd)):
            if self._bus is not None and lib.abk_busy_poll(self._bus, most_us, other_fd) > 0:
                self._loop.serve(self._drain)
                return most_us > 0
        return False

    async def stop(self, grace_s: float, drain_s: float = 0.0) -> None:
        """End every worker, all at once, and wait until none is left.

        What other programs have in flight may finish for ``drain_s`` first.
        """
        if self._bus is not None:
            lib.abk_stop(self._bus, min(drain_s, 1e9), min(grace_s, 1e9))
            self._drain()
        while not self._done:
            await self._over.wait()

    def kill_now(self, reap_s: float) -> None:
        """Without the loop: kill and reap what is left, close every fd."""
        if self._bus is None:
            return
        self._loop.forget_readable(lib.abk_fd(self._bus))
        lib.abk_kill_now(self._bus, reap_s)
        self._last_statistics = self.statistics()
        self._last_workers = self.workers()
        bus, self._bus = self._bus, None
        lib.abk_destroy(bus)
        self._guard.close()

    def abandon(self) -> None:
        """In a forked process: close every fd, touch nothing else."""
        bus, self._bus = self._bus, None
        if bus is not None:
            lib.abk_abandon(bus)
        self._guard.abandon()

    # -- events -------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Take the kernel's events and deliver them, until there are none."""
        flusher = self._flusher
        if flusher.delivering or self._bus is None:
            return
        flusher.delivering = True
        event, bus, takers = self._event, self._bus, self._takers
        take = lib.abk_next_event
        try:
            while take(bus, event):
                events: list[KernelEvent] = []
                takers[event.type](event, events)
                while take(bus, event):
                    takers[event.type](event, events)
                if events:
                    self._deliver(events)
                if self._bus is None:
                    return
                if flusher.owes:
                    flusher.owes = False
                    lib.abk_flush(bus)
        finally:
            flusher.delivering = False

    def _where(self, event: Any) -> str:
        pool = self._pool_of.get(event.worker)
        if pool is None:
            pool = self._pool_of[event.worker] = _text(ffi.string(event.pool))
        return pool

    def _take_lines(self, event: Any, events: list[KernelEvent]) -> None:
        block = bytes(ffi.buffer(event.data, event.len))
        sole = read_scalar(_copy(event.text, event.text_len)) if event.key else None
        worker = event.worker
        pool = self._where(event)
        self._flusher.batch = event.count
        if event.a == lib.ABK_ONLY_CHUNKS:
            events.append(ChunkLines(pool, worker, block, event.count, sole))
        else:
            events += lines_of(pool, worker, block, sole, _ONLY.get(event.a))

    def _take_results(self, event: Any, events: list[KernelEvent]) -> None:
        block = bytes(ffi.buffer(event.data, event.len))
        keys = ffi.unpack(event.keys, event.count)
        self._flusher.batch = event.count
        events.append(Results(self._where(event), event.worker, keys, block))

    def _take_failed(self, event: Any, events: list[KernelEvent]) -> None:
        key = read_scalar(_copy(event.data, event.len))
        events.append(Failed(key, decode_failure(_copy(event.text, event.text_len))))

    def _take_worker(self, event: Any, events: list[KernelEvent]) -> None:
        failure = decode_failure(_copy(event.text, event.text_len)) if event.text_len else None
        pool, pid = self._where(event), event.b or None
        if pid is None and event.worker in self._stderr:
            ring, log = self._stderr[event.worker]
            log.write(ring.close(), self._loop.now())
        if _STATES[event.a] is State.STOPPED:  # its number is never used again
            self._pool_of.pop(event.worker, None)
            self._stderr.pop(event.worker, None)
        if pool in self._guarded:
            self._guard.follow(
                info.pid for info in self.workers() if info.pool in self._guarded and info.pid
            )
        events.append(
            WorkerChanged(pool, event.worker, event.generation, _STATES[event.a], pid, failure)
        )

    def _take_bad_line(self, event: Any, events: list[KernelEvent]) -> None:
        reason = _text(_copy(event.text, event.text_len))
        line = BadLine(_copy(event.data, event.len), reason, event.count)
        events.append(LineBad(self._where(event), event.worker, line))

    def _take_stderr(self, event: Any, _events: list[KernelEvent]) -> None:
        if not StderrLog.wanted():
            return
        worker, pool = event.worker, self._where(event)
        if worker not in self._stderr:
            self._stderr[worker] = StderrRing(STDERR_OPEN_BYTES), StderrLog(pool, worker)
        ring, log = self._stderr[worker]
        log.write(ring.feed(_copy(event.data, event.len)), self._loop.now())

    def _take_log(self, event: Any, _events: list[KernelEvent]) -> None:
        level = _LEVELS[event.a]
        name = "stray_answer" if event.b == LOG_STRAY else _EVENTS.get(level, "kernel")
        extra: dict[str, Any] = {"event": name}
        if event.worker >= 0:
            extra |= {"pool": self._where(event), "worker": event.worker}
        logger.log(level, "%s", _text(_copy(event.text, event.text_len)), extra=extra)

    def _take_frame(self, event: Any, _events: list[KernelEvent]) -> None:
        if self._tap is None:
            return
        self._tap([decode_frame(_copy(event.text, event.text_len))])

    def _take_client(self, event: Any, events: list[KernelEvent]) -> None:
        text = _text(_copy(event.text, event.text_len))
        if event.a == 1:
            extra = {"event": "client_came"}
            logger.debug("client %s came from %s", event.count, text, extra=extra)
            events.append(ClientChanged(event.count, "connected", peer=text))
        else:
            extra = {"event": "client_left"}
            logger.debug("client %s left: %s", event.count, text, extra=extra)
            events.append(ClientChanged(event.count, "gone", reason=text))

    # -- frames towards workers ---------------------------------------------------------------

    def _refused(self, result: int) -> Refused:
        if result == lib.ABK_ENOMEM:
            return Refused(_NO_MEMORY)
        if self._bus is None or result != lib.ABK_EREFUSED:  # it does not run yet, or no more
            return Refused(_GONE)
        text = lib.abk_refusal(self._bus, self._size)
        return Refused(decode_failure(_copy(text, self._size[0])))

    def _aim(self, route: Route) -> Any:
        """Return the route for the kernel; the last one is kept, since calls come in rows."""
        aim = self._route
        if route is self._last_route:
            return aim
        self._last_route = None  # should any of this fail
        worker = -1 if route.worker is None else route.worker
        if route.worker is not None and not _is_number(worker):
            text = f"worker {worker} of pool {route.pool!r} is not there"
            raise Refused(
                Failure(code=KernelCode.NO_WORKER, message=text, reason="worker_gone", sent=False)
            )
        pool = self._pools.get(route.pool)
        if pool is None:
            pool = ffi.new("char[]", route.pool.encode())
        aim.pool = pool
        session = None
        if route.session is not None:
            session = ffi.from_buffer(route.session.encode("utf-8", "surrogatepass"))
            aim.session, aim.session_len = session, len(session)
        else:
            aim.session, aim.session_len = ffi.NULL, 0
        aim.worker = worker
        aim.flags = (lib.ABK_ROUTE_REBIND if route.rebind else 0) | (
            lib.ABK_ROUTE_PROBE if route.probe else 0
        )
        self._last_route, self._kept = route, (pool, session)
        return aim

    def submit(self, frame: bytes, route: Route, key: RequestId) -> None:
        """Take a frame to a worker. ``key`` is its id if it is a request, else None.

        Raises:
            Refused: It cannot be taken; nothing of it was sent.
        """
        if self._bus is None:
            raise Refused(_GONE)
        aim = self._aim(route)
        if key is None:
            aim.flags |= lib.ABK_ROUTE_ORPHAN
            self._last_route = None
        result = lib.abk_submit(self._bus, aim, frame, len(frame))
        if result < 0:
            raise self._refused(result)
        self._flush()
        if key is not None:
            self._flusher.expect_answer()

    def submit_many(
        self, method: str, items: Sequence[object], route: Route, keys: list[RequestId], room: int
    ) -> int:
        """Take several requests at once; 0 if none was, and each is to be submitted."""
        first = keys[0]
        if self._bus is None or route.session is not None or route.worker is not None:
            return 0
        if route.envelope or type(first) is not int or type(method) is not str:
            return 0
        name, params, row = encode_value(method, "method"), encode_items(items), self._row
        size = len(params) + len(keys) * (len(name) + len(str(keys[-1])) + ROW_BYTES)
        if size > room:
            return 0
        kept = ffi.from_buffer(name), ffi.from_buffer(params)
        row.method, row.params = kept
        row.method_len, row.params_len = len(name), len(params)
        row.first, row.count = first, len(keys)
        taken = lib.abk_submit_row(self._bus, self._aim(route), row)
        if taken == len(keys):
            self._flush(taken)
            self._flusher.expect_answer(taken)
            return size
        for key in keys[: max(taken, 0)]:  # nothing of them was written yet
            self._take_back(key, b"")
        return 0

    def withdraw(self, key: RequestId, reason: str = "") -> Withdrawal:
        """Give up a request: it never runs, or its worker is told."""
        if self._bus is None:
            return Withdrawal.UNKNOWN
        outcome = self._take_back(key, reason.encode("utf-8", "replace"))
        if outcome < 0:
            return Withdrawal.UNKNOWN
        self._flush()
        return Withdrawal.REMOVED if outcome == lib.ABK_REMOVED else Withdrawal.CANCELLED

    def _take_back(self, key: RequestId, reason: bytes) -> int:
        name = msgspec.json.encode(key)
        found: int = lib.abk_find(self._bus, name, len(name))
        if found >= 0:
            found = lib.abk_withdraw(self._bus, found, reason, len(reason))
        return found

    # -- primitives ---------------------------------------------------------------------------

    def _done_with(self, result: int, what: str) -> int:
        """Turn a result into an exception, or tell what it has brought about."""
        if result in (lib.ABK_EREFUSED, lib.ABK_ESTATE, lib.ABK_ENOMEM):
            raise self._refused(result)
        if result < 0:
            raise Refused(
                Failure(code=KernelCode.NO_WORKER, message=what, reason="worker_gone", sent=False)
            )
        self._flush()
        self._drain()
        return result

    def _call(self, function: Callable[..., int], worker: int, *args: Any) -> int:
        if self._bus is None:
            raise Refused(_GONE)
        known = _is_number(worker)
        result = function(self._bus, worker, *args) if known else lib.ABK_ENOENT
        return self._done_with(result, f"there is no worker {worker}")

    def pause(self, worker: int) -> None:
        """Leave a worker's stdout unread until :meth:`resume`.

        Raises:
            NotSupportedError: Others may wait for that worker.
        """
        if self.listeners:
            msg = "backend='native' cannot pause a worker that others use: it listens"
            raise NotSupportedError(msg, backend=self.name)
        self._call(lib.abk_pause, worker)

    def resume(self, worker: int) -> None:
        """Read a worker's stdout again."""
        self._call(lib.abk_resume, worker)

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

        Raises:
            InvalidArgumentError: ``env`` or ``cwd`` is not what a process can have.
        """
        if self._bus is None:
            raise Refused(_GONE)
        pool = next(pool for pool in self._config.pools if pool.id == pool_id)
        if env or cwd is not None:  # the same checks as for the pool's own
            msgspec.structs.replace(pool, env=env or {}, cwd=pool.cwd if cwd is None else cwd)
        extra = ffi.new("abk_extra *")
        extra.size = ffi.sizeof("abk_extra")
        kept: list[Any] = []
        if session is not None:
            name = session.encode("utf-8", "surrogatepass")
            kept.append(ffi.from_buffer(name))
            extra.session, extra.session_len, extra.rebind = kept[-1], len(name), rebind
        if env:
            pairs = [os.fsencode(k if v is None else f"{k}={v}") for k, v in env.items()]
            strings = [ffi.new("char[]", pair) for pair in pairs]
            kept += [strings, ffi.new("const char *[]", [*strings, ffi.NULL])]
            extra.env = kept[-1]
        if cwd is not None:
            kept.append(ffi.new("char[]", os.fsencode(cwd)))
            extra.cwd = kept[-1]
        worker = lib.abk_spawn(self._bus, self._pools[pool_id], extra)
        if worker >= 0:
            self._pool_of[worker] = pool_id
        return self._done_with(worker, f"there is no pool {pool_id!r}")

    def resize(self, pool_id: str, instances: int, drain_s: float) -> None:
        """Add slots to a pool, or drain and retire the last of them."""
        if self._bus is None:
            raise Refused(_GONE)
        result = lib.abk_resize(self._bus, self._pools[pool_id], instances, drain_s)
        self._done_with(result, f"there is no pool {pool_id!r}")

    def check_pool(self, pool_id: str) -> None:
        """Refuse, with the stored reason, if every slot of the pool is parked."""
        if self._bus is None:
            return
        result = lib.abk_check_pool(self._bus, self._pools[pool_id])
        if result < 0:
            raise self._refused(result)

    def hear(self, pool_id: str, on: bool) -> None:
        """Have the kernel hand over the notifications of a pool, or drop and count them."""
        if self._bus is not None:
            lib.abk_hear(self._bus, self._pools[pool_id], on)

    def drain(self, worker: int, drain_s: float, *, retire: bool = False) -> None:
        """Let a worker finish what it has, then end it; its successor starts unless ``retire``."""
        self._call(lib.abk_drain, worker, drain_s, retire)

    def rest(self, worker: int) -> bool:
        """End a worker that is idle, until a request finds every other one busy."""
        return self._call(lib.abk_rest, worker) > 0

    def kill(self, worker: int, fault: str = "") -> None:
        """Kill a worker now; its successor starts. What it did wrong stands in its failure."""
        self._call(lib.abk_kill, worker, fault.encode("utf-8", "replace"))

    def hold(self, worker: int) -> None:
        """Give a worker no work but what names it."""
        self._call(lib.abk_hold, worker)

    def release(self, worker: int) -> None:
        """End a hold or a lease."""
        self._call(lib.abk_release, worker)

    def lease(self, worker: int, session: str, *, rebind: bool = False) -> None:
        """Keep a worker for one session: a hold, with the session bound to it."""
        name = session.encode("utf-8", "surrogatepass")
        self._call(lib.abk_lease, worker, name, len(name), rebind)

    def end_session(self, session: str) -> None:
        """Forget a session; end its lease."""
        if self._bus is not None:
            name = session.encode("utf-8", "surrogatepass")
            lib.abk_end_session(self._bus, name, len(name))
            self._flush()
            self._drain()

    def find_session(self, session: str) -> SessionInfo | None:
        """Report a session; None where it is not known."""
        if self._bus is None:
            return None
        name = session.encode("utf-8", "surrogatepass")
        found = lib.abk_find_session(self._bus, name, len(name), self._size)
        return None if found == ffi.NULL else decode_session(_copy(found, self._size[0]))

    def tap(self, callback: Tap | None) -> None:
        """Show every line of every pipe to ``callback``; None ends it."""
        self._tap = callback
        if self._bus is not None:
            lib.abk_tap(self._bus, callback is not None)

    # -- reports ------------------------------------------------------------------------------

    def workers(self) -> list[WorkerInfo]:
        """Report every slot."""
        if self._bus is None:
            return self._last_workers
        text = lib.abk_status(self._bus, self._size)
        status = decode_status(_copy(text, self._size[0]))
        return [self._with_memory(info) for info in status.workers()]

    def _with_memory(self, info: WorkerInfo) -> WorkerInfo:
        asked = any(pool.id == info.pool and pool.max_rss_bytes for pool in self._config.pools)
        if not asked or info.pid is None:
            return info
        return msgspec.structs.replace(info, rss_bytes=resident_bytes(info.pid))

    def statistics(self) -> KernelStatistics:
        """Report the counters."""
        if self._bus is None:
            assert self._last_statistics is not None  # it is made when the bus ends
            return self._last_statistics
        stats = ffi.new("abk_stats *")
        lib.abk_statistics(self._bus, stats)
        names = KernelStatistics.__struct_fields__
        return KernelStatistics(**{name: getattr(stats, name) for name in names})


def _is_number(worker: int) -> bool:
    return 0 <= worker < 1 << 31


def _copy(at: Any, size: int) -> bytes:
    return bytes(ffi.buffer(at, size)) if size else b""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
