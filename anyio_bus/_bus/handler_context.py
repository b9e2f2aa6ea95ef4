"""Own what a handler is given of the worker's request that it serves, and the way back to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import anyio
import anyio.lowlevel
from msgspec import UNSET, Raw, UnsetType

from anyio_bus._sansio.codec import encode_notification
from anyio_bus._sansio.params import read_known

if TYPE_CHECKING:
    from anyio_bus._bus.bus import Bus
    from anyio_bus._bus.calls import Scope
    from anyio_bus._bus.handlers import Handlers
    from anyio_bus._sansio.events import Lines
    from anyio_bus._sansio.messages import Message, RequestId

__all__ = ("HandlerContext",)


@final
class HandlerContext:
    """The request of a worker that a handler serves; a parameter annotated with it gets it."""

    __slots__ = (
        "_cancel_scope",
        "_gone",
        "_handlers",
        "_key",
        "_method",
        "_over",
        "_params",
        "_pool",
        "_scope",
        "_session",
        "_worker",
    )

    _handlers: Handlers
    _pool: str
    _worker: int
    _key: RequestId
    _method: str
    _params: Raw | UnsetType
    _session: str | UnsetType
    _scope: Scope
    _cancel_scope: anyio.CancelScope
    _over: bool  # answered, or to have no answer
    _gone: bool  # its worker is dead

    def __init__(self) -> None:
        """Refuse: a bus makes them."""
        msg = "a HandlerContext is made by the bus, for a handler's parameter annotated with it"
        raise TypeError(msg)

    @classmethod
    def _create(
        cls, handlers: Handlers, event: Lines, message: Message, scope: Scope
    ) -> HandlerContext:
        self = cls.__new__(cls)
        self._handlers = handlers
        self._pool = event.pool
        self._worker = event.worker
        self._key = message.id  # type: ignore[assignment]  # it is a request
        self._method = message.method  # type: ignore[assignment]
        self._params = message.params
        self._session = message.session
        self._scope = scope
        self._cancel_scope = anyio.CancelScope()
        self._over = False
        self._gone = False
        return self

    def __repr__(self) -> str:
        """Show what it is and who asked."""
        return f"<HandlerContext {self._method!r} of {self._pool}/{self._worker}>"

    @property
    def bus(self) -> Bus:
        """The bus, for requests of the handler's own."""
        return self._handlers.bus

    @property
    def pool(self) -> str:
        """The pool of the worker that asked."""
        return self._pool

    @property
    def worker(self) -> int:
        """The number of the worker that asked."""
        return self._worker

    @property
    def method(self) -> str:
        """The method that was called."""
        return self._method

    @property
    def request_id(self) -> RequestId:
        """The id of the request, which is the worker's own: another worker may use it as well.

        Where other programs may be connected to the kernel it is the kernel's, and unique there.
        """
        return self._key

    @property
    def session(self) -> str | None:
        """The ``sessionId`` at top level or, without one there, in the params."""
        if self._session is not UNSET:
            return self._session
        return read_known(self._params).session

    @property
    def meta(self) -> dict[str, Any]:
        """The member ``_meta`` of the params as plain objects; empty where there is none."""
        return read_known(self._params).meta

    @property
    def scope(self) -> Scope:
        """The scope that this request belongs to: that of its handler's registration."""
        return self._scope

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled: by its worker or that one's death, by its scope, by a stop."""
        return self._cancel_scope.cancel_called

    async def notify(self, method: str, params: object = UNSET) -> None:
        """Send a notification to the worker that asked, ahead of the answer.

        Args:
            method: JSON-RPC method name, sent as it is.
            params: What encodes to a JSON object or array; left out when UNSET or None.

        Raises:
            InvalidArgumentError: It cannot be encoded.
            WorkerLostError: The worker is gone; its successor knows nothing of this request.
            OverloadedError: The worker's queue is full.
            FrameTooLargeError: It is over ``max_frame_bytes``.

        Cancellation:
            Always a checkpoint, before anything is sent.
        """
        frame = encode_notification(method, params)
        await anyio.lowlevel.checkpoint()
        self._handlers.notify(self, frame)

    # -- for the bus ---------------------------------------------------------------------------

    def _keep_only_own(self) -> None:
        """Copy what is still needed out of the block of lines that it was read with."""
        if isinstance(self._params, Raw):
            self._params = self._params.copy()

    def _cancel_with(self, scope: Scope, reason: str) -> None:
        self._handlers.cancel_in_scope(self, scope, reason)
