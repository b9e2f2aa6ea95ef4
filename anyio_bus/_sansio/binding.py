"""Own the step from a request's raw params to a handler's arguments, by the handler's signature.

The rule, in this order:

1. A parameter annotated with the context's class gets the context (``anyio_bus.worker.Context`` in
   a worker, ``anyio_bus.HandlerContext`` in a bus).
2. If there is one other parameter and it is called ``params``, it gets the params as a whole,
   decoded into its annotation: a Struct, a dataclass, a TypedDict, ``dict[str, int]``, ``Raw``.
3. Otherwise each parameter gets the member of its name, or, if the params are an array, the item at
   its place; each is decoded into its annotation, and its default stands in where it is missing.

Unknown members are refused, as by a Python call, so that a misspelt optional name is seen; with
``**kwargs`` they go there. ``_meta`` and ``sessionId`` are the context's: never refused, and passed
only to a parameter of that name.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any

import msgspec
import msgspec.inspect
from msgspec import UNSET, Raw, UnsetType

from anyio_bus._errors import InvalidArgumentError

__all__ = ("Binding", "InvalidParamsError", "check_name", "is_async")

Arguments = tuple[list[Any], dict[str, Any]]

_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_EMPTY = Parameter.empty
_CONTEXTS = ("_meta", "sessionId")  # members that a context reads
_members = msgspec.json.Decoder(dict[str, Raw])


class InvalidParamsError(Exception):
    """The params do not fit the handler; becomes -32602 on the wire."""


def check_name(name: Any, decorator: str, field: str = "name") -> None:
    """Refuse what is no name, such as the function itself where the parentheses were left out.

    Args:
        name: What the decorator was given.
        decorator: How it is written, such as ``bus.handler``.
        field: What it calls the name.
    """
    if isinstance(name, str):
        return
    example = getattr(name, "__name__", "name")
    call = decorator.rpartition(".")[2]
    msg = f'{call}() needs the name of a method: @{decorator}("{example}"), not {name!r}'
    raise InvalidArgumentError(msg, field=field)


class Binding:
    """How one handler takes its params; all decoders are built once, here.

    Args:
        function: The handler.
        what: What to call it in errors.
        context: The class of the context.
        names: Further names that its annotations may use, those of the place where it is defined.

    Attributes:
        is_async: Whether the handler is an async function.
        fields: The parameters that the params fill.
        takes_whole: Whether the one field gets the params as a whole.

    Raises:
        InvalidArgumentError: It is no function that can be served; the message says why.
    """

    __slots__ = ("_context", "_parameters", "_takes", "fields", "is_async", "takes_whole")

    def __init__(
        self,
        function: Callable[..., Any],
        what: str,
        context: type,
        names: Mapping[str, Any] | None = None,
    ) -> None:
        if not callable(function):
            msg = f"{what}: {function!r} is not callable"
            raise InvalidArgumentError(msg, field=what)
        if _is(inspect.isasyncgenfunction, function) or _is(inspect.isgeneratorfunction, function):
            msg = f"{what}: a handler returns its result and must not yield"
            raise InvalidArgumentError(msg, field=what)
        self.is_async = is_async(function)
        self._context = context
        self._parameters = _parameters(function, what, names)
        fields = [p for p in self._parameters if p.annotation is not context]
        for field in fields:
            _check(field, what)
        self.fields = fields
        self.takes_whole = (
            len(fields) == 1 and fields[0].name == "params" and not _is_rest(fields[0])
        )
        if self.takes_whole:
            self._takes: _Whole | _Members = _Whole(fields[0])
        else:
            self._takes = _Members(fields)

    def arguments(self, context: object, raw: Raw | UnsetType) -> Arguments:
        """Decode params into the arguments of a call.

        Raises:
            InvalidParamsError: They do not fit; the message holds the path.
        """
        data = None if raw is UNSET or _starts(raw, b"n") else raw  # null: as good as absent
        try:
            values, rest = self._takes.decode(data)
        except _BAD as exc:
            raise InvalidParamsError(str(exc)) from exc
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for p in self._parameters:
            if p.kind is Parameter.VAR_KEYWORD:
                continue
            value = context if p.annotation is self._context else values[p.name]
            if p.kind is Parameter.KEYWORD_ONLY:
                kwargs[p.name] = value
            else:
                args.append(value)
        return args, {**kwargs, **rest} if rest else kwargs


def _parameters(
    function: Callable[..., Any], what: str, names: Mapping[str, Any] | None
) -> list[Parameter]:
    """Return the parameters with their annotations resolved."""
    plain: Any = function
    while isinstance(plain, functools.partial):
        plain = plain.func
    if not inspect.isroutine(plain):
        plain = type(plain).__call__
    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(plain, localns=dict(names or {}), include_extras=True)
    except (TypeError, ValueError, NameError, SyntaxError) as exc:
        msg = f"{what}: its signature cannot be read: {exc}"
        raise InvalidArgumentError(msg, field=what) from exc
    found = []
    for p in signature.parameters.values():
        hint = hints.get(p.name, Any)
        found.append(p.replace(annotation=Any if hint is object else hint))
    return found


def _is(test: Callable[[Any], bool], function: Any) -> bool:
    """Test a function that may be wrapped in a partial, or be an instance with ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    return test(function) or test(type(function).__call__)


def is_async(function: Any) -> bool:
    """Whether calling it gives something to await."""
    return _is(inspect.iscoroutinefunction, function)


def _starts(raw: Raw, byte: bytes) -> bool:
    return memoryview(raw)[:1] == byte


def _is_rest(parameter: Parameter) -> bool:
    return parameter.kind is Parameter.VAR_KEYWORD


def _check(parameter: Parameter, what: str) -> None:
    """Refuse a parameter that no JSON can fill."""
    name = f"{what}: parameter {parameter.name!r}"
    if parameter.kind is Parameter.VAR_POSITIONAL:
        msg = f"{name} cannot be *{parameter.name}; a parameter called 'params' takes a whole array"
        raise InvalidArgumentError(msg, field=parameter.name)
    try:
        info = msgspec.inspect.type_info(parameter.annotation)
        msgspec.json.Decoder(parameter.annotation)
    except (TypeError, ValueError, NameError) as exc:
        msg = f"{name}: {exc}"
        raise InvalidArgumentError(msg, field=parameter.name) from exc
    parts = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    if any(isinstance(part, msgspec.inspect.CustomType) for part in parts):
        msg = f"{name}: JSON cannot be decoded into {parameter.annotation!r}"
        raise InvalidArgumentError(msg, field=parameter.name)


class _Whole:
    """One parameter takes the params as they are."""

    def __init__(self, field: Parameter) -> None:
        self._name = field.name
        self._default = field.default
        self._decoder = msgspec.json.Decoder(field.annotation)
        try:
            self._decoder.decode(b"null")
            self._absent = b"null"
        except msgspec.ValidationError:
            self._absent = b"{}"

    def decode(self, raw: Raw | None) -> tuple[dict[str, Any], dict[str, Any]]:
        if raw is not None:
            return {self._name: self._decoder.decode(raw)}, {}
        if self._default is not _EMPTY:
            return {self._name: self._default}, {}
        return {self._name: self._decoder.decode(self._absent)}, {}


class _Members:
    """Each parameter takes one member, or one item."""

    def __init__(self, fields: list[Parameter]) -> None:
        self._rest = next((p for p in fields if _is_rest(p)), None)
        named = [p for p in fields if p is not self._rest]
        self._by_name = {p.name: p for p in named}
        ours = [
            (name, Raw | UnsetType, msgspec.field(default=UNSET))
            for name in _CONTEXTS
            if name not in self._by_name
        ]
        by_name = msgspec.defstruct(
            "params",
            [*map(_field, named), *ours],
            kw_only=True,
            forbid_unknown_fields=self._rest is None,
        )
        self._object = msgspec.json.Decoder(by_name)
        placed = [p for p in named if p.kind is not Parameter.KEYWORD_ONLY]
        by_place = msgspec.defstruct(
            "params", [*map(_field, placed)], array_like=True, forbid_unknown_fields=True
        )
        self._array = msgspec.json.Decoder(by_place)
        if self._rest is not None:
            self._one_more = msgspec.json.Decoder(self._rest.annotation)

    def decode(self, raw: Raw | None) -> tuple[dict[str, Any], dict[str, Any]]:
        data = raw or Raw(b"{}")
        if _starts(data, b"["):
            return self._with_defaults(msgspec.structs.asdict(self._array.decode(data))), {}
        values = msgspec.structs.asdict(self._object.decode(data))
        return values, self._others(data) if self._rest is not None else {}

    def _with_defaults(self, values: dict[str, Any]) -> dict[str, Any]:
        for p in self._by_name.values():
            if p.name not in values:
                if p.default is _EMPTY:
                    msg = f"Array cannot fill `{p.name}`, which is taken by name only"
                    raise InvalidParamsError(msg)
                values[p.name] = p.default
        return values

    def _others(self, data: Raw) -> dict[str, Any]:
        """Return the members that no parameter is named after, for ``**kwargs``."""
        return {
            name: self._one_more.decode(raw)
            for name, raw in _members.decode(data).items()
            if name not in self._by_name and name not in _CONTEXTS
        }


def _field(parameter: Parameter) -> tuple[str, Any] | tuple[str, Any, Any]:
    if parameter.default is _EMPTY:
        return parameter.name, parameter.annotation
    default = parameter.default
    return parameter.name, parameter.annotation, msgspec.field(default_factory=lambda: default)
