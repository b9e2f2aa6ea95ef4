"""A handler's arguments come from the params by its signature; what does not fit says where."""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Any, TypedDict

import msgspec
import pytest
from msgspec import UNSET, Raw

from anyio_bus import InvalidArgumentError
from anyio_bus._sansio.binding import Binding, InvalidParamsError, check_name

CONTEXT: Any = object()


class Context:
    """What stands for a context here: any class will do."""


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclasses.dataclass
class Size:
    width: int


class Options(TypedDict):
    deep: bool


def call(function: Any, params: object = UNSET) -> Any:
    """Call a handler with params as they come off the wire."""
    raw = UNSET if params is UNSET else Raw(msgspec.json.encode(params))
    args, kwargs = Binding(function, "method 'm'", Context).arguments(CONTEXT, raw)
    return function(*args, **kwargs)


def refusal(function: Any, params: object = UNSET) -> str:
    """Return the words with which params are refused."""
    with pytest.raises(InvalidParamsError) as caught:
        call(function, params)
    return str(caught.value)


def add(a: int, b: int = 10) -> int:
    return a + b


def test_members_are_taken_by_name_and_defaults_stand_in() -> None:
    assert call(add, {"b": 2, "a": 1}) == 3
    assert call(add, {"a": 1}) == 11


def test_items_are_taken_by_place() -> None:
    assert call(add, [1, 2]) == 3
    assert call(add, [1]) == 11


@pytest.mark.parametrize("params", [UNSET, None, {}])
def test_without_params_every_default_stands_in(params: object) -> None:
    def handler(a: int = 1) -> int:
        return a

    assert call(handler, params) == 1


def test_a_default_is_handed_over_as_it_is() -> None:
    default: list[int] = [1]

    def handler(a: list[int] = default) -> list[int]:
        return a

    assert call(handler) is default


def test_what_does_not_fit_is_refused_with_its_path() -> None:
    assert refusal(add, {"a": "1"}) == "Expected `int`, got `str` - at `$.a`"
    assert refusal(add, [1, None]) == "Expected `int`, got `null` - at `$[1]`"
    assert refusal(add, {}) == "Object missing required field `a`"
    assert refusal(add, []) == "Expected `array` of at least length 1, got 0"
    assert refusal(add, [1, 2, 3]) == "Expected `array` of at most length 2"
    assert "Expected `object`" in refusal(add, "text")


def test_the_path_goes_into_nested_types() -> None:
    def handler(points: list[Point]) -> None: ...

    params = {"points": [{"x": 1}, {"x": 1, "y": "2"}]}
    assert refusal(handler, params) == "Expected `int`, got `str` - at `$.points[1].y`"


def test_an_unknown_member_is_refused_as_by_a_python_call() -> None:
    assert refusal(add, {"a": 1, "c": 2}) == "Object contains unknown field `c`"


def test_the_context_s_own_members_are_never_refused() -> None:
    assert call(add, {"a": 1, "_meta": {"anyio-bus/credit": 5}, "sessionId": "s"}) == 11


def test_the_context_s_members_are_passed_to_parameters_of_their_names() -> None:
    def handler(sessionId: str, _meta: dict[str, int]) -> object:  # noqa: N803,PT019,RUF100
        return sessionId, _meta

    assert call(handler, {"sessionId": "s", "_meta": {"a": 1}}) == ("s", {"a": 1})


def test_kwargs_take_unknown_members_and_check_their_type() -> None:
    def handler(a: int, **others: int) -> object:
        return a, others

    assert call(handler, {"a": 1, "b": 2, "_meta": {}}) == (1, {"b": 2})
    assert "Expected `int`, got `str`" in refusal(handler, {"a": 1, "b": "2"})


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Point, Point(1, 2)),
        (dict[str, int], {"x": 1, "y": 2}),
        (Any, {"x": 1, "y": 2}),
        (object, {"x": 1, "y": 2}),
        (Annotated[dict[str, int], "note"], {"x": 1, "y": 2}),
    ],
)
def test_a_sole_parameter_called_params_takes_all_of_them(
    annotation: Any, expected: object
) -> None:
    def handler(params: Any) -> Any:
        return params

    handler.__annotations__["params"] = annotation
    assert call(handler, {"x": 1, "y": 2}) == expected


def test_params_may_be_a_dataclass_or_a_typed_dict() -> None:
    def size(params: Size) -> Size:
        return params

    def options(context: Context, params: Options) -> Options:
        return params

    assert call(size, {"width": 3}) == Size(3)
    assert call(options, {"deep": True}) == {"deep": True}
    assert refusal(size, {"width": "3"}) == "Expected `int`, got `str` - at `$.width`"


def test_params_without_an_annotation_are_plain_objects() -> None:
    def handler(params):  # type: ignore[no-untyped-def]
        return params

    assert call(handler, [1, {"a": None}]) == [1, {"a": None}]
    assert call(handler) is None


def test_absent_params_are_the_default_or_null_or_an_empty_object() -> None:
    class Filter(msgspec.Struct):
        name: str = "*"

    def with_default(params: int = 5) -> int:
        return params

    def with_null(params: Filter | None) -> Filter | None:
        return params

    def with_object(params: Filter) -> Filter:
        return params

    assert call(with_default) == 5
    names = {"Filter": Filter}
    assert Binding(with_null, "m", Context, names).arguments(CONTEXT, UNSET) == ([None], {})
    assert Binding(with_object, "m", Context, names).arguments(CONTEXT, UNSET) == ([Filter()], {})


def test_params_beside_others_is_a_member_like_any() -> None:
    def ask(method: str, params: Any = None) -> object:
        return method, params

    assert call(ask, {"method": "m", "params": [1]}) == ("m", [1])


def test_the_context_goes_where_it_is_annotated() -> None:
    def first(context: Context, a: int) -> object:
        return context, a

    def last(a: int, *, where: Context) -> object:
        return where, a

    def alone(context: Context) -> object:
        return context

    assert call(first, {"a": 1}) == (CONTEXT, 1)
    assert call(first, [1]) == (CONTEXT, 1)
    assert call(last, [1]) == (CONTEXT, 1)
    assert call(alone) is CONTEXT


def test_positional_only_and_keyword_only_parameters() -> None:
    def handler(a: int, /, b: int = 2, *, c: int, d: int = 4) -> object:
        return a, b, c, d

    assert call(handler, {"a": 1, "c": 3}) == (1, 2, 3, 4)
    assert refusal(handler, [1, 2]) == "Array cannot fill `c`, which is taken by name only"


def test_items_leave_keyword_only_parameters_their_defaults() -> None:
    def handler(a: int, *, b: int = 2) -> object:
        return a, b

    assert call(handler, [1]) == (1, 2)


def test_constraints_of_msgspec_are_checked() -> None:
    def handler(a: Annotated[int, msgspec.Meta(ge=0)]) -> int:
        return a

    assert refusal(handler, {"a": -1}) == "Expected `int` >= 0 - at `$.a`"


def test_text_that_is_not_utf_8_is_refused() -> None:
    def handler(a: str) -> str:
        return a

    with pytest.raises(InvalidParamsError):
        Binding(handler, "m", Context).arguments(CONTEXT, Raw(b'{"a":"\xff"}'))


def test_partials_methods_and_callable_objects_are_served() -> None:
    class Adder:
        def __init__(self, base: int) -> None:
            self.base = base

        def add(self, a: int) -> int:
            return self.base + a

        def __call__(self, a: int) -> int:
            return self.base * a

    assert call(functools.partial(add, b=5), {"a": 1}) == 6
    assert call(Adder(3).add, {"a": 1}) == 4
    assert call(Adder(3), {"a": 2}) == 6


def test_an_annotation_may_name_a_class_of_the_surrounding_function() -> None:
    class Local(msgspec.Struct):
        a: int

    def handler(params: Local) -> int:
        return params.a

    binding = Binding(handler, "m", Context, locals())
    assert binding.arguments(CONTEXT, Raw(b'{"a":1}')) == ([Local(1)], {})


def test_async_functions_are_told_from_plain_ones() -> None:
    async def handler() -> None: ...

    class Callable_:
        async def __call__(self, a: int) -> int:
            return a

    assert Binding(handler, "m", Context).is_async
    assert Binding(functools.partial(handler), "m", Context).is_async
    assert Binding(Callable_(), "m", Context).is_async
    assert not Binding(add, "m", Context).is_async


class Unknown:
    pass


def unresolvable(a: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    ...


def unknown(a: Unknown) -> None: ...


def maybe_context(context: Context | None) -> None: ...


def ambiguous(a: list[int] | tuple[int, ...]) -> None: ...


def many(*args: int) -> None: ...


async def yields() -> Any:  # noqa: ASYNC900
    yield 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (unresolvable, "name 'Nowhere' is not defined"),
        (unknown, "parameter 'a'"),
        (maybe_context, "parameter 'context'"),
        (ambiguous, "parameter 'a'"),
        (many, "'params' takes a whole array"),
        (yields, "must not yield"),
        (5, "not callable"),
    ],
)
def test_a_signature_that_cannot_be_served_is_refused_at_registration(
    function: Any, words: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        Binding(function, "method 'name'", Context)
    assert "method 'name'" in str(caught.value)


def test_a_name_is_text_and_what_is_none_is_told_how_to_give_one() -> None:
    check_name("who", "bus.handler")
    with pytest.raises(
        InvalidArgumentError, match=r'^handler\(\) needs .*: @bus.handler\("call"\)'
    ) as info:
        check_name(call, "bus.handler", "pattern")
    assert info.value.field == "pattern"
