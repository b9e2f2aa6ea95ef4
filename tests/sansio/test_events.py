"""Runs of lines as the events that they become."""

from __future__ import annotations

from msgspec import UNSET, Raw

from anyio_bus._sansio.events import LineBad, Lines, Results, lines_of
from anyio_bus._sansio.messages import Result


def test_results_that_a_kernel_vouches_for_are_answers_of_two_members() -> None:
    block = b'{"jsonrpc":"2.0","id":1,"result":{"a":1}}\n{"id":"b","result":null,"x":0}\n'
    (lines,) = lines_of("w", 3, block, only="results")
    assert isinstance(lines, Lines)
    assert (lines.only, [type(answer) for answer in lines.messages]) == ("answers", [Result] * 2)  # type: ignore[comparison-overlap]
    assert [answer.id for answer in lines.messages] == [1, "b"]
    assert [bytes(answer.result) for answer in lines.messages] == [b'{"a":1}', b"null"]  # type: ignore[arg-type]
    assert {answer.error for answer in lines.messages} == {UNSET}


def test_results_that_cannot_be_decoded_are_bad_lines() -> None:
    good, bad = lines_of("w", 3, b'{"id":1,"result":2}\n{"id":2,"result":"\xff}\n', only="results")
    assert isinstance(good, Lines)
    assert isinstance(bad, LineBad)


def test_results_in_a_row_are_answers() -> None:
    results = Results("w", 3, 7, 2, b'[{"a":1}, null]')
    assert results.keys == range(7, 9)
    assert results.answers() == [Result(7, Raw(b'{"a":1}')), Result(8, Raw(b"null"))]
