"""Own the streams of a bus: the chunks of one request, buffered for one reader, and its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeAlias, TypeVar, final

import anyio
import anyio.lowlevel
import msgspec
from msgspec import UNSET, Raw

from anyio_bus._bus.calls import Call, Calls, Scope, result_of
from anyio_bus._bus.retries import Attempts
from anyio_bus._errors import StreamOverflowError
from anyio_bus._sansio.codec import decode_value, encode_notification
from anyio_bus._sansio.messages import Message
from anyio_bus._sansio.notifications import Chunk, keep_only_chunks
from anyio_bus._sansio.routing import Route

if TYPE_CHECKING:
    from anyio_bus._bus.inbound import Inbound
    from anyio_bus._sansio.messages import RequestId

__all__ = (
    "DEFAULT_BUFFER_BYTES",
    "ChunkSink",
    "Collect",
    "Stream",
    "StreamEvent",
    "StreamEvents",
    "StreamOptions",
)

T_co = TypeVar("T_co", covariant=True)

DEFAULT_BUFFER_BYTES = 8 * 1024 * 1024  # as much as a chunk of 64 KiB a millisecond brings in 128
Collect: TypeAlias = Literal["text"] | None
COUNTED_BYTES = 64  # of a chunk that need not be in what its worker counts: the count itself
FREE_TURNS = 64  # chunks that a reader takes without a checkpoint: one costs more than they do
_members = msgspec.json.Decoder(dict[str, Raw])


def _with_text(raw: Raw, text: str) -> Raw:
    """Put joined text into a result that is an object without a ``text`` of its own."""
    try:
        members = _members.decode(raw)
    except msgspec.DecodeError:  # no object
        return raw
    if "text" in members:
        return raw
    return Raw(msgspec.json.encode({**members, "text": text}))


class ChunkSink(Protocol):
    """Where :meth:`Bus.pump` sends chunks: an AnyIO send stream or a trio send channel."""

    async def send(self, chunk: Any, /) -> None:
        """Take one chunk."""

    async def aclose(self) -> None:
        """Close it."""


class StreamOptions(msgspec.Struct, frozen=True):
    """How a stream is to be followed; :meth:`Bus.stream` says what each means."""

    scope: Scope | None
    reply: Any
    timeout_s: float | None
    progress_renews: bool
    collect: bool
    attempts: Attempts | None = None  # of one request, with its timeout in common

    @property
    def left_s(self) -> float | None:
        """What there is of the timeout."""
        return self.timeout_s if self.attempts is None else self.attempts.left_s


@final
class StreamEvent(msgspec.Struct, frozen=True):
    """One event of :meth:`Stream.events`: any number of chunks, then one result.

    Attributes:
        type: ``"chunk"`` or ``"result"``.
        chunk: The chunk; None for the result.
        result: The decoded result; None for a chunk.
    """

    type: Literal["chunk", "result"]
    chunk: Chunk | None = None
    result: Any = None

    @property
    def text(self) -> str:
        """The chunk's text; empty for the result."""
        return "" if self.chunk is None else self.chunk.text


@final
class Stream(anyio.abc.ObjectReceiveStream[Chunk], Generic[T_co]):
    """The chunks of one request as they come, and its result; made by :meth:`Bus.stream`.

    Iterating ends with the last chunk; it raises what became of the request if that is no result.
    One task iterates; any may wait for :meth:`result`.

    Owns:
        The chunks that nobody has read yet, at most ``max_buffer_bytes`` and one read of the pipe.

    Attributes:
        worker: The number of the worker that serves it, known from its first chunk on.
    """

    def __init__(self) -> None:
        """Refuse: a bus makes streams."""
        msg = "use `async with bus.stream(...) as stream:`"
        raise TypeError(msg)

    worker: int | None
    _call: Call
    _calls: Calls
    _inbound: Inbound
    _options: StreamOptions
    _limit: int
    _pool: str
    _texts: list[str] | None  # collected
    _text_size: int
    _buffer: list[Chunk]  # come, and not yet taken
    _batch: list[Chunk]  # being read, the next one last
    _size: int  # bytes of the buffer that no worker counts: only these may come to be too many
    _reading: int  # and of the batch
    _charge: int  # bytes of the buffer that the worker counts: it gets them back as credit
    _charge_read: int  # and of the batch
    _turns: int  # chunks until the next checkpoint
    _reader: int | None  # the task that reads
    _unread: bool  # nobody will read: chunks are dropped
    _overflowed: bool
    _closed: bool
    _waiter: Any
    _result_waiters: list[Any]
    _outcome: Message | Exception | None

    @classmethod
    def _create(
        cls, calls: Calls, inbound: Inbound, options: StreamOptions, limit_bytes: int
    ) -> Stream[Any]:
        self: Stream[Any] = object.__new__(cls)
        self.worker = None
        self._calls = calls
        self._inbound = inbound
        self._options = options
        self._limit = limit_bytes
        self._texts = [] if options.collect else None
        self._buffer = []
        self._batch = []
        self._text_size = self._size = self._reading = self._charge = self._charge_read = 0
        self._turns = FREE_TURNS
        self._reader = self._waiter = self._outcome = None
        self._unread = not limit_bytes
        self._overflowed = self._closed = False
        self._result_waiters = []
        return self

    # -- what the bus tells it ----------------------------------------------------------------

    def _open(self, method: str, params: object, route: Route) -> None:
        """Send the request."""
        self._pool = route.pool
        options = self._options
        session = route.session
        if session is None and isinstance(params, dict):
            named = params.get("sessionId")
            session = named if isinstance(named, str) else None
        self._inbound.open(self, route.pool, session)
        try:
            self._call = self._calls.begin(
                method, params, route, options.left_s, options.scope, None, self
            )
        except BaseException:
            self._inbound.close(self)
            raise

    def params(self, key: RequestId, params: object) -> object:
        """Return the params with what the worker needs to send chunks."""
        return self._inbound.with_meta(self._pool, key, params, self._limit)

    def take(self, chunks: list[Chunk], size: int, charge: int, worker: int) -> None:
        """Take a run of chunks: ``charge`` bytes that its worker has counted, ``size`` that not.

        The list is the stream's from now on.
        """
        self.worker = worker
        if self._options.progress_renews:
            self._renew()
        if self._texts is not None:
            self._collect(chunks)
        if self._unread or self._overflowed:
            self._give_credit(charge)
            return
        if self._buffer:
            self._buffer += chunks
        else:
            self._buffer = chunks
        self._size += size
        self._charge += charge
        if self._waiter is not None:
            self._wake_reader()
            return
        held = keep_only_chunks(chunks)
        if charge:
            self._size += max(0, held - size - charge - COUNTED_BYTES * len(chunks))
            if len(self._buffer) > 1 and self._charge + self._charge_read > self._limit:
                self._size += charge  # it sends more than it has credit for
        if self._size + self._reading > self._limit:
            self._inbound.brakes.press(self, worker, self._calls.now())

    def _renew(self) -> None:
        options = self._options
        now = self._calls.renew(self._call, options.timeout_s)
        if options.attempts is not None:
            options.attempts.renew(now)

    def _collect(self, chunks: list[Chunk]) -> None:
        assert self._texts is not None
        texts = [chunk.text for chunk in chunks]
        self._text_size += sum(map(len, texts))
        self._texts += texts
        if self._text_size > self._calls.max_frame_bytes:
            self.overflow("its collected text is over max_frame_bytes")

    def overflow(self, why: str = "its reader was too slow") -> None:
        """End it after the chunks that it holds, and cancel its request."""
        if self._outcome is not None:
            return
        self._overflowed = True
        held = self._size + self._reading + self._charge + self._charge_read
        call = self._call
        sent = self._calls.withdraw(call, "its reader is too slow")
        text = f"the stream of {call.method!r} ended with {held} unread bytes: {why}"
        self._calls.end(call, StreamOverflowError(text, buffered_bytes=held, sent=sent))

    def finish(self, _call: Call, outcome: Message | Exception) -> None:
        """Take what became of the request."""
        self._outcome = outcome
        self._inbound.close(self)
        self._wake_all()

    def _wake_reader(self) -> None:
        waiter, self._waiter = self._waiter, None
        self._calls.wake(waiter)

    def _wake_all(self) -> None:
        if self._waiter is not None:
            self._wake_reader()
        waiters, self._result_waiters = self._result_waiters, []
        for waiter in waiters:
            self._calls.wake(waiter)

    # -- reading ------------------------------------------------------------------------------

    def __aiter__(self) -> Stream[T_co]:
        """Iterate over the chunks; the stream ends with the last one."""
        return self

    async def __anext__(self) -> Chunk:
        """Return the next chunk."""
        if self._turns and self._batch:
            self._turns -= 1
            return self._batch.pop()  # noqa: ASYNC910  # see FREE_TURNS
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def receive(self) -> Chunk:
        """Return the next chunk.

        Raises:
            anyio.EndOfStream: There is none left, and the request has its result.
            anyio.ClosedResourceError: The stream's block was left.
            StreamOverflowError: The reader was too slow; what was held has been returned before.
            BusError: What became of the request, as :meth:`Bus.request`.

        Cancellation:
            No chunk is lost. A checkpoint whenever it has to wait, and once per 64 chunks.
        """
        if self._turns and self._batch:
            self._turns -= 1
            return self._batch.pop()  # noqa: ASYNC910  # see FREE_TURNS
        await self._fill()
        return self._batch.pop()

    async def receive_batch(self) -> list[Chunk]:
        """Return the chunks that have come, at least one; errors as :meth:`receive`.

        Cancellation:
            No chunk is lost. Always a checkpoint.
        """
        await self._fill()
        batch, self._batch = self._batch, []
        batch.reverse()
        self._release()
        return batch

    async def _fill(self) -> None:  # noqa: ASYNC910  # one of its branches is taken
        """Wait until the batch holds a chunk; always a checkpoint."""
        self._check_open()
        if self._reader is None:
            self._reader = anyio.get_current_task().id
        if self._batch or self._buffer:
            await anyio.lowlevel.checkpoint()
        while not self._batch:
            if self._buffer:
                self._next_batch()
            elif self._outcome is not None:
                await anyio.lowlevel.checkpoint()
                self._raise_end()
            else:
                self._release()
                await self._wait()
                self._check_open()
        self._turns = FREE_TURNS - 1

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise anyio.BusyResourceError("receiving from")
        self._waiter = waiter = self._calls.waiter()
        try:
            await waiter
        finally:
            if self._waiter is waiter:
                self._waiter = None

    def _next_batch(self) -> None:
        self._release()
        self._batch, self._buffer = self._buffer, []
        self._batch.reverse()
        self._reading, self._size = self._size, 0
        self._charge_read, self._charge = self._charge, 0

    def _release(self) -> None:
        """The batch was read: let its worker send more."""
        if self._charge_read:
            charge, self._charge_read = self._charge_read, 0
            self._give_credit(charge)
        if self._reading:
            self._reading = 0
            if self._size * 2 <= self._limit:
                self._inbound.brakes.release(self)

    def _give_credit(self, charge: int) -> None:
        if charge and self._outcome is None and self.worker is not None:
            frame = encode_notification("bus/credit", {"id": self._call.key, "bytes": charge})
            self._inbound.tell(frame, Route(self._pool, worker=self.worker))

    def _raise_end(self) -> None:
        if isinstance(self._outcome, Message) and self._outcome.error is UNSET:
            raise anyio.EndOfStream
        self._decoded()
        raise anyio.EndOfStream

    def _check_open(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError

    # -- the result ---------------------------------------------------------------------------

    async def result(self) -> T_co:
        """Wait for the result and return it.

        Chunks that nobody reads are dropped, so that they hold nothing up: those that are left
        when the task that has been reading calls this, and all if none has been.

        Raises:
            anyio.ClosedResourceError: The stream's block was left before there was one.
            BusError: What became of the request, as :meth:`Bus.request`.

        Cancellation:
            Always a checkpoint. The wait ends; the request goes on until the block is left.
        """
        if self._outcome is None and not self._closed:
            if self._reader in (None, anyio.get_current_task().id):
                self._drop_unread()
            waiter = self._calls.waiter()
            self._result_waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._result_waiters:
                    self._result_waiters.remove(waiter)
        else:
            await anyio.lowlevel.checkpoint()
        result: T_co = self._decoded()
        return result

    def _drop_unread(self) -> None:
        self._unread = True
        self._reading += self._size
        self._charge_read += self._charge
        self._size = self._charge = 0
        self._buffer.clear()
        self._batch.clear()
        self._release()

    def _decoded(self) -> Any:
        if self._outcome is None:  # the block was left before there was one
            raise anyio.ClosedResourceError
        if isinstance(self._outcome, Exception):
            raise self._outcome
        raw = result_of(self._outcome)
        if self._texts is not None:
            raw = _with_text(raw, "".join(self._texts))
        return decode_value(raw, self._options.reply)

    def events(self) -> StreamEvents:
        """Return an iterator over the chunks and then the result, as one sequence of events."""
        return StreamEvents(self)

    # -- the end ------------------------------------------------------------------------------

    def _close(self) -> None:
        """Withdraw the request if it is not over; forget what was not read."""
        if self._closed:
            return
        self._closed = True
        self._calls.abandon(self._call)
        self._inbound.close(self)
        self._buffer.clear()
        self._batch.clear()
        self._wake_all()

    async def aclose(self) -> None:
        """Cancel the request if it is not over; leaving the block does the same.

        Cancellation:
            Always a checkpoint, after everything is done.
        """
        self._close()
        await anyio.lowlevel.checkpoint()


@final
class StreamEvents:
    """Chunk events, then the one result event; made by :meth:`Stream.events`."""

    def __init__(self, stream: Stream[Any]) -> None:
        self._stream = stream
        self._over = False

    def __aiter__(self) -> StreamEvents:
        """Iterate over the events."""
        return self

    async def __anext__(self) -> StreamEvent:
        """Return the next event."""
        if self._over:
            raise StopAsyncIteration
        try:
            return StreamEvent("chunk", await self._stream.receive())
        except anyio.EndOfStream:
            event = StreamEvent("result", result=await self._stream.result())
        self._over = True
        return event
