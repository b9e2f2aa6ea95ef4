"""Own the tools of a plugin: the catalog, and the step from an invocation to a function's result."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from anyio_bus._errors import InvalidArgumentError
from anyio_bus._sansio.binding import Binding, InvalidParamsError, is_async
from anyio_bus.plugins.nexo.errors import (
    MethodError,
    PluginError,
    ToolArgumentInvalid,
    ToolNotFound,
    WireError,
)
from anyio_bus.plugins.nexo.types import ToolContext, ToolDef, ToolInvocation
from anyio_bus.plugins.nexo.wire import BAD, INVALID_PARAMS, METHOD_NOT_FOUND, result_frame
from anyio_bus.worker._handlers import call_in_thread

if TYPE_CHECKING:
    import anyio

    from anyio_bus.plugins.nexo.broker import BrokerSender

__all__ = ("Call", "ToolTable", "caller")


class _Invoke(msgspec.Struct):
    """The params of ``tool.invoke``; what is odd in them is made up for, but for the name."""

    tool_name: Any = None
    plugin_id: Any = None
    args: Raw | UnsetType = UNSET
    agent_id: Any = None


_decode_invoke = msgspec.json.Decoder(_Invoke).decode
_decode_any = msgspec.json.Decoder().decode

Call = Callable[..., Awaitable[Any]]


def caller(function: Callable[..., Any], threads: anyio.CapacityLimiter) -> Call:
    """Return what calls a function: awaited, or in a thread, so that it may block."""
    if is_async(function):
        return function

    def call(*args: Any, **kwargs: Any) -> Awaitable[Any]:
        bound = functools.partial(function, *args, **kwargs)
        return call_in_thread(bound, threads, abandon=True)

    return call


class _Bound:
    """A function that is a tool: its parameters are the tool's arguments."""

    def __init__(self, function: Callable[..., Any], name: str, names: Mapping[str, Any]) -> None:
        try:
            self.binding = Binding(function, f"tool {name!r}", ToolContext, names)
        except InvalidArgumentError as exc:
            raise PluginError(str(exc)) from exc
        self.function = function

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of its arguments."""
        if self.binding.takes_whole:
            kind = self.binding.fields[0].annotation
            schema = {"type": "object"} if kind is Any else msgspec.json.schema(kind)
        else:
            named = [f for f in self.binding.fields if f.kind is not inspect.Parameter.VAR_KEYWORD]
            fields = [_field(parameter) for parameter in named]
            closed = len(named) == len(self.binding.fields)
            kind = msgspec.defstruct(
                "Arguments", fields, kw_only=True, forbid_unknown_fields=closed
            )
            schema = msgspec.json.schema(kind)
        return _inlined(schema)


def _field(parameter: inspect.Parameter) -> tuple[str, Any] | tuple[str, Any, Any]:
    if parameter.default is inspect.Parameter.empty:
        return parameter.name, parameter.annotation
    default = parameter.default
    if isinstance(default, list | dict | set):
        return parameter.name, parameter.annotation, msgspec.field(default_factory=lambda: default)
    return parameter.name, parameter.annotation, default


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Put the root where its reference stands: the host asks for an object there."""
    parts = dict(schema.get("$defs", {}))
    reference = schema.get("$ref", "")
    if not reference:
        return schema
    name = reference.removeprefix("#/$defs/")
    whole = parts.pop(name)
    root = {member: value for member, value in whole.items() if member != "title"}
    if msgspec.json.encode(reference) in msgspec.json.encode([whole, parts]):
        parts[name] = whole  # it holds others of its kind
    return {**root, "$defs": parts} if parts else root


class ToolTable:
    """The catalog, and the handlers behind it."""

    def __init__(self) -> None:
        self._catalog: dict[str, ToolDef] = {}
        self._bound: dict[str, _Bound] = {}
        self._any: Callable[..., Any] | None = None
        self._with_context = False
        self._calls: dict[str, Call] = {}
        self._call_any: Call | None = None

    @property
    def catalog(self) -> list[ToolDef]:
        """What is shown to the host, in the order in which it was declared."""
        return list(self._catalog.values())

    @property
    def served(self) -> bool:
        """Whether there is any handler."""
        return self._any is not None or bool(self._bound)

    def declare(self, tools: Iterable[ToolDef]) -> None:
        """Put tools in the catalog.

        Raises:
            PluginError: One is no JSON.
        """
        for tool in tools:
            try:
                result_frame(None, tool.to_json(), sys.maxsize)
            except WireError as exc:
                msg = f"tool {tool.name!r}: {exc}"
                raise PluginError(msg) from exc
            self._catalog[tool.name] = tool

    def serve_any(self, handler: Callable[..., Any], *, with_context: bool) -> None:
        """Set the handler of all tools that have none of their own."""
        if self._any is not None and self._with_context and not with_context:
            return  # the one with context wins
        self._any = handler
        self._with_context = with_context

    def bind(
        self,
        function: Callable[..., Any],
        tool: ToolDef,
        names: Mapping[str, Any],
        *,
        schema: dict[str, Any] | None,
    ) -> None:
        """Make a function a tool."""
        bound = _Bound(function, tool.name, names)
        shown = schema if schema is not None else bound.schema()
        self.declare([ToolDef(tool.name, tool.description, shown)])
        self._bound[tool.name] = bound

    def open(self, threads: anyio.CapacityLimiter) -> None:
        """Get ready to call."""
        self._calls = {name: caller(bound.function, threads) for name, bound in self._bound.items()}
        self._call_any = None if self._any is None else caller(self._any, threads)

    async def invoke(self, params: Any, broker: BrokerSender, plugin_id: str) -> Any:
        """Call the handler of an invocation; return its result.

        Raises:
            MethodError: There is no handler, or the params are wrong.
            Exception: Whatever the handler raises.
        """
        if not self.served:
            raise MethodError(METHOD_NOT_FOUND, "method not found: tool.invoke")
        try:
            asked = _decode_invoke(params)
        except BAD as exc:
            raise MethodError(INVALID_PARAMS, f"tool.invoke: invalid params: {exc}") from exc
        name = asked.tool_name
        if not isinstance(name, str) or not name:
            raise MethodError(INVALID_PARAMS, "tool.invoke: tool_name must be a text, not empty")
        own = asked.plugin_id if isinstance(asked.plugin_id, str) and asked.plugin_id else plugin_id
        if name in self._bound:
            return await self._invoke_bound(name, asked.args, ToolContext(broker, own))
        if self._call_any is None:
            raise ToolNotFound(name)
        try:
            args = None if asked.args is UNSET else _decode_any(asked.args)
        except BAD as exc:
            raise MethodError(INVALID_PARAMS, f"tool.invoke: args: {exc}") from exc
        agent = asked.agent_id if isinstance(asked.agent_id, str) else None
        invocation = ToolInvocation(own, name, args, agent)
        if self._with_context:
            return await self._call_any(invocation, ToolContext(broker, own))
        return await self._call_any(invocation)

    async def _invoke_bound(self, name: str, args: Raw | UnsetType, context: ToolContext) -> Any:
        try:
            positional, named = self._bound[name].binding.arguments(context, args)
        except InvalidParamsError as exc:
            raise ToolArgumentInvalid(str(exc)) from exc
        return await self._calls[name](*positional, **named)
