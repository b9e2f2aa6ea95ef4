"""Own what a kernel tells its client, as values: events in batches, and reports on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec
from msgspec import Raw

from anyio_bus._errors import Failure
from anyio_bus._sansio.codec import (
    BAD_JSON,
    decode_array,
    decode_block,
    decode_lines,
)
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.messages import BadLine, Message, RequestId, Result

__all__ = (
    "BadLineInfo",
    "ChunkLines",
    "ClientChanged",
    "Deliver",
    "Failed",
    "KernelEvent",
    "KernelStatistics",
    "LineBad",
    "Lines",
    "Results",
    "SessionInfo",
    "WorkerChanged",
    "WorkerInfo",
    "lines_of",
)


class Lines(msgspec.Struct, gc=False):
    """A run of messages of one worker: answers to live requests, notifications and requests.

    ``only`` says that there is nothing else among them than answers, or than requests and
    notifications. ``sole`` is the id of the only request that was in flight on the worker when its
    notifications came, cancelled ones included; None where there were none or several.
    """

    pool: str
    worker: int
    messages: list[Message]
    sole: RequestId = None
    only: Literal["answers", "calls"] | None = None


# How anyio_bus.worker writes a chunk, around its params.
_CHUNK_START, _CHUNK_END = b'{"jsonrpc":"2.0","method":"chunk","params":', b"}"


class ChunkLines(msgspec.Struct, gc=False):
    """A run of lines of one worker that are chunks of :mod:`anyio_bus.worker`, by their framing.

    Of each there are the params, a line for each, not yet decoded. The rest is as in :class:`Lines`.
    """

    pool: str
    worker: int
    block: bytes
    count: int
    sole: RequestId = None

    @property
    def size(self) -> int:
        """Bytes of the params."""
        return len(self.block) - self.count

    def as_lines(self) -> list[Lines | LineBad]:
        """Return the same as any other run of lines."""
        between = _CHUNK_END + b"\n" + _CHUNK_START
        block = _CHUNK_START + self.block[:-1].replace(b"\n", between) + _CHUNK_END + b"\n"
        return lines_of(self.pool, self.worker, block, self.sole, "calls")


class Results(msgspec.Struct, gc=False):
    """A run of answers of one worker that are nothing but an id, which is a number, and a result.

    ``block`` is an array of the results, not yet decoded, but a single one as it is.
    """

    pool: str
    worker: int
    keys: list[int]
    block: bytes

    def answers(self) -> list[Result]:
        """Return the same as answers.

        Where the decoder here does not take the block, since there is not enough left of the stack for
        what is nested in it, each result is one that cannot be decoded.
        """
        if len(self.keys) == 1:
            return [Result(self.keys[0], Raw(self.block))]
        try:
            results = decode_array(self.block)
        except BAD_JSON:
            results = [Raw(b"")] * len(self.keys)
        return list(map(Result, self.keys, results))


class LineBad(msgspec.Struct, frozen=True):
    """A line of a worker that is no message."""

    pool: str
    worker: int
    line: BadLine


class Failed(msgspec.Struct, frozen=True):
    """A request that gets no answer, and why."""

    key: RequestId
    failure: Failure


class WorkerChanged(msgspec.Struct, frozen=True):
    """A slot went into another state. Information only: it never settles a call."""

    pool: str
    worker: int
    generation: int
    state: State
    pid: int | None = None
    failure: Failure | None = None


class ClientChanged(msgspec.Struct, frozen=True):
    """Another program came to a kernel that listens, or went.

    Args:
        client: The number of its connection; none is used twice.
        state: Whether it is there.
        peer: Where it came from: ``"unix"``, or its address.
        reason: Why it went.
    """

    client: int
    state: Literal["connected", "gone"]
    peer: str = ""
    reason: str = ""


def lines_of(
    pool: str,
    worker: int,
    block: bytes,
    sole: RequestId = None,
    only: Literal["answers", "calls"] | None = None,
) -> list[Lines | LineBad]:
    """Decode a run of lines that a kernel has found to be messages.

    Those that the decoder here does not take are bad lines.
    """
    try:
        return [Lines(pool, worker, decode_lines(block), sole, only)]
    except BAD_JSON:
        return [
            LineBad(pool, worker, item)
            if isinstance(item, BadLine)
            else Lines(pool, worker, [item], sole)
            for item in decode_block(block)
        ]


KernelEvent: TypeAlias = (
    Lines | ChunkLines | Results | LineBad | Failed | WorkerChanged | ClientChanged
)
Deliver: TypeAlias = Callable[[list[KernelEvent]], None]


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One worker slot, as it stands.

    Args:
        pool: Its pool.
        worker: Its number, unique in the bus; it survives restarts.
        generation: Counts the processes that the slot has had, from 1.
        pid: The process id; None without a process.
        state: State of the slot (``docs/design/kernel.md``).
        in_flight: Requests without an answer, cancelled ones that still hold a slot included, probes
            of its health not.
        queued: What waits for it, or for whichever worker of its pool has room first.
        queued_bytes: Bytes that wait to be written to it.
        restarts: Processes after the first.
        uptime_s: Seconds since the process was spawned; 0 without one.
        reason: Why it is backing off or parked; else empty.
        stderr_tail: The last bytes of its stderr.
        sessions: Sessions that are tied to it.
        held: Whether it takes no work but what names it: a spare, or a lease.
        lease: The session that has it for itself; None without one.
        own: Whether it was started for that session alone, and ends with it.
        served: Requests that the process was given.
        paused: Its stdout is left unread for now.
        bytes_in: Bytes read from the stdout of the process.
        stderr_bytes: Bytes read from its stderr.
        rss_bytes: Memory that the process holds; None unless its pool has ``max_rss_bytes``.
    """

    pool: str
    worker: int
    generation: int
    pid: int | None
    state: State
    in_flight: int
    queued: int
    queued_bytes: int
    restarts: int
    uptime_s: float
    reason: str
    stderr_tail: str
    sessions: int = 0
    held: bool = False
    lease: str | None = None
    own: bool = False
    served: int = 0
    paused: bool = False
    bytes_in: int = 0
    stderr_bytes: int = 0
    rss_bytes: int | None = None


class SessionInfo(msgspec.Struct, frozen=True):
    """One session, as a kernel sees it.

    Args:
        pool: The pool that it is in.
        worker: The worker that holds it; None where that is gone and nobody was told yet.
        in_flight: Requests without an answer on that worker, whoever made them.
        failure: Why that worker is gone, if it is.
    """

    pool: str
    worker: int | None = None
    in_flight: int = 0
    failure: Failure | None = None


class BadLineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a worker that was no message, and cost only itself.

    Args:
        pool: Its pool.
        worker: The worker's number.
        prefix: The first bytes of the line, at most 200.
        reason: What is wrong with it.
        size: Its length in bytes.
    """

    pool: str
    worker: int
    prefix: bytes
    reason: str
    size: int


class KernelStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of a kernel since its start; ``docs/design/kernel.md`` defines each."""

    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    stderr_bytes: int
    bad_lines: int
    late_answers: int
    stray_answers: int
    withdrawn: int
    cancelled: int
    worker_restarts: int
    routing_errors: int
    workers: int
    live_requests: int
    queued_requests: int
    sessions: int
    client_connects: int = 0
    client_disconnects: int = 0
    clients: int = 0
    unheard: int = 0
