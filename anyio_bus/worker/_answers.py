"""Own the one translation from what a handler did to the frame that answers its request."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Raw, UnsetType

from anyio_bus._errors import InvalidArgumentError, KernelCode, RemoteError
from anyio_bus._sansio.codec import encode_error, encode_result, salvage_id
from anyio_bus._sansio.messages import PREFIX_BYTES, BadLine, RequestId
from anyio_bus.worker._binding import InvalidParamsError

if TYPE_CHECKING:
    from anyio_bus._sansio.lines import Oversize

__all__ = ("error_frame", "oversize_id", "refusal_of_line", "result_frame")

logger = logging.getLogger("anyio_bus.worker")

_MESSAGE_CHARACTERS = 4096  # of an exception's text; more of it is in the log


def result_frame(key: RequestId, method: str, result: object, limit_bytes: int) -> bytes:
    """Answer with a result; with an error where it cannot be encoded or is too large."""
    try:
        frame = encode_result(key, result)
    except Exception as exc:  # the result's own code may run while it is encoded
        logger.error("the result of %r cannot be encoded", method, exc_info=exc)
        cause = exc.__cause__ if isinstance(exc, InvalidArgumentError) else exc
        text = f"the result of {method!r} cannot be encoded as JSON: {_text(cause or exc)}"
        return encode_error(key, KernelCode.INTERNAL_ERROR, text)
    if len(frame) > limit_bytes:
        text = f"answer of {len(frame)} bytes is over max_frame_bytes={limit_bytes}"
        return encode_error(key, KernelCode.FRAME_TOO_LARGE, text)
    return frame


def error_frame(key: RequestId, method: str, exc: BaseException, limit_bytes: int) -> bytes:
    """Answer with an exception: its own code, or -32603 and a traceback in the log."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]  # it used a task group, which is its own affair
    if isinstance(exc, InvalidParamsError):
        return encode_error(key, KernelCode.INVALID_PARAMS, f"invalid params: {exc}")
    if isinstance(exc, RemoteError):
        frame = _remote_error_frame(key, exc)
        if frame is not None and len(frame) <= limit_bytes:
            return frame
    logger.error("the handler of %r raised", method, exc_info=exc)
    text = f"{type(exc).__name__}: {_text(exc)}"[:_MESSAGE_CHARACTERS]
    return encode_error(key, KernelCode.INTERNAL_ERROR, text)


def _remote_error_frame(key: RequestId, exc: RemoteError) -> bytes | None:
    """Answer with what the handler chose; None if that is not a JSON-RPC error object."""
    if type(exc.code) is not int or not isinstance(exc.message, str):
        return None
    try:
        return encode_error(key, exc.code, exc.message, exc.data)
    except Exception:  # data that cannot be encoded  # noqa: BLE001
        return None


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:  # a broken __str__  # noqa: BLE001
        return "(no text)"


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
