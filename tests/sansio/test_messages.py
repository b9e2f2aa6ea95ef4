"""What a decoded line tells by which members it has."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET

from anyio_bus._sansio.messages import BadLine, ErrorObject, Message, is_answer, is_error


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b'{"id":1,"result":null}', True),
        (b'{"id":"1","error":{"code":1,"message":""}}', True),
        (b'{"id":null,"error":{"code":-32700,"message":"parse error"}}', True),
        (b'{"id":1}', False),
        (b'{"result":1}', False),
        (b'{"error":{}}', False),
        (b"{}", False),
    ],
)
def test_an_answer_has_an_id_and_a_result_or_an_error(line: bytes, answer: bool) -> None:
    assert is_answer(msgspec.json.decode(line, type=Message)) is answer


def test_payloads_keep_their_bytes_and_unknown_members_are_ignored() -> None:
    line = b'{"jsonrpc":"2.0","id":1,"result":{"a": 1.00},"sessionId":"s","pool":"p","x":[]}'
    message = msgspec.json.decode(line, type=Message)

    assert bytes(message.result) == b'{"a": 1.00}'  # type: ignore[arg-type]
    assert message.session == "s"
    assert message.method is UNSET
    assert message.params is UNSET


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (b"1", 1),
        (b'"1"', "1"),
        (b"1.0", 1.0),
        (b"null", None),
        (b"18446744073709551616", 2**64),
        (b"-9223372036854775809", -(2**63) - 1),
    ],
)
def test_an_id_keeps_its_type_and_its_value(text: bytes, key: object) -> None:
    message = msgspec.json.decode(b'{"id":%b,"result":0}' % text, type=Message)

    assert message.id == key
    assert type(message.id) is type(key)


@pytest.mark.parametrize("text", [b"true", b"[]", b"{}", b"1e999", b"9" * 5000])
def test_what_cannot_be_an_id_makes_no_message(text: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"id":%b,"result":0}' % text, type=Message)


def test_an_error_without_a_message_or_data_is_still_an_error() -> None:
    error = msgspec.json.decode(b'{"code":-32603}', type=ErrorObject)

    assert (error.code, error.message, error.data) == (-32603, "", UNSET)


def test_a_bad_line_has_no_id_unless_one_could_be_read() -> None:
    assert BadLine(b"x", "not JSON", 2).id is UNSET
    assert BadLine(b"x", "too long", 2, None).id is None


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"id":1,"error":{"code":1,"message":""}}', True),
        (b'{"id":1,"error":null}', True),
        (b'{"id":1,"error":null,"result":null}', False),
        (b'{"id":1,"error":{"code":1,"message":""},"result":null}', True),
        (b'{"id":1,"result":null}', False),
    ],
)
def test_a_null_error_beside_a_result_is_no_error(line: bytes, error: bool) -> None:
    assert is_error(msgspec.json.decode(line, type=Message)) is error
