"""Own the members that the params of any request may hold for whoever serves it."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

__all__ = ("KnownParams", "plain_or_none", "read_known")

_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class KnownParams(msgspec.Struct, frozen=True):
    """The members ``_meta`` and ``sessionId``, as anybody may have written them."""

    raw_meta: Raw | UnsetType = msgspec.field(default=UNSET, name="_meta")
    raw_session: Raw | UnsetType = msgspec.field(default=UNSET, name="sessionId")

    @property
    def meta(self) -> dict[str, Any]:
        """``_meta`` as plain objects; empty where there is none, or no object."""
        found = plain_or_none(self.raw_meta)
        return found if isinstance(found, dict) else {}

    @property
    def session(self) -> str | None:
        """``sessionId``; None where there is none, or no text."""
        found = plain_or_none(self.raw_session)
        return found if isinstance(found, str) else None


_known = msgspec.json.Decoder(KnownParams)


def read_known(params: Raw | UnsetType) -> KnownParams:
    """Read them; what is no object has none."""
    try:
        return KnownParams() if params is UNSET else _known.decode(params)
    except _BAD:  # an array, say
        return KnownParams()


def plain_or_none(raw: Raw | UnsetType) -> Any:
    """Decode a member that anybody may have written; None if it is none."""
    if raw is UNSET:
        return None
    try:
        return msgspec.json.decode(raw)
    except _BAD:
        return None
