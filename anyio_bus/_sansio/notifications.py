"""Own the notifications of workers as values: one that anybody may follow, one that is a chunk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from anyio_bus._sansio.codec import decode_value
from anyio_bus._sansio.messages import Message, RequestId

__all__ = (
    "CREDIT_KEY",
    "OWN_METHOD",
    "Chunk",
    "ChunkMeta",
    "Notification",
    "keep_only",
    "keep_only_chunks",
)

T = TypeVar("T")

OWN_METHOD = "chunk"
"""Of the chunks of :mod:`anyio_bus.worker`."""

CREDIT_KEY = "anyio-bus/credit"
"""In ``_meta`` of a request's params: bytes of chunks that may be on the way; of a chunk's: charged."""


FEW_BYTES = 64 * 1024  # of one read of a pipe: what waits for a reader is copied out of it


def keep_only(notes: Iterable[Message]) -> int:
    """Let notifications that wait for a reader hold their own params, not all that was read with them.

    Many that are together hold little else; to copy those would cost more than it frees.

    Returns:
        How many bytes these are.
    """
    held = [note for note in notes if note.params is not UNSET]
    size = sum(len(note.params) for note in held)  # type: ignore[arg-type, misc]
    if size < FEW_BYTES:
        for note in held:
            note.params = note.params.copy()  # type: ignore[union-attr]
    return size


def keep_only_chunks(chunks: list[Chunk]) -> int:
    """Let chunks that wait for a reader hold their own params, as :func:`keep_only`."""
    notes = [chunk._note for chunk in chunks]
    if type(notes[0]) is bytes:  # so all of a run are, and hold nothing else
        return sum(map(len, notes))
    return keep_only(notes)


class ChunkMeta(msgspec.Struct, gc=False):
    """What ``_meta`` of a chunk's params says (``docs/design/kernel.md``)."""

    request_id: RequestId | UnsetType = msgspec.field(default=UNSET, name="requestId")
    credit: int = msgspec.field(default=0, name=CREDIT_KEY)


_NULL = Raw(b"null")


@final
class Chunk(msgspec.Struct, gc=False):
    """A part of an answer that its worker sent ahead of the result.

    Attributes:
        text: Its text; empty where it has none.
    """

    text: str = ""
    _meta: ChunkMeta | UnsetType = UNSET
    _named: str | UnsetType = msgspec.field(default=UNSET, name="sessionId")
    # Under a name that nobody uses: it is set after decoding. The notification, or its params alone
    # where it is one of `anyio_bus.worker`.
    _note: Any = msgspec.field(default=None, name="anyio-bus/note")

    @property
    def method(self) -> str:
        """Method of the notification that it came in."""
        method: str = OWN_METHOD if type(self._note) is bytes else self._note.method
        return method

    @property
    def session(self) -> str | None:
        """The session that it names, in its params or at top level."""
        named = self._named
        if named is UNSET and type(self._note) is not bytes:
            named = self._note.session
        return None if named is UNSET else named

    @property
    def raw(self) -> Raw:
        """Its params as they were on the wire; ``null`` without any."""
        if type(self._note) is bytes:
            return Raw(self._note)
        raw: Raw = _NULL if self._note.params is UNSET else self._note.params
        return raw

    @property
    def params(self) -> Any:
        """Its params as plain objects, decoded each time."""
        return decode_value(self.raw, Any, "chunk")

    def decode(self, kind: type[T]) -> T:
        """Decode its params into a type.

        Raises:
            RemoteProtocolError: They are not that.
        """
        return decode_value(self.raw, kind, "chunk")


@final
class Notification(msgspec.Struct):
    """A notification of a worker.

    Attributes:
        pool: The worker's pool.
        worker: Its number.
        method: The method.
        raw: Its params as they were on the wire; UNSET where it has none.
        session: The ``sessionId`` at top level, if any.
        dropped: How many the subscription has dropped between the one before and this one.
    """

    pool: str
    worker: int
    method: str
    raw: Raw | UnsetType = UNSET
    session: str | None = None
    dropped: int = 0
    _kind: Any = Any

    @property
    def params(self) -> Any:
        """Its params, decoded each time into the subscription's ``type``; None without any.

        Raises:
            RemoteProtocolError: They are not that.
        """
        return None if self.raw is UNSET else decode_value(self.raw, self._kind, "params")
