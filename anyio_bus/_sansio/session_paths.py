"""Own where a frame names its session, for pools whose clients say it in the params alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

__all__ = ("SessionPath", "session_path")

ACP_PATH = "params.sessionId"
ACP_CREATES = frozenset({"session/new"})  # their results name the session
ACP_LOADS = frozenset({"session/load"})  # they bring back one that a worker may have lost

_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Named(msgspec.Struct, frozen=True):
    """What a frame says of its session.

    Args:
        session: Its id; None where it names none.
        creates: Its result will name one.
        loads: It brings one back, also to another worker than the one that lost it.
    """

    session: str | None = None
    creates: bool = False
    loads: bool = False


_NOTHING = Named()


class SessionPath:
    """Reads one place in frames, without decoding anything around it.

    Args:
        path: The members to go through, from the top, with dots between them.
        creates: Methods whose results name a session, in the member of the same name.
        loads: Methods that bring a session back.
    """

    __slots__ = ("_creates", "_frames", "_loads", "_results")

    def __init__(
        self, path: str, creates: frozenset[str] = frozenset(), loads: frozenset[str] = frozenset()
    ) -> None:
        first, *rest = path.split(".")
        fields: list[tuple[str, Any, Any]] = [
            ("method", str | UnsetType, msgspec.field(default=UNSET)),
            _member(first, _below(rest)),
        ]
        self._frames: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            msgspec.defstruct("Frame", fields)
        )
        result = msgspec.defstruct("Result", [_member(rest[-1], str)])
        self._results: msgspec.json.Decoder[Any] = msgspec.json.Decoder(result)
        self._creates = creates
        self._loads = loads

    def read(self, frame: bytes) -> Named:
        """Return what a frame for a worker says; one that is otherwise shaped says nothing."""
        try:
            value: Any = self._frames.decode(frame)
        except _BAD:
            return _NOTHING
        method = value.method
        while not isinstance(value, str | UnsetType):
            value = value.at
        session = None if value is UNSET or not value else value
        return Named(
            session, method in self._creates, session is not None and method in self._loads
        )

    def read_result(self, result: Raw) -> str | None:
        """Return the session that a result names."""
        try:
            session: str | UnsetType = self._results.decode(result).at
        except _BAD:
            return None
        return None if session is UNSET or not session else session


def _member(name: str, kind: Any) -> tuple[str, Any, Any]:
    return ("at", kind | UnsetType, msgspec.field(default=UNSET, name=name))


def _below(names: list[str]) -> Any:
    kind: Any = str
    for name in reversed(names):
        kind = msgspec.defstruct("Part", [_member(name, kind)])
    return kind


@lru_cache(maxsize=64)
def session_path(option: str) -> SessionPath | None:
    """Return what reads the frames of a pool with this ``Pool.session``; None for the top level."""
    if option == "top":
        return None
    if option == "acp":
        return SessionPath(ACP_PATH, ACP_CREATES, ACP_LOADS)
    return SessionPath(option)
