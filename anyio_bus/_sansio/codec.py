"""Own the step between lines and messages: one decoder call for a block, one encoder for frames."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import repeat
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from anyio_bus._errors import InvalidArgumentError, RemoteError, RemoteProtocolError
from anyio_bus._sansio.messages import (
    PREFIX_BYTES,
    BadLine,
    ErrorObject,
    Message,
    RequestId,
    is_answer,
)

if TYPE_CHECKING:
    from anyio_bus._sansio.lines import Oversize

__all__ = (
    "BAD_JSON",
    "decode_array",
    "decode_block",
    "decode_envelope",
    "decode_error",
    "decode_items",
    "decode_lines",
    "decode_plain",
    "decode_value",
    "decoder_of",
    "encode_envelope",
    "encode_error",
    "encode_items",
    "encode_notification",
    "encode_request",
    "encode_requests",
    "encode_result",
    "encode_value",
    "read_frame",
    "read_scalar",
    "salvage_id",
)

T = TypeVar("T")

_messages = msgspec.json.Decoder(Message)
_errors = msgspec.json.Decoder(ErrorObject)
_members = msgspec.json.Decoder(dict[str, Raw])
_anything = msgspec.json.Decoder(Raw)
_plain = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()
_encode = _encoder.encode
_encode_lines = _encoder.encode_lines

_PLAIN = frozenset({str, int, bool, NoneType})  # their JSON has neither newline nor a lost NaN
_LONG_BYTES = 4096
_DEEPEST = 100  # that a path to a fault is followed
_SHORT_LINE_BYTES = 256  # on average; then two passes over a block beat a search per line
BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_block(block: bytes) -> list[Message | BadLine]:
    """Decode a block of whole lines; a line that is not a message costs that line alone."""
    try:
        messages: list[Message] = _messages.decode_lines(block)
    except BAD_JSON:
        return _decode_each(block)
    answers = [message for message in messages if message.method is UNSET]
    if not all(map(is_answer, answers)):
        return _decode_each(block)
    if not _one_per_line(block, len(messages)):
        return _decode_each(block)
    return messages  # type: ignore[return-value]  # list is invariant; nobody appends to it


def _one_per_line(block: bytes, count: int) -> bool:
    """Tell whether each line holds one of the block's ``count`` messages.

    To the decoder a newline is white space, so it finds messages that share a line or go over
    several. A closing and an opening brace with nothing between them but a newline are never inside
    a value.
    """
    if count > 1 and len(block) < _SHORT_LINE_BYTES * count:
        return block.count(b"\n") == count and block.count(b"}\n{") == count - 1
    end = -1
    for _ in range(count - 1):
        end = block.find(b"\n", end + 1)
        if block[end - 1 : end + 2] != b"}\n{":
            return False
    return block.find(b"\n", end + 1) == len(block) - 1


def _decode_each(block: bytes) -> list[Message | BadLine]:
    return [item for line in block.split(b"\n") for item in _decode_line(line)]


def _decode_line(line: bytes) -> list[Message | BadLine]:
    if not line.strip(b" \t\r"):
        return []
    try:
        message = _messages.decode(line)
    except BAD_JSON as exc:
        return [BadLine(line[:PREFIX_BYTES], str(exc), len(line) + 1)]
    if message.method is UNSET and not is_answer(message):
        reason = "neither request, notification nor response"
        return [BadLine(line[:PREFIX_BYTES], reason, len(line) + 1)]
    return [message]


def decode_items(items: list[bytes | Oversize], limit_bytes: int) -> list[Message | BadLine]:
    """Decode what a :class:`LineSplitter` returned, in order."""
    if len(items) == 1 and isinstance(items[0], bytes):
        return decode_block(items[0])
    out: list[Message | BadLine] = []
    for item in items:
        if isinstance(item, bytes):
            out += decode_block(item)
        else:
            reason = f"line of {item.size} bytes is over max_frame_bytes={limit_bytes}"
            found = salvage_id(item.prefix, item.suffix)
            out.append(BadLine(item.prefix[:PREFIX_BYTES], reason, item.size, found))
    return out


_SCALAR = rb'(?:"(?:[^"\\\x00-\x1f]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null)'
_LEADING = re.compile(rb'\s*[{,]\s*("(?:[^"\\]|\\.)*")\s*:\s*(' + _SCALAR + rb")(?=\s*,)")
_VERSION = rb'(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?'
_TRAILING = re.compile(rb',\s*"id"\s*:\s*(' + _SCALAR + rb")\s*" + _VERSION + rb"\}\s*$")


def salvage_id(prefix: bytes, suffix: bytes) -> RequestId | UnsetType:
    """Read the id of a line of which only both ends are there; UNSET where it cannot be known.

    At the front only whole scalar members before the first nested value count; at the back only an
    ``id`` that is followed by the end of the line's own object. What is seen to be no answer has
    the id of none of our requests: None.
    """
    at = 0
    found: RequestId | UnsetType = UNSET
    while match := _LEADING.match(prefix, at):
        name = _scalar(match[1])
        if name == "method":
            return None
        if name == "id":
            found = _scalar(match[2])
        at = match.end()
    trailing = _TRAILING.search(suffix) if found is UNSET else None
    return _scalar(trailing[1]) if trailing else found


def read_scalar(raw: bytes) -> RequestId:
    """Decode a request's id."""
    found = _scalar(raw)
    return None if found is UNSET else found


def _scalar(raw: bytes) -> RequestId | UnsetType:
    try:
        return msgspec.json.decode(raw, type=int | str | float | None)
    except BAD_JSON:
        return UNSET


def encode_value(value: object, what: str) -> bytes:
    """Encode one JSON value on one line.

    Raises:
        InvalidArgumentError: It cannot be encoded; the message names ``what``.
    """
    try:
        raw = _encode(value)
    except MemoryError:
        raise
    except Exception as exc:  # of msgspec, or of the code of what it encodes
        where = "" if isinstance(exc, RecursionError) else _path_to_fault(value)
        msg = f"{what} cannot be encoded as JSON: {exc}{where and f' (at {what}{where})'}"
        raise InvalidArgumentError(msg, field=what) from exc
    if b"null" in raw and _holds_non_finite(value):  # which msgspec writes as null
        msg = f"{what} cannot be encoded as JSON, which has neither NaN nor infinity"
        raise InvalidArgumentError(msg, field=what)
    if b"\n" in raw:  # only prepared JSON can hold one, and only between tokens
        raw = raw.replace(b"\n", b" ")
    return raw


def _path_to_fault(value: object) -> str:
    """Find the innermost part of a value that cannot be encoded; an empty path is the value itself.

    Looking for it runs code of the value, which may raise: then it is as far as it was followed.
    """
    path = ""
    try:
        for _ in range(_DEEPEST):
            for key, part in _parts_of(value):
                if not _can_be_encoded(part):
                    path += f"[{key!r}]"
                    value = part
                    break
            else:
                break
    except Exception:  # noqa: BLE001  # what matters is why the whole cannot be encoded
        pass
    return path


def _parts_of(value: object) -> Iterable[tuple[object, object]]:
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, list | tuple):
        return enumerate(value)
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value).items()
    return ()


def _can_be_encoded(value: object) -> bool:
    try:
        _encode(value)
    except Exception:  # noqa: BLE001  # whatever the code of a value raises
        return False
    return True


def _holds_non_finite(value: object) -> bool:
    left = [msgspec.to_builtins(value, enc_hook=lambda _raw: None)]
    while left:
        item = left.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                return True
        elif isinstance(item, dict):
            left += item.values()
        elif isinstance(item, list | tuple):
            left += item
    return False


_OPENING = b"{["


def _encode_params(params: object) -> bytes:
    if isinstance(params, Raw):  # must be one value, or it would change the frame around it
        try:
            _anything.decode(params)
        except BAD_JSON as exc:
            msg = f"params must be an object or an array: {exc}"
            raise InvalidArgumentError(msg, field="params") from exc
    raw = encode_value(params, "params")
    if raw[0] not in _OPENING and raw.lstrip()[0] not in _OPENING:
        msg = f"params must be an object or an array, not {type(params).__name__}"
        raise InvalidArgumentError(msg, field="params")
    return raw


def _call(method: str, params: object, session: str | None, envelope: bytes) -> bytes:
    """Encode the members that a request and a notification share, up to the end of the frame."""
    if not isinstance(method, str):
        msg = f"method must be text, not {type(method).__name__}"
        raise InvalidArgumentError(msg, field="method")
    tail = b"%b}\n" % envelope
    if params is not UNSET and params is not None:
        tail = b',"params":%b%b}\n' % (_encode_params(params), envelope)
    try:
        if session is not None:
            tail = b',"sessionId":%b%b' % (_encode(session), tail)
        return b'"method":%b%b' % (_encode(method), tail)
    except UnicodeEncodeError as exc:  # a lone surrogate
        field = "method" if exc.object == method else "session"
        msg = f"{field} cannot be encoded as JSON: {exc}"
        raise InvalidArgumentError(msg, field=field) from exc


class _Request(msgspec.Struct, gc=False, tag_field="jsonrpc", tag="2.0"):
    id: RequestId
    method: str
    params: dict[Any, Any]


def encode_request(
    key: RequestId,
    method: str,
    params: object = UNSET,
    session: str | None = None,
    envelope: bytes = b"",
) -> bytes:
    """Make the frame of a request (JSON-RPC 2.0, section 4).

    Args:
        key: Its id.
        method: Its method, as it is.
        params: Anything that encodes to an object or an array; left out when UNSET or None.
        session: The top-level ``sessionId``; left out when None.
        envelope: More members, as :func:`encode_envelope` made them.
    """
    if session is None and not envelope and type(params) is dict and type(method) is str:
        try:  # nearly every request, in one step
            frame = _encode_lines([_Request(key, method, params)])
        except Exception:  # noqa: BLE001  # said below, with the part that it is about
            pass
        else:
            # Else it needs a closer look. Of bytes, find() takes a fraction of what `in` does; in a
            # long frame it takes more than a look at the types of what is at the top.
            if len(frame) > _LONG_BYTES and _PLAIN.issuperset(map(type, params.values())):
                return frame
            if frame.find(b"null") < 0 and frame.find(b"\n") == len(frame) - 1:
                return frame
    call = _call(method, params, session, envelope)
    if type(key) is int:
        return b'{"jsonrpc":"2.0","id":%d,%b' % (key, call)
    return b'{"jsonrpc":"2.0","id":%b,%b' % (_encode(key), call)


def encode_requests(
    keys: Sequence[RequestId], method: str, items: Sequence[object], envelope: bytes = b""
) -> bytes:
    """Make the frames of several requests of one method, one after the other.

    Each is a line, unless params hold prepared JSON with newlines: who takes them counts.

    Args:
        keys: Their ids.
        method: As for :func:`encode_request`.
        items: The params of each.
        envelope: As for :func:`encode_request`.
    """
    if not envelope and type(method) is str and set(map(type, items)) == {dict}:
        try:
            requests = list(map(_Request, keys, repeat(method), items))  # type: ignore[arg-type]
            block = _encode_lines(requests)
        except Exception:  # noqa: BLE001  # said below, with the part that it is about
            pass
        else:
            if block.find(b"null") < 0:
                return block
    return b"".join(
        [
            encode_request(key, method, params, None, envelope)
            for key, params in zip(keys, items, strict=True)
        ]
    )


def encode_items(items: Sequence[object]) -> bytes:
    """Encode the params of several requests, a line each; an empty one where there are none.

    Who takes them makes sure that each is an object or an array, with a newline only at its end.

    Raises:
        InvalidArgumentError: One of them cannot be encoded.
    """
    try:
        block = _encode_lines(items)
    except Exception:  # noqa: BLE001  # said below, of the one that it is about
        pass
    else:
        if block.find(b"null") < 0 and Raw not in set(map(type, items)):
            return block
    return b"".join(
        [
            b"\n" if params is UNSET or params is None else _encode_params(params).strip() + b"\n"
            for params in items
        ]
    )


def encode_notification(
    method: str, params: object = UNSET, session: str | None = None, envelope: bytes = b""
) -> bytes:
    """Make the frame of a notification; arguments as :func:`encode_request`."""
    return b'{"jsonrpc":"2.0",%b' % _call(method, params, session, envelope)


def encode_envelope(members: dict[str, object]) -> bytes:
    """Encode members that stand at the top level of many frames, once for all of them.

    Raises:
        InvalidArgumentError: One cannot be encoded; the message names it.
    """
    return b"".join(
        b",%b:%b" % (_encode(name), encode_value(value, name)) for name, value in members.items()
    )


def encode_result(key: RequestId, result: object) -> bytes:
    """Make the frame of a successful response."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}\n' % (
        _encode(key),
        encode_value(result, "result"),
    )


def encode_error(key: RequestId, code: int, message: str, data: object = None) -> bytes:
    """Make the frame of an error response; what cannot be encoded in the message is escaped."""
    text = message.encode(errors="backslashreplace").decode()
    error = encode_value(ErrorObject(code, text, UNSET if data is None else data), "error")
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}\n' % (_encode(key), error)


def decode_envelope(envelope: bytes) -> dict[str, Raw]:
    """Return the members that :func:`encode_envelope` has encoded, each still encoded."""
    return _members.decode(b"{%b}" % envelope[1:])


@lru_cache(maxsize=256)
def _cached_decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decoder_of(kind: Any) -> msgspec.json.Decoder[Any]:
    """Return the decoder into a type.

    Raises:
        InvalidArgumentError: There is none, since msgspec does not know such a type.
    """
    try:
        return _cached_decoder(kind)
    except TypeError:  # it cannot be hashed, or cannot be decoded
        pass
    try:
        return msgspec.json.Decoder(kind)
    except TypeError as exc:
        msg = f"reply is not a type that can be decoded: {exc}"
        raise InvalidArgumentError(msg, field="reply") from exc


decode_lines = _messages.decode_lines
"""Decode a block of whole lines that are known to be messages."""

decode_array: Callable[[bytes], list[Raw]] = msgspec.json.Decoder(list[Raw]).decode
"""Decode an array, not what is in it."""

decode_plain = _plain.decode
"""Decode a raw value into plain objects."""


def decode_value(raw: Raw | bytes, kind: type[T] | Any = Any, what: str = "result") -> T:
    """Decode a raw member into the type that is asked for.

    Raises:
        RemoteProtocolError: It is not that type, or not JSON; the message holds the path.
        InvalidArgumentError: Nothing can be decoded into that type.
    """
    try:
        decoder = _plain if kind is Any else decoder_of(kind)
        return decoder.decode(raw)  # type: ignore[no-any-return]
    except BAD_JSON as exc:
        msg = f"{what} is not what was asked for: {exc}"
        raise RemoteProtocolError(msg, line_prefix=bytes(raw)[:PREFIX_BYTES]) from exc


def decode_error(raw: Raw) -> RemoteError | RemoteProtocolError:
    """Turn the ``error`` member of a response into the exception that its caller gets."""
    try:
        error = _errors.decode(raw)
    except BAD_JSON as exc:
        msg = f"error is not a JSON-RPC error object: {exc}"
        return RemoteProtocolError(msg, line_prefix=bytes(raw)[:PREFIX_BYTES])
    return RemoteError(error.code, error.message, None if error.data is UNSET else error.data)


def read_frame(frame: bytes | str) -> tuple[Message, dict[str, Raw]]:
    """Read a prepared frame: what it says, and its members with their bytes.

    Raises:
        InvalidArgumentError: It is not one JSON-RPC message.
    """
    try:
        message, members = _messages.decode(frame), _members.decode(frame)
    except (*BAD_JSON, TypeError, UnicodeEncodeError) as exc:
        msg = f"frame is not a JSON-RPC message: {exc}"
        raise InvalidArgumentError(msg, field="frame") from exc
    if message.method is UNSET and not is_answer(message):
        msg = "frame is neither request, notification nor response"
        raise InvalidArgumentError(msg, field="frame")
    return message, members
