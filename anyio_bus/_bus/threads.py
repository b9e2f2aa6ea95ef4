"""Own the way from other threads into the event loop of a bus, and the outcomes on their way back.

A thread that waits does so in the acquisition of a plain lock, which Ctrl-C interrupts in a main
thread and which is safe to be interrupted at any point. Every other step of a thread is one post.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, final, overload

import anyio
from msgspec import UNSET, UnsetType

from anyio_bus._bus.calls import check_seconds, check_timeout, result_of
from anyio_bus._bus.sessions import scope_in
from anyio_bus._errors import BusStoppedError, InvalidStateError
from anyio_bus._io.loop import Loop, running_loop_name
from anyio_bus._sansio.codec import decode_value, decoder_of

if TYPE_CHECKING:
    from anyio_bus._bus.bus import Bus
    from anyio_bus._bus.calls import Call, Scope
    from anyio_bus._bus.lifetime import Lifetime
    from anyio_bus._bus.sessions import Session
    from anyio_bus._bus.streams import Collect
    from anyio_bus._config import Retry
    from anyio_bus._sansio.messages import Message, RequestId

__all__ = ("FromThread", "Threads", "Ticket")

T = TypeVar("T")
P = ParamSpec("P")

logger = logging.getLogger("anyio_bus")

LOOK_S = 0.5  # between looks at whether the loop of a stopped bus still runs


class Ticket:
    """One outcome that a thread waits for, once.

    Args:
        at_end: Called in the loop when the bus has stopped; default: the ticket fails.
    """

    __slots__ = ("_error", "_lock", "_value", "at_end", "over")

    def __init__(self, at_end: Callable[[], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._value: Any = None
        self._error: BaseException | None = None
        self.at_end: Callable[[], None] = at_end or self.fail_stopped
        self.over: bool = False

    def set(self, value: object = None) -> None:
        """Hand over the outcome; the first one counts."""
        if not self.over:
            self.over = True
            self._value = value
            self._lock.release()

    def fail(self, error: BaseException) -> None:
        """Hand over an error; the first outcome counts."""
        if not self.over:
            self.over = True
            self._error = error
            self._lock.release()

    def fail_stopped(self) -> None:
        """Fail: the bus has stopped."""
        self.fail(BusStoppedError("bus is stopped"))

    def wait(self, timeout: float) -> bool:
        """Wait for the outcome, -1 for ever; return whether it is there."""
        if self._lock.acquire(timeout=timeout):
            self._lock.release()
            return True
        return False

    def take(self) -> Any:
        """Return the outcome or raise the error."""
        if self._error is not None:
            raise self._error
        return self._value


class Threads:
    """What other threads wait for.

    Args:
        loop: The event loop.
        life: The life of the bus.
    """

    def __init__(self, loop: Loop, life: Lifetime) -> None:
        self.life = life
        self._loop = loop
        self._waiting: dict[Ticket, None] = {}
        self._ended = False

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have the loop call a function soon.

        Raises:
            BusStoppedError: The loop has ended.
        """
        self.life.check_process()
        try:
            self._loop.post(function, *args)
        except RuntimeError:
            msg = "bus is stopped, and its event loop has ended"
            raise BusStoppedError(msg, sent=False) from None

    def call(
        self, ticket: Ticket, begin: Callable[[], object], cancel: Callable[[], object]
    ) -> Any:
        """Have the loop begin something, and wait for its outcome.

        Args:
            ticket: Gets the outcome, or what ``begin`` raises.
            begin: Called in the loop.
            cancel: Called in the loop when the wait is interrupted, after ``begin``.
        """
        self.check_caller()
        self._waiting[ticket] = None
        try:
            self.post(_begin, ticket, begin)
            return self._wait(ticket)
        except BaseException:
            if not ticket.over:
                with suppress(BusStoppedError, InvalidStateError):
                    self.post(cancel)
            raise
        finally:
            self._waiting.pop(ticket, None)

    def _wait(self, ticket: Ticket) -> Any:
        # After the end of the bus nobody is left to fail what its loop has forgotten.
        while not ticket.wait(LOOK_S if self._ended else -1):
            self.post(int)  # raises when the loop has ended as well
        return ticket.take()

    def check_caller(self) -> None:
        """Refuse to block an event loop.

        Raises:
            InvalidStateError: One runs in this thread, or this is a forked process.
        """
        self.life.check_process()
        loop = running_loop_name()
        if loop is not None:
            name = threading.current_thread().name
            msg = (
                f"this call would block the {loop} event loop of thread {name!r}: await the methods"
                " of a bus from `async with open_bus(...)`, or call it in anyio.to_thread.run_sync()"
            )
            raise InvalidStateError(msg)

    def end(self) -> None:
        """The bus has stopped."""
        self._ended = True
        for ticket in list(self._waiting):
            ticket.at_end()


def _begin(ticket: Ticket, begin: Callable[[], object]) -> None:
    try:
        begin()
    except BaseException as exc:  # noqa: ASYNC103  # it is the waiting thread's
        ticket.fail(exc)
        if not isinstance(exc, Exception):
            raise  # and the loop's, if it ends programs


def _with_variables_of(thread: Context) -> Context:
    """Return the loop's context with the variables of a waiting thread, its open span for one.

    What is None there stays: AnyIO's own variable says so of a thread in which no loop runs.
    """
    context = copy_context()
    for variable, value in thread.items():
        if value is not None:
            context.run(variable.set, value)
    return context


class _Request:
    """A request that a thread waits for; no task is needed for it."""

    __slots__ = ("_arguments", "_bus", "_call", "_context", "ticket")

    def __init__(self, bus: Bus, *arguments: Any) -> None:
        self.ticket = Ticket()
        self._bus = bus
        self._arguments = arguments
        self._call: Call | None = None
        observed = bus._calls.observer is not None  # by what looks for a span around the call
        self._context = copy_context() if observed else None

    def begin(self) -> None:
        """Check the arguments and send it, in the loop."""
        if self._context is None:
            self._begin()
        else:
            _with_variables_of(self._context).run(self._begin)

    def _begin(self) -> None:
        bus = self._bus
        method, params, reply, pool, session, timeout, scope = self._arguments
        route = bus._route(pool, session)
        if session is not None:
            scope = scope_in(session, scope)
        if timeout is UNSET:
            timeout = bus._timeout
        check_timeout(timeout)
        if reply is not Any:
            decoder_of(reply)
        self._call = bus._calls.begin(method, params, route, timeout, scope, None, self)

    def params(self, _key: RequestId, params: object) -> object:
        """Return the params as they are."""
        return params

    def finish(self, _call: Call, outcome: Message | Exception) -> None:
        """Take what became of it."""
        self.ticket.set(outcome)

    def cancel(self) -> None:
        """Withdraw it, in the loop."""
        if self._call is not None:
            self._bus._calls.abandon(self._call)


class _Job:
    """An async function that runs in a task of the bus for a thread."""

    __slots__ = ("_call", "_context", "_life", "_scope", "ticket")

    def __init__(self, life: Lifetime, call: Callable[[], Awaitable[Any]]) -> None:
        self.ticket = Ticket()
        self._life = life
        self._call = call
        self._context = copy_context()
        self._scope: anyio.CancelScope | None = None

    def begin(self) -> None:
        self._life.check_running()
        self._scope = anyio.CancelScope()
        _with_variables_of(self._context).run(self._life.start_soon, self._run)

    async def _run(self) -> None:  # noqa: ASYNC910  # what is called has checkpoints
        assert self._scope is not None
        try:
            with self._scope:
                self.ticket.set(await self._call())
        except Exception as exc:  # it is the thread's  # noqa: BLE001
            self.ticket.fail(exc)
        finally:
            self.ticket.fail_stopped()  # unless it has come to an end, it was cancelled

    def cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel("the waiting thread was interrupted")


@final
class FromThread:
    """The bus for threads other than that of its event loop; from :attr:`Bus.from_thread`.

    Each call blocks its thread until it is done, and no other. Any thread may use it, whether
    started by :func:`anyio.to_thread.run_sync` or not, unless an event loop runs in it. Ctrl-C in a
    wait of the main thread cancels what was waited for. What runs in the loop sees the context
    variables of the thread, such as its current span.
    """

    __slots__ = ("_bus", "_threads")

    def __init__(self) -> None:
        """Refuse: it is an attribute of a bus."""
        msg = "use `bus.from_thread`"
        raise TypeError(msg)

    _bus: Bus
    _threads: Threads

    @classmethod
    def _create(cls, bus: Bus) -> FromThread:
        self = object.__new__(cls)
        self._bus = bus
        self._threads = bus._threads
        return self

    @overload
    def request(
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
    def request(
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

    def request(
        self,
        method: str,
        params: object = UNSET,
        *,
        reply: Any = Any,
        pool: str | None = None,
        session: str | Session | None = None,
        timeout: float | UnsetType | None = UNSET,
        progress_renews: bool = False,
        collect: Collect | UnsetType = UNSET,
        retry: Retry | None = None,
        envelope: Mapping[str, object] | None = None,
        scope: Scope | None = None,
    ) -> Any:
        """Send one request and return its result; as :meth:`Bus.request`.

        Raises:
            InvalidStateError: An event loop runs in this thread.
            BusError: As :meth:`Bus.request`.
        """
        bus = self._bus
        rare: dict[str, Any] = {}
        if collect is not UNSET or progress_renews or retry is not None or bus._collecting:
            rare = {"progress_renews": progress_renews, "collect": collect, "retry": retry}
        if envelope is not None:
            rare["envelope"] = envelope
        if rare:
            rare |= {"pool": pool, "session": session, "timeout": timeout, "scope": scope}
            return self.run(partial(bus.request, method, params, reply=reply, **rare))
        request = _Request(bus, method, params, reply, pool, session, timeout, scope)
        outcome = self._threads.call(request.ticket, request.begin, request.cancel)
        if isinstance(outcome, Exception):
            raise outcome
        return decode_value(result_of(outcome), reply)

    def request_raw(
        self,
        frame: bytes | str,
        *,
        pool: str | None = None,
        session: str | Session | None = None,
        timeout: float | UnsetType | None = UNSET,
        scope: Scope | None = None,
    ) -> bytes:
        """Send a prepared request and return its response line; as :meth:`Bus.request_raw`.

        Raises:
            InvalidStateError: An event loop runs in this thread.
            BusError: As :meth:`Bus.request_raw`.
        """
        options: dict[str, Any] = {"pool": pool, "session": session, "timeout": timeout}
        return self.run(partial(self._bus.request_raw, frame, scope=scope, **options))

    def notify(
        self,
        method: str,
        params: object = UNSET,
        *,
        pool: str | None = None,
        session: str | Session | None = None,
        envelope: Mapping[str, object] | None = None,
    ) -> None:
        """Send a notification; as :meth:`Bus.notify`.

        Raises:
            InvalidStateError: An event loop runs in this thread.
            BusError: As :meth:`Bus.notify`.
        """
        bus = self._bus
        self.run_sync(
            lambda: bus._submit(*bus._notification(method, params, pool, session, envelope))
        )

    def stop(self, *, drain_s: float = 0.0, grace_s: float = 5.0) -> None:
        """Stop the bus; return when no worker is left. As :meth:`Bus.stop`; Ctrl-C ends the wait only.

        Raises:
            InvalidStateError: An event loop runs in this thread.
        """
        check_seconds("drain_s", drain_s)
        check_seconds("grace_s", grace_s)
        ticket = Ticket()
        ticket.at_end = ticket.set
        life = self._threads.life

        def begin() -> None:
            life.ask_to_stop(drain_s, grace_s)
            if life.over:
                ticket.set()

        self._threads.call(ticket, begin, int)

    def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an async function in a task of the bus, and return its result.

        For what has no method here: ``bus.from_thread.run(bus.wait_ready)``. The task is cancelled
        when the bus has stopped.

        Raises:
            InvalidStateError: An event loop runs in this thread.
            BusStoppedError: The bus is shutting down, or has stopped before the function ended.
        """
        job = _Job(self._threads.life, partial(function, *args, **kwargs))
        result: T = self._threads.call(job.ticket, job.begin, job.cancel)
        return result

    def run_sync(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a plain function in the bus's event loop, and return its result.

        For what has no method here: ``bus.from_thread.run_sync(bus.workers)``. It must not block.

        Raises:
            InvalidStateError: An event loop runs in this thread.
            BusStoppedError: The event loop has ended.
        """
        ticket = Ticket()
        context = copy_context()
        call = partial(function, *args, **kwargs)

        def begin() -> None:
            ticket.set(_with_variables_of(context).run(call))

        result: T = self._threads.call(ticket, begin, int)
        return result

    def post(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have the bus's event loop call a plain function soon, and do not wait for it.

        This never blocks, so any thread may do it. What the function raises is logged.

        Raises:
            InvalidStateError: This is a forked process.
            BusStoppedError: The event loop has ended.
        """
        self._threads.post(_logged, copy_context(), partial(function, *args, **kwargs))


def _logged(context: Context, function: Callable[[], object]) -> None:
    try:
        _with_variables_of(context).run(function)
    except Exception:
        logger.exception("a posted function raised", extra={"event": "posted_call_raised"})
