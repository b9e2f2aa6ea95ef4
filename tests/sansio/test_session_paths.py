"""Where a frame names its session: read at its place, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from anyio_bus._sansio.session_paths import Named, session_path


def read(option: str, method: object, params: object = None) -> Named:
    """Read a frame."""
    path = session_path(option)
    assert path is not None
    members = {"id": 1, "method": method} | ({} if params is None else {"params": params})
    return path.read(json.dumps(members).encode() + b"\n")


def test_the_top_level_needs_no_reading() -> None:
    assert session_path("top") is None


@pytest.mark.parametrize(
    ("option", "method", "params", "named"),
    [
        ("acp", "session/prompt", {"sessionId": "s", "x": [1]}, Named("s")),
        ("acp", "session/new", {"cwd": "/"}, Named(creates=True)),
        ("acp", "session/new", None, Named(creates=True)),
        ("acp", "session/load", {"sessionId": "s"}, Named("s", loads=True)),
        ("acp", "session/load", {}, Named()),
        ("acp", "session/prompt", {"sessionId": ""}, Named()),
        ("acp", "session/prompt", {"sessionId": 5}, Named()),
        ("acp", "session/prompt", ["sessionId", "s"], Named()),
        ("acp", "session/prompt", {"thread": {"sessionId": "s"}}, Named()),
        ("params.thread.id", "any", {"thread": {"id": "s"}, "id": "t"}, Named("s")),
        ("params.thread.id", "any", {"id": "t"}, Named()),
        ("params.thread.id", "session/new", {"thread": {"id": "s"}}, Named("s")),
    ],
)
def test_a_frame_names_its_session_at_the_place_of_its_pool(
    option: str, method: str, params: Any, named: Named
) -> None:
    assert read(option, method, params) == named


def test_a_result_names_the_session_that_it_made() -> None:
    path = session_path("acp")
    assert path is not None
    for result, session in (('{"sessionId":"s"}', "s"), ('{"sessionId":""}', None), ("[1]", None)):
        assert path.read_result(Raw(result.encode())) == session
    assert path.read_result(Raw(b"{}")) is None


@given(st.binary(max_size=40))
def test_what_is_no_frame_names_no_session(frame: bytes) -> None:
    path = session_path("acp")
    assert path is not None
    assert path.read(b"\xff" + frame) == Named()
