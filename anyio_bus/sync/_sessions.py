"""Own sessions and scopes for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, final, overload

from msgspec import UNSET, UnsetType

from anyio_bus import HelloResult, InvalidArgumentError, Scope, Session
from anyio_bus.sync._blocks import Block

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from types import TracebackType

    from anyio_bus.sync._bus import SyncBus
    from anyio_bus.sync._maps import SyncMapResults
    from anyio_bus.sync._runner import Runner
    from anyio_bus.sync._streams import SyncStream, SyncSubscription

__all__ = ("SyncScope", "SyncSession", "scope_of", "session_of")

T = TypeVar("T")


def scope_of(scope: SyncScope | None) -> Scope | None:
    """Return the scope that is meant.

    Raises:
        InvalidArgumentError: It is none of this module.
    """
    if scope is None:
        return None
    if not isinstance(scope, SyncScope):
        msg = f"scope must be one of open_scope(), not {scope!r}"
        raise InvalidArgumentError(msg, field="scope")
    return scope._scope


def session_of(session: str | SyncSession | None) -> str | Session | None:
    """Return the session that is meant."""
    return session._session if isinstance(session, SyncSession) else session


@final
class SyncScope:
    """A group of calls that can be cancelled together; from :meth:`SyncBus.open_scope`.

    The blocking :class:`~anyio_bus.Scope`. It is its own context manager.
    """

    def __init__(
        self,
        runner: Runner,
        make: Callable[[], AbstractAsyncContextManager[Scope]] | None,
        parent: SyncScope | None,
    ) -> None:
        """Made by a bus."""
        self._runner = runner
        self._block = None if make is None else Block(runner, make)
        self.parent: SyncScope | None = parent
        self._scope: Scope

    @classmethod
    def _of(cls, runner: Runner, scope: Scope, parent: SyncScope | None = None) -> SyncScope:
        self = cls(runner, None, parent)
        self._scope = scope
        return self

    def __enter__(self) -> SyncScope:
        """Open it."""
        assert self._block is not None
        self._scope = self._block.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel what is still in it."""
        assert self._block is not None
        self._block.close()

    def __repr__(self) -> str:
        """Show the name and what is in it."""
        return f"<Sync{repr(self._scope)[1:]}"

    @property
    def name(self) -> str:
        """What it was called, for logs and errors."""
        return self._scope.name

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled; a call made in it then fails at once."""
        return self._scope.cancelled

    @property
    def cancel_reason(self) -> str | None:
        """Why it was cancelled; None if it was not."""
        return self._scope.cancel_reason

    def cancel(self, reason: str = "cancelled") -> None:
        """Withdraw every call in it and in its children; any thread may do so.

        Workers are told, and the callers get :class:`ScopeCancelledError` with this reason.
        """
        self._runner.run_sync(self._scope.cancel, reason)


@final
class SyncSession:
    """A conversation that stays on one worker; from :meth:`SyncBus.session`.

    The blocking :class:`~anyio_bus.Session`. Its calls are those of the bus. They are in its scope:
    what is still in flight when the block is left is withdrawn.
    """

    def __init__(
        self,
        bus: SyncBus,
        runner: Runner,
        make: Callable[[], AbstractAsyncContextManager[Session]],
    ) -> None:
        """Made by a bus."""
        self._bus = bus
        self._runner = runner
        self._block = Block(runner, make)
        self._session: Session

    def __enter__(self) -> SyncSession:
        """Open it."""
        self._session = self._block.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._block.close()

    def __repr__(self) -> str:
        """Show what it is called."""
        return f"<SyncSession {self.id!r} of pool {self.pool!r}>"

    @property
    def id(self) -> str:
        """Its name, unique in the bus."""
        return self._session.id

    @property
    def pool(self) -> str:
        """The pool that it is in."""
        return self._session.pool

    @property
    def exclusive(self) -> bool:
        """Whether it has its worker for itself."""
        return self._session.exclusive

    @property
    def scope(self) -> SyncScope:
        """The scope of its calls."""
        return SyncScope._of(self._runner, self._session.scope, self._bus.scope)

    @property
    def worker(self) -> int | None:
        """The number of the worker that holds it; None before its first call, and without one."""
        return self._runner.run_sync(lambda: self._session.worker)

    @property
    def lost(self) -> bool:
        """Whether its worker is gone and no call of it was told so yet."""
        return self._runner.run_sync(lambda: self._session.lost)

    @overload
    def request(
        self,
        method: str,
        params: object = ...,
        *,
        reply: type[T],
        timeout: float | UnsetType | None = ...,
        scope: SyncScope | None = ...,
    ) -> T: ...

    @overload
    def request(
        self,
        method: str,
        params: object = ...,
        *,
        reply: Any = ...,
        timeout: float | UnsetType | None = ...,
        scope: SyncScope | None = ...,
    ) -> Any: ...

    def request(
        self,
        method: str,
        params: object = UNSET,
        *,
        reply: Any = Any,
        timeout: float | UnsetType | None = UNSET,
        scope: SyncScope | None = None,
    ) -> Any:
        """Send one request in this session; as :meth:`SyncBus.request`.

        Raises:
            SessionLostError: The worker that held the session is gone.
            BusError: As :meth:`SyncBus.request`.
        """
        return self._bus.request(
            method, params, reply=reply, timeout=timeout, scope=scope, session=self
        )

    def hello(
        self, protocol_version: str = "0.1.0", extensions: Mapping[str, Any] | None = None
    ) -> HelloResult:
        """Greet the worker with the request ``stdio_bus/hello``; return what it answers.

        Raises:
            RemoteError: The worker refuses, or knows no such method.
            BusError: As :meth:`SyncBus.request`.
        """
        return self._runner.run(self._session.hello, protocol_version, extensions)

    def request_raw(
        self,
        frame: bytes | str,
        *,
        timeout: float | UnsetType | None = UNSET,
        scope: SyncScope | None = None,
    ) -> bytes:
        """Send a prepared request in this session; as :meth:`SyncBus.request_raw`."""
        return self._bus.request_raw(frame, timeout=timeout, scope=scope, session=self)

    def stream(
        self, method: str, params: object = UNSET, **options: Any
    ) -> AbstractContextManager[SyncStream[Any]]:
        """Send one request in this session and follow its chunks; as :meth:`SyncBus.stream`."""
        return self._bus.stream(method, params, session=self, **options)

    def map(
        self, method: str, params: Iterable[object], **options: Any
    ) -> AbstractContextManager[SyncMapResults[Any]]:
        """Send many requests in this session; as :meth:`SyncBus.map`."""
        return self._bus.map(method, params, session=self, **options)

    def subscribe(
        self, pattern: str = "*", **options: Any
    ) -> AbstractContextManager[SyncSubscription]:
        """Follow the notifications of this session; as :meth:`SyncBus.subscribe`."""
        return self._bus.subscribe(pattern, session=self, **options)

    def notify(self, method: str, params: object = UNSET) -> None:
        """Send a notification in this session; as :meth:`SyncBus.notify`."""
        self._bus.notify(method, params, session=self)
