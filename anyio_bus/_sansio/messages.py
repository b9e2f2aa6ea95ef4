"""Own the shape of a decoded JSON-RPC 2.0 message, and of a line that is none."""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

__all__ = (
    "PREFIX_BYTES",
    "BadLine",
    "ErrorObject",
    "Message",
    "RequestId",
    "Result",
    "is_answer",
    "is_error",
)

PREFIX_BYTES = 200  # of a bad line, kept for logs and errors

RequestId: TypeAlias = int | str | float | None


class Message(msgspec.Struct, gc=False):
    """The members of a message that are read at top level; all others are ignored.

    ``params``, ``result`` and ``error`` stay raw bytes, to be decoded once into the type that is
    asked for. The ``jsonrpc`` member is not required: a worker of ten lines may leave it out.
    """

    id: RequestId | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    session: str | UnsetType = msgspec.field(default=UNSET, name="sessionId")


class Result(msgspec.Struct, gc=False):
    """A response without ``error`` and ``sessionId``: a :class:`Message` of fewer members."""

    id: RequestId
    result: Raw
    method: ClassVar[UnsetType] = UNSET
    params: ClassVar[UnsetType] = UNSET
    error: ClassVar[UnsetType] = UNSET
    session: ClassVar[UnsetType] = UNSET


class BadLine(msgspec.Struct, frozen=True):
    """A line that costs only itself.

    Args:
        prefix: Its first bytes, at most 200.
        reason: What is wrong with it.
        size: Its length in bytes.
        id: The id that could still be read from an oversize line; UNSET where none could, None
            where it answers no request.
    """

    prefix: bytes
    reason: str
    size: int
    id: RequestId | UnsetType = UNSET
    method: ClassVar[UnsetType] = UNSET  # so that it is told from what workers begin as answers are


class ErrorObject(msgspec.Struct):
    """The ``error`` member of a response."""

    code: int
    message: str = ""
    data: Any = UNSET


def is_answer(message: Message) -> bool:
    """Tell whether a message without a method is a response (JSON-RPC 2.0, section 5)."""
    return message.id is not UNSET and (message.result is not UNSET or message.error is not UNSET)


def is_error(response: Message) -> bool:
    """Tell whether a response is an error; a null error beside a result does not make it one."""
    error = response.error
    return isinstance(error, Raw) and (response.result is UNSET or bytes(error) != b"null")
