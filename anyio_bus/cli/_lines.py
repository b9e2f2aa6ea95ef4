"""Own the two forms of a line that ``anyio-bus run`` takes, and the errors that it answers with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from anyio_bus import (
    BusError,
    BusStoppedError,
    ConnectionLostError,
    FrameTooLargeError,
    InvalidArgumentError,
    LocalProtocolError,
    OverloadedError,
    PoolUnavailableError,
    RequestTimeoutError,
    ScopeCancelledError,
    SessionLostError,
    UnknownPoolError,
    WorkerLostError,
    WorkerStartError,
)

__all__ = ("BadLine", "Order", "error_line", "error_of", "parse_line")

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
INTERNAL_ERROR = -32603

# The kernel's codes, by the class that each becomes in Python: the first that fits counts.
CODES: tuple[tuple[type[BusError], int], ...] = (
    (WorkerStartError, -32051),
    (WorkerLostError, -32050),
    (PoolUnavailableError, -32051),
    (UnknownPoolError, -32052),
    (OverloadedError, -32053),
    (FrameTooLargeError, -32054),
    (BusStoppedError, -32055),
    (SessionLostError, -32056),
    (ConnectionLostError, -32057),
    (ScopeCancelledError, -32800),
    (RequestTimeoutError, -32800),
    (InvalidArgumentError, INVALID_REQUEST),
    (LocalProtocolError, INVALID_REQUEST),
)

NO_KEY = Raw(b"null")

_members = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode
_SHORT = re.compile(rb"([A-Za-z_$][\w.$/:-]*)(?:\s+(.*))?", re.DOTALL)
_BAD = (msgspec.DecodeError, UnicodeError, RecursionError)


class BadLine(Exception):
    """A line is no request; it costs that line."""

    def __init__(self, code: int, text: str, key: Raw = NO_KEY) -> None:
        super().__init__(text)
        self.code = code
        self.key = key


class Order(msgspec.Struct, frozen=True):
    """What a line asks for.

    Args:
        frame: The message for the worker.
        key: Its id as it was written; None for a notification.
        pool: Where it goes; None where the line does not say.
    """

    frame: bytes
    key: Raw | None
    pool: str | None = None


def parse_line(line: bytes, keys: Iterator[int]) -> Order:
    """Read a line: a JSON-RPC message, or ``METHOD JSON-PARAMS``, which gets the next of ``keys``.

    Raises:
        BadLine: It is neither.
    """
    line = line.strip()
    if line[:1] in b"{[":
        return _parse_message(line)
    match = _SHORT.fullmatch(line)
    if match is None:
        text = "neither a JSON object nor METHOD JSON-PARAMS"
        raise BadLine(PARSE_ERROR, text)
    key = Raw(b"%d" % next(keys))
    members: dict[str, object] = {"jsonrpc": "2.0", "id": key, "method": match[1].decode()}
    if match[2]:
        members["params"] = Raw(_one_line(match[2], f"params of {match[1].decode()}", key))
    return Order(_encode(members), key)


def _one_line(raw: bytes, what: str, key: Raw) -> bytes:
    try:
        value = msgspec.json.decode(raw)
    except _BAD as exc:
        text = f"{what}: {exc}"
        raise BadLine(PARSE_ERROR, text, key) from exc
    if not isinstance(value, dict | list):
        text = f"{what}: must be an object or an array"
        raise BadLine(INVALID_REQUEST, text, key)
    return raw


def _parse_message(line: bytes) -> Order:
    try:
        members: dict[str, Any] = _members.decode(line)
    except _BAD as exc:
        text = (
            "a batch: write one request to a line" if line[:1] == b"[" else f"not valid JSON: {exc}"
        )
        raise BadLine(INVALID_REQUEST if line[:1] == b"[" else PARSE_ERROR, text) from exc
    key: Raw | None = members.get("id")
    if key is not None and bytes(key)[:1] in b"{[tf":
        text = "id: must be a string, a number or null"
        raise BadLine(INVALID_REQUEST, text)
    if "method" not in members:
        text = "not a request: there is no method"
        raise BadLine(INVALID_REQUEST, text, key or NO_KEY)
    pool = _text(members.pop("pool", None), "pool", key)
    _text(members["method"], "method", key)
    return Order(_encode(members), key, pool)


def _text(raw: Raw | None, name: str, key: Raw | None) -> str | None:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=str)
    except _BAD as exc:
        text = f"{name}: {exc}"
        raise BadLine(INVALID_REQUEST, text, key or NO_KEY) from exc


def error_line(key: Raw, code: int, text: str, data: dict[str, Any] | None = None) -> bytes:
    """Make the line of an error response."""
    error = {"code": code, "message": text, **({"data": data} if data else {})}
    return _encode({"jsonrpc": "2.0", "id": key, "error": error})


def error_of(key: Raw, exc: BusError) -> bytes:
    """Make the error response for what the bus raised, with the kernel's code and its facts."""
    code = next((code for kind, code in CODES if isinstance(exc, kind)), INTERNAL_ERROR)
    known = sorted(vars(exc).items())
    facts = {name: value for name, value in known if value not in (None, "") and name[0] != "_"}
    if isinstance(exc, RequestTimeoutError):
        facts["reason"] = "timeout"
    data = {"source": "anyio-bus", **facts}
    return error_line(key, code, str(exc), data)
