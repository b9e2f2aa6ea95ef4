"""Frames decode to what they were made of, and a bad line costs that line alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from anyio_bus._errors import InvalidArgumentError, RemoteError, RemoteProtocolError
from anyio_bus._sansio.codec import (
    decode_block,
    decode_envelope,
    decode_error,
    decode_items,
    decode_value,
    encode_envelope,
    encode_error,
    encode_items,
    encode_notification,
    encode_request,
    encode_requests,
    encode_result,
    encode_value,
    read_frame,
    read_scalar,
    salvage_id,
)
from anyio_bus._sansio.lines import LineSplitter, Oversize
from anyio_bus._sansio.messages import PREFIX_BYTES, BadLine, Message

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
ids = st.one_of(numbers, text)
scalars = st.one_of(st.none(), st.booleans(), numbers, text)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=8,
)
params = st.one_of(st.lists(values, max_size=3), st.dictionaries(text, values, max_size=3))


def shape(item: Message | BadLine) -> tuple[Any, ...]:
    """Make two messages comparable: raw members by their bytes, ids by type as well."""
    if isinstance(item, BadLine):
        return ("bad", item.prefix, item.size, item.id)
    raw = (item.params, item.result, item.error)
    payloads = [None if member is UNSET else bytes(member) for member in raw]
    return (type(item.id), item.id, item.method, item.session, *payloads)


def only(frame: bytes) -> Message:
    """Decode a frame that is one message."""
    assert frame.count(b"\n") == 1
    assert frame.endswith(b"\n")
    (message,) = decode_block(frame)
    assert isinstance(message, Message)
    return message


# -- encode, then decode -------------------------------------------------------------------------


@given(ids, text, params, st.none() | text)
@example(1, "m", {}, None)
@example("1", "m", [], "")
@example(1.0, "m", {}, None)
@example(2**70, "m", {}, None)
def test_a_request_decodes_to_what_it_was_made_of(
    key: Any, method: str, args: Any, session: str | None
) -> None:
    message = only(encode_request(key, method, args, session))

    assert (type(message.id), message.id) == (type(key), key)
    assert message.method == method
    assert message.session == (UNSET if session is None else session)
    assert decode_value(message.params) == args  # type: ignore[arg-type]


@given(params | st.just(UNSET), st.dictionaries(text, values, max_size=3))
def test_an_envelope_stands_at_the_top_level_of_its_frames(
    args: Any, extra: dict[str, Any]
) -> None:
    extra = {f"_{name}": value for name, value in extra.items()}
    envelope = encode_envelope(extra)
    frames = [
        encode_request(1, "m", args, None, envelope),
        encode_notification("m", args, None, envelope),
    ]

    for frame in frames:
        only(frame)
        members = msgspec.json.decode(frame)
        assert {name: members[name] for name in extra} == extra
        assert args is UNSET or members["params"] == args
    raw = decode_envelope(envelope)
    assert {name: msgspec.json.decode(value) for name, value in raw.items()} == extra


@given(text, params, st.none() | text)
def test_a_notification_decodes_to_what_it_was_made_of(
    method: str, args: Any, session: str | None
) -> None:
    message = only(encode_notification(method, args, session))

    assert message.id is UNSET
    assert message.method == method
    assert message.session == (UNSET if session is None else session)
    assert decode_value(message.params) == args  # type: ignore[arg-type]


@given(st.none() | ids, values)
def test_a_result_decodes_to_what_it_was_made_of(key: Any, result: Any) -> None:
    message = only(encode_result(key, result))

    assert (type(message.id), message.id) == (type(key), key)
    assert decode_value(message.result) == result  # type: ignore[arg-type]
    assert message.error is UNSET


@given(st.none() | ids, st.integers(), text, values)
def test_an_error_decodes_to_what_it_was_made_of(key: Any, code: int, why: str, data: Any) -> None:
    message = only(encode_error(key, code, why, data))
    error = decode_error(message.error)  # type: ignore[arg-type]

    assert (type(message.id), message.id) == (type(key), key)
    assert isinstance(error, RemoteError)
    assert (error.code, error.message, error.data) == (code, why, data)
    assert message.result is UNSET


@pytest.mark.parametrize("left_out", [UNSET, None])
def test_params_that_are_not_given_are_left_out(left_out: object) -> None:
    assert encode_request(7, "m", left_out) == b'{"jsonrpc":"2.0","id":7,"method":"m"}\n'
    assert encode_notification("m", left_out) == b'{"jsonrpc":"2.0","method":"m"}\n'


def test_an_error_always_has_its_message_and_data_only_where_there_is_some() -> None:
    assert b'{"code":1,"message":""}' in encode_error(1, 1, "")
    assert b'"data":0}' in encode_error(1, 1, "", 0)


def test_an_error_message_that_is_no_unicode_is_sent_escaped() -> None:
    message = only(encode_error(1, 1, "no file 'caf\udce9'"))

    assert decode_value(message.error)["message"] == r"no file 'caf\udce9'"  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["text", 5, Raw(b'"text"'), Raw(b""), Raw(b" 5"), True])
def test_params_must_be_an_object_or_an_array(wrong: object) -> None:
    with pytest.raises(InvalidArgumentError, match="params must be") as caught:
        encode_request(1, "m", wrong)

    assert caught.value.field == "params"


class Opaque:
    """Something that JSON has no form for."""


def endless() -> list[Any]:
    """Make a list that holds itself."""
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize("value", [Opaque(), {"a": Opaque()}, ["\ud800"], {1j: 2}, endless()])
def test_what_cannot_be_encoded_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match="params cannot be encoded") as caught:
        encode_notification("m", [value])

    assert caught.value.field == "params"


@pytest.mark.parametrize(
    ("method", "session", "field"), [("\ud800", "s", "method"), ("m", "\ud800", "session")]
)
@pytest.mark.parametrize("encode", [partial(encode_request, 1), encode_notification])
def test_a_lone_surrogate_is_refused_by_name(
    encode: Callable[..., bytes], method: str, session: str, field: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=field) as caught:
        encode(method, {}, session)

    assert caught.value.field == field


def test_prepared_json_with_newlines_makes_one_line() -> None:
    frame = encode_request(1, "m", Raw(b' {\n"a":\n[1,\n2]}'))

    assert decode_value(only(frame).params) == {"a": [1, 2]}  # type: ignore[arg-type]
    assert encode_value(Raw(b"[\n]"), "frame") == b"[ ]"


# -- blocks and bad lines ------------------------------------------------------------------------

good_lines = st.one_of(
    st.builds(encode_request, ids, text, params),
    st.builds(encode_notification, text, params),
    st.builds(encode_result, ids, values),
    st.builds(encode_error, ids, st.integers(), text),
    st.builds(encode_result, ids, st.just("x" * 400)),
).map(lambda frame: frame[:-1])
BAD_LINES = [
    b"null",
    b"[]",
    b"{}",
    b"5",
    b"hello",
    b'{"id":1}',
    b'{"id":true,"result":1}',
    b'{"id":1,"result":[1,',
    b"2]}",
    b'{"id":1,"result":"a',
    b'b"}',
    b'{"id":1,"result":[{}',
    b',{}]} {"id":2,"result":3}',
    b'{"id":1,"result":1}{"id":2,"result":2}',
    b'{"id":1,"result":1} {"id":2,"result":2}',
    b'{"id":1,"result":01}',
    b'{"method":5}',
    b'{"method":"m","sessionId":5}',
    b"\xef\xbb\xbf{}",
    b"\x00",
    b'{"id":1,"result":"\x00"}',
    b"\xff\xfe",
    b'{"id":"\xff","result":1}',
    b'{"id":"\\ud800","result":1}',
    b"NaN",
    b"[" * 2000,
]
bad_lines = st.sampled_from(BAD_LINES)
blank_lines = st.sampled_from([b"", b" ", b"\t\r", b"\r"])


@given(st.lists(st.one_of(good_lines, bad_lines, blank_lines), max_size=8))
@example([b'{"id":1,', b'"result":2}'])
@example([b'{"id":1,', b'"result":2} {"id":2,"result":1}'])
@example([b'{"id":1,"result":[{}', b',{}]} {"id":2,"result":3}'])
@example([b'{"id":1,"result":2}', b'{"id":2,"result":1} '])
def test_a_block_decodes_as_its_lines_do_one_by_one(lines: list[bytes]) -> None:
    alone = [shape(item) for line in lines for item in decode_block(line + b"\n")]

    together = decode_block(b"".join(line + b"\n" for line in lines))

    assert [shape(item) for item in together] == alone


@pytest.mark.parametrize("bad", BAD_LINES, ids=[repr(line)[:40] for line in BAD_LINES])
@pytest.mark.parametrize("size", [0, 1000])
def test_a_bad_line_costs_that_line_alone(bad: bytes, size: int) -> None:
    good = [encode_result(key, "x" * size) for key in range(4)]

    items = decode_block(b"".join([*good[:2], bad + b"\n", *good[2:]]))

    lost = items.pop(2)
    assert isinstance(lost, BadLine)
    assert (lost.prefix, lost.size) == (bad[:PREFIX_BYTES], len(bad) + 1)
    assert lost.reason
    assert [shape(item) for item in items] == [shape(only(frame)) for frame in good]


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b" \t\r\n\n"])
def test_blank_lines_are_skipped(blank: bytes) -> None:
    line = b'{"id":1,"result":1}\n'

    assert decode_block(blank) == []
    assert len(decode_block(line + blank + line)) == 2


def test_lines_that_end_with_cr_lf_are_messages() -> None:
    items = decode_block(b'{"id":1,"result":1}\r\n{"id":2,"result":2}\r\n')

    assert [item.id for item in items] == [1, 2]


@pytest.mark.parametrize("depth", [1000, 1_000_000])
def test_deep_nesting_raises_nothing(depth: int) -> None:
    line = b'{"id":1,"result":' + b"[" * depth + b"]" * depth + b"}\n"

    items = decode_block(line + b'{"id":2,"result":0}\n')

    assert [item.id for item in items][1:] == [2]


cuts = st.lists(st.integers(0, 3000), max_size=6)


def received(stream: bytes, cut_at: list[int], limit: int) -> list[tuple[Any, ...]]:
    """Decode a stream that arrives in pieces."""
    at = [0, *sorted(cut for cut in cut_at if cut < len(stream)), len(stream)]
    splitter = LineSplitter(limit)
    items: list[Message | BadLine] = []
    for start, end in pairwise(at):
        items += decode_items(splitter.feed(stream[start:end]), limit)
    return [shape(item) for item in items]


@given(
    st.lists(st.one_of(good_lines, bad_lines, blank_lines), max_size=8), st.integers(1, 900), cuts
)
def test_any_cut_of_a_stream_gives_the_same_messages(
    lines: list[bytes], limit: int, cut_at: list[int]
) -> None:
    stream = b"".join(line + b"\n" for line in lines)

    whole = received(stream, [], limit)

    assert received(stream, cut_at, limit) == whole
    assert received(stream, list(range(len(stream))), limit) == whole


fragments = st.sampled_from(
    [b'{"', b'"id"', b'"method"', b":", b",", b"}", b"\n", b"\\", b'\\q"', b'"\\u12"', b"1e9", b" "]
)


@given(st.lists(st.binary(max_size=8) | fragments).map(b"".join), st.integers(1, 40), cuts)
@example(b'{"\\q":1,"id":1,"result":1}\n', 10, [])
@example(b'{"\\u12":1,"id":1,"result":1}\n', 10, [5])
@example(b'{"\xff":1,"id":1,"result":1}\n', 10, [])
def test_arbitrary_bytes_raise_nothing(stream: bytes, limit: int, cut_at: list[int]) -> None:
    assert received(stream, cut_at, limit) == received(stream, [], limit)


def test_an_oversize_line_is_bad_in_its_place_and_names_the_limit_and_its_id() -> None:
    head, tail = b'{"id":7,"result":"' + b"x" * 300, b'x"}\n'

    items = decode_items([b'{"id":1,"result":1}\n', Oversize(head, tail, 999)], 500)

    assert items[0].id == 1
    assert items[1] == BadLine(
        head[:PREFIX_BYTES], "line of 999 bytes is over max_frame_bytes=500", 999, 7
    )


def test_nothing_decodes_to_nothing() -> None:
    assert decode_items([], 10) == []


# -- the id of a line of which only both ends are there ------------------------------------------

MIDDLE = b'"result":{"a":["'


@pytest.mark.parametrize(
    ("prefix", "suffix", "found"),
    [
        (b'{"jsonrpc":"2.0","id":1,' + MIDDLE, b'"]}}\n', 1),
        (b'{ "jsonrpc" : "2.0" ,\t"id" : "a\\"b" , ' + MIDDLE, b'"]}}', 'a"b'),
        (b'{"id":null,' + MIDDLE, b'"]}}', None),
        (b'{"\\u0069d":2.5,' + MIDDLE, b'"]}}', 2.5),
        (b"{" + MIDDLE, b'"]},"id":3}\r\n', 3),
        (b"{" + MIDDLE, b'"]},"id":"s","jsonrpc":"2.0"}\n', "s"),
        (b"{" + MIDDLE, b'"]} , "id" : -4 , "jsonrpc" : "2.0" }\n', -4),
        (b"{" + MIDDLE, b'"],"id":3}}\n', UNSET),
        (b'{"result":{"id":5,', b'"]}}\n', UNSET),
        (b'{"id":12', b"34}\n", UNSET),
        (b'{"id":true,' + MIDDLE, b'"]}}\n', UNSET),
        (b'{"id":1e999,' + MIDDLE, b'"]}}\n', UNSET),
        (b'{"\\q":1,' + MIDDLE, b'"]}}\n', UNSET),
        (b'{"\\q":1,"id":6,' + MIDDLE, b'"]}}\n', 6),
        (b"", b"", UNSET),
    ],
)
def test_an_id_is_read_from_either_end_where_it_is_certain(
    prefix: bytes, suffix: bytes, found: object
) -> None:
    assert salvage_id(prefix, suffix) == found


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        (b'{"id":1,"method":"fs/write","params":{"x":"', b'"}}\n'),
        (b'{"method":"fs/write","id":1,"params":{"x":"', b'"}}\n'),
        (b'{"jsonrpc":"2.0","method":"fs/write","params":{"x":"', b'"},"id":1}\n'),
    ],
)
def test_the_id_of_a_request_of_the_peer_is_none_of_ours(prefix: bytes, suffix: bytes) -> None:
    assert salvage_id(prefix, suffix) is None


nested = st.recursive(
    scalars | st.sampled_from([',"id":5}', '"id":5', ',\\"id\\":5}', "}\n"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["id", "jsonrpc", "x"]), inner, max_size=3),
    ),
    max_leaves=6,
)
members = st.lists(
    st.tuples(st.sampled_from(["id", "jsonrpc", "result", "x", ',"id":']), nested),
    max_size=4,
    unique_by=lambda member: member[0],
).map(dict)


@given(
    members, st.integers(0, 200), st.integers(0, 200), st.sampled_from([(",", ":"), (" , ", " : ")])
)
def test_an_id_that_is_read_from_the_ends_is_the_line_s_own(
    line_members: dict[str, Any], head: int, tail: int, separators: tuple[str, str]
) -> None:
    line = json.dumps(line_members, separators=separators, ensure_ascii=False).encode() + b"\n"

    found = salvage_id(line[:head], line[-tail:] if tail else b"")

    if found is not UNSET:
        assert "id" in line_members
        assert found == line_members["id"]


# -- single values -------------------------------------------------------------------------------


class Point(msgspec.Struct):
    x: int


@pytest.mark.parametrize(
    ("raw", "key"), [(b"7", 7), (b'"a"', "a"), (b"null", None), (b"[7]", None), (b"", None)]
)
def test_an_id_alone_is_read_and_what_is_none_is_none(raw: bytes, key: Any) -> None:
    assert read_scalar(raw) == key


def test_a_value_is_decoded_into_the_type_that_is_asked_for() -> None:
    assert decode_value(Raw(b'{"x":1}'), Point) == Point(1)
    assert decode_value(b"[1, 2]", tuple[int, int]) == (1, 2)
    assert decode_value(Raw(b"1.5")) == 1.5


@pytest.mark.parametrize(
    ("raw", "kind", "why"),
    [
        (b'{"x":"1"}', Point, r"\$\.x"),
        (b'"\xff"', str, "(?i:utf-8)"),
        (b"[" * 200_000, Any, "recursion"),
    ],
    ids=["another type", "no UTF-8", "too deep"],
)
def test_a_value_of_another_type_is_the_peer_s_fault(raw: bytes, kind: Any, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match="answer is not what was asked.*" + why) as caught:
        decode_value(Raw(raw), kind, "answer")

    assert caught.value.line_prefix == raw[:PREFIX_BYTES]


def test_null_data_of_an_error_is_no_data() -> None:
    error = decode_error(Raw(b'{"code":1,"message":"m","data":null}'))

    assert isinstance(error, RemoteError)
    assert error.data is None


@pytest.mark.parametrize(
    "raw", [b'"oops"', b"null", b"{}", b'{"code":1.5}', b'{"code":1,"message":2}']
)
def test_what_is_no_error_object_is_the_peer_s_fault(raw: bytes) -> None:
    error = decode_error(Raw(raw))

    assert isinstance(error, RemoteProtocolError)
    assert error.line_prefix == raw


@pytest.mark.parametrize("kind", [5, list[int] | set[int]], ids=repr)
def test_a_type_that_cannot_be_decoded_is_the_caller_s_fault(kind: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="reply is not a type") as caught:
        decode_value(b"[]", kind)

    assert caught.value.field == "reply"


def test_a_type_that_cannot_be_hashed_can_be_decoded() -> None:
    kind = Annotated[list[int], msgspec.Meta(extra={"note": []})]

    assert decode_value(b"[1]", kind) == [1]


# -- prepared frames -----------------------------------------------------------------------------


def test_a_prepared_frame_is_read_and_its_members_keep_their_bytes() -> None:
    frame = b'{"jsonrpc":"2.0","id":1.50,"method":"m","params":{"n": 1.00},"more":[1]}\n'

    message, members = read_frame(frame)

    assert (message.id, message.method) == (1.5, "m")
    assert {name: bytes(raw) for name, raw in members.items()} == {
        "jsonrpc": b'"2.0"',
        "id": b"1.50",
        "method": b'"m"',
        "params": b'{"n": 1.00}',
        "more": b"[1]",
    }


@pytest.mark.parametrize(
    "frame", ['{"method":"m"}', b'{"id":null,"result":0}', b'{"id":1,"error":0}']
)
def test_a_prepared_frame_may_be_any_message(frame: bytes | str) -> None:
    message, members = read_frame(frame)

    assert (message.method is UNSET) == ("method" not in members)
    assert (message.id is UNSET) == ("id" not in members)


NO_FRAMES: list[Any] = [
    b"[]",
    b"",
    b"{",
    b"\xff",
    b'{"method":"m"}{}',
    b"[" * 200_000,
    b"{}",
    b'{"id":1}',
    b'{"result":1}',
    b'{"id":{},"method":"m"}',
    b'{"method":5}',
    "\ud800",
    None,
    5,
]


@pytest.mark.parametrize("frame", NO_FRAMES, ids=lambda frame: repr(frame)[:20])
def test_a_prepared_frame_must_be_one_message(frame: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="frame is") as caught:
        read_frame(frame)

    assert caught.value.field == "frame"


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [1.0, (None, math.inf)],
        {"a": {"b": -math.inf}},
        {"a": Raw(b"null"), "b": math.nan},
    ],
    ids=repr,
)
def test_what_json_has_no_number_for_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match="neither NaN nor infinity") as caught:
        encode_value(value, "answer")

    assert caught.value.field == "answer"


def test_null_beside_finite_numbers_is_no_reason_to_refuse() -> None:
    value = {"a": [1.5, None, "null", 10**30], "b": Raw(b"null"), "c": (None,)}

    assert encode_value(value, "answer") == (
        b'{"a":[1.5,null,"null",1000000000000000000000000000000],"b":null,"c":[null]}'
    )


@pytest.mark.parametrize("raw", [b"", b" ", b"{broken", b'{},"id":9,"x":{}', b"5", b"[" * 200_000])
def test_prepared_params_must_be_one_object_or_array(raw: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="params must be an object or an array"):
        encode_request(1, "m", Raw(raw))


class Held(msgspec.Struct):
    part: object


@pytest.mark.parametrize(
    ("params", "where"),
    [
        ({"a": [1, {"b": object()}]}, " (at params['a'][1]['b'])"),
        ({"ok": 1, "a": Held((object(),))}, " (at params['a']['part'][0])"),
        ({"a": {(1, 2): 3}}, " (at params['a'])"),
        ({"a": {1, object()}}, " (at params['a'])"),
        ({(1, 2): 3}, "supported"),
        (object(), "unsupported"),
    ],
)
def test_refusal_of_params_says_where_in_them_the_fault_is(params: object, where: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        encode_request(1, "m", params)

    assert str(caught.value).endswith(where)
    assert caught.value.field == "params"


def test_path_to_a_fault_is_followed_to_a_bounded_depth() -> None:
    nest: object = object()
    for _ in range(150):
        nest = [nest]

    with pytest.raises(InvalidArgumentError, match=r"\(at params(\[0\]){100}\)$"):
        encode_request(1, "m", nest)


def test_params_that_hold_themselves_have_no_place_where_the_fault_is() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        encode_request(1, "m", endless())

    assert " (at " not in str(caught.value)


class Zone(tzinfo):
    """A time zone with a fault of its own."""

    def __init__(self, fault: Exception) -> None:
        self.fault = fault

    def utcoffset(self, _: datetime | None) -> timedelta:
        raise self.fault


def at(fault: Exception) -> datetime:
    """Make a time that cannot be encoded."""
    return datetime(2026, 1, 1, tzinfo=Zone(fault))


@pytest.mark.parametrize("fault", [KeyError("zone"), RuntimeError("late"), ZeroDivisionError()])
@pytest.mark.parametrize(
    "encode",
    [
        partial(encode_request, 1, "m"),
        lambda params: encode_requests([1], "m", [params]),
        lambda params: encode_items([params]),
        partial(encode_notification, "m"),
    ],
    ids=["request", "requests", "items", "notification"],
)
def test_what_the_code_of_a_value_raises_is_the_cause_of_the_refusal(
    encode: Callable[[object], bytes], fault: Exception
) -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(at params\['a'\]\[1\]\)$") as caught:
        encode({"a": [0, at(fault)]})

    assert caught.value.field == "params"
    assert caught.value.__cause__ is fault


def test_lack_of_memory_is_no_fault_of_a_value() -> None:
    with pytest.raises(MemoryError):
        encode_request(1, "m", {"a": at(MemoryError())})


class Shy(dict[str, object]):
    def items(self) -> Any:
        raise LookupError


class Mute(str):
    __slots__ = ()

    def __repr__(self) -> str:
        raise LookupError


@pytest.mark.parametrize("inner", [Shy(b=object()), {Mute("b"): object()}], ids=["items", "repr"])
def test_path_to_a_fault_ends_where_it_cannot_be_followed(inner: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"unsupported \(at params\['a'\]\[0\]\)$"):
        encode_request(1, "m", {"a": [inner]})


@pytest.mark.parametrize("method", [5, None, b"m", ["m"]])
@pytest.mark.parametrize("encode", [partial(encode_request, 1), encode_notification])
def test_a_method_must_be_text(encode: Callable[..., bytes], method: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="method must be text") as caught:
        encode(method, [])

    assert caught.value.field == "method"


def test_params_that_are_an_object_and_cannot_be_encoded_are_named() -> None:
    for params, method, field in (({"a": object()}, "m", "params"), ({}, "\ud800", "method")):
        with pytest.raises(InvalidArgumentError, match=field):
            encode_request(1, method, params)


@pytest.mark.parametrize(
    "items",
    [
        [{"a": 1}, {}],
        [{"a": None}, {"a": "null"}],
        [{"a": 1}, [2]],
        [None, UNSET],
    ],
)
@pytest.mark.parametrize("keys", [[7, 8], ["x-7", "x-8"]])
@pytest.mark.parametrize("envelope", [b"", b',"a":1'])
def test_several_requests_are_encoded_as_each_would_be(
    keys: list[Any], items: list[object], envelope: bytes
) -> None:
    each = [encode_request(key, "m", item, None, envelope) for key, item in zip(keys, items)]  # noqa: B905
    assert encode_requests(keys, "m", items, envelope) == b"".join(each)


@pytest.mark.parametrize("items", [[{"a": 1}, [2]], [{"a": None}, {}], [Raw(b"{}"), {"a": "null"}]])
def test_params_of_several_requests_are_a_line_each(items: list[object]) -> None:
    assert encode_items(items) == b"".join([msgspec.json.encode(item) + b"\n" for item in items])


def test_of_several_params_those_that_are_none_are_empty_lines() -> None:
    assert encode_items([UNSET, {}, None]) == b"\n{}\n\n"


def test_of_several_params_prepared_ones_are_a_value_and_nothing_around_it() -> None:
    assert encode_items([{}, Raw(b' {"a":\n1} ')]) == b'{}\n{"a": 1}\n'


@pytest.mark.parametrize("wrong", [{"a": object()}, {"a": math.nan}, Raw(b"{},"), Raw(b"")])
def test_of_several_params_those_that_cannot_be_encoded_are_told(wrong: object) -> None:
    with pytest.raises(InvalidArgumentError, match="params"):
        encode_items([{}, wrong])


@pytest.mark.parametrize("wrong", [{"a": object()}, {"a": math.nan}, "text"])
def test_of_several_requests_one_that_cannot_be_encoded_is_told(wrong: object) -> None:
    with pytest.raises(InvalidArgumentError, match="params"):
        encode_requests([1, 2], "m", [{}, wrong])


@pytest.mark.parametrize("more", [math.nan, [math.inf], {"a": math.nan}])
def test_a_lost_number_in_a_long_request_is_told(more: object) -> None:
    with pytest.raises(InvalidArgumentError, match="neither NaN nor infinity"):
        encode_request(1, "m", {"text": "x" * 5000, "more": more})


@pytest.mark.parametrize("more", [None, True, "null\n", 1.5, [None], Raw(b"[1,\n2]")])
def test_a_long_request_is_one_line_and_as_it_was_given(more: object) -> None:
    params = {"text": "x" * 5000, "more": more}
    frame = encode_request(1, "m", params)
    assert frame.find(b"\n") == len(frame) - 1
    expected = [1, 2] if isinstance(more, Raw) else more
    assert msgspec.json.decode(frame)["params"] == params | {"more": expected}
