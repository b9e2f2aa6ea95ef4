"""Own the frames of the nexo wire: how a block of lines is read, how what is said is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from anyio_bus._errors import InvalidArgumentError
from anyio_bus._sansio.codec import BAD_JSON, decode_block, encode_error, encode_result
from anyio_bus._sansio.messages import PREFIX_BYTES, BadLine, Message
from anyio_bus.plugins.nexo.errors import WireError
from anyio_bus.plugins.nexo.types import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio_bus._sansio.messages import RequestId

__all__ = (
    "DEFAULT_RPC_TIMEOUT",
    "JSONRPC_VERSION",
    "MAX_FRAME_BYTES",
    "build_error_response",
    "build_notification",
    "build_response",
    "serialize_frame",
)

JSONRPC_VERSION = "2.0"
MAX_FRAME_BYTES = 1 << 20  # of a line, its LF not counted
DEFAULT_RPC_TIMEOUT = 30.0  # seconds that the host has for an answer

METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
SHUTDOWN_FAILED = -32000

_TEXT_CHARACTERS = 4096  # of an error's message; more of it is in the log


# -- for those who write frames by hand --------------------------------------------------------


def serialize_frame(frame: dict[str, Any]) -> str:
    """Write a frame as one line of ASCII, with its LF.

    Raises:
        WireError: It is not JSON.
    """
    import json  # noqa: PLC0415  # the SDK itself does without

    try:
        return json.dumps(frame, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as exc:
        msg = f"frame is not JSON-serializable: {exc}"
        raise WireError(msg) from exc


def build_response(id: Any, result: Any) -> dict[str, Any]:  # noqa: A002  # the wire's own name
    """Make the frame of a result."""
    return {"jsonrpc": JSONRPC_VERSION, "id": id, "result": result}


def build_error_response(id: Any, code: int, message: str) -> dict[str, Any]:  # noqa: A002
    """Make the frame of an error."""
    error = {"code": code, "message": message}
    return {"jsonrpc": JSONRPC_VERSION, "id": id, "error": error}


def build_notification(method: str, params: Any) -> dict[str, Any]:
    """Make the frame of a notification."""
    return {"jsonrpc": JSONRPC_VERSION, "method": method, "params": params}


# -- what is read ------------------------------------------------------------------------------


class EventParams(msgspec.Struct):
    """The params of ``broker.event``."""

    topic: str
    event: Event


class DeltaParams(msgspec.Struct):
    """The params of ``llm.complete.delta``."""

    request_id: int
    chunk: str


decode_event: Callable[[bytes | msgspec.Raw], EventParams] = msgspec.json.Decoder(
    EventParams
).decode
decode_delta: Callable[[bytes | msgspec.Raw], DeltaParams] = msgspec.json.Decoder(
    DeltaParams
).decode


def read_block(block: bytes) -> list[Message | BadLine]:
    """Decode a block of whole lines; one that is no message costs that line alone."""
    if block.isascii() or _is_text(block):
        return decode_block(block)
    messages: list[Message | BadLine] = []
    for line in block.split(b"\n"):  # and nowhere else: a CR ends no line
        if _is_text(line):
            messages += decode_block(line + b"\n")
        else:
            messages.append(BadLine(line[:PREFIX_BYTES], "it is not UTF-8", len(line) + 1))
    return messages


def _is_text(data: bytes) -> bool:
    """Whether it is UTF-8; the decoder looks only at the members that it reads."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def params_of(message: Message) -> msgspec.Raw | bytes:
    """Return the params of a message, those of none as null."""
    return b"null" if message.params is UNSET else message.params


def size_of(message: Message) -> int:
    """Return how many bytes the params of a message have."""
    return 0 if message.params is UNSET else memoryview(message.params).nbytes


# -- what is written ---------------------------------------------------------------------------


def result_frame(key: RequestId, result: object, limit_bytes: int) -> bytes:
    """Make the frame of a result.

    Raises:
        WireError: It is not JSON, or too large.
    """
    try:
        if isinstance(result, msgspec.Raw):
            msgspec.json.decode(result)  # it is written as it is
        frame = encode_result(key, result)
    except Exception as exc:  # its own code may run while it is encoded
        cause = exc.__cause__ if isinstance(exc, InvalidArgumentError) else exc
        msg = f"result is not JSON-serializable: {text_of(cause or exc)}"
        raise WireError(msg) from exc
    return checked(frame, limit_bytes)


def error_frame(key: RequestId, code: int, message: str, data: object, limit_bytes: int) -> bytes:
    """Make the frame of an error; data that cannot be sent are left out."""
    message = message[:_TEXT_CHARACTERS]
    if data is not None:
        try:
            return checked(encode_error(key, code, message, data), limit_bytes)
        except Exception:  # noqa: BLE001  # an answer without them is better than none
            pass
    return encode_error(key, code, message)


def checked(frame: bytes, limit_bytes: int) -> bytes:
    """Return a frame that is not too large.

    Raises:
        WireError: It is.
    """
    if len(frame) - 1 > limit_bytes:
        msg = f"frame of {len(frame) - 1} bytes exceeds max_frame_bytes={limit_bytes}"
        raise WireError(msg)
    return frame


def text_of(exc: BaseException) -> str:
    """Return what an exception says, or its class where it says nothing."""
    try:
        return str(exc) or type(exc).__name__
    except BaseException:  # a broken __str__  # noqa: ASYNC103, BLE001
        return type(exc).__name__  # noqa: ASYNC104


BAD = BAD_JSON
