"""What each profile sends when a request is cancelled."""

from __future__ import annotations

import msgspec
import pytest

from anyio_bus._sansio.profiles import CANCEL_METHODS, answers_cancelled, cancel_frame

KEYS = [7, "seven", 7.5, 2**70]


def decoded(profile: str, key: str | float, reason: str = "") -> object:
    """Return the cancel frame as plain objects."""
    frame = cancel_frame(profile, key, reason)
    assert frame is not None
    assert frame.endswith(b"\n")
    return msgspec.json.decode(frame)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("profile", "method", "member"),
    [
        ("lsp", "$/cancelRequest", "id"),
        ("mcp", "notifications/cancelled", "requestId"),
        ("acp", "$/cancel_request", "requestId"),
    ],
)
def test_each_profile_names_the_request_in_its_own_way(
    profile: str, method: str, member: str, key: str | float
) -> None:
    assert decoded(profile, key) == {"jsonrpc": "2.0", "method": method, "params": {member: key}}
    assert CANCEL_METHODS[method] == member


def test_only_mcp_tells_the_reason() -> None:
    assert decoded("mcp", 1, "too slow") == {
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": {"requestId": 1, "reason": "too slow"},
    }
    assert decoded("lsp", 1, "too slow") == decoded("lsp", 1)
    assert decoded("acp", 1, "too slow") == decoded("acp", 1)


def test_the_profile_none_tells_nothing() -> None:
    assert cancel_frame("none", 1, "too slow") is None


@pytest.mark.parametrize(
    ("profile", "answers"), [("lsp", True), ("acp", True), ("mcp", False), ("none", True)]
)
def test_a_cancelled_request_is_still_answered_except_under_mcp(
    profile: str, answers: bool
) -> None:
    assert answers_cancelled(profile) is answers


def test_every_cancel_method_is_listed() -> None:
    methods = {"$/cancelRequest", "notifications/cancelled", "$/cancel_request"}

    assert set(CANCEL_METHODS) == methods
