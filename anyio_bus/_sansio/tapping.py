"""Own what a wire tap shows: each line of a pipe as it was, and what it is about.

Only a tapped kernel comes here. A line is decoded once more, apart from the routing, so that nothing
of a tap lies on the way of the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from anyio_bus._sansio.codec import decode_block, salvage_id
from anyio_bus._sansio.lines import Oversize
from anyio_bus._sansio.messages import BadLine, Message, RequestId
from anyio_bus._sansio.profiles import CANCEL_METHODS

if TYPE_CHECKING:
    from anyio_bus._sansio.routing import Entry

__all__ = (
    "Direction",
    "Tap",
    "TapFrame",
    "decode_record",
    "encode_record",
    "frames_from_worker",
    "frames_to_worker",
    "unfinished_from_worker",
)

Direction: TypeAlias = Literal["to_worker", "from_worker"]
Kind: TypeAlias = Literal["request", "notification", "response", "bad"]

CREDIT_METHOD = "bus/credit"


class TapFrame(msgspec.Struct, frozen=True, kw_only=True):
    """One line that went through the pipe of a worker.

    Args:
        direction: ``"to_worker"`` or ``"from_worker"``.
        pool: The pool of the worker.
        worker: Its number.
        generation: Which of the worker's processes it was, from 1.
        at: Time of the loop's clock: of the write that ended it, or of the read that brought it.
        time: The same by the wall clock, seconds since 1970.
        frame: The bytes of the line, its newline included. Of a line over ``max_frame_bytes``, and
            of one that has no newline, only the first 4096.
        size: Its length on the pipe.
        kind: ``"request"``, ``"notification"``, ``"response"``, or ``"bad"``: none of these.
        id: Its id; None where it has none.
        method: Its method; of a response that of its request, where it is still known.
        request: The id of the request of this bus that it belongs to; None where it belongs to none,
            or that cannot be told.
        reason: What is wrong with a bad line; else empty.
        redacted: Whether ``frame`` was changed, to hide secrets.
        dropped: Frames that were dropped right before this one.
    """

    direction: Direction
    pool: str
    worker: int
    generation: int
    at: float
    time: float
    frame: bytes
    size: int
    kind: Kind
    id: RequestId = None
    method: str | None = None
    request: RequestId = None
    reason: str = ""
    redacted: bool = False
    dropped: int = 0

    @property
    def whole(self) -> bool:
        """Whether ``frame`` is all of the line, with its newline."""
        return self.redacted or (len(self.frame) == self.size and self.frame.endswith(b"\n"))


Tap: TypeAlias = Callable[[list[TapFrame]], None]


class _Meta(msgspec.Struct):
    requestId: RequestId = None


class _Params(msgspec.Struct):
    meta: _Meta | UnsetType = msgspec.field(default=UNSET, name="_meta")


class _Target(msgspec.Struct):
    id: RequestId = None
    requestId: RequestId = None


_params = msgspec.json.Decoder(_Params)
_target = msgspec.json.Decoder(_Target)
_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def frames_to_worker(entries: Sequence[Entry], **where: Any) -> list[TapFrame]:
    """Show frames whose last byte has been written.

    Args:
        entries: What was written.
        **where: The members of each frame that say where and when.
    """
    frames = []
    for entry in entries:
        what = _describe(entry.frame, frozenset(), ours=True)
        if entry.key is not None:
            what["request"] = entry.key
        frames.append(
            TapFrame(
                direction="to_worker",
                frame=bytes(entry.frame),
                size=len(entry.frame),
                **what,
                **where,
            )
        )
    return frames


def frames_from_worker(
    items: Sequence[bytes | Oversize], in_flight: Iterable[RequestId], **where: Any
) -> list[TapFrame]:
    """Show what was read, the lines that are bad included.

    Args:
        items: What a ``LineSplitter`` returned.
        in_flight: The ids of the requests that this worker has.
        **where: The members of each frame that say where and when.
    """
    frames = []
    left = set(in_flight)
    for item in items:
        if isinstance(item, Oversize):
            what: dict[str, Any] = {"kind": "bad", "reason": "over max_frame_bytes"}
            frames.append(_from_worker(item.prefix, item.size, what, where))
            left.discard(_blamed(item, left))
            continue
        for line in item.split(b"\n")[:-1]:  # at LF alone: a CR belongs to its line
            what = _describe(line, left, ours=False)
            if what["kind"] == "response":
                left.discard(what["id"])
            frames.append(_from_worker(line + b"\n", len(line) + 1, what, where))
    return frames


def _blamed(item: Oversize, in_flight: Collection[RequestId]) -> RequestId:
    """Find the request that fails over a line: what comes after it is not that one's."""
    found = salvage_id(item.prefix, item.suffix)
    if found is not UNSET:
        return found
    return next(iter(in_flight)) if len(in_flight) == 1 else None


def unfinished_from_worker(rest: bytes, size: int, **where: Any) -> TapFrame:
    """Show the beginning of a last line that has no newline."""
    return _from_worker(rest, size, {"kind": "bad", "reason": "unterminated last line"}, where)


def _from_worker(frame: bytes, size: int, what: dict[str, Any], where: dict[str, Any]) -> TapFrame:
    return TapFrame(direction="from_worker", frame=frame, size=size, **what, **where)


def _describe(line: bytes, in_flight: Collection[RequestId], *, ours: bool) -> dict[str, Any]:
    """Say what a line is; ``ours``: it was written by this side."""
    messages = decode_block(line if ours else line + b"\n")
    if len(messages) != 1:
        return {"kind": "bad", "reason": "empty line"}
    message = messages[0]
    if isinstance(message, BadLine):
        return {"kind": "bad", "reason": message.reason}
    key = None if message.id is UNSET else message.id
    if message.method is UNSET:
        request = key if not ours and key in in_flight else None
        return {"kind": "response", "id": key, "request": request}
    kind = "notification" if message.id is UNSET else "request"
    request = _our_target(message) if ours else _owner(message, in_flight)
    return {"kind": kind, "id": key, "method": message.method, "request": request}


def _our_target(message: Message) -> RequestId:
    """Read the id of the request that a cancel, or credit, of ours is about."""
    method = str(message.method)
    name = "id" if method == CREDIT_METHOD else CANCEL_METHODS.get(method)
    if name is None or not isinstance(message.params, Raw):
        return None
    try:
        target = _target.decode(message.params)
    except _BAD:
        return None
    return target.id if name == "id" else target.requestId


def _owner(message: Message, in_flight: Collection[RequestId]) -> RequestId:
    """Find the request that a worker's own message belongs to: by its word, else the only one."""
    try:
        meta = UNSET if message.params is UNSET else _params.decode(message.params).meta
    except _BAD:  # an array, say
        meta = UNSET
    if meta is not UNSET and meta.requestId is not None:
        return meta.requestId if meta.requestId in in_flight else None
    return next(iter(in_flight)) if len(in_flight) == 1 else None


# -- recordings --------------------------------------------------------------------------------


class _Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A frame as it stands in a recording: one line of JSON, the message in it as it was."""

    time: float
    at: float
    direction: Direction
    pool: str
    worker: int
    generation: int
    kind: Kind
    id: RequestId = None
    method: str | None = None
    request: RequestId = None
    size: int
    redacted: bool = False
    dropped: int = 0
    reason: str = ""
    message: Raw | UnsetType = UNSET  # of a whole line that is one
    line: bytes | UnsetType = UNSET  # of any other, in base64


_record = msgspec.json.Decoder(_Record)
_SHARED = tuple(name for name in _Record.__struct_fields__ if name not in {"message", "line"})


def encode_record(frame: TapFrame) -> bytes:
    """Make a line of a recording."""
    members: dict[str, Any] = {name: getattr(frame, name) for name in _SHARED}
    if frame.kind != "bad" and _stands_in_json(frame.frame):
        return msgspec.json.encode(_Record(message=Raw(frame.frame[:-1]), **members)) + b"\n"
    return msgspec.json.encode(_Record(line=frame.frame, **members)) + b"\n"


def _stands_in_json(frame: bytes) -> bool:
    """Tell whether a line that is a message can stand in another one as it is."""
    if frame[:1] != b"{" or frame[-2:] != b"}\n":
        return False
    try:
        frame.decode()  # what the decoder skipped may be anything
    except UnicodeDecodeError:
        return False
    return True


def decode_record(line: bytes) -> TapFrame:
    """Read a line of a recording.

    Raises:
        msgspec.DecodeError: It is none.
    """
    record = _record.decode(line)
    if isinstance(record.message, Raw):
        frame = bytes(record.message) + b"\n"
    else:
        frame = b"" if record.line is UNSET else record.line
    return TapFrame(frame=frame, **{name: getattr(record, name) for name in _SHARED})
