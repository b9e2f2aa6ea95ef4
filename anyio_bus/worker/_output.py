"""Own the way out: a bounded queue of whole frames, and the one task that writes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

from anyio_bus._io.busy_poll import linger
from anyio_bus._io.loop import Bell, Loop

__all__ = ("HIGH_WATER_BYTES", "Output")

HIGH_WATER_BYTES = 1024 * 1024  # above it handlers wait: what a fast pipe takes in a millisecond
WRITE_BYTES = 256 * 1024  # small frames are joined up to here: few writes, without large copies
RESERVE_BYTES = 1024 * 1024  # of answers by the reader itself, which it does not wait with


class Output:
    """Frames on their way to the client.

    Args:
        send: Writes bytes, all of them.
        loop: The running event loop.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[None]], loop: Loop) -> None:
        self._send = send
        self._loop = loop
        self._frames: list[bytes] = []
        self._size = 0  # of what is queued or being written
        self._reader_size = 0  # of this, what the reader put there
        self._writer = loop.waiter()
        self._poll = linger(loop)
        self._expected = False  # an answer is to be looked for
        self._bell = Bell()
        self._waiting = 0
        self._room = Bell()
        self._sealed = False
        self._write_at_once: Callable[[bytes], int] | None = None
        self._may_write = False
        self.broken: bool = False

    def write_with(self, write_at_once: Callable[[bytes], int]) -> None:
        """Have a frame written right away, where that is allowed and nothing waits before it.

        Args:
            write_at_once: Writes what it can without waiting; returns how many bytes that was.
        """
        self._write_at_once = write_at_once

    def expect(self) -> None:
        """Something was read: write the next frame right away, and queue those that follow it.

        So a client that waits for one answer has it a turn of the loop sooner, and many answers
        still go out together.
        """
        self._may_write = self._write_at_once is not None

    def put(self, frame: bytes, *, by_reader: bool = False) -> None:
        """Queue a whole frame; never waits. Once the pipe is broken it is dropped."""
        if self.broken or self._sealed:
            return
        if self._may_write and not self._size:
            self._may_write = False
            frame = frame[self._write_at_once(frame) :]  # type: ignore[misc]
            if not frame:
                return
        self._frames.append(frame)
        self._size += len(frame)
        if by_reader:
            self._reader_size += len(frame)
        self._loop.wake(self._writer, None)

    def expect_answer(self) -> None:
        """Look for the answer to a request that is alone, when all is written."""
        if self._poll is not None and self._poll.is_due():
            self._expected = True
            self._loop.wake(self._writer, None)

    def seal(self) -> None:
        """Take no more: what is queued was the last."""
        self._sealed = True
        self._ring()

    @property
    def has_room(self) -> bool:
        """Whether a handler may queue another frame at once."""
        return self._size <= HIGH_WATER_BYTES or self.broken or self._sealed

    async def room(self) -> None:  # noqa: ASYNC910
        """Wait until a handler may queue another frame. No checkpoint if it may at once.

        When there is room, all that wait may queue one frame, whatever others have put there by
        then: else one that queues without end would starve them.
        """
        if not self.has_room:
            self._waiting += 1
            try:
                await self._room.wait()
            finally:
                self._waiting -= 1

    @property
    def has_room_for_reader(self) -> bool:
        """Whether the reader may go on to answer by itself at once."""
        return self.broken or self._reader_size <= RESERVE_BYTES

    async def room_for_reader(self) -> None:
        """Wait until the reader may go on to answer by itself; see :meth:`room`.

        What handlers have queued does not hold it up, for they may depend on what it reads.
        """
        await self._until(lambda: self.has_room_for_reader)

    async def flushed(self) -> None:
        """Wait until everything was written."""
        await self._until(lambda: not self._size)

    async def _until(self, done: Callable[[], bool]) -> None:  # noqa: ASYNC910
        while not (self.broken or done()):
            self._waiting += 1
            try:
                await self._bell.wait()
            finally:
                self._waiting -= 1

    async def run(self) -> None:
        """Write what is queued, for ever; end only by an error of ``send`` or by cancellation."""
        try:
            while True:  # noqa: ASYNC913  # it waits unless there is something to write
                if not self._frames:
                    if self._expected and self._poll is not None:
                        self._expected = False
                        self._poll()
                    self._writer = self._loop.waiter()
                    await self._writer
                frames, self._frames = self._frames, []
                by_reader = self._reader_size
                for block in _blocks(frames):
                    await self._send(block)
                    self._wrote(len(block), 0)
                self._wrote(0, by_reader)
        finally:
            self.broken = True
            self._frames.clear()
            self._ring()

    def _wrote(self, size: int, by_reader: int) -> None:
        self._size -= size
        self._reader_size -= by_reader
        if self._waiting:
            self._ring()

    def _ring(self) -> None:
        self._bell.ring()
        if self.has_room:
            self._room.ring()


def _blocks(frames: list[bytes]) -> Iterator[bytes]:
    """Join frames into few blocks; a large frame stays as it is."""
    run: list[bytes] = []
    size = 0
    for frame in frames:
        if run and size + len(frame) > WRITE_BYTES:
            yield _joined(run)
            run = []
            size = 0
        run.append(frame)
        size += len(frame)
    if run:
        yield _joined(run)


def _joined(run: list[bytes]) -> bytes:
    return run[0] if len(run) == 1 else b"".join(run)
