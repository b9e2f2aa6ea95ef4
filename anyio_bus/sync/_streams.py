"""Own what a thread reads: the chunks of a stream, and what a subscription or a tap has taken."""

from __future__ import annotations

from collections.abc import Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import anyio

from anyio_bus import Chunk, FrameStream, Notification, Stream, StreamEvent, Subscription, TapFrame
from anyio_bus.sync._blocks import Batches, Block

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from anyio_bus.sync._runner import Runner

__all__ = ("SyncFrameStream", "SyncStream", "SyncSubscription")

T_co = TypeVar("T_co", covariant=True)


@final
class SyncStream(Generic[T_co]):
    """The chunks of one request as they come, and its result; from :meth:`SyncBus.stream`.

    The blocking :class:`~anyio_bus.Stream`: iterating ends with the last chunk; it raises what
    became of the request if that is no result. One thread iterates; any may wait for the result.

    Owns:
        The batch that is being read. So up to twice ``max_buffer_bytes`` wait for a slow reader.
    """

    def __init__(
        self, runner: Runner, make: Callable[[], AbstractAsyncContextManager[Stream[Any]]]
    ) -> None:
        """Made by a bus."""
        self._runner = runner
        self._block = Block(runner, make)
        self._reader: int | None = None  # the thread that reads

    def __enter__(self) -> SyncStream[T_co]:
        """Send the request."""
        self._stream = self._block.open()
        self._batches = Batches(self._block, self._stream.receive_batch)
        self._take = self._batches.items.popleft
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel the request if it is not over."""
        self._batches.close()

    @property
    def worker(self) -> int | None:
        """The number of the worker that serves it, known from its first chunk on."""
        return self._stream.worker

    def __iter__(self) -> SyncStream[T_co]:
        """Iterate over the chunks; the stream ends with the last one."""
        return self

    def __next__(self) -> Chunk:
        """Return the next chunk."""
        try:
            return self._take()
        except IndexError:
            pass
        try:
            return self.receive()
        except anyio.EndOfStream:
            raise StopIteration from None

    def receive(self, timeout: float | None = None) -> Chunk:
        """Return the next chunk.

        Args:
            timeout: Seconds to wait for it; None for no limit.

        Raises:
            anyio.EndOfStream: There is none left, and the request has its result.
            anyio.ClosedResourceError: The stream's block was left.
            TimeoutError: None came in time; none is lost.
            StreamOverflowError: The reader was too slow; what was held has been returned before.
            BusError: What became of the request, as :meth:`SyncBus.request`.
        """
        if self._reader is None:
            self._reader = get_ident()
        return self._batches.next(timeout)

    def receive_batch(self, timeout: float | None = None) -> list[Chunk]:
        """Return the chunks that have come, at least one; errors as :meth:`receive`."""
        if self._reader is None:
            self._reader = get_ident()
        return self._batches.batch(timeout)

    def result(self) -> T_co:
        """Wait for the result and return it.

        Chunks that nobody reads are dropped, so that they hold nothing up: those that are left
        when the thread that has been reading calls this, and all if none has been.

        Raises:
            anyio.ClosedResourceError: The stream's block was left.
            BusError: What became of the request, as :meth:`SyncBus.request`.
        """
        if self._reader in (None, get_ident()):
            self._batches.items.clear()
            result: T_co = self._block.run(self._stream.result)
        else:
            result = self._runner.run(self._stream.result)  # beside the one who reads
        return result

    def events(self) -> Iterator[StreamEvent]:
        """Iterate over the chunks and then the result, as one sequence of events."""
        for chunk in self:
            yield StreamEvent("chunk", chunk)
        yield StreamEvent("result", result=self.result())

    def close(self) -> None:
        """Cancel the request if it is not over; leaving the block does the same."""
        self._batches.close()


@final
class SyncSubscription:
    """Notifications as they come; from :meth:`SyncBus.subscribe`.

    The blocking :class:`~anyio_bus.Subscription`. It ends when the bus stops, after what it holds.
    One thread iterates, or several, each notification going to one of them.

    Owns:
        The batch that is being read. So up to twice ``max_queue`` wait for a slow reader.
    """

    def __init__(
        self, runner: Runner, make: Callable[[], AbstractAsyncContextManager[Subscription]]
    ) -> None:
        """Made by a bus."""
        self._block = Block(runner, make)

    def __enter__(self) -> SyncSubscription:
        """Follow from here on."""
        self._subscription = self._block.open()
        self._batches = Batches(self._block, self._subscription.receive_batch)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Follow no more."""
        self._batches.close()

    @property
    def dropped(self) -> int:
        """How many were dropped; :attr:`Notification.dropped` says where."""
        return self._subscription.dropped

    def __iter__(self) -> SyncSubscription:
        """Iterate over the notifications, until the bus stops."""
        return self

    def __next__(self) -> Notification:
        """Return the next notification."""
        try:
            return self._batches.next()
        except anyio.EndOfStream:
            raise StopIteration from None

    def receive(self, timeout: float | None = None) -> Notification:
        """Return the next notification.

        Args:
            timeout: Seconds to wait for it; None for no limit.

        Raises:
            anyio.EndOfStream: There is none left, and the bus has stopped.
            anyio.ClosedResourceError: The subscription's block was left.
            TimeoutError: None came in time; none is lost.
            StreamOverflowError: Its policy is ``"close"`` or ``"block"`` and the reader was too
                slow; what was held has been returned before.
        """
        return self._batches.next(timeout)

    def receive_batch(
        self, max_items: int | None = None, timeout: float | None = None
    ) -> list[Notification]:
        """Return the notifications that have come, at least one; errors as :meth:`receive`.

        Args:
            max_items: Most of them; None for all.
            timeout: Seconds to wait for the first one; None for no limit.
        """
        return self._batches.batch(timeout, max_items)

    def close(self) -> None:
        """End it and forget what was not read; leaving the block does the same."""
        self._batches.close()


@final
class SyncFrameStream:
    """Frames as they pass; from :meth:`SyncBus.tap`. The blocking :class:`~anyio_bus.FrameStream`.

    Owns:
        The batch that is being read.
    """

    def __init__(
        self, runner: Runner, make: Callable[[], AbstractAsyncContextManager[FrameStream]]
    ) -> None:
        """Made by a bus."""
        self._block = Block(runner, make)

    def __enter__(self) -> SyncFrameStream:
        """Follow from here on."""
        self._frames = self._block.open()
        self._batches = Batches(self._block, self._frames.receive_batch)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Follow no more."""
        self._batches.close()

    def __iter__(self) -> SyncFrameStream:
        """Iterate over the frames, until the bus stops."""
        return self

    def __next__(self) -> TapFrame:
        """Return the next frame."""
        try:
            return self._batches.next()
        except anyio.EndOfStream:
            raise StopIteration from None

    def receive(self, timeout: float | None = None) -> TapFrame:
        """Return the next frame.

        Args:
            timeout: Seconds to wait for it; None for no limit.

        Raises:
            anyio.EndOfStream: There is none left, and the tap has ended.
            TimeoutError: None came in time; none is lost.
        """
        return self._batches.next(timeout)

    def receive_batch(self, timeout: float | None = None) -> list[TapFrame]:
        """Return the frames that have come, at least one; errors as :meth:`receive`."""
        return self._batches.batch(timeout)

    def close(self) -> None:
        """End it and forget what was not read; leaving the block does the same."""
        self._batches.close()
