"""Own the requests of workers: who serves them, which of them run, and the one answer of each."""

from __future__ import annotations

import fnmatch
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import msgspec

from anyio_bus._bus.handler_context import HandlerContext
from anyio_bus._errors import (
    InvalidArgumentError,
    KernelCode,
    UnknownPoolError,
    WorkerLostError,
    error_from_failure,
)
from anyio_bus._io.raised import exit_in, is_cancellation
from anyio_bus._sansio.answers import error_frame, result_frame
from anyio_bus._sansio.binding import Binding
from anyio_bus._sansio.codec import encode_error
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.profiles import CANCEL_METHODS, SILENT_METHODS
from anyio_bus._sansio.routing import Refused, Route
from anyio_bus._sansio.throttle import LOG_BURST, LOG_WINDOW_S, Throttles

if TYPE_CHECKING:
    from anyio_bus._bus.bus import Bus
    from anyio_bus._bus.calls import Calls, Scope
    from anyio_bus._bus.observing import Telemetry
    from anyio_bus._config import BusConfig
    from anyio_bus._io.loop import Loop
    from anyio_bus._sansio.events import Lines, WorkerChanged
    from anyio_bus._sansio.messages import Message, RequestId

__all__ = ("Handlers",)

logger = logging.getLogger("anyio_bus")

_WILD = re.compile(r"[*?[]")
_DEAD = frozenset({State.BACKOFF, State.PARKED, State.STOPPED, State.VACANT})
_UNTOLD: AbstractContextManager[None] = nullcontext()
_METHOD_CHARACTERS = 200  # of a method that is repeated to the worker that called it
_cancel = msgspec.json.Decoder(dict[str, Any])
_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError)


class _Registration(msgspec.Struct, frozen=True, eq=False):
    """One function that serves some methods."""

    pattern: str
    pool: str | None
    scope: Any  # a Scope
    function: Callable[..., Any]
    binding: Any  # a Binding
    matches: Callable[[str], object] | None  # None: the pattern is a name

    def serves(self, pool: str, method: str) -> bool:
        if self.pool is not None and self.pool != pool:
            return False
        return self.pattern == method if self.matches is None else bool(self.matches(method))

    @property
    def rank(self) -> tuple[bool, int, bool]:
        """Names before patterns, long before short, those for one pool before those for all."""
        return self.matches is None, len(self.pattern), self.pool is not None


class Handlers:
    """What answers the requests of workers.

    A request is opened, and closed when its handler has ended. In between it is answered, once: by
    what the handler did or, before it has ended, because it was cancelled.

    Owns:
        The requests that run, each in a task of the bus.

    Args:
        calls: The calls of the bus, which pass on what workers send.
        config: The pools and limits.
        loop: The running event loop.
    """

    def __init__(self, calls: Calls, config: BusConfig, loop: Loop) -> None:
        self.bus: Bus  # what contexts show; set before anything runs
        self.dropped: int = 0
        self.on_idle: Callable[[], None] | None = None
        self._calls = calls
        self._pools = frozenset(pool.id for pool in config.pools)
        self._max_running = config.limits.max_handlers
        self._max_frame_bytes = config.limits.max_frame_bytes
        self._now = loop.now
        self._registered: list[_Registration] = []  # the best match first
        self._running: dict[HandlerContext, None] = {}
        self._by_id: dict[tuple[int, RequestId], HandlerContext] = {}  # used twice: the later one
        self._throttles = Throttles(LOG_BURST, LOG_WINDOW_S)
        self._closed: str | None = None
        self.telemetry: Telemetry | None = None
        self._start_soon: Callable[..., Any]
        self._interrupt: Callable[[BaseException], None]

    # -- who serves what ----------------------------------------------------------------------

    def add(
        self,
        pattern: str,
        function: Callable[..., Any],
        *,
        pool: str | None = None,
        scope: Scope | None = None,
        names: Mapping[str, Any] | None = None,
    ) -> Callable[[], None]:
        """Register a function; return what removes it.

        Raises:
            InvalidArgumentError: It cannot serve, or another one serves exactly this already.
        """
        if not isinstance(pattern, str) or not pattern:
            msg = f"pattern must be a method's name, or one with *, not {pattern!r}"
            raise InvalidArgumentError(msg, field="pattern")
        if pool is not None and pool not in self._pools:
            msg = f"there is no pool {pool!r}: this bus has {', '.join(map(repr, self._pools))}"
            raise UnknownPoolError(msg, pool=pool, field="pool")
        what = f"handler {pattern!r}"
        matches = re.compile(fnmatch.translate(pattern)).match if _WILD.search(pattern) else None
        new = _Registration(
            pattern,
            pool,
            self._calls.checked_scope(scope),
            function,
            Binding(function, what, HandlerContext, names),
            matches,
        )
        self._forget_ended_scopes()
        if any((old.pattern, old.pool) == (pattern, pool) for old in self._registered):
            msg = f"{what} has a function already"
            raise InvalidArgumentError(msg, field="pattern")
        self._registered.append(new)
        self._registered.sort(key=lambda registration: registration.rank, reverse=True)
        return lambda: self._remove(new)

    def add_all(self, handlers: Mapping[str, Callable[..., Any]]) -> None:
        """Register what ``open_bus(handlers=...)`` was given."""
        if not isinstance(handlers, Mapping):
            msg = f"handlers must map methods to functions, not be {type(handlers).__name__}"
            raise InvalidArgumentError(msg, field="handlers")
        for pattern, function in handlers.items():
            self.add(pattern, function)

    def _remove(self, registration: _Registration) -> None:
        if registration in self._registered:
            self._registered.remove(registration)

    def _forget_ended_scopes(self) -> None:
        root = self._calls.root
        self._registered = [
            each for each in self._registered if each.scope is root or not each.scope.cancelled
        ]

    def _find(self, pool: str, method: str) -> _Registration | None:
        for each in self._registered:
            if each.serves(pool, method):
                if each.scope.cancelled and each.scope is not self._calls.root:
                    self._forget_ended_scopes()
                    return self._find(pool, method)
                return each
        return None

    # -- what workers send --------------------------------------------------------------------

    def take(self, event: Lines, message: Message) -> None:
        """Serve a request of a worker, or refuse it."""
        method: str = message.method  # type: ignore[assignment]  # a request has one
        registration = self._find(event.pool, method)
        if registration is None:
            self._calls.unhandled += 1
            text = f"no handler for method {method[:_METHOD_CHARACTERS]!r}"
            self._refuse(event, message, KernelCode.METHOD_NOT_FOUND, text)
        elif self._closed is not None:
            self._refuse(event, message, KernelCode.SHUTTING_DOWN, self._closed)
        elif registration.scope.cancelled:
            text = f"cancelled: {registration.scope.cancel_reason}"
            self._refuse(event, message, KernelCode.CANCELLED, text)
        elif len(self._running) >= self._max_running:
            text = f"overloaded: max_handlers={self._max_running} requests of workers are served"
            self._refuse(event, message, KernelCode.OVERLOADED, text)
        else:
            self._begin(
                registration, HandlerContext._create(self, event, message, registration.scope)
            )

    def cancel(self, event: Lines, message: Message) -> bool:
        """Cancel a request of a worker, on its own word; return whether it is one that runs."""
        method: str = message.method  # type: ignore[assignment]
        try:
            key = _cancel.decode(message.params)[CANCEL_METHODS[method]]  # type: ignore[arg-type]
            context = self._by_id.get((event.worker, key))
        except _BAD:  # no such params; an id that is a list, say
            return False
        if context is None:
            return False
        if method in SILENT_METHODS:
            context._over = True
        self._end(context, "by the worker", KernelCode.CANCELLED, "cancelled by the worker")
        return True

    def worker_changed(self, event: WorkerChanged) -> None:
        """Cancel what a dead worker asked for: nobody is left to be answered."""
        if event.state not in _DEAD:
            return
        for context in [each for each in self._running if each._worker == event.worker]:
            context._over = context._gone = True
            context._cancel_scope.cancel("its worker is gone")
        if event.state is State.STOPPED:
            for kind in ("raised", "dropped"):
                self._throttles.drop((event.worker, kind))

    # -- the life of one ----------------------------------------------------------------------

    def _begin(self, registration: _Registration, context: HandlerContext) -> None:
        """Call a plain function; start a task for what has to be awaited."""
        self._open(context)
        try:
            args, kwargs = registration.binding.arguments(context, context._params)
            context._keep_only_own()
            if registration.binding.is_async:
                self._start_soon(self._serve, context, registration.function, args, kwargs)
                return
            with self._telling(context):
                result = registration.function(*args, **kwargs)
        except BaseException as exc:  # noqa: ASYNC103, BLE001  # it costs this one request
            self._fail(context, exc)
            self._close(context)
            return  # noqa: ASYNC104
        if inspect.isawaitable(result):
            self._start_soon(self._serve, context, _itself, [result], {})
            return
        self._finish(context, result)
        self._close(context)

    async def _serve(  # noqa: ASYNC910  # the handler has them, or not
        self,
        context: HandlerContext,
        function: Callable[..., Awaitable[Any]],
        args: list[Any],
        kwargs: dict[str, Any],
    ) -> None:
        try:
            with context._cancel_scope:
                if context.cancelled and function is not _itself:  # what was made must be awaited
                    return  # noqa: ASYNC910  # its handler was not called
                try:
                    with self._telling(context):
                        result = await function(*args, **kwargs)
                except BaseException as exc:  # noqa: ASYNC103  # it costs this one request
                    if is_cancellation(exc):
                        raise
                    self._fail(context, exc)
                else:
                    self._finish(context, result)
        finally:
            self._close(context)

    def _telling(self, context: HandlerContext) -> AbstractContextManager[None]:
        if self.telemetry is None:
            return _UNTOLD
        where: dict[str, Any] = {"pool": context._pool, "worker": context._worker}
        return self.telemetry.serving(context._method, context._key, context.meta, **where)

    def _open(self, context: HandlerContext) -> None:
        self._running[context] = None
        self._by_id[context._worker, context._key] = context
        context._scope._members[context] = None

    def _close(self, context: HandlerContext) -> None:
        context._over = True
        del self._running[context]
        del context._scope._members[context]
        if self._by_id.get((context._worker, context._key)) is context:
            del self._by_id[context._worker, context._key]
        if self.on_idle is not None and not self._running:
            self.on_idle()

    def _finish(self, context: HandlerContext, result: object) -> None:
        if not context._over:
            limit, report = self._max_frame_bytes, self._reporter(context)
            frame = result_frame(context._key, context._method, result, limit, report)
            self._answer(context, frame)

    def _fail(self, context: HandlerContext, exc: BaseException) -> None:
        limit, report = self._max_frame_bytes, self._reporter(context)
        self._answer(context, error_frame(context._key, context._method, exc, limit, report))
        passing = exit_in(exc)
        if passing is not None:
            self._interrupt(passing)

    def _end(self, context: HandlerContext, reason: str, code: int, text: str) -> None:
        """Cancel one that runs, and answer it at once: what it does until it has ended is its own."""
        context._cancel_scope.cancel(reason)
        self._answer(context, encode_error(context._key, code, text))

    # -- the end ------------------------------------------------------------------------------

    def open(
        self, start_soon: Callable[..., Any], interrupt: Callable[[BaseException], None]
    ) -> None:
        """Begin: tasks can be started from here on.

        Args:
            start_soon: Starts a task of the bus.
            interrupt: Called with a KeyboardInterrupt or SystemExit that a handler raised.
        """
        self._start_soon = start_soon
        self._interrupt = interrupt

    def close(self, reason: str) -> None:
        """Cancel everything and refuse what comes; workers are told, while they still listen."""
        self._closed = reason
        for context in list(self._running):
            self._end(context, reason, KernelCode.SHUTTING_DOWN, reason)

    @property
    def running(self) -> int:
        """Number of requests that are served."""
        return len(self._running)

    @property
    def idle(self) -> bool:
        """Whether every handler has ended."""
        return not self._running

    @property
    def running_methods(self) -> list[str]:
        """The methods of those that have not ended."""
        return sorted({context._method for context in self._running})

    def cancel_in_scope(self, context: HandlerContext, scope: Scope, reason: str) -> None:
        """Cancel one that runs: its scope was cancelled."""
        self._end(context, f"scope {scope.name!r}", KernelCode.CANCELLED, f"cancelled: {reason}")

    # -- frames to workers --------------------------------------------------------------------

    def notify(self, context: HandlerContext, frame: bytes) -> None:
        """Send a notification to the worker that asked."""
        if context._gone:
            msg = f"worker {context._worker} of pool {context._pool!r}, which asked, is gone"
            raise WorkerLostError(
                msg, pool=context._pool, worker=context._worker, reason="gone", sent=False
            )
        try:
            self._submit(frame, context._pool, context._worker)
        except Refused as exc:
            raise error_from_failure(exc.failure) from None

    def _answer(self, context: HandlerContext, frame: bytes) -> None:
        if not context._over:
            context._over = True
            self._send(frame, context._pool, context._worker)

    def _refuse(self, event: Lines, message: Message, code: int, text: str) -> None:
        key: RequestId = message.id  # type: ignore[assignment]
        self._send(encode_error(key, code, text), event.pool, event.worker)

    def _send(self, frame: bytes, pool: str, worker: int) -> None:
        try:
            self._submit(frame, pool, worker)
        except Refused as exc:
            self.dropped += 1
            note = self._throttles.note((worker, "dropped"), self._now())
            if note is not None:
                text = "an answer to worker %s/%s is dropped: %s%s"
                extra = {"event": "answer_dropped", "pool": pool, "worker": worker}
                logger.warning(text, pool, worker, exc.failure.message, note, extra=extra)

    def _submit(self, frame: bytes, pool: str, worker: int) -> None:
        self._calls.backend.submit(frame, Route(pool, worker=worker), None)

    def _reporter(self, context: HandlerContext) -> Callable[[str, BaseException], None]:
        """Return what logs the errors of one handler."""

        def report(text: str, exc: BaseException) -> None:
            worker = None if context._gone else context._worker  # whose throttle may be dropped
            note = self._throttles.note((worker, "raised"), self._now())
            if note is not None:
                pool, worker = context._pool, context._worker
                extra = {"event": "handler_raised", "pool": pool, "worker": worker}
                logger.error("%s/%s: %s%s", pool, worker, text, note, exc_info=exc, extra=extra)

        return report


async def _itself(result: Awaitable[Any]) -> Any:
    return await result
