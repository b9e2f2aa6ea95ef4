"""Runs of lines as the events that they become."""

from __future__ import annotations

from msgspec import Raw

from anyio_bus._sansio.events import LineBad, Lines, Results, lines_of
from anyio_bus._sansio.messages import Result


def test_lines_that_cannot_be_decoded_are_bad_lines() -> None:
    good, bad = lines_of("w", 3, b'{"id":1,"result":2}\n{"id":2,"result":"\xff}\n', only="answers")
    assert isinstance(good, Lines)
    assert isinstance(bad, LineBad)


def test_results_are_answers() -> None:
    several = Results("w", 3, [9, 7], b'[{"a":1}, null]')
    assert several.answers() == [Result(9, Raw(b'{"a":1}')), Result(7, Raw(b"null"))]
    assert Results("w", 3, [5], b"[1]").answers() == [Result(5, Raw(b"[1]"))]


def test_results_that_cannot_be_decoded_cost_only_themselves() -> None:
    results = Results("w", 3, [5, 7], b"[1, [2]")
    assert results.answers() == [Result(5, Raw(b"")), Result(7, Raw(b""))]
