"""What is hidden from whoever looks at the wire."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyio_bus._sansio.redaction import hide_secrets, redacted_line

SECRETS = [
    "token", "accessToken", "GITHUB_TOKEN", "client_secret", "Password", "passwd", "PWD",
    "passphrase", "Authorization", "proxy-authorization", "auth", "api_key", "apiKey", "x-api-key",
    "Cookie", "set-cookie", "credentials", "private_key", "jwt", "session_key",
]  # fmt: skip
PLAIN = ["text", "author", "key", "monkey", "progressToken", "path", "method", "cancel"]


def shown(value: Any) -> Any:
    line = msgspec.json.encode(value) + b"\n"
    return msgspec.json.decode(redacted_line(line, hide_secrets))


@pytest.mark.parametrize("name", SECRETS)
def test_string_named_like_a_secret_is_hidden_at_any_depth(name: str) -> None:
    value = {"params": [{"a": {name: "hunter2", "b": 1}}]}
    assert shown(value) == {"params": [{"a": {name: "***", "b": 1}}]}


@pytest.mark.parametrize("name", PLAIN)
def test_other_names_are_shown(name: str) -> None:
    assert shown({name: "hunter2"}) == {name: "hunter2"}


def test_everything_inside_a_secret_is_hidden() -> None:
    value = {"credentials": {"user": "ada", "pins": [1234, None, True]}}
    assert shown(value) == {"credentials": {"user": "***", "pins": ["***", None, True]}}


def test_counts_of_tokens_are_shown() -> None:
    assert shown({"maxTokens": 5, "tokens": "abc"}) == {"maxTokens": 5, "tokens": "***"}


@pytest.mark.parametrize("label", ["name", "key"])
def test_value_beside_a_secret_name_is_hidden(label: str) -> None:
    env = [{label: "API_KEY", "value": "hunter2"}, {label: "HOME", "value": "/root"}]
    assert shown({"env": env}) == {
        "env": [{label: "API_KEY", "value": "***"}, {label: "HOME", "value": "/root"}]
    }


@pytest.mark.parametrize("line", [b"password=hunter2\n", b'{"token":"hunter2"\n', b"\xff\n"])
def test_nothing_is_shown_of_what_is_no_json(line: bytes) -> None:
    assert redacted_line(line, hide_secrets) == b'"***"\n'


def test_empty_line_is_shown() -> None:
    assert redacted_line(b"\r\n", hide_secrets) == b"\r\n"


@pytest.mark.parametrize(
    "line",
    [
        b'{"token":"hunter2","token":1}\n',
        b'{"tok\\u0065n":"hunter2","tok\\u0065n":null}\n',
    ],
)
def test_member_that_stands_twice_hides_nothing(line: bytes) -> None:
    assert b"hunter2" not in redacted_line(line, hide_secrets)


def test_line_without_secrets_keeps_its_bytes() -> None:
    line = b'{ "id" : 1.50, "result":[ ] }\r\n'
    assert redacted_line(line, hide_secrets) is line


def test_function_decides_what_is_shown() -> None:
    assert redacted_line(b'{"a":1}\n', lambda value: {**value, "a": None}) == b'{"a":null}\n'
    line = b'{"password":"x"}\n'
    assert redacted_line(line, lambda value: value) is line


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*PLAIN, *SECRETS, "name", "value"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values)
def test_shape_stays_and_hiding_twice_changes_nothing(value: Any) -> None:
    once = hide_secrets(value)
    assert hide_secrets(once) == once
    assert skeleton(once) == skeleton(value)


@given(st.binary(max_size=60) | json_values.map(msgspec.json.encode))
def test_what_is_shown_of_any_line_is_json(line: bytes) -> None:
    out = redacted_line(line + b"\n", hide_secrets)
    assert out.endswith(b"\n")
    if line.strip():
        msgspec.json.decode(out)


def skeleton(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: skeleton(item) for name, item in value.items()}
    if isinstance(value, list):
        return [skeleton(item) for item in value]
    return None
