"""Own one incarnation of a worker: its process, its pipes, and the tasks that serve them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.abc
import anyio.lowlevel
from msgspec import UNSET

from anyio_bus._io.process import Child, Exit, SpawnError, StderrRing
from anyio_bus._io.stderr_log import StderrLog
from anyio_bus._sansio.codec import (
    decode_error,
    decode_items,
    encode_notification,
    encode_request,
)
from anyio_bus._sansio.lines import READ_BYTES, LineSplitter, next_read_bytes
from anyio_bus._sansio.messages import PREFIX_BYTES, BadLine, Message
from anyio_bus._sansio.routing import Entry, Lane, PoolTable, Route
from anyio_bus._sansio.tapping import (
    frames_from_worker,
    frames_to_worker,
    unfinished_from_worker,
)

if TYPE_CHECKING:
    from anyio_bus._config import Limits
    from anyio_bus._io.loop import Bell, Loop
    from anyio_bus._sansio.tapping import Tap

__all__ = ("HANDSHAKE_KEY", "Incarnation")

HANDSHAKE_KEY = "anyio-bus/handshake"
STDERR_READ_BYTES = 64 * 1024
WRITE_BUFFERS = 512  # half of Linux's IOV_MAX
WRITE_BYTES = 256 * 1024
FLUSH_TURNS = 10  # of the loop: more than a write into a pipe with room takes
HANG_UP_S = 0.25  # between the end of a worker's stdout and its exit, before it counts as hung up


class Owner(Protocol):
    """What an incarnation tells."""

    on_frames: Tap | None

    def receive(self, inc: Incarnation, messages: list[Message | BadLine]) -> None:
        """Take a batch of its messages."""

    def note_handshake(self) -> None:
        """Count the answer to a handshake, a message that nobody else is to hear."""

    def pump(self, pool: PoolTable) -> None:
        """Take note that its out-queue has room."""


class Incarnation:
    """A running worker process.

    It only moves bytes: messages go to ``owner``; what its end means is its slot's business.

    Owns:
        The child and the tasks that read and write its pipes.

    Args:
        child: The process, just spawned.
        lane: The router's view of it.
        bell: Rung when anything has happened to the process.
        owner: Takes each batch of messages that arrives.
        limits: The bounds.
        loop: The running event loop.
    """

    def __init__(  # noqa: PLR0917
        self, child: Child, lane: Lane, bell: Bell, owner: Owner, limits: Limits, loop: Loop
    ) -> None:
        self.child = child
        self.lane = lane
        self.stderr = StderrRing(limits.stderr_tail_bytes)
        self._stderr_log = StderrLog(lane.pool.config.id, lane.worker)
        self.spoke = False  # it wrote a line that is a message
        self.strayed = False  # it answered what it was not asked
        self.has_read = False  # some of its input; known from its end on
        self.generation = 0  # which of its slot's processes it is
        self.up = False  # its exec succeeded and its handshake was answered
        self.start_error: SpawnError | None = None
        self.handshake_error: str | None = None
        self.exited = False
        self.hung_up: str | None = None
        self.open_outputs = 2
        self.exit = Exit()
        self.born = loop.now()
        self.bytes_in = 0
        self.bytes_out = 0
        self._bell = bell
        self._owner = owner
        self._batch = 0  # messages in the last read: few of them means that latency counts
        self._limits = limits
        self._loop = loop
        self._splitter = LineSplitter(limits.max_frame_bytes)
        self._writer: Any = None
        self._closing = False
        self._handshake: Any = None
        self._resumed: anyio.Event | None = None

    @property
    def running(self) -> bool:
        """Whether there is more to wait for: it neither exited nor hung up."""
        return not self.exited and self.hung_up is None

    def start(self, tasks: anyio.abc.TaskGroup, came_up: Callable[[], None]) -> None:
        """Start its tasks; ``came_up`` is called when it is ready for work."""
        tasks.start_soon(self.child.run)
        tasks.start_soon(self._watch_exit)
        tasks.start_soon(self._read_stdout)
        tasks.start_soon(self._read_stderr)
        tasks.start_soon(self._write_stdin)
        tasks.start_soon(self._come_up, came_up)

    # -- writing ------------------------------------------------------------------------------

    def wake_writer(self) -> None:
        """Have the out-queue written: at once if frames come one by one, else all that come now."""
        if self._writer is None:
            return
        if self._batch <= 1:
            self.flush_now()
            if not self.lane.outbox.size:
                return
        waiter, self._writer = self._writer, None
        self._loop.wake(waiter, None)

    def flush_now(self) -> None:
        """Write what the pipe takes at once; the writer meets what goes wrong."""
        outbox = self.lane.outbox
        with suppress(OSError):
            while outbox.size:
                written = self.child.try_write(outbox.buffers(WRITE_BUFFERS, WRITE_BYTES))
                if not written:
                    return
                self._advance(written)

    async def flush(self) -> None:
        """Write what the pipe takes, also where nobody but the writer can: it gets some turns."""
        self.flush_now()
        for _ in range(FLUSH_TURNS):
            if not self.lane.outbox.size:
                return
            await anyio.lowlevel.checkpoint()

    async def close_stdin(self) -> None:
        """Let it read the end of its input; what it closes from here on is our doing."""
        self._closing = True
        await self.child.aclose_stdin()

    def look_at_input(self) -> None:
        """Find out whether it has read any of its input, while that is still open."""
        unread = self.child.unread_bytes()
        self.has_read = unread is not None and unread < self.bytes_out

    def _advance(self, written: int) -> None:
        self.bytes_out += written
        lane = self.lane
        if self._owner.on_frames is not None:
            entries = lane.outbox.ending_within(written)
            if entries:
                self._owner.on_frames(frames_to_worker(entries, **self._where()))
        lane.outbox.advance(written)
        if lane.pool.queue or lane.waiting:
            self._owner.pump(lane.pool)

    async def _write_stdin(self) -> None:
        outbox = self.lane.outbox
        child = self.child
        try:
            while True:
                buffers = outbox.buffers(WRITE_BUFFERS, WRITE_BYTES)
                if buffers:
                    written = child.try_write(buffers)
                    if not written:
                        if await child.room():
                            continue  # meanwhile some of these may have been withdrawn
                        outbox.claim(len(buffers))
                        written = await child.write(buffers)
                    self._advance(written)
                else:
                    self._writer = self._loop.waiter()
                    await self._writer
        except OSError:
            await self._hang_up("closed its stdin")

    # -- reading ------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether its stdout is left unread."""
        return self._resumed is not None

    def pause(self) -> None:
        """Leave its stdout unread until :meth:`resume`."""
        if self._resumed is None:
            self._resumed = anyio.Event()

    def resume(self) -> None:
        """Read its stdout again."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    async def _read_stdout(self) -> None:
        size = READ_BYTES
        limit = self._limits.max_frame_bytes
        while True:
            data = await self.child.read_stdout(size)
            if self._resumed is not None:
                await self._resumed.wait()
            if not data:
                break
            size = next_read_bytes(size, len(data))
            self.bytes_in += len(data)
            items = self._splitter.feed(data)
            if items:
                if self._owner.on_frames is not None:
                    frames = frames_from_worker(items, self.lane.entries, **self._where())
                    self._owner.on_frames(frames)
                self._take(decode_items(items, limit))
        size = self._splitter.open_bytes
        rest = self._splitter.close()
        if rest:
            if self._owner.on_frames is not None:
                self._owner.on_frames([unfinished_from_worker(rest, size, **self._where())])
            bad = BadLine(rest[:PREFIX_BYTES], "unterminated last line", size, None)
            self._owner.receive(self, [bad])
        self._output_ended()
        await self._hang_up("closed its stdout")

    def _take(self, messages: list[Message | BadLine]) -> None:
        if self._handshake is not None:
            messages = self._without_handshake(messages)
        self._batch = len(messages)
        self._owner.receive(self, messages)

    def _without_handshake(self, messages: list[Message | BadLine]) -> list[Message | BadLine]:
        rest: list[Message | BadLine] = []
        for message in messages:
            if message.id == HANDSHAKE_KEY and isinstance(message, Message):
                self._loop.wake(self._handshake, message)
                self._owner.note_handshake()
            else:
                rest.append(message)
        return rest

    async def _read_stderr(self) -> None:
        while data := await self.child.read_stderr(STDERR_READ_BYTES):
            self._stderr_log.write(self.stderr.feed(data), self._loop.now())
        self._stderr_log.write(self.stderr.close(), self._loop.now())
        self._output_ended()

    def _where(self) -> dict[str, Any]:
        """Say for a tap whose pipe it is, and when."""
        return {
            "pool": self.lane.pool.config.id,
            "worker": self.lane.worker,
            "generation": self.generation,
            "at": self._loop.now(),
            "time": time.time(),
        }

    def _output_ended(self) -> None:
        self.open_outputs -= 1
        self._bell.ring()

    # -- beginning and end --------------------------------------------------------------------

    async def _come_up(self, came_up: Callable[[], None]) -> None:
        try:
            await self.child.started()
        except SpawnError as exc:
            self.start_error = exc
            return
        if await self._shake_hands():
            self.up = True
            came_up()

    async def _shake_hands(self) -> bool:
        ready = self.lane.pool.config.ready
        if ready == "spawn":
            return True
        self._handshake = self._loop.waiter()
        answer: Message | None = None
        self._enqueue(encode_request(HANDSHAKE_KEY, ready.method, ready.params))
        with anyio.move_on_after(ready.timeout_s):
            answer = await self._handshake
        self._handshake = None
        if answer is None:
            self.handshake_error = f"did not answer {ready.method!r} within {ready.timeout_s:g} s"
        elif answer.result is UNSET:
            why = "no result" if answer.error is UNSET else str(decode_error(answer.error))
            self.handshake_error = f"refused {ready.method!r}: {why}"
        if self.handshake_error is not None:
            self.hung_up = self.handshake_error
            self._bell.ring()
            return False
        if ready.then_notify is not None:
            self._enqueue(encode_notification(ready.then_notify))
        return True

    def _enqueue(self, frame: bytes) -> None:
        self.lane.outbox.append(Entry(frame, Route(self.lane.pool.config.id), None))
        self.wake_writer()

    async def _watch_exit(self) -> None:
        await self.child.wait()
        self.exited = True
        self._bell.ring()

    async def _hang_up(self, what: str) -> None:
        """Count it as hung up, unless it exits at once as a dying process does."""
        await anyio.sleep(HANG_UP_S)
        if not self.exited and not self._closing and self.hung_up is None:
            self.hung_up = what
            self._bell.ring()
