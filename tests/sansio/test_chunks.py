"""Which notifications are chunks, whose they are, and what a request must say to get any."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from anyio_bus._errors import RemoteProtocolError
from anyio_bus._sansio.chunks import PROFILES, read_own_lines, reader_by, request_meta
from anyio_bus._sansio.codec import decode_block, decode_lines
from anyio_bus._sansio.events import ChunkLines, Lines
from anyio_bus._sansio.messages import Message
from anyio_bus._sansio.notifications import (
    CREDIT_KEY,
    FEW_BYTES,
    Chunk,
    ChunkMeta,
    Notification,
    keep_only,
    keep_only_chunks,
)


def note(method: str, params: Any = UNSET, session: str | None = None) -> Message:
    raw = UNSET if params is UNSET else Raw(msgspec.json.encode(params))
    return Message(method=method, params=raw, session=UNSET if session is None else session)


def read(profile: str, *notes: Message) -> list[Chunk | None]:
    return PROFILES[profile](list(notes))


def facts(chunk: Chunk | None) -> Any:
    if chunk is None:
        return None
    meta = chunk._meta
    return chunk.text, None if meta is UNSET else meta.request_id, chunk.session


UPDATE = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "hi"}}


@pytest.mark.parametrize(
    ("profile", "message", "expected"),
    [
        ("anyio-bus", note("chunk", {"text": "a"}), ("a", None, None)),
        ("anyio-bus", note("chunk", {"text": "a"}, "top"), ("a", None, "top")),
        ("anyio-bus", note("chunk", {"sessionId": "in"}, "top"), ("", None, "in")),
        ("anyio-bus", note("chunk"), ("", None, None)),
        ("anyio-bus", note("chunk", [1]), ("", None, None)),
        ("anyio-bus", note("chunk", {"text": 5}), ("", None, None)),
        ("anyio-bus", note("other", {"text": "a"}), None),
        ("anyio-bus", note("other", {"_meta": {"requestId": 7}}), ("", 7, None)),
        ("anyio-bus", note("other", {"_meta": {}}), None),
        ("acp", note("session/update", {"sessionId": "s", "update": UPDATE}), ("hi", None, "s")),
        ("acp", note("session/update", {"update": {"sessionUpdate": "plan"}}), ("", None, None)),
        ("acp", note("session/update", {"update": {**UPDATE, "content": []}}), ("", None, None)),
        ("acp", note("session/update"), ("", None, None)),
        ("acp", note("chunk", {"text": "a"}), None),
        ("mcp-progress", note("notifications/progress", {"progressToken": "t"}), ("", "t", None)),
        (
            "mcp-progress",
            note("notifications/progress", {"progressToken": 1, "message": "m"}),
            ("m", 1, None),
        ),
        ("mcp-progress", note("notifications/progress", {}), ("", None, None)),
        ("mcp-progress", note("notifications/progress"), ("", None, None)),
        ("mcp-progress", note("notifications/message", {"text": "a"}), None),
    ],
)
def test_a_profile_tells_its_chunks(profile: str, message: Message, expected: Any) -> None:
    (chunk,) = read(profile, message)
    assert facts(chunk) == expected
    if chunk is not None:
        assert chunk.method == message.method
        assert chunk.raw == (Raw(b"null") if message.params is UNSET else message.params)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["chunk", "other"]),
            st.sampled_from(
                [UNSET, {}, {"text": "a"}, {"text": 1}, [], {"_meta": {"requestId": 1}}, None]
            ),
        ),
        min_size=1,
    )
)
def test_a_run_is_read_as_each_of_it_alone(items: list[tuple[str, Any]]) -> None:
    notes = [note(method, params) for method, params in items]
    together = read("anyio-bus", *notes)
    alone = [read("anyio-bus", one)[0] for one in notes]
    assert [facts(chunk) for chunk in together] == [facts(chunk) for chunk in alone]


def test_a_run_of_chunks_has_each_its_own_params() -> None:
    block = b"".join(
        b'{"method":"chunk","params":{"n":%d,"text":"t","_meta":{"requestId":7}}}\n' % n
        for n in range(3)
    )
    notes: Any = decode_block(block)
    chunks = read("anyio-bus", *notes)
    assert [chunk.params["n"] for chunk in chunks if chunk is not None] == [0, 1, 2]


def test_a_function_is_a_profile_and_what_it_cannot_read_is_no_chunk() -> None:
    def delta(method: str, params: Any) -> str | None:
        return params["delta"] if method == "delta" else None  # type: ignore[no-any-return]

    reader = reader_by(delta)
    named = {"delta": "b", "_meta": {"requestId": 3}}
    found = reader([note("delta", {"delta": "a"}), note("delta", named), note("delta"), note("x")])
    assert [facts(chunk) for chunk in found] == [("a", None, None), ("b", 3, None), None, None]
    assert reader_by("acp") is PROFILES["acp"]


@pytest.mark.parametrize(
    ("profile", "member"),
    [("anyio-bus", {CREDIT_KEY: 5}), ("mcp-progress", {"progressToken": 1})],
)
def test_a_request_says_what_its_worker_needs(profile: str, member: dict[str, int]) -> None:
    class Params(msgspec.Struct):
        a: int

    def meta(params: Any) -> Any:
        return msgspec.to_builtins(
            msgspec.json.decode(msgspec.json.encode(request_meta(profile, 1, params, 5)))
        )

    assert meta(UNSET) == meta(None) == {"_meta": member}
    assert meta({"a": 1}) == meta(Params(1)) == meta(Raw(b'{"a":1}')) == {"a": 1, "_meta": member}
    assert (
        meta({"_meta": {"x": 1}})
        == meta(Raw(b'{"_meta":{"x":1}}'))
        == {"_meta": {**member, "x": 1}}
    )
    own = dict.fromkeys(member, "mine")
    assert meta({"_meta": own}) == {"_meta": member}  # it was meant for somebody else
    assert meta([1]) == [1]
    assert meta({"_meta": None}) == {"_meta": member}


@pytest.mark.parametrize(("profile", "credit"), [("acp", 5), (len, 5), ("anyio-bus", 0)])
def test_nothing_is_added_where_nothing_is_needed(profile: Any, credit: int) -> None:
    params = {"a": 1}
    assert request_meta(profile, 1, params, credit) is params


def test_what_cannot_be_encoded_is_left_to_the_request() -> None:
    params = {1, object}
    assert request_meta("anyio-bus", 1, params, 5) is params


# -- the values -----------------------------------------------------------------------------------


def test_a_chunk_is_decoded_into_what_is_asked_for() -> None:
    class Text(msgspec.Struct):
        text: str

    (chunk,) = read("anyio-bus", note("chunk", {"text": "a"}))
    assert chunk is not None
    assert chunk.decode(Text) == Text("a")
    with pytest.raises(RemoteProtocolError, match="chunk"):
        chunk.decode(int)


def test_a_notification_has_its_params_in_the_type_of_its_subscription() -> None:
    raw = Raw(b'{"a":1}')
    assert Notification("p", 0, "m", raw).params == {"a": 1}
    assert Notification("p", 0, "m").params is None
    assert Notification("p", 0, "m", raw, None, 0, dict[str, float]).params == {"a": 1.0}
    with pytest.raises(RemoteProtocolError, match="params"):
        _ = Notification("p", 0, "m", raw, None, 0, list[int]).params


@pytest.mark.parametrize(("size", "copied"), [(10, True), (FEW_BYTES, False)])
def test_what_waits_is_copied_where_it_is_little_of_what_was_read(size: int, copied: bool) -> None:
    notes: Any = decode_block(b'{"method":"chunk","params":{"text":"%b"}}\n' % (b"x" * size))
    (before,) = [note.params for note in notes]

    keep_only([*notes, Message(method="chunk")])

    assert (notes[0].params is not before) is copied
    assert bytes(notes[0].params) == bytes(before)


def test_meta_without_a_request_names_none() -> None:
    assert ChunkMeta().request_id is UNSET


OWN = b'{"text":"a","_meta":{"requestId":3}}\n'


def test_params_of_our_own_worker_are_read_in_one_step() -> None:
    chunks = read_own_lines(OWN + b'{"sessionId":"s","x":[1]}\n')
    assert chunks is not None
    assert [*map(facts, chunks)] == [("a", 3, None), ("", None, "s")]
    assert [chunk.method for chunk in chunks] == ["chunk"] * 2
    assert bytes(chunks[0].raw) == OWN[:-1]
    assert chunks[1].params == {"sessionId": "s", "x": [1]}
    assert chunks[1].decode(dict[str, Any])["x"] == [1]


@pytest.mark.parametrize("params", [b'{"text":5}', b'{"text":"\xff"}', b'{"_meta":[]}'])
def test_what_is_no_chunk_is_left_to_the_reader_of_the_profile(params: bytes) -> None:
    assert read_own_lines(OWN + params + b"\n" + OWN) is None


def test_size_of_a_run_of_own_lines_is_that_of_its_params() -> None:
    chunks = read_own_lines(OWN * 3)
    assert chunks is not None
    sizes = sum(len(chunk.raw) for chunk in chunks)
    assert ChunkLines("w", 0, OWN * 3, 3).size == keep_only_chunks(chunks) == sizes


def test_a_run_that_is_no_chunks_after_all_is_decoded_as_any_other() -> None:
    (lines,) = ChunkLines("w", 1, OWN * 2, 2, 7).as_lines()
    assert isinstance(lines, Lines)
    assert (lines.sole, lines.only, len(lines.messages)) == (7, "calls", 2)
    assert [message.method for message in lines.messages] == ["chunk"] * 2
    assert [bytes(message.params) for message in lines.messages] == [OWN[:-1]] * 2
    (lines,) = ChunkLines("w", 1, OWN + b'{"text":"\xff"}\n', 2).as_lines()
    assert isinstance(lines, Lines)
    assert bytes(lines.messages[1].params) == b'{"text":"\xff"}'


def test_chunks_of_other_workers_that_wait_hold_their_own_params() -> None:
    notes = decode_lines(b'{"method":"chunk","params":{"text":"a"}}\n' * 2)
    chunks = [chunk for chunk in reader_by("anyio-bus")(notes) if chunk is not None]
    assert keep_only_chunks(chunks) == 2 * len(b'{"text":"a"}')
    assert [bytes(chunk.raw) for chunk in chunks] == [b'{"text":"a"}'] * 2
