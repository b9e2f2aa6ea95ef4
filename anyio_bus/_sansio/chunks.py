"""Own what tells a chunk from any other notification, and whose it is: one reader per profile.

Sources: ACP ``session/update {sessionId, update: {sessionUpdate, content}}``, of which
``agent_message_chunk`` carries text; MCP ``notifications/progress {progressToken, progress, total,
message}``. In every profile ``params._meta.requestId`` names the request, as workers built on
:mod:`anyio_bus.worker` do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from anyio_bus._sansio.messages import Message, RequestId
from anyio_bus._sansio.notifications import CREDIT_KEY, Chunk, ChunkMeta

__all__ = ("PROFILES", "ChunkReader", "read_own_lines", "reader_by", "request_meta")

ChunkReader: TypeAlias = Callable[[list[Message]], list["Chunk | None"]]
"""Takes notifications; returns, in their places, the chunks among them."""

_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_OWN_METHODS = {"chunk"}
_chunks = msgspec.json.Decoder(Chunk)


def _of(note: Message, chunk: Chunk) -> Chunk:
    chunk._note = note
    return chunk


def _read_any(note: Message, method: str) -> Chunk | None:
    """Read one notification as a chunk if it has the profile's method or names its request."""
    try:
        chunk = Chunk() if note.params is UNSET else _chunks.decode(note.params)
    except _BAD:
        chunk = Chunk()
    named = chunk._meta is not UNSET and chunk._meta.request_id is not UNSET
    return _of(note, chunk) if named or note.method == method else None


def _read_own(notes: list[Message]) -> list[Chunk | None]:
    """Read the chunks of :mod:`anyio_bus.worker`, a run of them in one call of the decoder."""
    if {note.method for note in notes} != _OWN_METHODS:
        return [_read_any(note, "chunk") for note in notes]
    try:
        chunks = _chunks.decode_lines(b"\n".join([note.params for note in notes]))  # type: ignore[misc]
    except (*_BAD, TypeError):  # one of them is another value, or has none
        return [_read_any(note, "chunk") for note in notes]
    for chunk, note in zip(chunks, notes, strict=True):
        chunk._note = note
    return chunks  # type: ignore[return-value]  # list is invariant; nobody appends to it


def read_own_lines(block: bytes) -> list[Chunk] | None:
    """Read lines of params as chunks of :mod:`anyio_bus.worker`; None if one of them is not."""
    try:
        chunks = _chunks.decode_lines(block)
    except _BAD:
        return None
    for chunk, params in zip(chunks, block.split(b"\n"), strict=False):  # the last one is empty
        chunk._note = params
    return chunks


class _Text(msgspec.Struct, gc=False):
    text: str = ""


class _Update(msgspec.Struct, gc=False):
    kind: str = msgspec.field(default="", name="sessionUpdate")
    content: Raw = msgspec.field(default=Raw(b"{}"))


class _Acp(msgspec.Struct, gc=False):
    update: _Update
    session: str | UnsetType = msgspec.field(default=UNSET, name="sessionId")
    meta: ChunkMeta | UnsetType = msgspec.field(default=UNSET, name="_meta")


class _Progress(msgspec.Struct, gc=False):
    token: RequestId = msgspec.field(name="progressToken")
    message: str | None = None


_acp = msgspec.json.Decoder(_Acp)
_text = msgspec.json.Decoder(_Text)
_progress = msgspec.json.Decoder(_Progress)


def _read_acp(note: Message) -> Chunk | None:
    if note.method != "session/update" or note.params is UNSET:
        return _read_any(note, "session/update")
    try:
        params = _acp.decode(note.params)
        text = ""
        if params.update.kind == "agent_message_chunk":
            text = _text.decode(params.update.content).text
    except _BAD:
        return _read_any(note, "session/update")
    return _of(note, Chunk(text, params.meta, params.session))


def _read_progress(note: Message) -> Chunk | None:
    if note.method != "notifications/progress" or note.params is UNSET:
        return _read_any(note, "notifications/progress")
    try:
        params = _progress.decode(note.params)
    except _BAD:
        return _read_any(note, "notifications/progress")
    return _of(note, Chunk(params.message or "", ChunkMeta(params.token)))


def _each(read: Callable[[Message], Chunk | None]) -> ChunkReader:
    return lambda notes: [read(note) for note in notes]


PROFILES: dict[str, ChunkReader] = {
    "anyio-bus": _read_own,
    "acp": _each(_read_acp),
    "mcp-progress": _each(_read_progress),
}


def reader_by(profile: str | Callable[[str, Any], str | None]) -> ChunkReader:
    """Return the reader of a profile, or of a function ``(method, params) -> text | None``.

    The function is given plain params and returns the text of what is a chunk, None for the rest;
    it must neither block nor raise: what raises is no chunk.
    """
    if isinstance(profile, str):
        return PROFILES[profile]
    function = profile

    def read(note: Message) -> Chunk | None:
        params = None if note.params is UNSET else msgspec.json.decode(note.params)
        try:
            text = function(note.method, params)  # type: ignore[arg-type]
        except Exception:  # the user's own; what it cannot read is no chunk  # noqa: BLE001
            text = None
        if text is None:
            return _read_any(note, "")
        return _of(note, Chunk(str(text), _read_meta(note)))

    return _each(read)


def _read_meta(note: Message) -> ChunkMeta | UnsetType:
    named = _read_any(note, "")
    return UNSET if named is None else named._meta


_members = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode


def request_meta(profile: object, key: RequestId, params: object, credit_bytes: int) -> object:
    """Return a request's params with what its worker needs to send chunks in ``_meta``.

    That is a credit window for workers built on :mod:`anyio_bus.worker` (none for 0 bytes: nobody
    reads them) and ``progressToken`` for MCP, in place of what stands there: params that are passed
    on name the bounds and the tokens of another client. Params by position have no place for it,
    and what is not plain JSON stays as it is.
    """
    member: dict[str, object]
    if profile == "anyio-bus" and credit_bytes:
        member = {CREDIT_KEY: credit_bytes}
    elif profile == "mcp-progress":
        member = {"progressToken": key}
    else:
        return params
    if params is UNSET or params is None:
        return {"_meta": member}
    if not isinstance(params, dict):
        try:
            params = _members.decode(_encode(params))
        except (*_BAD, TypeError, ValueError, OverflowError):
            return params  # an array; or what the encoder of the request refuses with the reason
    own = params.get("_meta")
    if isinstance(own, Raw):
        own = msgspec.json.decode(own)
    return {**params, "_meta": {**(own if isinstance(own, dict) else {}), **member}}
