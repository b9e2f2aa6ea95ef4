"""Own what a handler is given of the request that it serves, and the ways back to the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, final, overload

import anyio
import anyio.lowlevel
import msgspec
from msgspec import UNSET, Raw

from anyio_bus._errors import InvalidArgumentError, InvalidStateError
from anyio_bus._sansio.codec import encode_notification, encode_value
from anyio_bus._sansio.notifications import CREDIT_KEY
from anyio_bus._sansio.params import KnownParams, plain_or_none, read_known
from anyio_bus.worker._credit import Window

if TYPE_CHECKING:
    from anyio_bus._sansio.messages import Message, RequestId
    from anyio_bus.worker._link import Link

__all__ = ("CREDIT_KEY", "Context")

T = TypeVar("T")


_members = msgspec.json.Decoder(dict[str, Raw])
_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@final
class Context:
    """The request or notification that a handler serves; a parameter annotated with it gets it.

    A plain function, which runs in a thread, calls the async methods with
    ``anyio.from_thread.run(context.send_chunk, "text")``.
    """

    __slots__ = (
        "_known",
        "_link",
        "_meta",
        "_over",
        "_request",
        "_scope",
        "_silent",
        "_window",
    )

    _link: Link
    _request: Message
    _scope: anyio.CancelScope
    _known: KnownParams | None
    _meta: dict[str, Any] | None
    _window: Window | None
    _over: bool  # answered
    _silent: bool  # cancelled in a way that no answer follows

    def __init__(self) -> None:
        """Refuse: a worker makes them."""
        msg = "a Context is made by the worker, for a handler's parameter annotated with it"
        raise TypeError(msg)

    @classmethod
    def _create(cls, link: Link, request: Message) -> Context:
        self = cls.__new__(cls)
        self._link = link
        self._request = request
        self._scope = anyio.CancelScope()
        self._known = None
        self._meta = None
        self._window = None
        self._over = False
        self._silent = False
        return self

    @property
    def method(self) -> str:
        """The method that was called."""
        method: str = self._request.method  # type: ignore[assignment]
        return method

    @property
    def request_id(self) -> RequestId:
        """The id of the request; None for a notification."""
        return None if self._request.id is UNSET else self._request.id

    @property
    def session(self) -> str | None:
        """The ``sessionId`` at top level or, without one there, in the params."""
        if self._request.session is not UNSET:
            return self._request.session
        return self._read().session

    @property
    def meta(self) -> dict[str, Any]:
        """The member ``_meta`` of the params as plain objects; empty where there is none."""
        if self._meta is None:
            self._meta = self._read().meta
        return self._meta

    @property
    def cancelled(self) -> bool:
        """Whether the request was cancelled, by its client or because the worker shuts down."""
        return self._scope.cancel_called

    async def send_chunk(self, chunk: object, *, method: str = "chunk") -> None:
        """Send a part of the answer ahead of the result, as a notification.

        Its params carry ``_meta.requestId``, so that the client knows whose it is. Where the client
        gave a credit window (``_meta["anyio-bus/credit"]``, in bytes) and it is used up, this waits
        until the client has taken some; other handlers go on. A chunk larger than the window goes
        out alone.

        Args:
            chunk: Text, which is sent as ``{"text": ...}``, or what encodes to a JSON object.
            method: The notification's method.

        Raises:
            InvalidArgumentError: It encodes to no JSON object.
            InvalidStateError: The request has been answered, or is a notification.
            FrameTooLargeError: It is over ``max_frame_bytes``.

        Cancellation:
            Always a checkpoint. Either the whole chunk is sent or nothing of it.
        """
        self._check_open()
        link = self._link
        params: object = self._chunk(chunk)
        charge = 0
        credit = self._credit()
        if credit.limited:  # the client gives back what the chunk says
            raw = encode_value(params, "chunk")
            charge = len(raw)
            params = Raw(b'%b,"%b":%d}}' % (raw[:-2], CREDIT_KEY.encode(), charge))
        frame = link.checked(encode_notification(method, params, self._top_session()))
        await anyio.lowlevel.checkpoint()
        await link.output.room()
        await credit.take(charge)
        self._check_open()
        link.output.put(frame)

    async def notify(self, method: str, params: object = UNSET) -> None:
        """Send a notification to the client.

        Args:
            method: JSON-RPC method name, sent as it is.
            params: What encodes to a JSON object or array; left out when UNSET or None.

        Raises:
            InvalidArgumentError: It cannot be encoded.
            FrameTooLargeError: It is over ``max_frame_bytes``.

        Cancellation:
            Always a checkpoint. Either the whole notification is sent or nothing of it.
        """
        await self._link.send(encode_notification(method, params, self._top_session()))

    @overload
    async def request(
        self, method: str, params: object = ..., *, reply: type[T], timeout: float | None = ...
    ) -> T: ...

    @overload
    async def request(
        self, method: str, params: object = ..., *, reply: Any = ..., timeout: float | None = ...
    ) -> Any: ...

    async def request(
        self,
        method: str,
        params: object = UNSET,
        *,
        reply: Any = Any,
        timeout: float | None = 60.0,  # data of the call
    ) -> Any:
        """Send a request to the client and return its result.

        Args:
            method: JSON-RPC method name, sent as it is.
            params: What encodes to a JSON object or array; left out when UNSET or None.
            reply: The type that the result is decoded into, any that msgspec knows.
            timeout: Seconds from now to the answer; None for no limit.

        Raises:
            RemoteError: The client answered with an error object.
            RequestTimeoutError: No answer came in time; the client is told.
            RemoteProtocolError: The result is not a ``reply``.
            FrameTooLargeError: The request, or its answer, is over ``max_frame_bytes``.
            TransportError: The client closed its end.

        Cancellation:
            Always a checkpoint. The wait ends at once; the client is told, a late answer dropped.
        """
        if self._link.telemetry is not None:
            params = self._link.telemetry.outgoing(params)
        return await self._link.request(method, params, reply, timeout, self._top_session())

    # -- for the worker ------------------------------------------------------------------------

    def _credited(self, size: int) -> None:
        if self._window is not None:  # without one nothing was sent yet
            self._window.give(size)

    def _no_more_credit(self) -> None:
        self._credit().open()

    def _credit(self) -> Window:
        if self._window is None:
            limit = self.meta.get(CREDIT_KEY)
            usable = type(limit) is int and limit >= 0
            self._window = Window(limit if usable else None)
        return self._window

    def _top_session(self) -> str | None:
        return None if self._request.session is UNSET else self._request.session

    def _check_open(self) -> None:
        if self._request.id is UNSET:
            msg = f"{self.method!r} is a notification: it has no answer, so no part of one"
            raise InvalidStateError(msg)
        if self._over:
            msg = f"request {self.request_id!r} ({self.method}) has been answered"
            raise InvalidStateError(msg)

    def _chunk(self, chunk: object) -> dict[str, Any]:
        """Return a chunk's params with the id of the request in them."""
        members: dict[str, Any]
        if isinstance(chunk, str):
            members = {"text": chunk}
        elif isinstance(chunk, dict):
            members = chunk
        else:
            try:
                members = _members.decode(encode_value(chunk, "chunk"))
            except msgspec.ValidationError as exc:
                msg = f"chunk must be text or a JSON object, not {type(chunk).__name__}"
                raise InvalidArgumentError(msg, field="chunk") from exc
        meta = members.get("_meta")
        if isinstance(meta, Raw):
            meta = plain_or_none(meta)
        own = meta if isinstance(meta, dict) else {}
        others = {name: value for name, value in members.items() if name != "_meta"}
        kept = {name: value for name, value in own.items() if name != CREDIT_KEY}
        others["_meta"] = {**kept, "requestId": self.request_id}  # the last, so it can be added to
        return others

    def _read(self) -> KnownParams:
        if self._known is None:
            self._known = read_known(self._request.params)
        return self._known
