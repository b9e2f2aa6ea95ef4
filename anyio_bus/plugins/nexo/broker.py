"""Own what handlers say to the host: events, and the calls of memory and language models."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, final
from uuid import uuid4

import anyio.from_thread
import anyio.lowlevel
import msgspec

from anyio_bus._io.loop import Bell, running_loop_name
from anyio_bus.plugins.nexo._calls import HostCalls, Pending, result_of
from anyio_bus.plugins.nexo.errors import (
    PluginError,
    RpcDecodeError,
    RpcError,
    RpcTimeoutError,
    RpcTransportError,
)
from anyio_bus.plugins.nexo.types import Event, LlmCompleteResult, MemoryEntry, Message, TokenCount
from anyio_bus.plugins.nexo.wire import BAD, DEFAULT_RPC_TIMEOUT

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("BrokerSender", "EventShape", "LlmStream")

T = TypeVar("T")

EventShape = Literal["host", "minimal"]
_TURN = 64  # pieces that are taken without waiting before others get their turn
_STREAM_CHARACTERS = 8 * 1024 * 1024  # that nobody has taken yet
_PIECE_CHARACTERS = 16  # as which a shorter piece counts, for it is an object as well


class _Recalled(msgspec.Struct):
    entries: list[MemoryEntry]


class _Final(msgspec.Struct):
    finish_reason: str = ""
    usage: TokenCount = msgspec.field(default_factory=TokenCount)


_decode_recalled = msgspec.json.Decoder(_Recalled).decode
_decode_completed = msgspec.json.Decoder(LlmCompleteResult).decode
_decode_final = msgspec.json.Decoder(_Final).decode
_decode_any = msgspec.json.Decoder().decode


def _decoded(decode: Callable[[Any], T], raw: object, method: str) -> T:
    try:
        return decode(raw)
    except BAD as exc:
        msg = f"the result of {method} is not what the contract says: {exc}"
        raise RpcDecodeError(msg) from exc


@final
class BrokerSender:
    """The way to the host: :attr:`PluginAdapter.broker`, and what handlers are given.

    Its async methods are for the loop in which the adapter runs; :meth:`publish_threadsafe` and
    :meth:`call_threadsafe` are for other threads.
    """

    __slots__ = ("_calls", "_plugin_id", "_shape", "_token")

    def __init__(self, plugin_id: str, shape: EventShape) -> None:
        self._plugin_id = plugin_id
        self._shape = shape
        self._calls: HostCalls | None = None
        self._token: Any = None

    def _attach(self, calls: HostCalls) -> None:
        self._calls = calls
        self._token = anyio.lowlevel.current_token()

    @property
    def _open(self) -> HostCalls:
        if self._calls is None:
            msg = "the adapter does not run: there is no host to talk to"
            raise RpcTransportError(msg)
        return self._calls

    # -- events --------------------------------------------------------------------------------

    async def publish(self, topic: str, event: Event) -> None:
        """Publish an event.

        It is on its way, in order, when this returns; it waits while the host does not read. The
        host drops what comes before it has the answer to ``initialize`` (see
        :meth:`PluginAdapter.wait_ready`), and topics that the plugin may not publish to.

        Args:
            topic: Where to.
            event: What; without a source it gets the plugin's id.

        Raises:
            WireError: It is not JSON, or too large.
            RpcTransportError: The adapter has shut down.

        Cancellation:
            A checkpoint only when it waits, so that what handlers publish keeps the order in which
            they were called. All of the event is sent or nothing.
        """
        calls = self._open
        frame = calls.encode("broker.publish", {"topic": topic, "event": self._shaped(event)})
        await calls.loop.checkpoint_if_cancelled()
        if not calls.output.has_room:
            await calls.output.room()
        calls.output.put(frame)

    def _shaped(self, event: Event) -> dict[str, Any]:
        members: dict[str, Any] = {}
        if self._shape == "host":
            members["id"] = event.id or str(uuid4())
            members["timestamp"] = event.timestamp or datetime.now(UTC).isoformat()
        members["topic"] = event.topic
        members["source"] = event.source or self._plugin_id
        members["payload"] = event.payload
        if event.session_id is not None and self._shape == "host":
            members["session_id"] = event.session_id
        if event.correlation_id is not None:
            members["correlation_id"] = event.correlation_id
        if event.metadata:
            members["metadata"] = event.metadata
        return members

    def publish_threadsafe(self, topic: str, event: Event) -> None:
        """Publish an event from another thread; waits as :meth:`publish` does.

        Raises:
            WireError: It is not JSON, or too large.
            RpcTransportError: The adapter does not run, or has shut down.
        """
        self.call_threadsafe(self.publish, topic, event)

    def call_threadsafe(self, method: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Call an async method of this object from another thread, and wait for its result.

        Args:
            method: ``broker.memory_recall``, for example.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Raises:
            RpcTransportError: The adapter does not run, or its loop has ended.
            PluginError: As the method itself; or this thread runs a loop, which must not block.
        """
        self._open  # noqa: B018  # raises if there is none
        if running_loop_name() is not None:
            msg = "this thread runs an event loop, which would block: await the method itself"
            raise PluginError(msg)
        try:
            return anyio.from_thread.run(partial(method, *args, **kwargs), token=self._token)  # type: ignore[arg-type]
        except PluginError:
            raise
        except BaseException as exc:  # noqa: ASYNC103
            # That of a loop that has ended, or ends just now: its cancellation is not this thread's.
            ended = isinstance(exc, RuntimeError) or type(exc).__name__.startswith("Cancelled")
            if not ended:
                raise
            msg = f"the adapter's loop cannot be reached: {exc}"
            raise RpcTransportError(msg) from exc  # noqa: ASYNC104

    # -- calls ---------------------------------------------------------------------------------

    async def request(
        self, method: str, params: Mapping[str, Any], *, timeout: float | None = None
    ) -> Any:
        """Call any method of the host and return its result as plain objects.

        Args:
            method: Its name on the wire.
            params: What encodes to a JSON object.
            timeout: Seconds; None for 30.

        Raises:
            RpcError: There is no result; the class says why.
            WireError: The call is not JSON, or too large.

        Cancellation:
            Always a checkpoint. The wait ends at once, a late answer is dropped.
        """
        raw = await self._open.request(method, params, _seconds(timeout))
        return _decoded(_decode_any, raw, method)

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Send any notification to the host.

        Raises:
            WireError: It is not JSON, or too large.
            RpcTransportError: The adapter has shut down.

        Cancellation:
            Always a checkpoint. All of it is sent or nothing.
        """
        calls = self._open
        frame = calls.encode(method, params)
        await anyio.lowlevel.checkpoint()
        await calls.output.room()
        calls.output.put(frame)

    async def memory_recall(
        self, *, agent_id: str, query: str, limit: int = 10, timeout: float | None = None
    ) -> list[MemoryEntry]:
        """Search the memories of an agent.

        Args:
            agent_id: Whose.
            query: What for.
            limit: How many at most; the host gives no more than 1000.
            timeout: Seconds; None for 30.

        Raises:
            RpcError: There is no result; the class says why.
            WireError: The call is not JSON, or too large.

        Cancellation:
            Always a checkpoint. The wait ends at once, a late answer is dropped.
        """
        params = {"agent_id": agent_id, "query": query, "limit": limit}
        raw = await self._open.request("memory.recall", params, _seconds(timeout))
        return _decoded(_decode_recalled, raw, "memory.recall").entries

    async def llm_complete(
        self,
        *,
        provider: str,
        model: str,
        messages: Sequence[Message | Mapping[str, Any]],
        max_tokens: int = 4096,
        temperature: float = 0.7,
        system_prompt: str | None = None,
        timeout: float | None = None,
    ) -> LlmCompleteResult:
        """Have a language model answer.

        Args:
            provider: The host's name of the provider.
            model: The model.
            messages: The conversation, at least one.
            max_tokens: Longest answer.
            temperature: As the provider takes it.
            system_prompt: Left out when None.
            timeout: Seconds; None for 30.

        Raises:
            RpcError: There is no result; the class says why.
            WireError: The call is not JSON, or too large.

        Cancellation:
            Always a checkpoint. The wait ends at once, a late answer is dropped.
        """
        params = _completion(provider, model, messages, max_tokens, temperature, system_prompt)
        raw = await self._open.request("llm.complete", params, _seconds(timeout))
        return _decoded(_decode_completed, raw, "llm.complete")

    def llm_complete_stream(
        self,
        *,
        provider: str,
        model: str,
        messages: Sequence[Message | Mapping[str, Any]],
        max_tokens: int = 4096,
        temperature: float = 0.7,
        system_prompt: str | None = None,
        idle_timeout: float | None = 30.0,
        timeout: float | None = 300.0,
    ) -> LlmStream:
        """Have a language model answer in pieces; it begins at once.

        Args:
            provider: The host's name of the provider.
            model: The model.
            messages: The conversation, at least one.
            max_tokens: Longest answer.
            temperature: As the provider takes it.
            system_prompt: Left out when None.
            idle_timeout: Seconds from one piece to the next; None for no limit.
            timeout: Seconds for all of it; None for no limit.

        Raises:
            WireError: The call is not JSON, or too large.
            RpcTransportError: The adapter does not run, or has shut down.
        """
        params = _completion(provider, model, messages, max_tokens, temperature, system_prompt)
        return LlmStream(self._open, {**params, "stream": True}, idle_timeout, timeout)


def _seconds(timeout: float | None) -> float:
    return DEFAULT_RPC_TIMEOUT if timeout is None else timeout


def _completion(
    provider: str,
    model: str,
    messages: Sequence[Message | Mapping[str, Any]],
    max_tokens: int,
    temperature: float,
    *more: str | None,
) -> dict[str, Any]:
    params: dict[str, Any] = {
        "provider": provider,
        "model": model,
        "messages": list(messages),
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    if more[0] is not None:
        params["system_prompt"] = more[0]
    return params


@final
class LlmStream:
    """The pieces of an answer, and its end.

    ``async for piece in stream`` gives the text as it comes. It raises what went wrong, so a text
    that breaks off is never taken for a whole one. ``async with stream`` closes it at the end.
    """

    __slots__ = (
        "_bell",
        "_call",
        "_calls",
        "_error",
        "_pieces",
        "_result",
        "_since",
        "_size",
        "_until",
    )

    def __init__(
        self,
        calls: HostCalls,
        params: dict[str, Any],
        idle_timeout: float | None,
        timeout: float | None,
    ) -> None:
        now = calls.loop.now()
        self._calls = calls
        self._bell = Bell()
        self._pieces: deque[str] = deque()
        self._size = 0
        self._since = 0
        self._result: LlmCompleteResult | None = None
        self._error: RpcError | None = None
        self._until = None if timeout is None else (now + timeout, timeout)
        limit = min((s for s in (idle_timeout, timeout) if s is not None), default=None)
        self._call = Pending(calls.new_key(), limit, self._end, self._take)
        frame = calls.encode("llm.complete", params, self._call.key)
        calls.open(self._call)
        calls.output.put(frame)

    # -- the host's side -----------------------------------------------------------------------

    def _take(self, piece: str) -> None:
        self._pieces.append(piece)
        self._size += max(len(piece), _PIECE_CHARACTERS)
        if self._size > _STREAM_CHARACTERS:
            text = f"over {_STREAM_CHARACTERS} characters of a stream wait to be read"
            self._calls.fail(self._call.key, RpcTransportError(text))
        elif self._until is not None and self._calls.loop.now() > self._until[0]:
            self._calls.fail(self._call.key, RpcTimeoutError(self._until[1]))
        self._bell.ring()

    def _end(self, outcome: Any) -> None:
        try:
            if isinstance(outcome, RpcError):
                raise outcome
            final_ = _decoded(_decode_final, result_of(outcome), "llm.complete")
            self._result = LlmCompleteResult(None, final_.finish_reason, final_.usage)
        except RpcError as exc:
            self._error = exc
        self._bell.ring()

    @property
    def _over(self) -> bool:
        return self._result is not None or self._error is not None

    # -- the reader's side ---------------------------------------------------------------------

    def __aiter__(self) -> LlmStream:
        return self

    async def __anext__(self) -> str:
        """Return the next piece.

        Raises:
            RpcError: The answer broke off; the class says why.

        Cancellation:
            A checkpoint when it waits, and at least once in 64 times. No piece is lost.
        """
        self._since += 1
        if self._since >= _TURN:
            self._since = 0
            await anyio.lowlevel.checkpoint()
        while not self._pieces and not self._over:
            await self._bell.wait()
        if self._pieces:
            piece = self._pieces.popleft()
            self._size -= max(len(piece), _PIECE_CHARACTERS)
            return piece  # noqa: ASYNC910
        if self._error is not None:
            raise self._error
        await anyio.lowlevel.checkpoint()
        raise StopAsyncIteration

    async def final_result(self) -> LlmCompleteResult:
        """Wait for the end; return the reason and the cost, with ``content`` None. Again and again.

        Raises:
            RpcError: The answer broke off; the class says why.

        Cancellation:
            Always a checkpoint. Nothing is lost.
        """
        await anyio.lowlevel.checkpoint()
        while not self._over:
            await self._bell.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    async def aclose(self) -> None:
        """Give up the rest; what the host still sends is dropped.

        Cancellation:
            Always a checkpoint, after it is closed.
        """
        self._calls.fail(self._call.key, RpcTransportError("the stream is closed"))
        self._pieces.clear()
        self._size = 0
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> LlmStream:  # noqa: ASYNC910
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
