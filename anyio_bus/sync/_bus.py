"""Own the blocking bus: the calls of :class:`~anyio_bus.Bus` under their names, for threads."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, TypeVar, final, overload

import anyio
from msgspec import UNSET, UnsetType

from anyio_bus import (
    AuditEvent,
    BadLineInfo,
    Bus,
    BusConfig,
    BusState,
    BusStatistics,
    ClientChanged,
    Identity,
    InvalidArgumentError,
    Limits,
    MessageHook,
    Notification,
    Pool,
    Recording,
    Retry,
    Scope,
    WorkerInfo,
    open_bus,
)
from anyio_bus.sync._handlers import in_thread
from anyio_bus.sync._maps import SyncMapResults
from anyio_bus.sync._runner import Runner
from anyio_bus.sync._sessions import SyncScope, SyncSession, scope_of, session_of
from anyio_bus.sync._streams import SyncFrameStream, SyncStream, SyncSubscription

if TYPE_CHECKING:
    import os
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

__all__ = ("SyncBus", "SyncMessageHook", "SyncRecording", "open_bus_sync")

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Collect: TypeAlias = Literal["text"] | None
Overflow: TypeAlias = Literal["drop_newest", "drop_oldest", "close", "block"]
TapOverflow: TypeAlias = Literal["drop_newest", "drop_oldest", "close"]
Redact: TypeAlias = bool | Callable[[Any], Any] | None


@final
class open_bus_sync:  # used like the function whose counterpart it is
    """Open a bus on a thread of its own, for code that blocks; ends it when the block is left.

    ::

        with open_bus_sync(Pool("echo", argv), loop="trio") as bus:
            print(bus.request("echo", {"message": "hello"}))

    The arguments are those of :func:`~anyio_bus.open_bus`, and so are the promises. ``handlers``
    that are plain functions are called in threads, so that they may block and use the bus.

    Args:
        *pools: The pools.
        loop: The event loop of the thread: ``"asyncio"``, ``"uvloop"`` or ``"trio"``.
        config: As for :func:`~anyio_bus.open_bus`, and so are the others.
        limits: The bounds.
        backend: Where the kernel runs.
        timeout: Default timeout of requests in seconds; None for no limit.
        handlers: What answers the requests of workers: pattern -> function, as for
            :meth:`SyncBus.add_handler`.
        drain_s: Seconds for what is in flight when the block is left.
        grace_s: Seconds for the workers to end then.
        telemetry: For spans and metrics.
        ids: What the ids of requests are to their workers.
        record_tap: A file for all that goes through the pipes.

    Raises:
        InvalidArgumentError: The configuration is wrong; the message names the field.
        InvalidStateError: An event loop runs in this thread, which blocking would hold up.

    Ctrl-C leaves nothing behind, wherever the main thread is: what it waits for is cancelled and
    the worker told; while the block is being left, the workers that have not ended are killed.
    """

    def __init__(
        self,
        *pools: Pool | BusConfig,
        loop: Literal["asyncio", "uvloop", "trio"] = "asyncio",
        config: BusConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        limits: Limits | None = None,
        backend: Any = "auto",
        timeout: float | None = 60.0,
        handlers: Mapping[str, Callable[..., Any]] | None = None,
        drain_s: float = 0.0,
        grace_s: float = 5.0,
        telemetry: Any = None,
        ids: Literal["number", "text"] = "number",
        record_tap: str | os.PathLike[str] | None = None,
    ) -> None:
        """Take note; nothing starts before the block is entered."""
        self._loop = loop
        self._handlers = handlers
        self._bounds = drain_s, grace_s
        self._open = partial(
            open_bus,
            *pools,
            config=config,
            limits=limits,
            backend=backend,
            timeout=timeout,
            drain_s=drain_s,
            grace_s=grace_s,
            telemetry=telemetry,
            ids=ids,
            record_tap=record_tap,
        )
        self._runner: Runner | None = None
        self._bus: SyncBus

    def __enter__(self) -> SyncBus:
        """Start the thread, and the workers."""
        for name, value in zip(("drain_s", "grace_s"), self._bounds, strict=True):
            if isinstance(value, bool) or not isinstance(value, int | float):
                msg = f"{name} must be seconds, 0 or more, not {value!r}"
                raise InvalidArgumentError(msg, field=name)
        self._runner = Runner(self._loop, self._opening, sum(self._bounds))
        self._bus = SyncBus._create(self._runner)
        self._runner.start()
        return self._bus

    if not TYPE_CHECKING:  # to whom everything would be there

        def __getattr__(self, name: str) -> NoReturn:
            """Say how it is used to whoever takes it for the bus."""
            msg = f"use `with open_bus_sync(...) as bus:`; it is the bus that may have {name!r}"
            raise AttributeError(msg, name=name, obj=self)

    def _opening(self) -> AbstractAsyncContextManager[Bus]:
        handlers = self._handlers
        if isinstance(handlers, Mapping):
            wrap = partial(in_thread, self._bus)
            handlers = {pattern: wrap(function) for pattern, function in handlers.items()}
        return self._open(handlers=handlers)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the bus, and wait until its thread has ended."""
        assert self._runner is not None
        self._runner.end()


@final
class SyncBus:
    """The blocking :class:`~anyio_bus.Bus`; from inside a ``with open_bus_sync(...)`` block.

    Any number of threads may use it at once: each call blocks its own and no other. Names,
    arguments and errors are those of the bus; what a thread may have to wait for without a timeout
    of its own takes ``timeout=`` besides, and raises :class:`TimeoutError`.

    Owns:
        Nothing itself: ``open_bus_sync`` ends the bus and its thread.
    """

    def __init__(self) -> None:
        """Refuse: a bus is opened, not constructed."""
        msg = "use `with open_bus_sync(...) as bus:`"
        raise TypeError(msg)

    _runner: Runner

    @classmethod
    def _create(cls, runner: Runner) -> SyncBus:
        self = object.__new__(cls)
        self._runner = runner
        return self

    @property
    def _bus(self) -> Bus:
        return self._runner.bus

    def __repr__(self) -> str:
        """Show the state and the pools."""
        return f"<Sync{repr(self._bus)[1:]}"

    # -- requests -----------------------------------------------------------------------------

    @overload
    def request(
        self,
        method: str,
        params: object = ...,
        *,
        reply: type[T],
        pool: str | None = ...,
        session: str | SyncSession | None = ...,
        timeout: float | UnsetType | None = ...,
        progress_renews: bool = ...,
        collect: Collect | UnsetType = ...,
        retry: Retry | None = ...,
        envelope: Mapping[str, object] | None = ...,
        scope: SyncScope | None = ...,
    ) -> T: ...

    @overload
    def request(
        self,
        method: str,
        params: object = ...,
        *,
        reply: Any = ...,
        pool: str | None = ...,
        session: str | SyncSession | None = ...,
        timeout: float | UnsetType | None = ...,
        progress_renews: bool = ...,
        collect: Collect | UnsetType = ...,
        retry: Retry | None = ...,
        envelope: Mapping[str, object] | None = ...,
        scope: SyncScope | None = ...,
    ) -> Any: ...

    def request(
        self,
        method: str,
        params: object = UNSET,
        *,
        reply: Any = Any,
        pool: str | None = None,
        session: str | SyncSession | None = None,
        timeout: float | UnsetType | None = UNSET,
        progress_renews: bool = False,
        collect: Collect | UnsetType = UNSET,
        retry: Retry | None = None,
        envelope: Mapping[str, object] | None = None,
        scope: SyncScope | None = None,
    ) -> Any:
        """Send one request to a worker of a pool and return its result; as :meth:`Bus.request`.

        Ctrl-C cancels it, and its worker is told.

        Raises:
            InvalidStateError: An event loop runs in this thread.
            BusError: As :meth:`Bus.request`.
        """
        return self._bus.from_thread.request(
            method,
            params,
            reply=reply,
            pool=pool,
            session=session_of(session),
            timeout=timeout,
            progress_renews=progress_renews,
            collect=collect,
            retry=retry,
            envelope=envelope,
            scope=scope_of(scope),
        )

    def stream(
        self,
        method: str,
        params: object = UNSET,
        *,
        reply: Any = Any,
        pool: str | None = None,
        session: str | SyncSession | None = None,
        timeout: float | UnsetType | None = UNSET,
        progress_renews: bool = False,
        collect: Collect | UnsetType = UNSET,
        max_buffer_bytes: int = 8 * 1024 * 1024,
        envelope: Mapping[str, object] | None = None,
        scope: SyncScope | None = None,
    ) -> SyncStream[Any]:
        """Send one request, and follow the chunks of its answer until its result.

        ::

            with bus.stream("prompt", {"text": "hi"}) as stream:
                for chunk in stream:
                    print(chunk.text, end="")
                result = stream.result()

        The request is sent when the block is entered; leaving it before its end cancels the
        request. Arguments and errors are those of :meth:`Bus.stream`.
        """
        options: dict[str, Any] = {
            "reply": reply,
            "pool": pool,
            "session": session_of(session),
            "timeout": timeout,
            "progress_renews": progress_renews,
            "collect": collect,
            "max_buffer_bytes": max_buffer_bytes,
            "envelope": envelope,
            "scope": scope_of(scope),
        }
        return SyncStream(self._runner, partial(self._bus.stream, method, params, **options))

    def map(
        self,
        method: str,
        params: Iterable[object],
        *,
        in_flight: int = 64,
        ordered: bool = True,
        return_errors: bool = False,
        reply: Any = Any,
        pool: str | None = None,
        session: str | SyncSession | None = None,
        timeout: float | UnsetType | None = UNSET,
        scope: SyncScope | None = None,
    ) -> SyncMapResults[Any]:
        """Send one request for each item of ``params``, many at once, and iterate over the results.

        ::

            with bus.map("embed", ({"text": t} for t in texts)) as results:
                for result in results:
                    ...

        ``params`` is read in this thread, as there is room. Arguments and errors are those of
        :meth:`Bus.map`.
        """
        options: dict[str, Any] = {
            "in_flight": in_flight,
            "ordered": ordered,
            "return_errors": return_errors,
            "reply": reply,
            "pool": pool,
            "session": session_of(session),
            "timeout": timeout,
            "scope": scope_of(scope),
        }

        return SyncMapResults(
            self._runner, partial(self._bus.map, method, (), **options), params, in_flight
        )

    # -- notifications ------------------------------------------------------------------------

    def subscribe(
        self,
        pattern: str = "*",
        *,
        pool: str | None = None,
        session: str | SyncSession | None = None,
        max_queue: int = 256,
        overflow: Overflow = "drop_newest",
        type: Any = Any,  # what it is called everywhere  # noqa: A002
    ) -> SyncSubscription:
        """Follow the notifications of workers; arguments as :meth:`Bus.subscribe`.

        ::

            with bus.subscribe("session/*") as notifications:
                for notification in notifications:
                    ...
        """
        where: dict[str, Any] = {"pool": pool, "session": session_of(session)}
        make = partial(
            self._bus.subscribe,
            pattern,
            max_queue=max_queue,
            overflow=overflow,
            type=type,
            **where,
        )
        return SyncSubscription(self._runner, make)

    def on_notification(
        self,
        function: Callable[[Notification], object],
        pattern: str = "*",
        *,
        pool: str | None = None,
        session: str | SyncSession | None = None,
    ) -> Callable[[], None]:
        """Have a plain function called with each notification of workers, at once.

        It is called in the bus's own thread: it must not block, so it cannot use this bus. What
        takes its time reads a :meth:`subscribe`. Arguments are those of :meth:`Bus.on_notification`.

        Returns:
            What ends it, from any thread; calling that again does nothing.
        """
        remove = self._runner.run_sync(
            self._bus.on_notification,
            function,
            pattern,
            pool=pool,
            session=session_of(session),
        )
        return partial(self._runner.do, remove)

    # -- prepared frames ----------------------------------------------------------------------

    def request_raw(
        self,
        frame: bytes | str,
        *,
        pool: str | None = None,
        session: str | SyncSession | None = None,
        timeout: float | UnsetType | None = UNSET,
        scope: SyncScope | None = None,
    ) -> bytes:
        """Send a prepared request and return its response line; as :meth:`Bus.request_raw`.

        Raises:
            InvalidStateError: An event loop runs in this thread.
            BusError: As :meth:`Bus.request_raw`.
        """
        return self._bus.from_thread.request_raw(
            frame,
            pool=pool,
            session=session_of(session),
            timeout=timeout,
            scope=scope_of(scope),
        )

    def notify(
        self,
        method: str,
        params: object = UNSET,
        *,
        pool: str | None = None,
        session: str | SyncSession | None = None,
        envelope: Mapping[str, object] | None = None,
    ) -> None:
        """Send a notification to a worker of a pool; there is no answer. As :meth:`Bus.notify`."""
        self._bus.from_thread.notify(
            method, params, pool=pool, session=session_of(session), envelope=envelope
        )

    def send(
        self, frame: bytes | str, *, pool: str | None = None, worker: int | None = None
    ) -> None:
        """Send a prepared notification or response as it is; as :meth:`Bus.send`."""
        self._runner.run(self._bus.send, frame, pool=pool, worker=worker)

    def send_nowait(
        self, frame: bytes | str, *, pool: str | None = None, worker: int | None = None
    ) -> None:
        """Send a prepared frame as it is, a request too; as :meth:`Bus.send_nowait`."""
        self._runner.run_sync(self._bus.send_nowait, frame, pool=pool, worker=worker)

    # -- sessions and scopes ------------------------------------------------------------------

    def session(
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
    ) -> SyncSession:
        """Open a session, as the context manager that it is; arguments as :meth:`Bus.session`."""
        options: dict[str, Any] = {
            "pool": pool,
            "id": id,
            "exclusive": exclusive,
            "rebind": rebind,
            "identity": identity,
            "audit": audit,
            "agent_id": agent_id,
            "env": env,
            "cwd": cwd,
        }
        return SyncSession(self, self._runner, partial(self._bus.session, **options))

    def end_session(self, session: str) -> None:
        """Forget a session that was begun by its name alone; as :meth:`Bus.end_session`."""
        self._runner.run(self._bus.end_session, session)

    @property
    def scope(self) -> SyncScope:
        """The root scope, in which every call is, or in one of its children."""
        return SyncScope._of(self._runner, self._bus.scope)

    def open_scope(
        self,
        *,
        name: str = "scope",
        deadline: float | None = None,
        parent: SyncScope | None = None,
    ) -> SyncScope:
        """Open a scope for calls; pass it to them as ``scope=``.

        Leaving the block cancels what is still in it.

        Args:
            name: For logs and errors.
            deadline: Time of :func:`time.monotonic` at which it is cancelled.
            parent: The scope that it lies in; default the root.
        """
        outer = scope_of(parent)

        def make() -> AbstractAsyncContextManager[Scope]:
            at = deadline
            if isinstance(at, int | float):
                at += anyio.current_time() - time.monotonic()
            return self._bus.open_scope(name=name, deadline=at, parent=outer)

        return SyncScope(self._runner, make, parent or self.scope)

    # -- requests of workers ------------------------------------------------------------------

    def handler(
        self, pattern: str, *, pool: str | None = None, scope: SyncScope | None = None
    ) -> Callable[[F], F]:
        """Register the decorated function as in :meth:`add_handler`.

        Returns:
            A decorator that returns the function as it is.

        Raises:
            InvalidArgumentError: There is no pattern: ``@bus.handler("name")`` needs one.
        """
        self._bus.handler(pattern)  # refuses what is no pattern

        def register(function: F) -> F:
            names = sys._getframe(1).f_locals  # a handler inside a function may use its classes
            self._add_handler(pattern, function, pool, scope, names)
            return function

        return register

    def add_handler(
        self,
        pattern: str,
        function: Callable[..., Any],
        *,
        pool: str | None = None,
        scope: SyncScope | None = None,
    ) -> Callable[[], None]:
        """Let a function answer requests of workers.

        A plain function is called in a thread of its own, so it may block and use this bus. An
        async one runs in the bus's event loop. Params become arguments as for
        :meth:`Bus.add_handler`; a parameter annotated :class:`SyncHandlerContext` gets the context.
        When the request is cancelled, a plain function goes on to its end, and its result is
        dropped.

        Args:
            pattern: As for :meth:`Bus.add_handler`, and so are the others.
            function: The function.
            pool: Serve the workers of this pool only.
            scope: The scope that its requests belong to.

        Returns:
            A function that removes it again; what runs goes on.

        Raises:
            InvalidArgumentError: The pattern is taken, or the function's signature cannot be served.
        """
        names = sys._getframe(1).f_locals
        return self._add_handler(pattern, function, pool, scope, names)

    def _add_handler(
        self,
        pattern: str,
        function: Callable[..., Any],
        pool: str | None,
        scope: SyncScope | None,
        names: Mapping[str, Any],
    ) -> Callable[[], None]:
        serve = in_thread(self, function, names)
        remove = self._runner.run_sync(
            self._bus.add_handler, pattern, serve, pool=pool, scope=scope_of(scope)
        )
        return partial(self._runner.do, remove)

    # -- workers ------------------------------------------------------------------------------

    @property
    def state(self) -> BusState:
        """Where the bus stands."""
        return self._bus.state

    @property
    def backend(self) -> str:
        """The name of the backend in use."""
        return self._bus.backend

    @property
    def listeners(self) -> tuple[str, ...]:
        """Where other programs connect, as URLs; as :attr:`Bus.listeners`."""
        return self._bus.listeners

    def on_client(self, function: Callable[[ClientChanged], object]) -> Callable[[], None]:
        """Have a plain function called whenever another program connects, or is gone, at once.

        It is called in the bus's own thread: it must not block, so it cannot use this bus.

        Returns:
            What ends it, from any thread; calling that again does nothing.
        """
        return partial(self._runner.do, self._runner.run_sync(self._bus.on_client, function))

    def workers(self) -> list[WorkerInfo]:
        """Return every worker slot, as it stands."""
        return self._runner.run_sync(self._bus.workers)

    def statistics(self) -> BusStatistics:
        """Return the counters."""
        return self._runner.run_sync(self._bus.statistics)

    def bad_lines(self) -> list[BadLineInfo]:
        """Return the last lines that were no messages, at most 64, the oldest first."""
        return self._runner.run_sync(self._bus.bad_lines)

    def wait_ready(self, pool: str | None = None, *, timeout: float | None = None) -> None:
        """Wait until the workers of a pool, or of all pools, are ready; as :meth:`Bus.wait_ready`.

        Args:
            pool: The pool; None for all.
            timeout: Seconds to wait; None for no limit.

        Raises:
            TimeoutError: They are not ready in time.
            BusError: As :meth:`Bus.wait_ready`.
        """
        self._runner.run(_bounded, self._bus.wait_ready, pool, timeout)

    def restart_worker(self, worker: int, *, drain_s: float | None = None) -> None:
        """Replace a worker; as :meth:`Bus.restart_worker`. It does not wait for the successor."""
        self._runner.run(self._bus.restart_worker, worker, drain_s=drain_s)

    def refresh(self) -> None:
        """Have reports be of now; as :meth:`Bus.refresh`."""
        self._runner.run(self._bus.refresh)

    def resize(self, pool: str, instances: int) -> None:
        """Change the number of workers of a pool; as :meth:`Bus.resize`."""
        self._runner.run(self._bus.resize, pool, instances)

    # -- tracing ------------------------------------------------------------------------------

    def tap(
        self,
        *,
        pool: str | None = None,
        worker: int | None = None,
        redact: Redact = True,
        max_queue: int = 1024,
        overflow: TapOverflow = "drop_oldest",
    ) -> SyncFrameStream:
        """Follow what goes through the pipes of the workers; arguments as :meth:`Bus.tap`."""
        make = partial(
            self._bus.tap,
            pool=pool,
            worker=worker,
            redact=redact,
            max_queue=max_queue,
            overflow=overflow,
        )
        return SyncFrameStream(self._runner, make)

    def on_message(
        self, callback: Callable[[str], object], *, pool: str | None = None
    ) -> SyncMessageHook:
        """Call a function with every line that a worker writes; as :meth:`Bus.on_message`.

        It is called in the bus's own thread: it must not block, so it cannot use this bus.
        """
        hook = self._runner.run_sync(self._bus.on_message, callback, pool=pool)
        return SyncMessageHook(self._runner, hook)

    def record_tap(
        self,
        path: str | os.PathLike[str],
        *,
        pool: str | None = None,
        worker: int | None = None,
        redact: Redact = True,
        max_bytes: int = 256 * 1024 * 1024,
    ) -> SyncRecording:
        """Write what goes through the pipes to a file, from now on; as :meth:`Bus.record_tap`."""
        recording = self._runner.run_sync(
            self._bus.record_tap,
            path,
            pool=pool,
            worker=worker,
            redact=redact,
            max_bytes=max_bytes,
        )
        return SyncRecording(self._runner, recording)

    # -- the end ------------------------------------------------------------------------------

    def stop(self, *, drain_s: float = 0.0, grace_s: float = 5.0) -> None:
        """Stop the bus, from any thread; return when no worker is left. As :meth:`Bus.stop`.

        Ctrl-C ends the wait; the stop goes on.
        """
        self._bus.from_thread.stop(drain_s=drain_s, grace_s=grace_s)


@final
class SyncMessageHook:
    """A function that sees every line of the workers; from :meth:`SyncBus.on_message`."""

    def __init__(self, runner: Runner, hook: MessageHook) -> None:
        """Made by a bus."""
        self._runner = runner
        self._hook = hook

    def remove(self) -> None:
        """Call the function no more; may be called twice, and from the function."""
        self._runner.do(self._hook.remove)

    def __enter__(self) -> SyncMessageHook:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self.remove()


@final
class SyncRecording:
    """A file that what goes through the pipes is written to; from :meth:`SyncBus.record_tap`."""

    def __init__(self, runner: Runner, recording: Recording) -> None:
        """Made by a bus."""
        self._runner = runner
        self._recording = recording

    @property
    def frames(self) -> int:
        """How many it holds."""
        return self._recording.frames

    @property
    def dropped(self) -> int:
        """How many came after the file was full, or could not be written."""
        return self._recording.dropped

    def close(self) -> None:
        """End it; may be called twice."""
        self._runner.do(self._recording.close)

    def __enter__(self) -> SyncRecording:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


async def _bounded(wait: Callable[..., Any], pool: str | None, timeout: float | None) -> None:  # noqa: ASYNC109
    with anyio.fail_after(timeout):
        await wait(pool)
