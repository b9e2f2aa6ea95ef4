"""Own what workers send of their own accord: whose chunk it is, and who follows it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import UNSET

from anyio_bus._sansio.chunks import ChunkReader, read_own_lines, reader_by, request_meta
from anyio_bus._sansio.events import ChunkLines
from anyio_bus._sansio.notifications import CREDIT_KEY
from anyio_bus._sansio.routing import Refused, Route

if TYPE_CHECKING:
    from anyio_bus._bus.calls import Batch, Call, Calls
    from anyio_bus._bus.streams import Stream
    from anyio_bus._bus.subscriptions import Filter
    from anyio_bus._config import Pool
    from anyio_bus._sansio.events import Lines
    from anyio_bus._sansio.messages import Message, RequestId
    from anyio_bus._sansio.notifications import Chunk

__all__ = ("Follower", "Inbound")

logger = logging.getLogger("anyio_bus")

_CREDIT = CREDIT_KEY.encode()
KNOWN_METHODS = 1024  # whose followers are remembered: workers choose the names


class Follower(Protocol):
    """Who follows notifications."""

    filter: Filter

    def offer(self, pool: str, worker: int, notes: list[Message]) -> None:
        """Hand it notifications that it takes."""

    def end(self) -> None:
        """The bus stops."""


class Inbound:
    """The notifications of one bus's workers, on their way to streams and followers.

    A chunk belongs to a stream by, in this order: the request that it names; its session, while
    exactly one stream of that session is open, in a serial pool the oldest one; being the only
    request in flight on its worker.

    Args:
        pools: The pools, for their chunk profiles.
        calls: The calls.
    """

    def __init__(self, pools: Iterable[Pool], calls: Calls) -> None:
        self._profiles = {pool.id: pool.chunks for pool in pools}
        self._readers: dict[str, ChunkReader] = {p.id: reader_by(p.chunks) for p in pools}
        self._serial = frozenset(pool.id for pool in pools if pool.serial)
        self._calls = calls
        self.brakes = calls.brakes
        self._streams: dict[Stream[object], tuple[str, str | None]] = {}  # its pool and session
        self._by_session: dict[str, list[Stream[object]]] = {}
        self._followers: dict[Follower, None] = {}
        self._known: dict[tuple[str, str], list[Follower]] = {}
        self._listening = dict.fromkeys(self._profiles, 0)  # streams and followers of each pool
        self.unattributed: int = 0
        for name in self._listening:
            calls.backend.hear(name, on=False)

    # -- streams ------------------------------------------------------------------------------

    def open(self, stream: Stream[object], pool: str, session: str | None) -> None:
        """Let a stream have its chunks."""
        self._streams[stream] = (pool, session)
        self._listen(pool, 1)
        if session is not None:
            self._by_session.setdefault(session, []).append(stream)

    def close(self, stream: Stream[object]) -> None:
        """A stream has come to its end."""
        pool, session = self._streams.pop(stream, ("", None))
        if pool:
            self._listen(pool, -1)
        self.brakes.release(stream)
        if session is not None:
            left = self._by_session[session]
            left.remove(stream)
            if not left:
                del self._by_session[session]

    def with_meta(self, pool: str, key: RequestId, params: object, credit_bytes: int) -> object:
        """Return a stream's params with what a worker of this pool needs to send chunks."""
        return request_meta(self._profiles[pool], key, params, credit_bytes)

    def tell(self, frame: bytes, route: Route) -> None:
        """Send a notification of the bus's own to a worker, if that is still there."""
        with suppress(Refused):
            self._calls.backend.submit(frame, route, None)

    def _listen(self, pool: str | None, change: int) -> None:
        """Count who wants the notifications of a pool, None for all; say so if it was nobody, or is."""
        for name in self._listening if pool is None else (pool,):
            before = self._listening[name]
            self._listening[name] = before + change
            if not before or not before + change:
                self._calls.backend.hear(name, not before)

    # -- notifications ------------------------------------------------------------------------

    def take(self, event: Lines, notes: list[Message]) -> None:
        """Take a run of one worker's notifications."""
        if self._listening.get(event.pool) == 0:
            self._calls.unhandled += len(notes)
            return
        taken: list[bool] | None = None
        if self._streams and event.pool in self._readers:  # a daemon may have further pools
            chunks = self._readers[event.pool](notes)
            one = self._take_run(event, chunks)
            taken = [True] * len(notes) if one else self._attribute(event, chunks)
        if self._followers:
            self._publish(event, notes, taken)
        else:
            self._calls.unhandled += len(notes) if taken is None else taken.count(False)

    def take_chunks(self, event: ChunkLines) -> bool:
        """Take a run of lines that look like chunks; False if it has to be decoded as any other."""
        if not self._streams or self._followers or self._profiles[event.pool] != "anyio-bus":
            return False
        chunks = read_own_lines(event.block)
        if chunks is None:
            return False
        if not self._take_run(event, chunks):
            taken = self._attribute(event, chunks)  # type: ignore[arg-type]  # list is invariant
            self._calls.unhandled += taken.count(False)
        return True

    def _attribute(self, event: Lines | ChunkLines, chunks: list[Chunk | None]) -> list[bool]:
        """Hand each chunk to its stream; tell which ones were one's."""
        taken = [False] * len(chunks)
        streams = self._streams
        run: list[Chunk] = []
        size = charge = 0
        current: Stream[object] | None = None
        for index, chunk in enumerate(chunks):
            if chunk is None:
                continue
            stream = self._stream_of(event, chunk)
            if stream is None:
                self.unattributed += 1
                continue
            taken[index] = True
            if stream is not current:
                if current is not None and current in streams:
                    current.take(run, size, charge, event.worker)
                run = []
                size = charge = 0
                current = stream
            run.append(chunk)
            if chunk._meta is not UNSET and chunk._meta.credit > 0:
                charge += chunk._meta.credit
            else:
                size += len(chunk.raw)
        if current is not None and current in streams:
            current.take(run, size, charge, event.worker)
        return taken

    def _take_run(self, event: Lines | ChunkLines, chunks: list[Any]) -> bool:
        """Hand over a run of chunks that all name the same stream, as most are, in one piece."""
        try:
            keys: set[RequestId] = {chunk._meta.request_id for chunk in chunks}
        except AttributeError:  # one is no chunk, or has no _meta
            return False
        key = keys.pop()
        call: Call | Batch | None = self._calls.peer.calls.get(key)
        if keys or call is None or not self._fits(call.sink, event):
            return False
        size = charge = 0
        if type(event) is ChunkLines and _CREDIT not in event.block:  # as most
            size = event.size
        else:
            charges: list[int] = [chunk._meta.credit for chunk in chunks]
            charge = sum(charges)
            if not all(charges):
                size = sum(0 if chunk._meta.credit else len(chunk.raw) for chunk in chunks)
        call.sink.take(chunks, size, charge, event.worker)
        return True

    def _stream_of(self, event: Lines | ChunkLines, chunk: Chunk) -> Stream[object] | None:
        meta = chunk._meta
        key = event.sole
        streams = self._streams
        if meta is not UNSET and meta.request_id is not UNSET:
            key = meta.request_id
        elif chunk.session is not None and chunk.session in self._by_session:
            several = [s for s in self._by_session[chunk.session] if streams[s][0] == event.pool]
            if len(several) > 1 and event.pool not in self._serial:
                return None
            if several:
                return next((stream for stream in several if self._fits(stream, event)), None)
        call: Call | Batch | None = self._calls.peer.calls.get(key)
        if call is None or not self._fits(call.sink, event):
            return None
        stream: Stream[object] = call.sink
        return stream

    def _fits(self, stream: Any, event: Lines | ChunkLines) -> bool:
        """Tell whether this is a stream, and of the worker that an event comes from."""
        where = self._streams.get(stream)
        if where is None or where[0] != event.pool:
            return False
        return stream.worker is None or stream.worker == event.worker

    # -- followers ----------------------------------------------------------------------------

    def follow(self, follower: Follower) -> None:
        """Let somebody follow."""
        self._followers[follower] = None
        self._listen(follower.filter.pool, 1)
        self._known.clear()

    def leave(self, follower: Follower) -> None:
        """Somebody follows no more."""
        if self._followers.pop(follower, self) is None:
            self._listen(follower.filter.pool, -1)
        self._known.clear()

    def end_all(self) -> None:
        """The bus stops: whoever follows reads what is there, and then the end."""
        for follower in list(self._followers):
            follower.end()

    def _publish(self, event: Lines, notes: list[Message], taken: list[bool] | None) -> None:
        """Hand each run of one method to who follows it; count what nobody has heard."""
        start = 0
        while start < len(notes):
            method: str = notes[start].method  # type: ignore[assignment]  # a notification has one
            end = start + 1
            while end < len(notes) and notes[end].method == method:
                end += 1
            if not self._publish_run(event, method, notes[start:end]):
                self._calls.unhandled += (
                    end - start if taken is None else taken[start:end].count(False)
                )
            start = end

    def _publish_run(self, event: Lines, method: str, notes: list[Message]) -> bool:
        """Hand over a run; tell whether somebody has heard all of it."""
        heard = False
        for follower in self._followers_of(event.pool, method):
            theirs = notes
            if follower.filter.session is not None:
                theirs = [note for note in notes if follower.filter.takes_session(note)]
            if theirs:
                follower.offer(event.pool, event.worker, theirs)
                heard = heard or len(theirs) == len(notes)
        return heard

    def _followers_of(self, pool: str, method: str) -> list[Follower]:
        known = self._known.get((pool, method))
        if known is None:
            if len(self._known) >= KNOWN_METHODS:
                self._known.clear()
            known = [f for f in self._followers if f.filter.takes(pool, method)]
            self._known[pool, method] = known
        return known
