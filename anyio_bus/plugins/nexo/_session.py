"""Own one conversation of a plugin with its host: what each line means, and how it ends."""

from __future__ import annotations

import itertools
import logging
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from msgspec import UNSET

from anyio_bus._io.loop import Alarm
from anyio_bus._io.raised import is_cancellation, is_interrupt
from anyio_bus._sansio.codec import salvage_id
from anyio_bus._sansio.deadlines import Deadlines
from anyio_bus._sansio.lines import Oversize
from anyio_bus._sansio.messages import PREFIX_BYTES, BadLine, Message
from anyio_bus._sansio.throttle import LOG_BURST, LOG_WINDOW_S, Throttles
from anyio_bus.plugins.nexo._calls import HostCalls
from anyio_bus.plugins.nexo._definition import RequestContext
from anyio_bus.plugins.nexo._lanes import Lanes
from anyio_bus.plugins.nexo._tools import Call, caller
from anyio_bus.plugins.nexo.errors import (
    MethodError,
    RpcDecodeError,
    ToolExecutionFailed,
    ToolInvocationError,
    ToolUnavailable,
)
from anyio_bus.plugins.nexo.stdout_guard import writable
from anyio_bus.plugins.nexo.wire import (
    BAD,
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    SHUTDOWN_FAILED,
    EventParams,
    decode_delta,
    decode_event,
    error_frame,
    params_of,
    read_block,
    result_frame,
    size_of,
    text_of,
)
from anyio_bus.worker._duplex import Duplex, Send

if TYPE_CHECKING:
    from anyio_bus.plugins.nexo._definition import Definition
    from anyio_bus.plugins.nexo.broker import BrokerSender

__all__ = ("Session",)

logger = logging.getLogger("anyio_bus.plugins.nexo")

PAUSE_S = 0.5  # that the reader waits for events to be handled, before it drops what is too many
CALLS_S = 1.0  # that calls made while the plugin shuts down have for their answers
HANDLERS_SHARE = 0.75  # of the drain; the rest is for what handlers do when cancelled, and the hook
CANCEL_S = 0.25  # for what handlers do when they are cancelled
FLUSH_S = 0.5  # for the last frames
STREAM_TIMEOUT_S = 290.0  # of `llm.chat`, for which the host waits 300 s
LOG_BYTES = 2800  # of what a handler raised: with the rest it fits where `writable` says yes
SAID_CHARACTERS = 200  # of it in the first line
MAX_CODE = 2**31  # that a host may keep an error's code in


class Asked(msgspec.Struct, eq=False):
    """A request that has no answer yet.

    Args:
        key: Our own: the host's ids may come twice.
        message: The request.
        limit_s: When its time is up; then what else is waited for.
        scope: What it runs in, once its handler has begun.
        late: Its handler was cancelled, for its time was up.
    """

    key: int
    message: Message
    limit_s: float
    scope: anyio.CancelScope | None = None
    late: bool = False


class Session(Duplex):
    """What a plugin and its host say to each other.

    Args:
        plugin: What the author has written.
        broker: The way to the host that handlers are given.
        ready: Set when the host has the answer to ``initialize``.
        send: Writes bytes, all of them.
    """

    def __init__(
        self, plugin: Definition, broker: BrokerSender, ready: anyio.Event, send: Send
    ) -> None:
        bounds = plugin.bounds
        super().__init__(send, bounds.max_frame_bytes + 1)
        self._plugin = plugin
        self._bounds = bounds
        self._broker = broker
        self._ready = ready
        self._limit = bounds.max_outbound_frame_bytes
        self._calls = HostCalls(self._output, self._loop, self._limit, self._read_on)
        size, queued = bounds.max_concurrency, bounds.max_queued
        self._events = Lanes(self, self._loop, self._handle_event, size, queued)
        self._requests = Lanes(self, self._loop, self._serve_request, size, queued)
        self._keys = itertools.count()
        self._open: dict[int, Asked] = {}  # what waits or runs, and has no answer yet
        self._overdue: Deadlines[int] = Deadlines()
        self._alarm = Alarm(self._loop, self._overdue.next, self._time_is_up)
        self._on_event: Call | None = None
        if plugin.on_event is not None:
            self._on_event = caller(plugin.on_event, anyio.CapacityLimiter(size))
        threads = anyio.CapacityLimiter(size)  # of their own: events must not hold up requests
        self._handlers = {
            name: caller(handler.function, threads) for name, handler in plugin.requests.items()
        }
        plugin.tools.open(threads)
        broker._attach(self._calls)
        self._throttles = Throttles(LOG_BURST, LOG_WINDOW_S)
        self._paused = False
        self._dropping = False
        self.dropped_events = 0
        self._shutdown_ids: list[Any] = []
        self._abandoned = False
        self._hook = anyio.CancelScope()

    def _start(self) -> None:
        self.start_soon(self._calls.run)
        self.start_soon(self._alarm.run)

    # -- what comes in -------------------------------------------------------------------------

    def _take(self, item: bytes | Oversize) -> None:
        if isinstance(item, Oversize):
            note = self._note("oversize")
            if note is not None:
                text = "dropped a frame: %d bytes exceeds max_frame_bytes=%d: %r%s"
                size, limit = item.size - 1, self._bounds.max_frame_bytes
                extra = {"event": "bad_line"}
                prefix = item.prefix[:PREFIX_BYTES]
                logger.warning(text, size, limit, prefix, note, extra=extra)
            self._spoilt(item.prefix, item.suffix, "it is too long")
            return
        for message in read_block(item):
            method = message.method
            if isinstance(message, BadLine):
                self._malformed(message.reason, message.prefix)
                whole = message.size <= len(message.prefix) + 1  # with its LF
                self._spoilt(message.prefix, message.prefix if whole else b"", message.reason)
            elif method == "broker.event" and message.id is UNSET:
                self._take_event(message)
            elif method is UNSET:
                if not self._calls.receive(message):
                    self._unknown("response", message.id)
            elif message.id is UNSET or message.id is None:
                self._take_notification(method, message)
            else:
                self._take_request(method, message)

    def _spoilt(self, prefix: bytes, suffix: bytes, reason: str) -> None:
        """Fail the call whose answer cannot be read, if a line is one."""
        key = salvage_id(prefix, suffix)
        if type(key) is int:
            self._calls.fail(key, RpcDecodeError(f"the host's answer cannot be read: {reason}"))

    def _take_event(self, message: Message) -> None:
        try:
            event = decode_event(params_of(message))
        except BAD as exc:
            self._malformed(f"broker.event: {exc}", bytes(params_of(message))[:PREFIX_BYTES])
            return
        if self._on_event is None or self.stopping:
            return
        if not self._events.full:
            self._dropping = False
        elif self._dropping:
            self.dropped_events += 1
            note = self._note("dropped")
            if note is not None:
                text = "dropped an event of %.100r: %d wait already%s"
                extra = {"event": "event_dropped"}
                queued = self._bounds.max_queued
                logger.warning(text, event.topic, queued, note, extra=extra)
            return
        self._events.put(event, size_of(message))

    def _take_notification(self, method: str, message: Message) -> None:
        if method == "llm.complete.delta":
            try:
                delta = decode_delta(params_of(message))
            except BAD as exc:
                self._malformed(f"{method}: {exc}", bytes(params_of(message))[:PREFIX_BYTES])
                return
            if not self._calls.delta(delta.request_id, delta.chunk):
                self._unknown("delta", delta.request_id)
        elif method == "shutdown":
            self._stop()
        elif method == "tool.invoke":
            note = self._note("no_id")
            if note is not None:
                extra = {"event": "notification_unhandled"}
                logger.warning("tool.invoke has no id, it is dropped%s", note, extra=extra)

    def _take_request(self, method: str, message: Message) -> None:
        key = message.id
        if method == "initialize":
            self._answer(result_frame(key, self._plugin.greeting(), sys.maxsize))  # type: ignore[arg-type]
            self._ready.set()
        elif method == "shutdown":
            self._shutdown_ids.append(key)
            self._stop()
        elif not (
            method in self._handlers or (method == "tool.invoke" and self._plugin.tools.served)
        ):
            self._refuse(message, METHOD_NOT_FOUND, f"method not found: {method}")
        elif self.stopping:
            self._refuse_work(message, "the plugin is shutting down")
        elif self._requests.full:
            self._refuse_work(message, "too many requests wait already")
        else:
            self._begin(message)

    def _refuse(self, message: Message, code: int, text: str) -> None:
        self._answer(error_frame(message.id, code, text, None, self._limit))  # type: ignore[arg-type]

    def _refuse_work(self, message: Message, text: str) -> None:
        self._answer(self._failure(message, ToolUnavailable(text)))

    def _answer(self, frame: bytes) -> None:
        self._output.put(frame, by_reader=True)

    def _hung_up(self) -> None:
        self._calls.refuse("the host has closed its end")

    def _begin(self, message: Message) -> None:
        if message.params is not UNSET:  # else it keeps all that was read with it
            message.params = message.params.copy()
        asked = Asked(next(self._keys), message, self._limit_s(message))
        self._open[asked.key] = asked
        self._alarm.nudge(self._overdue.add(asked.key, asked.limit_s, self._loop.now()))
        self._requests.put(asked, size_of(message))

    # -- when to read --------------------------------------------------------------------------

    def _may_read(self) -> bool:
        if not self._output.has_room_for_reader:
            return False
        return not self._events.full or self._dropping

    async def _room(self) -> None:
        """Wait until events are handled; not for long, and not while answers may be behind them."""
        await self._output.room_for_reader()
        self._paused = True
        until = self._loop.now() + PAUSE_S
        await self._bell.until(self._may_go_on, lambda: until, self._loop.now)
        self._paused = False
        self._dropping = self._events.full

    def _may_go_on(self) -> bool:
        return not self._events.full or self._calls.pending or self.stopping

    def _read_on(self) -> None:
        if self._paused:
            self._bell.ring()

    def changed(self) -> None:
        """Something ended."""
        if self._paused or self.stopping:
            self._bell.ring()

    # -- handlers ------------------------------------------------------------------------------

    async def _handle_event(self, asked: EventParams, _scope: object) -> None:  # noqa: ASYNC910
        try:
            await self._on_event(asked.topic, asked.event, self._broker)  # type: ignore[misc]
        except BaseException as exc:  # noqa: ASYNC103  # it costs this event
            if is_cancellation(exc):
                raise
            self._raised("on_event", exc)

    async def _serve_request(self, asked: Asked, scope: anyio.CancelScope) -> None:  # noqa: ASYNC910
        if asked.key not in self._open:
            return  # noqa: ASYNC910  # it has waited too long
        asked.scope = scope
        frame: bytes | None = None
        try:
            frame = await self._outcome(asked.message)
            if not self._output.has_room:
                await self._output.room()
        finally:
            self._overdue.discard(asked.key, asked.limit_s)
            if self._open.pop(asked.key, None) is not None:
                if frame is None:
                    frame = (self._too_late if asked.late else self._too_old)(asked.message)
                self._output.put(frame)

    def _limit_s(self, message: Message) -> float:
        is_stream = message.method == "llm.chat"
        return STREAM_TIMEOUT_S if is_stream else self._bounds.request_timeout_s

    def _time_is_up(self, now: float) -> None:
        """Cancel handlers; answer for what was not begun, or goes on although it was cancelled."""
        for key in self._overdue.expire(now):
            asked = self._open.get(key)
            if asked is None:
                continue  # the end has answered it
            if asked.scope is not None and not asked.late:
                asked.late = True
                asked.limit_s = CANCEL_S
                self._overdue.add(key, CANCEL_S, now)
                asked.scope.cancel("no result in time")
            else:
                del self._open[key]
                self._output.put(self._too_late(asked.message))

    def _too_late(self, message: Message) -> bytes:
        text = f"no result within {self._limit_s(message):g} s"
        return self._failure(message, ToolExecutionFailed(text))

    def _too_old(self, message: Message) -> bytes:
        return self._failure(message, ToolUnavailable("the plugin is shutting down"))

    def _failure(self, message: Message, error: ToolExecutionFailed | ToolUnavailable) -> bytes:
        """Answer with an error of the adapter's own."""
        code, text = INTERNAL_ERROR, error.message
        if message.method == "tool.invoke":
            code, text = error.code, str(error)
        return error_frame(message.id, code, text, None, self._limit)  # type: ignore[arg-type]

    async def _outcome(self, message: Message) -> bytes:  # noqa: ASYNC910
        """Return the frame that answers a request."""
        try:
            result = await self._result(message)
            return result_frame(message.id, result, self._limit)  # type: ignore[arg-type]
        except BaseException as exc:  # noqa: ASYNC103  # whatever it is: one answer
            if is_cancellation(exc):
                raise
            return self._error(message, exc)  # noqa: ASYNC104, ASYNC910

    async def _result(self, message: Message) -> Any:
        plugin = self._plugin
        method: str = message.method  # type: ignore[assignment]
        if method == "tool.invoke":
            return await plugin.tools.invoke(params_of(message), self._broker, plugin.plugin_id)
        context = RequestContext(self._broker, plugin.plugin_id, method, message.id)
        handler = plugin.requests[method]
        return await handler.run(self._handlers[method], params_of(message), context)

    def _error(self, message: Message, exc: BaseException) -> bytes:
        """Answer with what a handler raised."""
        while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
            exc = exc.exceptions[0]  # it used a task group, which is its own affair
        is_tool = message.method == "tool.invoke"
        code, text, data = INTERNAL_ERROR, text_of(exc), None
        if is_tool:
            code = ToolExecutionFailed.code
        chosen = False
        if isinstance(exc, ToolInvocationError | MethodError):
            chosen, code = _code_of(exc, code)
            data = _data_of(exc)
        elif is_tool:
            text = f"execution failed: {text}"
        if not chosen:
            self._raised(f"the handler of {message.method!r}", exc)
        return error_frame(message.id, code, text, data, self._limit)  # type: ignore[arg-type]

    # -- the end -------------------------------------------------------------------------------

    async def _heed(self, signals: AsyncIterator[object]) -> None:
        async for _ in signals:
            self._abandoned = self.stopping
            self._stop(hurry=self._abandoned)
            if self._abandoned:
                self._hook.cancel("a second signal")

    async def _wind_up(self, on_stuck: Callable[[], object] | None) -> None:
        """Drain, all within ``drain_s``; call the hook; answer ``shutdown``; write what is queued."""
        now = self._loop.now
        begun = now()
        self._calls.fail_all("adapter shutting down")

        async def settled(until: float) -> bool:
            return await self._bell.until(lambda: self._idle or self._hurry, lambda: until, now)

        drain_s = self._bounds.drain_s
        drained_by = begun + drain_s * HANDLERS_SHARE
        await settled(min(begun + CALLS_S, drained_by))
        self._calls.refuse("adapter shutting down")
        await settled(drained_by)
        self._events.cancel_all()
        self._requests.cancel_all()
        cancelled_by = now() + CANCEL_S
        ended = await self._bell.until(lambda: self._idle, lambda: cancelled_by, now)
        for asked in self._open.values():  # never begun, or not ended
            self._output.put(self._too_old(asked.message))
        self._open.clear()
        failure = await self._call_hook(begun + drain_s)
        for key in self._shutdown_ids:
            if failure is None:
                self._output.put(result_frame(key, {"ok": True}, sys.maxsize))
            else:
                self._output.put(error_frame(key, SHUTDOWN_FAILED, failure, None, self._limit))
        self._calls.close_down("the adapter has shut down")
        self._output.seal()
        with anyio.move_on_after(FLUSH_S):
            await self._output.flushed()
        if not ended:
            extra = {"event": "handlers_stuck"}
            running = self._events.running + self._requests.running
            if writable(2):
                logger.error("%d cancelled handlers did not end", running, extra=extra)
            if on_stuck is not None:
                on_stuck()

    @property
    def _idle(self) -> bool:
        return self._requests.idle and self._events.idle

    async def _call_hook(self, until: float) -> str | None:
        """Call the author's hook; return what went wrong."""
        hook = self._plugin.on_shutdown
        if hook is None or self._abandoned:
            return None  # noqa: ASYNC910
        self._hook.deadline = anyio.current_time() + max(0.0, until - self._loop.now())
        failure: str | None = "on_shutdown did not end in time"
        try:
            with self._hook:
                await caller(hook, anyio.CapacityLimiter(1))()
                failure = None
        except BaseException as exc:  # noqa: ASYNC103  # it is told to the host
            if is_cancellation(exc):
                raise
            self._raised("on_shutdown", exc)
            failure = f"on_shutdown failed: {text_of(exc)}"
        return failure  # noqa: ASYNC910

    # -- the log -------------------------------------------------------------------------------

    def _note(self, kind: str) -> str | None:
        """Ask to write one line; None if it is to be held back, for stderr may have no reader."""
        return self._throttles.note(kind, self._loop.now()) if writable(2) else None

    def _malformed(self, reason: str, prefix: bytes) -> None:
        note = self._note("malformed")
        if note is not None:
            extra = {"event": "bad_line"}
            logger.warning("malformed frame: %s: %r%s", reason, prefix, note, extra=extra)

    def _unknown(self, what: str, key: object) -> None:
        note = self._note("unknown")
        if note is not None:
            text = "%s for an unknown/expired request id %.100r%s"
            logger.warning(text, what, key, note, extra={"event": "answer_unknown"})

    def _raised(self, what: str, exc: BaseException) -> None:
        if is_interrupt(exc):
            self.interrupted()
        note = self._note("raised")
        if note is not None:
            extra = {"event": "handler_raised"}
            text = "plugin: %s raised: %s: %s%s"
            kind, said = type(exc).__name__, text_of(exc)[:SAID_CHARACTERS]
            trace = _trace_of(exc)
            if len(trace) <= LOG_BYTES:
                shown = exc if trace else None
                logger.error(text, what, kind, said, note, exc_info=shown, extra=extra)
            else:
                end = trace[-LOG_BYTES:].decode(errors="replace")
                logger.error("%s\n...%s", text % (what, kind, said, note), end, extra=extra)


def _code_of(exc: ToolInvocationError | MethodError, default: int) -> tuple[bool, int]:
    """Return the code that a handler chose, if it is one."""
    try:
        code = exc.code
    except BaseException:  # the author's own  # noqa: ASYNC103, BLE001
        return False, default  # noqa: ASYNC104
    return (True, code) if type(code) is int and -MAX_CODE <= code < MAX_CODE else (False, default)


def _trace_of(exc: BaseException) -> bytes:
    """Return the traceback, nothing where the exception's own code prevents it."""
    try:
        return "".join(traceback.format_exception(exc)).encode(errors="backslashreplace")
    except BaseException:  # noqa: ASYNC103, BLE001
        return b""  # noqa: ASYNC104


def _data_of(exc: ToolInvocationError | MethodError) -> object:
    try:
        return exc.data if isinstance(exc, MethodError) else exc.error_data()
    except BaseException:  # the author's own  # noqa: ASYNC103, BLE001
        return None  # noqa: ASYNC104
