"""Own a frame on its way to a worker: where it goes, how far it has come, and the queue of a pipe."""

from __future__ import annotations

import enum
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from anyio_bus._sansio.messages import RequestId

if TYPE_CHECKING:
    from anyio_bus._sansio.routing import Lane  # nobody decodes an entry  # noqa: TC004

__all__ = ("FREE", "Entry", "Outbox", "Route", "Step")

FREE = b""  # the frame of an entry that needs it no longer


class Route(msgspec.Struct, frozen=True):
    """Where a frame goes.

    Args:
        pool: The pool's id.
        session: Keep it on the worker that holds this session.
        worker: Send it to this worker and no other.
        rebind: Where that session was lost, begin it anew elsewhere instead of refusing.
        learns: The result of this request names a session, made on the worker that answers.
        probe: It only asks whether the worker lives; it is nobody's work in flight.
        envelope: Encoded members that the client puts into its frames; nothing to a kernel.
    """

    pool: str
    session: str | None = None
    worker: int | None = None
    rebind: bool = False
    learns: bool = False
    probe: bool = False
    envelope: bytes = b""


class Step(enum.IntEnum):
    """How far the frame of an entry has come."""

    QUEUED = 0  # in the queue of its pool or lane; no worker took it
    OUTBOX = 1  # in a worker's out-queue; no byte was written
    SENT = 2  # at least one byte was written: it may have reached the worker
    TOMBSTONE = 3  # cancelled after that; keeps its slot until the late answer or the grace is over
    GONE = 4  # answered, failed or removed


class Entry(msgspec.Struct, eq=False, gc=False):
    """One frame on its way; a request has a key, everything else has None.

    While it waits, ``lane`` is the one that it is bound to; None: any of its pool. ``sent`` is
    False as long as no byte of it was written.
    """

    frame: bytes
    route: Route
    key: RequestId
    step: Step = Step.QUEUED
    lane: Lane | None = None
    sent: bool = False


class Outbox:
    """The frames that wait for one pipe, in order, and how much of the first has been written."""

    __slots__ = ("_dead", "_entries", "_offset", "size")

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._offset = 0  # bytes of the first entry that are written
        self._dead = 0  # entries that were withdrawn where they stand
        self.size = 0  # bytes left to write

    def append(self, entry: Entry) -> None:
        """Queue a whole frame."""
        entry.step = Step.OUTBOX
        self._entries.append(entry)
        self.size += len(entry.frame)

    def extend(self, entries: list[Entry], size: int) -> None:
        """Queue whole frames of so many bytes that are marked as queued here already."""
        self._entries.extend(entries)
        self.size += size

    def withdraw(self, entry: Entry) -> None:
        """Take out an entry of which no byte was written."""
        self.size -= len(entry.frame)
        entry.frame = FREE
        entry.step = Step.GONE
        self._dead += 1
        if self._dead > 64 and self._dead * 2 > len(self._entries):
            self._entries = deque(e for e in self._entries if e.step is not Step.GONE or e.frame)
            self._dead = 0

    def buffers(self, max_buffers: int, max_bytes: int) -> list[bytes | memoryview]:
        """Return what is to be written next, without removing it.

        It is out of date as soon as anything is appended, withdrawn or cleared: whoever waits for
        room in the pipe asks again afterwards, or claims it before.
        """
        out: list[bytes | memoryview] = []
        total = 0
        offset = self._offset
        for entry in self._entries:
            if entry.frame:
                out.append(memoryview(entry.frame)[offset:] if offset else entry.frame)
                total += len(entry.frame) - offset
                offset = 0
                if total >= max_bytes or len(out) >= max_buffers:
                    break
        return out

    def claim(self, buffers: int) -> None:
        """Count the first frames as sent before they are: whoever writes them has them in hand."""
        for entry in islice((entry for entry in self._entries if entry.frame), buffers):
            _mark_sent(entry)

    def ending_within(self, written: int) -> list[Entry]:
        """Return what would be whole if this many bytes more were written; :meth:`advance` drops it."""
        out: list[Entry] = []
        end = -self._offset
        for entry in self._entries:
            end += len(entry.frame)
            if end > written:
                break
            if entry.frame:
                out.append(entry)
        return out

    def advance(self, written: int) -> None:
        """Take note that this many bytes more have been written."""
        self.size -= written
        entries = self._entries
        if not self.size and not self._dead:  # as nearly always
            outbox, sent = Step.OUTBOX, Step.SENT
            for entry in entries:
                entry.sent = True
                entry.frame = FREE
                if entry.step is outbox:
                    entry.step = sent
            entries.clear()
            self._offset = 0
            return
        while entries:
            entry = entries[0]
            left = len(entry.frame) - self._offset
            if not entry.frame:
                self._dead -= 1
            elif written < left:
                if written:
                    self._offset += written
                    _mark_sent(entry)
                return
            else:
                written -= left
                _mark_sent(entry)
                entry.frame = FREE
            self._offset = 0
            entries.popleft()

    def clear(self) -> None:
        """Drop everything that is left."""
        self._entries.clear()
        self._offset = self._dead = self.size = 0


def _mark_sent(entry: Entry) -> None:
    entry.sent = True
    if entry.step is Step.OUTBOX:
        entry.step = Step.SENT
