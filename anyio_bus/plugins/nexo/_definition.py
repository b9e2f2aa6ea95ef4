"""Own what an author has written: the manifest, the handlers, the bounds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from anyio_bus.plugins.nexo.errors import MethodError, PluginError
from anyio_bus.plugins.nexo.wire import BAD, INVALID_PARAMS, MAX_FRAME_BYTES

if TYPE_CHECKING:
    from anyio_bus.plugins.nexo._tools import ToolTable
    from anyio_bus.plugins.nexo.broker import BrokerSender, EventShape

__all__ = ("Bounds", "Definition", "RequestContext", "RequestHandler")

OWN_METHODS = frozenset({"initialize", "shutdown", "tool.invoke"})


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What :class:`PluginAdapter` takes; it says what each means."""

    max_frame_bytes: int = MAX_FRAME_BYTES
    max_outbound_frame_bytes: int = MAX_FRAME_BYTES
    max_concurrency: int = 64
    max_queued: int = 1024
    request_timeout_s: float = 55.0
    drain_s: float = 4.0

    def __post_init__(self) -> None:
        """Validate."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name.endswith("_s"):
                if type(value) not in {int, float} or not 0 < value < float("inf"):
                    msg = f"PluginAdapter.{name} must be a number of seconds, not {value!r}"
                    raise PluginError(msg)
            elif type(value) is not int or value < 1:
                msg = f"PluginAdapter.{name} must be a whole number of at least 1, not {value!r}"
                raise PluginError(msg)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What a handler of ``on_request`` is given besides its params, if it takes two arguments.

    Attributes:
        broker: The way to the host.
        plugin_id: The plugin's id.
        method: What was asked.
        request_id: The id of the request.
    """

    broker: BrokerSender
    plugin_id: str
    method: str
    request_id: Any

    async def send_delta(self, chunk: Any) -> None:
        """Send a piece of the answer to ``llm.chat`` ahead of it.

        Args:
            chunk: Its ``type`` is ``text_delta``, ``tool_call_start``, ``tool_call_args_delta``,
                ``tool_call_end``, ``usage`` or ``end``.

        Raises:
            WireError: It is not JSON, or too large.
            RpcTransportError: The adapter has shut down.

        Cancellation:
            Always a checkpoint. All of it is sent or nothing.
        """
        params = {"request_id": self.request_id, "chunk": chunk}
        await self.broker.notify("llm.chat.delta", params)


class RequestHandler:
    """The handler of one method of the host.

    Args:
        method: Its name on the wire.
        function: Takes the params, and a :class:`RequestContext` if it takes two arguments.
        kind: What the params are decoded into.
        answer: Makes the result out of what the function returned.
    """

    def __init__(
        self,
        method: str,
        function: Callable[..., Any],
        kind: Any = Any,
        answer: Callable[[Any], Any] | None = None,
    ) -> None:
        if method in OWN_METHODS:
            msg = f"{method!r} is the adapter's own"
            raise PluginError(msg)
        if not callable(function):
            msg = f"the handler of {method!r} is not callable: {function!r}"
            raise PluginError(msg)
        self.method = method
        self.function = function
        self._decode = msgspec.json.Decoder(kind).decode
        self._is_struct = kind is not Any
        self._answer = answer
        self._with_context = _takes_two(function)

    async def run(self, call: Callable[..., Any], params: Any, context: RequestContext) -> Any:
        """Call it; return the result.

        Raises:
            MethodError: The params are wrong.
            Exception: Whatever it raises.
        """
        if self._is_struct and bytes(params) == b"null":
            params = b"{}"
        try:
            asked = self._decode(params)
        except BAD as exc:
            msg = f"{self.method}: invalid params: {exc}"
            raise MethodError(INVALID_PARAMS, msg) from exc
        result = await (call(asked, context) if self._with_context else call(asked))
        return result if self._answer is None else self._answer(result)


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    placed = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return sum(parameter.kind in placed for parameter in parameters) >= 2


class Definition:
    """A plugin, as its author has written it."""

    def __init__(
        self,
        document: dict[str, Any],
        shown: dict[str, Any],
        tools: ToolTable,
        bounds: Bounds,
        shape: EventShape,
    ) -> None:
        self.document = document
        self.plugin_id: str = document["plugin"]["id"]
        self.shown = shown
        self.server_version = ""
        self.tools = tools
        self.bounds = bounds
        self.shape: EventShape = shape
        self.requests: dict[str, RequestHandler] = {}
        self.on_event: Callable[..., Any] | None = None
        self.on_shutdown: Callable[[], Any] | None = None

    def greeting(self) -> dict[str, Any]:
        """Return the result of ``initialize``."""
        result: dict[str, Any] = {"manifest": self.shown, "server_version": self.server_version}
        tools = [tool.to_json() for tool in self.tools.catalog]
        if tools:
            result["tools"] = tools
        return result
