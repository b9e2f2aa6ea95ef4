"""The splitter gives the same lines however the stream is cut, and holds no more than it must."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anyio_bus._sansio.lines import EDGE_BYTES, READ_BYTES, LineSplitter, Oversize, next_read_bytes

Line = bytes | Oversize


def lines_of(items: list[Line]) -> list[Line]:
    """Flatten blocks, none of which is empty or ends within a line, into their lines."""
    lines: list[Line] = []
    for item in items:
        assert isinstance(item, Oversize) or item.endswith(b"\n")
        lines += item.splitlines(keepends=True) if isinstance(item, bytes) else [item]
    return lines


def split(chunks: list[bytes], limit: int) -> tuple[list[Line], bytes]:
    """Feed all chunks; return the lines and what the end of the stream discards."""
    splitter = LineSplitter(limit)
    items = [item for chunk in chunks for item in splitter.feed(chunk)]
    return lines_of(items), splitter.close()


def expected(stream: bytes, limit: int) -> tuple[list[Line], bytes]:
    """Say what a splitter must find, with all of the stream at hand."""
    *ended, rest = stream.split(b"\n")
    lines: list[Line] = []
    for line in (content + b"\n" for content in ended):
        edges = Oversize(line[:EDGE_BYTES], line[-EDGE_BYTES:], len(line))
        lines.append(line if len(line) <= limit else edges)
    return lines, rest[:EDGE_BYTES]


# Little else than newlines and filler, so that lines of every length and chunk come up.
short = st.lists(st.sampled_from([b"\n", b"a", b"bc"]), max_size=8).map(b"".join)
long = st.integers(1, 3 * EDGE_BYTES).map(lambda size: b"x" * size)


@given(st.lists(short, max_size=20), st.integers(1, 8))
@example([b"123456789", b"01\n1\n"], 10)
def test_any_cut_of_a_stream_gives_the_same_lines(chunks: list[bytes], limit: int) -> None:
    stream = b"".join(chunks)
    whole = expected(stream, limit)

    assert split(chunks, limit) == whole
    assert split([stream], limit) == whole
    assert split([stream[i : i + 1] for i in range(len(stream))], limit) == whole


@given(st.lists(short | long, max_size=12), st.integers(1, 3 * EDGE_BYTES))
@example([b"y" * 8, b"y" * (EDGE_BYTES - 8), b"y" * 4, b"y\n"], 8)
def test_any_cut_of_a_stream_of_long_lines_gives_the_same_lines(
    chunks: list[bytes], limit: int
) -> None:
    assert split(chunks, limit) == expected(b"".join(chunks), limit)


def test_whole_lines_of_a_chunk_come_as_one_block() -> None:
    splitter = LineSplitter(100)

    assert splitter.feed(b"a\nb\r\n\nc") == [b"a\nb\r\n\n"]
    assert splitter.feed(b"d\ne\n") == [b"cd\ne\n"]


def test_a_chunk_without_a_newline_completes_nothing() -> None:
    splitter = LineSplitter(100)

    assert splitter.feed(b"abc") == []
    assert splitter.feed(b"") == []
    assert splitter.open_bytes == 3


@pytest.mark.parametrize("limit", [5, 2])
def test_a_line_as_long_as_the_limit_passes_and_one_byte_more_does_not(limit: int) -> None:
    fits = b"x" * (limit - 1) + b"\n"
    over = b"x" + fits

    assert split([fits], limit)[0] == [fits]
    assert split([over], limit)[0] == [Oversize(over, over, len(over))]


def test_an_oversize_line_costs_only_itself() -> None:
    items = LineSplitter(4).feed(b"ab\n" + b"x" * 9 + b"\ncd\nef\n")

    assert items == [b"ab\n", Oversize(b"x" * 9 + b"\n", b"x" * 9 + b"\n", 10), b"cd\nef\n"]


def test_of_a_long_line_only_both_edges_are_kept() -> None:
    head, middle, tail = b"h" * EDGE_BYTES, b"m" * (3 * EDGE_BYTES), b"t" * (EDGE_BYTES - 1) + b"\n"
    splitter = LineSplitter(10)

    assert splitter.feed(head + middle) == []
    assert splitter.feed(tail) == [Oversize(head, tail, 5 * EDGE_BYTES)]


def test_the_length_of_the_open_line_is_known_while_it_grows_and_after_it_is_too_long() -> None:
    splitter = LineSplitter(6)
    seen = []
    for chunk in (b"abc", b"def", b"gh", b"i\nj"):
        splitter.feed(chunk)
        seen.append(splitter.open_bytes)

    assert seen == [3, 6, 8, 1]


def test_closing_returns_the_beginning_of_what_is_discarded_and_starts_anew() -> None:
    splitter = LineSplitter(3 * EDGE_BYTES)
    splitter.feed(b"a" * EDGE_BYTES + b"b")

    assert splitter.close() == b"a" * EDGE_BYTES
    assert (splitter.close(), splitter.open_bytes) == (b"", 0)
    assert splitter.feed(b"next\n") == [b"next\n"]


def test_closing_in_an_oversize_line_returns_its_beginning_and_starts_anew() -> None:
    splitter = LineSplitter(4)
    splitter.feed(b"too long")

    assert splitter.close() == b"too long"
    assert splitter.open_bytes == 0
    assert splitter.feed(b"x\n") == [b"x\n"]


def test_a_line_that_trickles_in_costs_about_its_own_size() -> None:
    size = 256 * 1024
    splitter = LineSplitter(2 * size)
    tracemalloc.start()
    for index in range(size // 2):
        splitter.feed(index.to_bytes(4, "big")[2:].replace(b"\n", b"."))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert size <= held < 1.5 * size


def test_what_is_open_can_be_given_to_another_splitter() -> None:
    first, second = LineSplitter(100), LineSplitter(100)
    assert first.feed(b"whole\nop") == [b"whole\n"]
    rest = first.rest()
    assert (rest, first.rest()) == (b"op", b"")
    assert second.feed(rest + b"en\n") == [b"open\n"]


def test_reads_grow_while_they_are_filled() -> None:
    sizes = [READ_BYTES]
    for _ in range(6):
        sizes.append(next_read_bytes(sizes[-1], sizes[-1]))
    assert sizes[:3] == [65_536, 131_072, 262_144]
    assert sizes[-2:] == [1_048_576] * 2
    assert next_read_bytes(sizes[-1], sizes[-1] - 1) == READ_BYTES
