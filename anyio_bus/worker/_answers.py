"""Own the answers to lines that are no messages, or too long to be read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Raw, UnsetType

from anyio_bus._errors import KernelCode
from anyio_bus._sansio.codec import encode_error, salvage_id
from anyio_bus._sansio.messages import PREFIX_BYTES, BadLine, RequestId

if TYPE_CHECKING:
    from anyio_bus._sansio.lines import Oversize

__all__ = ("oversize_id", "refusal_of_line")


class _Head(msgspec.Struct):
    method: Raw | UnsetType = UNSET
    id: RequestId | UnsetType = UNSET


_head = msgspec.json.Decoder(_Head)


def refusal_of_line(bad: BadLine) -> bytes:
    """Answer a line that is no message (JSON-RPC 2.0, section 5): with its id if it has one."""
    no_message = bad.reason.startswith(("Expected", "neither"))
    code = KernelCode.INVALID_REQUEST if no_message else KernelCode.PARSE_ERROR
    return encode_error(_id_of(bad), code, bad.reason)


def _id_of(bad: BadLine) -> RequestId:
    if bad.size > PREFIX_BYTES:
        return None
    try:
        head = _head.decode(bad.prefix)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    # Without a method it may be meant as an answer, and its id is then one of ours.
    return None if head.method is UNSET or head.id is UNSET else head.id


_MEMBER = re.compile(
    rb'\s*[{,]\s*"((?:[^"\\]|\\.)*)"\s*:\s*("(?:[^"\\]|\\.)*"(?=\s*,)|-?[0-9]+(?=\s*,))?'
)


def oversize_id(line: Oversize) -> tuple[RequestId | UnsetType, bool]:
    """Read the id of a line of which both ends are there, and whether it is a request.

    At the front only members before the first nested value count.
    """
    members: dict[bytes, bytes | None] = {}
    at = 0
    while match := _MEMBER.match(line.prefix, at):
        members[match[1]] = match[2]
        if match[2] is None:
            break
        at = match.end()
    is_request = b"method" in members or b"params" in members
    raw = members.get(b"id")
    if raw is not None:
        return msgspec.json.decode(raw, type=int | str), is_request
    return salvage_id(b"", line.suffix), is_request
