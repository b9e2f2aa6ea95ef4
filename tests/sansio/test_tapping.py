"""What a tap shows of a line, and how a recording keeps it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyio_bus._sansio.lines import Oversize
from anyio_bus._sansio.routing import Entry, Outbox, Route
from anyio_bus._sansio.tapping import (
    TapFrame,
    _Record,
    decode_record,
    encode_record,
    frames_from_worker,
    frames_to_worker,
    unfinished_from_worker,
)

WHERE: dict[str, Any] = {"pool": "w", "worker": 3, "generation": 2, "at": 1.5, "time": 1e9}


def read(block: bytes, *in_flight: int) -> list[TapFrame]:
    return frames_from_worker([block], in_flight, **WHERE)


def write(frame: bytes, key: int | None = None) -> TapFrame:
    return frames_to_worker([Entry(frame, Route("w"), key)], **WHERE)[0]


def test_frame_says_where_it_was_and_what_it_is() -> None:
    frame = write(b'{"id":7,"method":"add","params":[1]}\n', 7)

    assert frame == TapFrame(
        direction="to_worker",
        frame=b'{"id":7,"method":"add","params":[1]}\n',
        size=37,
        kind="request",
        id=7,
        method="add",
        request=7,
        **WHERE,
    )
    assert frame.whole


@pytest.mark.parametrize(
    ("frame", "request_id"),
    [
        (b'{"method":"$/cancelRequest","params":{"id":4}}\n', 4),
        (b'{"method":"notifications/cancelled","params":{"requestId":4}}\n', 4),
        (b'{"method":"bus/credit","params":{"id":4,"bytes":1}}\n', 4),
        (b'{"method":"$/cancelRequest","params":[4]}\n', None),
        (b'{"method":"$/cancelRequest"}\n', None),
        (b'{"method":"other","params":{"id":4}}\n', None),
        (b'{"id":4,"result":1}\n', None),  # answers a request of the worker, not one of ours
    ],
)
def test_what_is_written_belongs_to_the_request_that_it_names(
    frame: bytes, request_id: int | None
) -> None:
    assert write(frame).request == request_id


@pytest.mark.parametrize(
    ("line", "in_flight", "request_id"),
    [
        (b'{"id":1,"result":0}\n', (1, 2), 1),
        (b'{"id":5,"result":0}\n', (1, 2), None),
        (b'{"method":"chunk","params":{"_meta":{"requestId":2}}}\n', (1, 2), 2),
        (b'{"method":"chunk","params":{"_meta":{"requestId":9}}}\n', (1,), None),
        (b'{"method":"chunk","params":{"_meta":{}}}\n', (1, 2), None),
        (b'{"method":"chunk"}\n', (1, 2), None),
        (b'{"method":"chunk","params":[1]}\n', (1,), 1),
        (b'{"id":1,"method":"ask"}\n', (1,), 1),
    ],
)
def test_what_is_read_belongs_to_the_request_that_it_names_or_the_only_one(
    line: bytes, in_flight: tuple[int, ...], request_id: int | None
) -> None:
    assert read(line, *in_flight)[0].request == request_id


def test_answer_ends_its_request_for_what_follows_in_the_same_read() -> None:
    block = b'{"id":1,"result":0}\n{"method":"late"}\n'
    assert [frame.request for frame in read(block, 1)] == [1, None]


def test_bad_lines_are_shown_with_what_is_wrong() -> None:
    frames = read(b'no json\n\n{"id":1}\r\n')

    assert [frame.frame for frame in frames] == [b"no json\n", b"\n", b'{"id":1}\r\n']
    assert {frame.kind for frame in frames} == {"bad"}
    assert "malformed" in frames[0].reason
    assert frames[1].reason == "empty line"
    assert "neither" in frames[2].reason


def test_beginning_of_a_line_that_is_too_long_or_has_no_end_is_shown() -> None:
    long = frames_from_worker([Oversize(b"abc", b"xyz", 1000)], (), **WHERE)[0]
    last = unfinished_from_worker(b"abc", 3, **WHERE)

    assert (long.frame, long.size, long.kind, long.whole) == (b"abc", 1000, "bad", False)
    assert (last.frame, last.size, last.reason, last.whole) == (
        b"abc",
        3,
        "unterminated last line",
        False,
    )


@pytest.mark.parametrize(
    "frame",
    [
        write(b'{"id":1.50,"method":"a","params":{ "x" : 1e3 }}\n', 1),
        read(b"\xff no text\n")[0],
        read(b' {"id":1,"result":0}\n', 1)[0],
        unfinished_from_worker(b"", 0, **WHERE),
        read(b'{"id":1,"result":0,"x":"\xff"}\n')[0],
        msgspec.structs.replace(write(b'"***"\n'), kind="request", redacted=True, dropped=4),
    ],
)
def test_recording_gives_a_frame_back_as_it_was(frame: TapFrame) -> None:
    line = encode_record(frame)

    assert line.count(b"\n") == 1
    assert decode_record(line) == frame


PIECES = [
    *(b"{", b"}", b"[", b"]", b",", b" ", b"\r", b"\n", b"1", b"null", b"\xff"),
    *(b'"id":1', b'"method":"a"', b'"params":{"_meta":{"requestId":1}}', b'"x":"\xc3"'),
    *(b'"result":', b'{"id":1,"result":2}\n'),
]
texts = st.sampled_from(PIECES)


@given(
    st.lists(texts | st.binary(max_size=4), max_size=30).map(b"".join), st.sets(st.integers(0, 2))
)
def test_whatever_was_read_is_shown_byte_for_byte(data: bytes, in_flight: set[int]) -> None:
    block = data + b"\n"
    frames = frames_from_worker([block], in_flight, **WHERE)

    assert b"".join(frame.frame for frame in frames) == block
    for frame in frames:
        assert frame.request is None or frame.request in in_flight
        line = encode_record(frame)
        msgspec.json.decode(line.decode())
        assert decode_record(line) == frame


def test_recording_shows_a_message_as_it_is() -> None:
    assert b'"message":{"id":1,"result": 0}' in encode_record(read(b'{"id":1,"result": 0}\n')[0])


def test_members_of_a_record_are_those_that_the_page_names() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "design" / "kernel.md"
    (row,) = re.findall(r"`bus/frame \{(.*?)\}`", page.read_text(), re.DOTALL)
    named = {name.strip(" ?\n") for name in row.split(",")}
    assert named == set(_Record.__struct_fields__)


def test_record_without_content_is_an_empty_frame() -> None:
    line = encode_record(unfinished_from_worker(b"x", 1, **WHERE)).replace(
        b'"line":"eA=="', b'"y":1'
    )
    assert decode_record(line).frame == b""


@given(st.lists(st.integers(0, 5), max_size=8), st.integers(1, 40), st.integers(0, 40))
def test_frame_is_whole_with_the_write_that_ends_it(sizes: list[int], step: int, dead: int) -> None:
    box = Outbox()
    entries = [Entry(b"x" * (size + 1), Route("w"), None) for size in sizes]
    for entry in entries:
        box.append(entry)
    live = list(entries)
    if len(entries) > 1:  # the first may be written in part, the others can be withdrawn
        gone = entries[1 + dead % (len(entries) - 1)]
        live.remove(gone)
        box.withdraw(gone)
    seen: list[Entry] = []
    while box.size:
        written = min(step, box.size)
        ending = box.ending_within(written)
        assert all(entry.frame for entry in ending)
        seen += ending
        box.advance(written)
    assert seen == live


@pytest.mark.parametrize(
    ("prefix", "suffix", "request_id"),
    [
        (b'{"id":4,"result":"', b'xx"}\n', 5),
        (b'{"result":"', b'xx","id":4}\n', 5),
        (b'{"id":null,"result":"', b'xx"}\n', None),  # answers nobody
        (b"xxx", b"xx\n", None),  # could be either's
    ],
)
def test_line_after_one_that_was_too_long_is_not_of_the_request_that_failed_over_it(
    prefix: bytes, suffix: bytes, request_id: int | None
) -> None:
    items = [Oversize(prefix, suffix, 9000), b'{"method":"m"}\n']

    _, frame = frames_from_worker(items, [4, 5], **WHERE)

    assert frame.request == request_id


def test_line_after_one_that_was_too_long_is_nobodys_where_the_only_request_failed_over_it() -> (
    None
):
    items = [Oversize(b"xxx", b"xx\n", 9000), b'{"method":"m"}\n']

    _, frame = frames_from_worker(items, [4], **WHERE)

    assert frame.request is None
