"""Own what a program holds inside an ``async with open_bus(...)`` block: the :class:`Bus`.

It is one class, since that is what its users hold; most of it says what its methods promise. What
they do is done elsewhere: each checks its arguments and passes them to the part that owns the matter.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from threading import get_ident
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, final, overload

import anyio
import anyio.lowlevel
import msgspec
from msgspec import UNSET, Raw, UnsetType

from anyio_bus._backends.select import open_backend
from anyio_bus._bus.bad_lines import BadLines
from anyio_bus._bus.blocks import entered_as
from anyio_bus._bus.calls import (
    Batch,
    Call,
    Calls,
    Ids,
    Scope,
    check_count,
    check_deadline,
    check_seconds,
    check_timeout,
    result_of,
)
from anyio_bus._bus.clients import Clients
from anyio_bus._bus.handlers import Handlers
from anyio_bus._bus.identity import AuditEvent, Identity, envelope_members
from anyio_bus._bus.inbound import Inbound
from anyio_bus._bus.leases import Opening
from anyio_bus._bus.lifetime import BusState, Lifetime
from anyio_bus._bus.maps import MapResults, open_map
from anyio_bus._bus.observing import observed
from anyio_bus._bus.policy import Policies
from anyio_bus._bus.retries import Attempts, check_retry
from anyio_bus._bus.sessions import Session, Sessions, scope_in
from anyio_bus._bus.streams import DEFAULT_BUFFER_BYTES, ChunkSink, Collect, Stream, StreamOptions
from anyio_bus._bus.subscriptions import Callback, Filter, Overflow, Subscription
from anyio_bus._bus.taps import (
    RECORDING_BYTES,
    FrameStream,
    MessageHook,
    Recording,
    Redact,
    TapOverflow,
    Taps,
    open_recording,
)
from anyio_bus._bus.threads import FromThread, Threads
from anyio_bus._errors import (
    BusError,
    InvalidArgumentError,
    NotSupportedError,
    UnknownPoolError,
    error_from_failure,
)
from anyio_bus._io.loop import current_loop
from anyio_bus._sansio.binding import check_name
from anyio_bus._sansio.codec import (
    decode_envelope,
    decode_value,
    decoder_of,
    encode_envelope,
    encode_notification,
    encode_value,
    read_frame,
)
from anyio_bus._sansio.events import BadLineInfo, ClientChanged, KernelStatistics, WorkerInfo
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.messages import Message, Result, is_error
from anyio_bus._sansio.routing import Refused, Route

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend
    from anyio_bus._backends.remote import Reached
    from anyio_bus._backends.select import BackendOption
    from anyio_bus._bus.observing import Telemetry
    from anyio_bus._config import BusConfig, Retry
    from anyio_bus._sansio.events import Deliver
    from anyio_bus._sansio.notifications import Notification

__all__ = ("Bus", "BusStatistics")

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_FIXED = frozenset({"jsonrpc", "id", "method", "params", "sessionId", "pool"})  # the bus's own
_ANSWERS = frozenset({Message, Result})
_VALUES = frozenset({dict, list, str, int, float, bool, NoneType})  # as JSON is decoded
FEW_CALLS = 8  # among which a caller is looked at before it asks: cancelled, it is not sent
_ENVELOPE = frozenset({"sessionId", "pool"})  # members that say where a frame goes


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
        unattributed: Chunks that could be of several streams, or of none; followers had them.
        handling: Requests of workers that are served now.
        dropped_answers: Answers to workers that their queues had no room for.
        clients: Programs that are connected to the kernel, where it listens; this one is among
            them where the kernel is elsewhere.
        kernel: The kernel's counters.
    """

    backend: str
    state: BusState
    pending: int
    pending_bytes: int
    waiting: int
    timeouts: int
    unhandled: int
    unattributed: int
    handling: int
    dropped_answers: int
    clients: int
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

    _config: BusConfig
    _calls: Calls
    _handlers: Handlers
    _inbound: Inbound
    _collecting: frozenset[str]
    _lone: frozenset[str]
    _bad_lines: BadLines
    _clients: Clients
    _backend: Backend
    _life: Lifetime
    _policies: Policies
    _taps: Taps
    _routes: dict[str, Route]
    _enveloped: frozenset[str]
    _default: Route | None
    _sessions: Sessions
    _timeout: float | None
    _threads: Threads

    @classmethod
    def _create(
        cls,
        config: BusConfig,
        option: BackendOption | Reached,
        timeout: float | None,
        telemetry: Telemetry | None = None,
        ids: Ids = "number",
    ) -> Bus:
        self = object.__new__(cls)
        loop = current_loop()
        self._config = config
        self._calls = Calls(config.limits, loop, ids)
        deliver: Deliver = self._calls.deliver
        if telemetry is not None:
            self._calls.observer = telemetry.observer()
            deliver = observed(self._calls, self._calls.observer)
        self._backend = self._calls.backend = open_backend(option, config, deliver)
        self._handlers = handlers = Handlers(self._calls, config, loop)
        handlers.bus = self
        handlers.telemetry = telemetry
        self._bad_lines = BadLines(loop)
        self._policies = Policies(config, self._backend, self._calls, loop)
        self._life = Lifetime(self._backend, self._calls, handlers, self._policies, loop)
        self._taps = Taps(self._calls)
        self._life.at_end.append(self._taps.end)
        self._life.at_fork.append(self._taps.abandon)
        self._inbound = Inbound(config.pools, self._calls)
        self._calls.on_notifications = self._inbound.take
        self._calls.on_chunks = self._inbound.take_chunks
        self._life.at_end.append(self._inbound.end_all)
        self._collecting = frozenset(pool.id for pool in config.pools if pool.collect == "text")
        # No row is for them: a kernel looks for a session in the params of each.
        in_params = frozenset(pool.id for pool in config.pools if pool.session != "top")
        self._lone = self._collecting | in_params
        self._calls.on_request = handlers.take
        self._calls.on_cancel = handlers.cancel
        self._calls.on_bad_line = self._bad_lines.take
        self._clients = Clients(loop)
        self._calls.on_client = self._clients.take
        for part in (self._life, handlers, self._bad_lines):
            self._calls.worker_listeners.append(part.worker_changed)
        if self._policies.wanted:
            self._calls.worker_listeners.append(self._policies.worker_changed)
        self._routes = {pool.id: Route(pool.id) for pool in config.pools}
        self._enveloped = frozenset(p.id for p in config.pools if p.envelope == "keep")
        self._default = self._routes[config.pools[0].id] if len(config.pools) == 1 else None
        self._timeout = timeout
        self._sessions = Sessions(self)
        self._calls.check_thread = self._life.check_thread
        self._threads = Threads(loop, self._life)
        self._life.at_end.append(self._threads.end)
        return self

    def __repr__(self) -> str:
        """Show the state and the pools."""
        return f"<Bus {self.state}: pools {', '.join(self._routes)}>"

    # -- requests -----------------------------------------------------------------------------

    @overload
    async def request(
        self,
        method: str,
        params: object = ...,
        *,
        reply: type[T],
        pool: str | None = ...,
        session: str | Session | None = ...,
        timeout: float | UnsetType | None = ...,
        progress_renews: bool = ...,
        collect: Collect | UnsetType = ...,
        retry: Retry | None = ...,
        envelope: Mapping[str, object] | None = ...,
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
        session: str | Session | None = ...,
        timeout: float | UnsetType | None = ...,
        progress_renews: bool = ...,
        collect: Collect | UnsetType = ...,
        retry: Retry | None = ...,
        envelope: Mapping[str, object] | None = ...,
        scope: Scope | None = ...,
    ) -> Any: ...

    async def request(
        self,
        method: str,
        params: object = UNSET,
        *,
        reply: Any = Any,
        pool: str | None = None,
        session: str | Session | None = None,
        timeout: float | UnsetType | None = UNSET,  # data of the call
        progress_renews: bool = False,
        collect: Collect | UnsetType = UNSET,
        retry: Retry | None = None,
        envelope: Mapping[str, object] | None = None,
        scope: Scope | None = None,
    ) -> Any:
        """Send one request to a worker of a pool and return its result.

        It goes to the least busy ready worker, in a session to the worker that holds it. While none
        is ready but one is starting or about to be restarted, and while ``Limits.max_pending`` is
        reached, it waits.

        Args:
            method: JSON-RPC method name, sent as it is.
            params: What encodes to a JSON object or array; left out when UNSET or None.
            reply: The type that the result is decoded into, any that msgspec knows.
            pool: The pool; may be left out where there is only one, and with a session that has one.
            session: The session that it belongs to: one of :meth:`session`, or any text, which
                names a session that begins with its first use.
            timeout: Seconds from now to the answer, all attempts and the pauses between them
                included; None for no limit; default that of the bus.
            progress_renews: Start the timeout anew whenever a chunk of the answer comes, all of it,
                for further attempts as well.
            collect: ``"text"`` puts the joined text of its chunks into a result that is an object
                without a ``text``; default that of the pool.
            retry: When to send it again; default never. A pause that would not end within the
                timeout is not waited for: the error before it is raised at once.
            envelope: More members for the top level of its frame.
            scope: The scope that it belongs to; default that of the session, else the bus's own.

        Raises:
            RemoteError: The worker answered with an error object.
            WorkerLostError: The worker went away first; see its ``stderr_tail``.
            WorkerStartError: No worker came up.
            PoolUnavailableError: Every worker of the pool is parked.
            SessionLostError: The worker that held the session is gone.
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
        route = self._route(pool, session)
        if envelope is not None:
            route = _enclosed(route, envelope)
        if session is not None:
            scope = scope_in(session, scope)
        if timeout is UNSET:
            timeout = self._timeout
        else:
            check_timeout(timeout)
        if reply is not Any:
            decoder_of(reply)  # a type that cannot be decoded is found before anything is sent
        follows = collect is not UNSET or progress_renews or retry is not None
        if not (follows or session is not None or scope is not None or route.pool in self._lone):
            rows = self._calls.rows
            row = rows.open(method, route, timeout, reply is Any)
            if row is not None:
                waiter = row.join(params)
                try:
                    answer = await waiter
                except BaseException:
                    rows.leave(row, waiter)
                    raise
                return answer if type(answer) in _VALUES else _value_of(answer, reply)
        if not follows and route.pool not in self._collecting:
            return await self._alone(method, params, route, timeout, scope, reply)
        collects = self._collects(route, collect)
        options = StreamOptions(scope, reply, timeout, progress_renews, collects)
        if retry is None:
            return await self._attempt(method, params, route, options)
        return await self._request_with(method, params, route, options, retry)

    async def _alone(  # noqa: PLR0917
        self,
        method: str,
        params: object,
        route: Route,
        timeout_s: float | None,
        scope: Scope | None,
        reply: Any,
    ) -> Any:
        calls = self._calls
        if len(calls.peer.calls) < FEW_CALLS:
            await calls.checkpoint_if_cancelled()
        call = calls.begin(method, params, route, timeout_s, scope)
        try:
            answer = await call.waiter
        except BaseException:
            calls.abandon(call)
            raise
        return _value_of(answer, reply)

    async def _request_with(
        self, method: str, params: object, route: Route, options: StreamOptions, retry: Retry
    ) -> Any:
        """Send a request that may be sent again."""
        check_retry(retry)
        attempts = Attempts(self._calls, retry, options.timeout_s)
        options = msgspec.structs.replace(options, attempts=attempts)
        while True:
            try:
                return await self._attempt(method, params, route, options)
            except BusError as exc:
                pause_s = attempts.pause_after(exc)
                if pause_s is None:
                    raise
            await self._calls.rest(method, pause_s, options.scope, sent=attempts.sent)

    async def _attempt(
        self, method: str, params: object, route: Route, options: StreamOptions
    ) -> Any:
        if options.collect or options.progress_renews:
            stream = self._open_stream(method, params, route, options, 0)
            try:
                return await stream.result()
            finally:
                stream._close()
        left_s, scope, reply = options.left_s, options.scope, options.reply
        return await self._alone(method, params, route, left_s, scope, reply)

    def _collects(self, route: Route, collect: Collect | UnsetType) -> bool:
        if collect is UNSET:
            return route.pool in self._collecting
        if collect not in (None, "text"):
            msg = f'collect must be "text" or None, not {collect!r}'
            raise InvalidArgumentError(msg, field="collect")
        return collect == "text"

    # -- streams ------------------------------------------------------------------------------

    @entered_as("async with bus.stream(...) as stream:")
    @asynccontextmanager
    async def stream(
        self,
        method: str,
        params: object = UNSET,
        *,
        reply: Any = Any,
        pool: str | None = None,
        session: str | Session | None = None,
        timeout: float | UnsetType | None = UNSET,  # data of the call
        progress_renews: bool = False,
        collect: Collect | UnsetType = UNSET,
        max_buffer_bytes: int = DEFAULT_BUFFER_BYTES,
        envelope: Mapping[str, object] | None = None,
        scope: Scope | None = None,
    ) -> AsyncIterator[Stream[Any]]:
        """Send one request, and follow the chunks of its answer until its result.

        ::

            async with bus.stream("prompt", {"text": "hi"}) as stream:
                async for chunk in stream:
                    print(chunk.text, end="")
                result = await stream.result()

        A slow reader stalls nobody else. Workers built on :mod:`anyio_bus.worker` send as much as
        the reader takes. Another worker's pipe is paused while the buffer is full, for at most
        ``Limits.backpressure_timeout_s`` and not while another request is on that worker; then the
        stream ends with :class:`StreamOverflowError`, after what it holds.

        Args:
            method: As in :meth:`request`, and so are the other arguments that it has too.
            params: As in :meth:`request`.
            reply: The type that the result is decoded into.
            pool: As in :meth:`request`.
            session: As in :meth:`request`.
            timeout: Seconds from now to the result; None for no limit.
            progress_renews: Start the timeout anew whenever a chunk comes.
            collect: As in :meth:`request`.
            max_buffer_bytes: Bytes of chunks that may wait for the reader.
            envelope: As in :meth:`request`.
            scope: As in :meth:`request`.

        Yields:
            The stream. Leaving the block before its end cancels the request.

        Raises:
            BusError: As :meth:`request`, from reading the stream and from its result.

        Cancellation:
            Opening is a checkpoint, before anything is sent. Leaving never waits.
        """
        route = self._route(pool, session)
        if envelope is not None:
            route = _enclosed(route, envelope)
        if session is not None:
            scope = scope_in(session, scope)
        if timeout is UNSET:
            timeout = self._timeout
        self._calls.checked_scope(scope)
        check_timeout(timeout)
        check_count("max_buffer_bytes", max_buffer_bytes)
        if reply is not Any:
            decoder_of(reply)
        options = StreamOptions(
            scope, reply, timeout, progress_renews, self._collects(route, collect)
        )
        await anyio.lowlevel.checkpoint()
        self._life.check_running()
        stream = self._open_stream(method, params, route, options, max_buffer_bytes)
        try:
            yield stream
        finally:
            stream._close()

    def _open_stream(
        self, method: str, params: object, route: Route, options: StreamOptions, buffer_bytes: int
    ) -> Stream[Any]:
        stream = Stream._create(self._calls, self._inbound, options, buffer_bytes)
        stream._open(method, params, route)
        return stream

    async def pump(
        self,
        method: str,
        params: object,
        send_stream: ChunkSink,
        *,
        task_status: anyio.abc.TaskStatus[Stream[Any]] = anyio.TASK_STATUS_IGNORED,
        **options: Any,
    ) -> Any:
        """Send one request and pass its chunks into a stream of your own; return its result.

        Made to be started in your own task group or nursery, which then owns it:
        ``await nursery.start(bus.pump, "prompt", params, send_channel)``.

        Args:
            method: As in :meth:`stream`.
            params: As in :meth:`stream`.
            send_stream: Takes each chunk with ``await send(chunk)``: an AnyIO send stream, or a trio
                send channel. It is closed at the end.
            task_status: Started with the :class:`Stream`, when the request was sent.
            **options: The others of :meth:`stream`.

        Raises:
            BusError: As :meth:`stream`.

        Cancellation:
            The request is cancelled and its worker told; ``send_stream`` is closed.
        """
        try:
            async with self.stream(method, params, **options) as stream:
                task_status.started(stream)
                async for chunk in stream:
                    await send_stream.send(chunk)
                return await stream.result()
        finally:
            await anyio.aclose_forcefully(send_stream)  # type: ignore[arg-type]  # noqa: ASYNC102

    @entered_as("async with bus.map(...) as results:")
    @asynccontextmanager
    async def map(
        self,
        method: str,
        params: Iterable[object] | AsyncIterable[object],
        *,
        in_flight: int = 64,
        ordered: bool = True,
        return_errors: bool = False,
        reply: Any = Any,
        pool: str | None = None,
        session: str | Session | None = None,
        timeout: float | UnsetType | None = UNSET,  # data of each call
        scope: Scope | None = None,
    ) -> AsyncIterator[MapResults[Any]]:
        """Send one request for each item of ``params``, many at once, and iterate over the results.

        ::

            async with bus.map("embed", ({"text": t} for t in texts)) as results:
                async for result in results:
                    ...

        Args:
            method: As in :meth:`request`, and so are the other arguments that it has too.
            params: The params of each request; an iterable, or an asynchronous one. It is read as
                there is room.
            in_flight: Most requests that are made and whose results were not read.
            ordered: Results in the order of ``params``; else as they come
                (:attr:`MapResults.index` says whose).
            return_errors: Give an exception as the result of its request, instead of raising it.
            reply: The type that each result is decoded into.
            pool: As in :meth:`request`.
            session: As in :meth:`request`.
            timeout: Seconds for each request.
            scope: As in :meth:`request`.

        Yields:
            The results. An error ends the iteration, and withdraws the rest; so does leaving early.

        Raises:
            BusError: As :meth:`request`, from the iteration.

        Cancellation:
            What is in flight is withdrawn. Opening is a checkpoint; iterating is one whenever it
            has to wait, and once per 64 results.
        """
        route = self._route(pool, session)
        if session is not None:
            scope = scope_in(session, scope)
        self._calls.checked_scope(scope)
        seconds = self._timeout if timeout is UNSET else timeout
        check_timeout(seconds)
        check_count("in_flight", in_flight)
        if reply is not Any:
            decoder_of(reply)
        calls = self._calls

        def begin(item: object, results: MapResults[Any]) -> Call:
            """Send one request."""
            self._life.check_running()
            return calls.begin(method, item, route, seconds, scope, None, results)

        def begin_many(items: list[object], results: MapResults[Any]) -> Batch | None:
            """Send several requests at once."""
            self._life.check_running()
            return calls.begin_many(method, items, route, seconds, scope, results)

        results = MapResults._create(
            calls, (begin, begin_many), reply, ordered=ordered, return_errors=return_errors
        )
        async with open_map(results, params, in_flight):
            yield results

    # -- notifications ------------------------------------------------------------------------

    @entered_as("async with bus.subscribe(...) as notifications:")
    @asynccontextmanager
    async def subscribe(
        self,
        pattern: str = "*",
        *,
        pool: str | None = None,
        session: str | Session | None = None,
        max_queue: int = 256,
        overflow: Overflow = "drop_newest",
        type: Any = Any,  # what it is called everywhere  # noqa: A002
    ) -> AsyncIterator[Subscription]:
        """Follow the notifications of workers.

        Args:
            pattern: Which methods: one, or a pattern with ``*``, ``?`` and ``[...]`` as in file
                names.
            pool: Only those of this pool; default of all.
            session: Only those of this session.
            max_queue: Most notifications that wait for the reader.
            overflow: What happens when there are more: ``"drop_newest"``, ``"drop_oldest"``,
                ``"close"`` (it ends after what it holds), or ``"block"`` (the worker's pipe is
                paused, as for :meth:`stream`).
            type: What the params are decoded into.

        Yields:
            The subscription. Notifications from here on are in it.

        Cancellation:
            Opening is a checkpoint, before anything is done. Leaving never waits.
        """
        follows = self._filter(pattern, pool, session)
        await anyio.lowlevel.checkpoint()
        self._life.check_running()
        calls = self._calls
        subscription = Subscription._create(
            follows, max_queue, overflow, type, calls.brakes, calls.now, calls.check_thread
        )
        self._inbound.follow(subscription)
        try:
            yield subscription
        finally:
            self._inbound.leave(subscription)
            subscription._close()

    def on_notification(
        self,
        function: Callable[[Notification], object],
        pattern: str = "*",
        *,
        pool: str | None = None,
        session: str | Session | None = None,
    ) -> Callable[[], None]:
        """Have a plain function called with each notification of workers, at once.

        Args:
            function: It must not block; what it raises is logged and costs that notification.
            pattern: As in :meth:`subscribe`.
            pool: As in :meth:`subscribe`.
            session: As in :meth:`subscribe`.

        Returns:
            What ends it; calling that again does nothing.
        """
        if not callable(function):
            msg = f"function must be callable, not {function!r}"
            raise InvalidArgumentError(msg, field="function")
        self._life.check_running()
        callback = Callback(self._filter(pattern, pool, session), function)
        self._inbound.follow(callback)

        def remove() -> None:
            callback.over = True
            self._inbound.leave(callback)

        return remove

    def _filter(self, pattern: str, pool: str | None, session: str | Session | None) -> Filter:
        if pool is not None:
            self._route(pool)
        if isinstance(session, Session):
            session._check_bus(self)
            pool, session = session.pool, session.id
        return Filter(pattern, pool, session)

    # -- prepared frames ----------------------------------------------------------------------

    async def request_raw(
        self,
        frame: bytes | str,
        *,
        pool: str | None = None,
        session: str | Session | None = None,
        timeout: float | UnsetType | None = UNSET,  # data of the call
        scope: Scope | None = None,
    ) -> bytes:
        """Send a prepared JSON-RPC request and return its response line, error responses too.

        Its id is replaced on the way and restored in the response, so it may be any valid id; its
        other members keep their bytes.

        Args:
            frame: One JSON object with ``id`` and ``method``; a newline at its end is optional.
            pool: As in :meth:`request`.
            session: As in :meth:`request`; default the ``sessionId`` of the frame.
            timeout: As in :meth:`request`.
            scope: As in :meth:`request`.

        Raises:
            InvalidArgumentError: It is not a request.
            BusError: As :meth:`request`, except RemoteError.

        Cancellation:
            As :meth:`request`.
        """
        request, members = read_frame(frame)
        if request.method is UNSET or request.id is UNSET:
            msg = "frame is not a request: it needs both id and method; send() takes the others"
            raise InvalidArgumentError(msg, field="frame")
        check_timeout(None if timeout is UNSET else timeout)
        seconds = self._timeout if timeout is UNSET else timeout
        if session is None:
            session = self._sessions.named_in_frame(pool, request)
        route = self._route(pool, session)
        if session is not None:
            scope = scope_in(session, scope)
        key = members["id"]
        members = self._with_envelope(members, route)
        calls = self._calls
        if len(calls.peer.calls) < FEW_CALLS:
            await calls.checkpoint_if_cancelled()
        call = calls.begin(request.method, None, route, seconds, scope, members)
        try:
            message = await call.waiter
        finally:
            calls.abandon(call)
        if isinstance(message, Exception):
            raise message
        return _response_line(message, key)

    async def notify(
        self,
        method: str,
        params: object = UNSET,
        *,
        pool: str | None = None,
        session: str | Session | None = None,
        envelope: Mapping[str, object] | None = None,
    ) -> None:
        """Send a notification to a worker of a pool; there is no answer.

        Args:
            method: JSON-RPC method name, sent as it is.
            params: What encodes to a JSON object or array; left out when UNSET or None.
            pool: As in :meth:`request`.
            session: As in :meth:`request`.
            envelope: As in :meth:`request`.

        Raises:
            OverloadedError: A queue is full.
            PoolUnavailableError: Every worker of the pool is parked.
            SessionLostError: The worker that held the session is gone.

        Cancellation:
            Always a checkpoint, before anything is sent.
        """
        frame, route = self._notification(method, params, pool, session, envelope)
        await anyio.lowlevel.checkpoint()
        self._submit(frame, route)

    def _notification(
        self,
        method: str,
        params: object,
        pool: str | None,
        session: str | Session | None,
        envelope: Mapping[str, object] | None,
    ) -> tuple[bytes, Route]:
        route = self._route(pool, session)
        if envelope is not None:
            route = _enclosed(route, envelope)
        return encode_notification(method, params, None, route.envelope), route

    async def send(
        self, frame: bytes | str, *, pool: str | None = None, worker: int | None = None
    ) -> None:
        """Send a prepared notification or response as it is.

        Args:
            frame: One JSON object; a newline at its end is optional. Its ``sessionId`` says where a
                notification goes.
            pool: As in :meth:`request`.
            worker: The worker that it is for; a response needs it.

        Raises:
            InvalidArgumentError: It is neither; :meth:`request_raw` takes requests.

        Cancellation:
            Always a checkpoint, before anything is sent.
        """
        line, route = self._prepared(frame, pool, worker, requests=False)
        await anyio.lowlevel.checkpoint()
        self._submit(line, route)

    def send_nowait(
        self, frame: bytes | str, *, pool: str | None = None, worker: int | None = None
    ) -> None:
        """Send a prepared frame as it is, at once; a request too, whose answer nobody waits for.

        That answer is shown to :meth:`on_message` and :meth:`tap`, and to nothing else. Its id is
        the caller's affair: it must not be one that the bus uses (see ``ids`` of :func:`open_bus`).

        Args:
            frame: As for :meth:`send`.
            pool: As in :meth:`request`.
            worker: As for :meth:`send`.

        Raises:
            InvalidArgumentError: It is no JSON-RPC message.
            BusError: As :meth:`notify`.
        """
        self._submit(*self._prepared(frame, pool, worker, requests=True))

    def _prepared(
        self, frame: bytes | str, pool: str | None, worker: int | None, *, requests: bool
    ) -> tuple[bytes, Route]:
        """Return the line of a prepared frame, and where it goes."""
        message, members = read_frame(frame)
        if not requests and message.method is not UNSET and message.id is not UNSET:
            msg = "frame is a request; request_raw() sends it and returns its response"
            raise InvalidArgumentError(msg, field="frame")
        if message.method is UNSET and worker is None:
            msg = "worker= must be given: a response is for the worker that asked"
            raise InvalidArgumentError(msg, field="worker")
        named = None if worker is not None else self._sessions.named_in_frame(pool, message)
        route = self._route(pool, named)
        kept = self._with_envelope(members, route)
        line = frame.encode() if isinstance(frame, str) else bytes(frame)
        value = Raw(line.rstrip(b"\r\n")) if kept is members else kept
        if worker is not None:
            route = Route(route.pool, worker=worker)
        return encode_value(value, "frame") + b"\n", route

    def _with_envelope(self, members: dict[str, Raw], route: Route) -> dict[str, Raw]:
        """Leave out what only a router reads, unless workers are to see it; add what they are to."""
        if route.pool not in self._enveloped and not _ENVELOPE.isdisjoint(members):
            members = {name: raw for name, raw in members.items() if name not in _ENVELOPE}
        if route.envelope:
            members = members | decode_envelope(route.envelope)
        return members

    def _submit(self, frame: bytes, route: Route) -> None:
        self._life.check_running()
        self._calls.rows.send()  # what was asked for before
        try:
            self._backend.submit(frame, route, None)
        except Refused as exc:
            raise error_from_failure(exc.failure) from None

    def _route(self, pool: str | None, session: str | Session | None = None) -> Route:
        """Return where a call goes."""
        if get_ident() != self._life.running_in:
            self._life.check_running()
        if session is not None:
            return self._sessions.route(pool, session)
        route = self._default if pool is None else self._routes.get(pool)
        if route is not None:
            return route
        names = ", ".join(map(repr, self._routes))
        if pool is None:
            msg = f"pool= must be given: this bus has several ({names})"
            raise InvalidArgumentError(msg, field="pool")
        msg = f"there is no pool {pool!r}: this bus has {names}"
        raise UnknownPoolError(msg, pool=pool, field="pool")

    @entered_as("async with bus.session(...) as session:")
    @asynccontextmanager
    async def session(
        self,
        *,
        pool: str | None = None,
        id: str | None = None,  # what it is called everywhere  # noqa: A002
        exclusive: bool = False,
        rebind: bool = False,
        identity: Identity | None = None,
        audit: AuditEvent | None = None,
        agent_id: str | None = None,
        env: Mapping[str, str | None] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> AsyncIterator[Session]:
        """Open a session: what is called in it goes to one worker, the one that takes its first call.

        It ends with the block; calls that are still in flight then are withdrawn.

        Args:
            pool: The pool; may be left out where there is only one.
            id: Its name; default 128 random bits.
            exclusive: Lease a worker: wait for one that has no other session, let it finish what
                it has, and keep everybody else from it. Whoever waits first gets the first.
            rebind: If its worker dies, go on with another one, instead of raising
                :class:`SessionLostError` at the next call. A lease goes on with the successor.
            identity: Sent in each frame as ``_ext.identity``.
            audit: Sent in each frame as ``_ext.audit``.
            agent_id: Sent in each frame as ``agentId``.
            env: Start a worker for this lease alone, with these variables on top of the pool's.
            cwd: Start a worker for this lease alone, in this folder.

        Raises:
            WorkerStartError: No worker for the lease came up.
            PoolUnavailableError: Every worker of the pool is parked.

        Cancellation:
            Opening is a checkpoint; a wait for a worker ends, and what was leased is given back.
            Leaving never waits.
        """
        opening = Opening(
            pool,
            id,
            exclusive=exclusive,
            rebind=rebind,
            members=envelope_members(identity, audit, agent_id),
            env=env,
            cwd=None if cwd is None else os.fspath(cwd),
        )
        async with self._sessions.open(opening) as session:
            yield session

    # -- requests of workers ------------------------------------------------------------------

    def handler(
        self, pattern: str, *, pool: str | None = None, scope: Scope | None = None
    ) -> Callable[[F], F]:
        """Register the decorated function as in :meth:`add_handler`.

        Returns:
            A decorator that returns the function as it is.

        Raises:
            InvalidArgumentError: There is no pattern: ``@bus.handler("name")`` needs one.
        """
        check_name(pattern, "bus.handler", "pattern")

        def register(function: F) -> F:
            self._life.check_thread()
            names = sys._getframe(1).f_locals  # a handler inside a function may use its classes
            self._handlers.add(pattern, function, pool=pool, scope=scope, names=names)
            return function

        return register

    def add_handler(
        self,
        pattern: str,
        function: Callable[..., Any],
        *,
        pool: str | None = None,
        scope: Scope | None = None,
    ) -> Callable[[], None]:
        """Let a function answer requests of workers.

        An async function runs in a task of the bus; a plain one is called right in the event loop,
        in the order in which requests are read, and must not block. Params become arguments as for
        :meth:`anyio_bus.worker.Worker.method`; a parameter annotated :class:`HandlerContext` gets
        the context. What it returns is the result; :class:`RemoteError` chooses the error, anything
        else that it raises becomes -32603. ``Limits.max_handlers`` of them run at once, and more
        requests are refused with -32053. It is cancelled when its worker dies or cancels the
        request, with its scope, and when the bus stops.

        Args:
            pattern: A method's name, or a pattern with ``*`` as in :mod:`fnmatch`. Of several that
                fit, a name is taken before a pattern, then the longest, then one for the pool.
            function: The function.
            pool: Serve the workers of this pool only.
            scope: The scope that its requests belong to, and as long as which it serves; default
                the bus's own.

        Returns:
            A function that removes it again; what runs goes on.

        Raises:
            InvalidArgumentError: The pattern is taken, or the function's signature cannot be served.
        """
        self._life.check_thread()
        names = sys._getframe(1).f_locals
        return self._handlers.add(pattern, function, pool=pool, scope=scope, names=names)

    async def end_session(self, session: str) -> None:
        """Forget a session that was begun by its name alone; its next use begins it anew.

        One of :meth:`session` ends with its block. What is in flight goes on.

        Args:
            session: Its name.

        Cancellation:
            A checkpoint, before anything is done.
        """
        self._life.check_running()
        await anyio.lowlevel.checkpoint()
        self._sessions.end_named(session)

    # -- scopes -------------------------------------------------------------------------------

    @property
    def scope(self) -> Scope:
        """The root scope, in which every call is, or in one of its children."""
        return self._calls.root

    @entered_as("async with bus.open_scope(...) as scope:")
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
            Opening is a checkpoint, before anything is done. Calls in it are withdrawn.
        """
        if deadline is not None:
            check_deadline(deadline)
        self._life.check_running()
        await anyio.lowlevel.checkpoint()
        self._life.check_running()
        scope = self._calls.new_scope(name, parent)
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
        return self._life.state

    @property
    def backend(self) -> str:
        """The name of the backend in use."""
        return self._backend.name

    @property
    def listeners(self) -> tuple[str, ...]:
        """Where other programs connect, as URLs for :class:`Connect`; see :class:`Native`.

        In the order in which they were given, each port that the system chose filled in.
        """
        return self._backend.listeners or ()

    def on_client(self, function: Callable[[ClientChanged], object]) -> Callable[[], None]:
        """Have a plain function called whenever another program connects, or is gone, at once.

        Args:
            function: It must not block; what it raises is logged and costs that event.

        Returns:
            What ends it; calling that again does nothing.

        Raises:
            NotSupportedError: The backend cannot listen: only ``Native(listen=...)`` can.
        """
        if not callable(function):
            msg = f"function must be callable, not {function!r}"
            raise InvalidArgumentError(msg, field="function")
        self._life.check_running()
        if self._backend.listeners is None:
            msg = f"backend={self._backend.name!r} cannot listen: Native(listen=...) can"
            raise NotSupportedError(msg, backend=self._backend.name)
        return self._clients.follow(function)

    async def refresh(self) -> None:
        """Have :meth:`workers` and :meth:`statistics` be of now.

        Where the kernel is in this process they always are. Where it is elsewhere states are kept up
        to date, counts are those of the last report; each look asks for the next one, and this waits
        for it.

        Raises:
            BusStoppedError: The bus is not running.
            ConnectionLostError: The kernel is elsewhere, and cannot be reached.

        Cancellation:
            Always a checkpoint. The wait ends.
        """
        self._life.check_running()
        if self._backend.refresh is None:
            await anyio.lowlevel.checkpoint()
        else:
            try:
                await self._backend.refresh()
            except Refused as exc:
                raise error_from_failure(exc.failure) from None

    def workers(self) -> list[WorkerInfo]:
        """Return every worker slot, as it stands; see :meth:`refresh`."""
        self._life.check_place()
        return self._backend.workers()

    def statistics(self) -> BusStatistics:
        """Return the counters; see :meth:`refresh`."""
        self._life.check_place()
        calls = self._calls
        kernel = self._backend.statistics()
        return BusStatistics(
            backend=self._backend.name,
            state=self._life.state,
            pending=calls.pending,
            pending_bytes=calls.pending_bytes,
            waiting=calls.waiting,
            timeouts=calls.timeouts,
            unhandled=calls.unhandled + kernel.unheard,
            unattributed=self._inbound.unattributed,
            handling=self._handlers.running,
            dropped_answers=self._handlers.dropped,
            clients=kernel.clients,
            kernel=kernel,
        )

    def bad_lines(self) -> list[BadLineInfo]:
        """Return the last lines that were no messages, at most 64, the oldest first."""
        return self._bad_lines.recent()

    async def wait_ready(self, pool: str | None = None) -> None:
        """Wait until the workers of a pool, or of all pools, are ready.

        With ``Pool(ready="spawn")``, the default, a worker is ready once its program is executed,
        which is before its imports. Give the pool a :class:`Handshake`, ``ready=Handshake(...)``,
        to know that it answers.

        Args:
            pool: The pool; None for all.

        Raises:
            WorkerStartError: Every worker of a pool is parked, since it did not come up.
            PoolUnavailableError: Every worker of a pool is parked, since it died too often.
            BusStoppedError: The bus is shutting down.

        Cancellation:
            The wait ends; bound it with ``anyio.fail_after``.
        """
        names = [self._route(pool).pool] if pool is not None else list(self._routes)
        self._life.check_running()
        await anyio.lowlevel.checkpoint()
        self._life.check_running()
        while not all(map(self._pool_ready, names)):
            await self._life.bell.wait()
            self._life.check_running()

    def _pool_ready(self, pool: str) -> bool:
        states = [
            State.READY
            if info.state is State.VACANT and info.generation
            else info.state  # it rests
            for info in self.workers()
            if info.pool == pool
        ]
        states = [
            state for state in states if state is not State.STOPPED
        ]  # those that a resize ended
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
        seconds = self._config.limits.drain_timeout_s if drain_s is None else drain_s
        check_seconds("drain_s", seconds)
        self._life.check_running()
        await anyio.lowlevel.checkpoint()
        self._life.check_running()
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
        name = self._route(pool).pool
        await anyio.lowlevel.checkpoint()
        self._life.check_running()
        if self._policies.resize(name, instances):
            return
        drain_s = self._config.limits.drain_timeout_s
        self._primitive(lambda: self._backend.resize(name, instances, drain_s))

    @staticmethod
    def _primitive(act: Callable[[], object]) -> None:
        try:
            act()
        except Refused as exc:
            raise error_from_failure(exc.failure) from None

    # -- tracing ------------------------------------------------------------------------------

    @entered_as("async with bus.tap(...) as frames:")
    @asynccontextmanager
    async def tap(
        self,
        *,
        pool: str | None = None,
        worker: int | None = None,
        redact: Redact = True,
        max_queue: int = 1024,
        overflow: TapOverflow = "drop_oldest",
    ) -> AsyncIterator[FrameStream]:
        """Follow what goes through the pipes of the workers, in both directions.

        Each frame is shown as it was on the pipe, when its last byte has been written, or when it
        was read; bad lines too. It costs nothing while nobody follows.

        Args:
            pool: Only this pool.
            worker: Only this worker.
            redact: Hide what is named like a secret, and all of what is no JSON. A function takes
                each decoded message and returns what to show of it. False or None: show everything.
            max_queue: Frames that wait to be read.
            overflow: What happens when more come: ``"drop_oldest"``, ``"drop_newest"``, or
                ``"close"``, which ends the tap. Workers never wait for a tap.

        Raises:
            InvalidArgumentError: An argument is wrong.

        Cancellation:
            Opening is a checkpoint, before anything is done.
        """
        name = None if pool is None else self._route(pool).pool
        frames = FrameStream(self._taps, name, worker, redact, max_queue, overflow)
        self._life.check_running()
        await anyio.lowlevel.checkpoint()
        self._taps.add(frames)
        try:
            yield frames
        finally:
            frames._close()

    def on_message(
        self, callback: Callable[[str], object], *, pool: str | None = None
    ) -> MessageHook:
        """Call a function with every line that a worker writes, exactly as it was read.

        It gets the text without the newline, at once and in order; it must not block. Bytes that
        are no UTF-8 become surrogates (``errors="surrogateescape"``). What it raises is logged and
        costs that line. Lines over ``max_frame_bytes`` are not kept, so it does not see them.

        Args:
            callback: The function.
            pool: Only lines of this pool.

        Returns:
            A handle whose ``remove()`` ends it; as a context manager it does so by itself.

        Raises:
            InvalidArgumentError: It is not a plain function.
        """
        name = None if pool is None else self._route(pool).pool
        hook = MessageHook(self._taps, callback, name)
        self._life.check_running()
        self._taps.add(hook)
        return hook

    def record_tap(
        self,
        path: str | os.PathLike[str],
        *,
        pool: str | None = None,
        worker: int | None = None,
        redact: Redact = True,
        max_bytes: int = RECORDING_BYTES,
    ) -> Recording:
        """Write what goes through the pipes of the workers to a file, one frame per line of JSON.

        ``with bus.record_tap("session.ndjson"):`` records inside the block. :func:`read_tap` reads
        the file, and ``anyio_bus.testing.replay`` makes a worker of it. The file is made anew, for
        its owner to read.

        Args:
            path: The file.
            pool: As for :meth:`tap`.
            worker: As for :meth:`tap`.
            redact: As for :meth:`tap`.
            max_bytes: Where the recording ends; the log says so.

        Raises:
            InvalidArgumentError: An argument is wrong, or the file cannot be made.
        """
        name = None if pool is None else self._route(pool).pool
        self._life.check_running()
        return open_recording(self._taps, path, name, worker, redact, max_bytes)

    # -- other threads ------------------------------------------------------------------------

    @property
    def from_thread(self) -> FromThread:
        """What threads other than the event loop's use: calls that block until they are done."""
        return FromThread._create(self)

    # -- the end ------------------------------------------------------------------------------

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
        check_seconds("drain_s", drain_s)
        check_seconds("grace_s", grace_s)
        self._life.check_place()
        await anyio.lowlevel.checkpoint()
        await self._life.stop(drain_s, grace_s)


def _value_of(answer: Any, reply: Any) -> Any:
    """Return the value of what a request ended with, which may have been decoded on the way."""
    if type(answer) in _ANSWERS:
        return decode_value(result_of(answer), reply)
    if isinstance(answer, Exception):
        raise answer
    return answer


def _enclosed(route: Route, envelope: Mapping[str, object]) -> Route:
    """Return a route whose frames have these members as well."""
    if not isinstance(envelope, Mapping) or not all(isinstance(name, str) for name in envelope):
        msg = f"envelope must map names to values, not be {envelope!r}"
        raise InvalidArgumentError(msg, field="envelope")
    if not _FIXED.isdisjoint(envelope):
        msg = f"envelope must not have {', '.join(sorted(_FIXED.intersection(envelope)))}"
        raise InvalidArgumentError(msg, field="envelope")
    more = encode_envelope(dict(envelope))
    return msgspec.structs.replace(route, envelope=route.envelope + more)


def _response_line(message: Message, key: Raw) -> bytes:
    members: dict[str, object] = {"jsonrpc": "2.0", "id": key}
    if message.session is not UNSET:
        members["sessionId"] = message.session
    if is_error(message):
        members["error"] = message.error
    else:
        members["result"] = message.result
    return encode_value(members, "response")
