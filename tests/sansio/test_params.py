"""What params say about a request is read whatever they are, and never an error."""

from __future__ import annotations

import pytest
from msgspec import UNSET, Raw

from anyio_bus._sansio.params import plain_or_none, read_known


def test_meta_and_session_are_read() -> None:
    known = read_known(Raw(b'{"_meta":{"a":[1]},"sessionId":"s","other":1}'))
    assert known.meta == {"a": [1]}
    assert known.session == "s"


@pytest.mark.parametrize(
    "params",
    [b"{}", b"[1]", b"null", b'"x"', b'{"_meta":5,"sessionId":5}', b'{"_meta":null}', b"{"],
)
def test_what_has_none_or_is_none_says_nothing(params: bytes) -> None:
    known = read_known(Raw(params))
    assert known.meta == {}
    assert known.session is None


def test_absent_params_say_nothing() -> None:
    assert read_known(UNSET).meta == {}
    assert read_known(UNSET).session is None


def test_a_member_that_is_no_json_is_none() -> None:
    assert plain_or_none(UNSET) is None
    assert plain_or_none(Raw(b'{"deep":1')) is None
    assert plain_or_none(Raw(b"[1]")) == [1]
