"""Own sessions: what keeps a conversation on one worker, and ends with its block."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, final, overload

import anyio
import anyio.abc
import anyio.lowlevel
from msgspec import UNSET, UnsetType

from anyio_bus._bus.identity import HelloResult
from anyio_bus._bus.leases import Lessor, Opening, check_session_id
from anyio_bus._bus.lifetime import BusState
from anyio_bus._errors import InvalidArgumentError, InvalidStateError
from anyio_bus._sansio.codec import encode_envelope
from anyio_bus._sansio.routing import Route

if TYPE_CHECKING:
    from anyio_bus._bus.bus import Bus
    from anyio_bus._bus.calls import Scope
    from anyio_bus._bus.maps import MapResults
    from anyio_bus._bus.streams import ChunkSink, Stream
    from anyio_bus._bus.subscriptions import Subscription
    from anyio_bus._sansio.messages import Message

__all__ = ("Session", "Sessions", "scope_in")

T = TypeVar("T")

ID_BYTES = 16  # of an id that we make: 128 random bits


def scope_in(session: str | Session, scope: Scope | None) -> Scope | None:
    """Return the scope of a call that is made in a session."""
    return session.scope if scope is None and isinstance(session, Session) else scope


@final
class Session:
    """A conversation that stays on one worker; from :meth:`Bus.session`.

    Its calls are those of the bus. They are in its scope: what is still in flight when the block is
    left is withdrawn.

    Attributes:
        id: Its name, unique in the bus.
        pool: The pool that it is in.
        scope: The scope of its calls.
        exclusive: Whether it has its worker for itself.
    """

    __slots__ = ("_bus", "_over", "_route", "exclusive", "id", "pool", "scope")

    def __init__(self) -> None:
        """Refuse: a session is opened, not constructed."""
        msg = "use `async with bus.session(...) as session:`"
        raise TypeError(msg)

    _bus: Bus
    _route: Route
    _over: bool
    id: str
    pool: str
    scope: Scope
    exclusive: bool

    @classmethod
    def _create(cls, bus: Bus, route: Route, *, exclusive: bool) -> Session:
        self = object.__new__(cls)
        self._bus = bus
        self._route = route
        self._over = False
        self.id = route.session or ""
        self.pool = route.pool
        self.scope = bus._calls.new_scope(f"session {route.session}", None)
        self.exclusive = exclusive
        return self

    def __repr__(self) -> str:
        """Show where it is."""
        state = "over" if self._over else "lost" if self.lost else f"worker {self.worker}"
        return f"<Session {self.id!r} of pool {self.pool!r}: {state}>"

    @property
    def worker(self) -> int | None:
        """The number of the worker that holds it; None before its first call, and without one."""
        info = self._bus._backend.find_session(self.id)
        return None if info is None else info.worker

    @property
    def lost(self) -> bool:
        """Whether its worker is gone; unless it is exclusive, only until a call was told so."""
        info = self._bus._backend.find_session(self.id)
        return info is not None and info.worker is None

    def _check_bus(self, bus: Bus) -> None:
        """Refuse use with a bus that is not its own."""
        if self._bus is not bus:
            msg = f"session: {self!r} is of another bus"
            raise InvalidArgumentError(msg, field="session")

    def _route_for(self, bus: Bus, pool: str | None) -> Route:
        """Return where its calls go, if this bus and this pool are its own."""
        self._check_bus(bus)
        if pool is not None and pool != self.pool:
            msg = f"pool={pool!r}: session {self.id!r} is in pool {self.pool!r}"
            raise InvalidArgumentError(msg, field="pool")
        if self._over:
            msg = f"session {self.id!r} is over: its block was left"
            raise InvalidStateError(msg)
        return self._route

    @overload
    async def request(
        self,
        method: str,
        params: object = ...,
        *,
        reply: type[T],
        timeout: float | UnsetType | None = ...,
        scope: Scope | None = ...,
    ) -> T: ...

    @overload
    async def request(
        self,
        method: str,
        params: object = ...,
        *,
        reply: Any = ...,
        timeout: float | UnsetType | None = ...,
        scope: Scope | None = ...,
    ) -> Any: ...

    async def request(
        self,
        method: str,
        params: object = UNSET,
        *,
        reply: Any = Any,
        timeout: float | UnsetType | None = UNSET,  # data of the call
        scope: Scope | None = None,
    ) -> Any:
        """Send one request in this session; as :meth:`Bus.request`.

        Raises:
            SessionLostError: The worker that held the session is gone.
            BusError: As :meth:`Bus.request`.

        Cancellation:
            As :meth:`Bus.request`.
        """
        return await self._bus.request(
            method, params, reply=reply, timeout=timeout, scope=scope, session=self
        )

    async def hello(
        self, protocol_version: str = "0.1.0", extensions: Mapping[str, Any] | None = None
    ) -> HelloResult:
        """Greet the worker with the request ``stdio_bus/hello``; return what it answers.

        Args:
            protocol_version: The version that is asked for.
            extensions: Name -> ``{"version": ..., "required": ...}``.

        Raises:
            RemoteError: The worker refuses, or knows no such method.
            BusError: As :meth:`Bus.request`.

        Cancellation:
            As :meth:`Bus.request`.
        """
        params = {"protocolVersion": protocol_version, "extensions": extensions or {}}
        return await self.request("stdio_bus/hello", params, reply=HelloResult)

    async def request_raw(
        self,
        frame: bytes | str,
        *,
        timeout: float | UnsetType | None = UNSET,  # data of the call
        scope: Scope | None = None,
    ) -> bytes:
        """Send a prepared request in this session; as :meth:`Bus.request_raw`.

        Raises:
            SessionLostError: The worker that held the session is gone.
            BusError: As :meth:`Bus.request_raw`.

        Cancellation:
            As :meth:`Bus.request`.
        """
        return await self._bus.request_raw(frame, timeout=timeout, scope=scope, session=self)

    def stream(
        self, method: str, params: object = UNSET, **options: Any
    ) -> AbstractAsyncContextManager[Stream[Any]]:
        """Send one request in this session and follow its chunks; as :meth:`Bus.stream`."""
        return self._bus.stream(method, params, session=self, **options)

    async def pump(  # noqa: ASYNC128  # Bus.pump calls it
        self,
        method: str,
        params: object,
        send_stream: ChunkSink,
        *,
        task_status: anyio.abc.TaskStatus[Stream[Any]] = anyio.TASK_STATUS_IGNORED,
        **options: Any,
    ) -> Any:
        """Pass the chunks of one request in this session on; as :meth:`Bus.pump`.

        Raises:
            BusError: As :meth:`Bus.pump`.

        Cancellation:
            As :meth:`Bus.pump`.
        """
        return await self._bus.pump(
            method, params, send_stream, task_status=task_status, session=self, **options
        )

    def map(
        self, method: str, params: Iterable[object] | AsyncIterable[object], **options: Any
    ) -> AbstractAsyncContextManager[MapResults[Any]]:
        """Send many requests in this session; as :meth:`Bus.map`."""
        return self._bus.map(method, params, session=self, **options)

    def subscribe(
        self, pattern: str = "*", **options: Any
    ) -> AbstractAsyncContextManager[Subscription]:
        """Follow the notifications of this session; as :meth:`Bus.subscribe`."""
        return self._bus.subscribe(pattern, session=self, **options)

    async def notify(self, method: str, params: object = UNSET) -> None:
        """Send a notification in this session; as :meth:`Bus.notify`.

        Raises:
            SessionLostError: The worker that held the session is gone.
            BusError: As :meth:`Bus.notify`.

        Cancellation:
            As :meth:`Bus.notify`.
        """
        await self._bus.notify(method, params, session=self)


class Sessions:
    """The sessions of a bus whose blocks are open, and the routes of all.

    Args:
        bus: Whose they are.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._open: dict[str, Session] = {}
        self._lessor = Lessor(bus)
        self._in_params = frozenset(p.id for p in bus._config.pools if p.session != "top")

    def route(self, pool: str | None, session: str | Session) -> Route:
        """Return where a call in a session goes.

        Raises:
            InvalidArgumentError: It is no session, of another bus, or in another pool.
            InvalidStateError: It is over.
        """
        if isinstance(session, Session):
            return session._route_for(self._bus, pool)
        check_session_id(session)
        if session in self._open:
            return self._open[session]._route_for(self._bus, pool)
        if pool is None and self._bus._default is None:
            known = self._bus._backend.find_session(session)
            pool = None if known is None else known.pool
        return self._make_route(pool, session)

    def named_in_frame(self, pool: str | None, message: Message) -> str | None:
        """Return the session that a prepared frame names at its top level, where its pool looks."""
        if message.session is UNSET or not message.session:
            return None
        route = self._bus._default if pool is None else self._bus._routes.get(pool)
        return None if route is not None and route.pool in self._in_params else message.session

    def _make_route(
        self,
        pool: str | None,
        session: str,
        *,
        rebind: bool = False,
        members: dict[str, object] | None = None,
    ) -> Route:
        """Make the route of a session; its frames name it only where workers are to see that."""
        name = self._bus._route(pool).pool
        named: dict[str, object] = {"sessionId": session} if name in self._bus._enveloped else {}
        envelope = encode_envelope(named | (members or {}))
        return Route(name, session, rebind=rebind, envelope=envelope)

    @asynccontextmanager
    async def open(self, opening: Opening) -> AsyncIterator[Session]:
        """Open a session, and end it."""
        bus = self._bus
        key = os.urandom(ID_BYTES).hex() if opening.id is None else opening.id
        route = self._make_route(opening.pool, key, rebind=opening.rebind, members=opening.members)
        if key in self._open:
            msg = f"id: session {key!r} is open already"
            raise InvalidArgumentError(msg, field="id")
        if opening.exclusive and bus._backend.find_session(key) is not None:
            msg = f"id: session {key!r} shares a worker already; end_session() ends it"
            raise InvalidArgumentError(msg, field="id")
        self._open[key] = session = Session._create(bus, route, exclusive=opening.exclusive)
        try:
            await anyio.lowlevel.checkpoint()
            bus._life.check_running()
            if opening.exclusive:
                await self._lessor.take_worker(route.pool, key, opening)
            yield session
        finally:
            session._over = True
            del self._open[key]
            session.scope._close()
            self.end(key)

    def end_named(self, session: str) -> None:
        """Forget a session that has no block.

        Raises:
            InvalidArgumentError: It has one.
        """
        check_session_id(session)
        if session in self._open:
            msg = f"session: {session!r} ends when its block is left"
            raise InvalidArgumentError(msg, field="session")
        self.end(session)

    def end(self, session: str) -> None:
        """Forget a session, and its lease; somebody may wait for its worker."""
        if self._bus._life.state is BusState.FORKED:
            return  # the kernel is another process's
        self._bus._backend.end_session(session)
        self._lessor.look_again()
