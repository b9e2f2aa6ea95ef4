"""Own the wire taps of a bus: who follows its pipes, and how much of it is kept for them."""

from __future__ import annotations

import errno
import inspect
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable
from io import FileIO
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, final, get_args

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec

from anyio_bus._errors import InvalidArgumentError, StreamOverflowError
from anyio_bus._io.loop import Bell
from anyio_bus._sansio.redaction import hide_secrets, redacted_line
from anyio_bus._sansio.tapping import TapFrame, decode_record, encode_record
from anyio_bus._sansio.throttle import LOG_BURST, LOG_WINDOW_S, Throttle

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend
    from anyio_bus._bus.calls import Calls

__all__ = ("FrameStream", "MessageHook", "Recording", "TapOverflow", "Taps", "read_tap")

logger = logging.getLogger("anyio_bus")

TapOverflow: TypeAlias = Literal["drop_oldest", "drop_newest", "close"]
Redact: TypeAlias = bool | Callable[[Any], Any] | None
FREE_TURNS = 64  # frames that a reader takes without a checkpoint
MAX_QUEUE_BYTES = (
    16 * 1024 * 1024
)  # of frames that nobody has read, besides one: frames may be large
RECORDING_BYTES = 256 * 1024 * 1024  # a long session of agents, and little beside any disk
UNSHOWN = b'"***"\n'


class _Sink(Protocol):
    """Whoever follows the pipes."""

    def take(self, frames: list[TapFrame]) -> None:
        """Take what went through one pipe at once."""

    def end(self) -> None:
        """There will be nothing more."""


class Taps:
    """Hands what the kernel shows to everybody who follows it; without them the kernel shows nothing.

    Args:
        calls: The calls of the bus, which know the methods of what is answered.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._sinks: dict[_Sink, None] = {}
        self._over = False

    @property
    def _backend(self) -> Backend:
        return self._calls.backend

    def check_thread(self) -> None:
        """Refuse to wait in another thread than the bus's."""
        self._calls.check_thread()

    def add(self, sink: _Sink) -> None:
        """Show it everything from here on."""
        if self._over:
            sink.end()
            return
        if not self._sinks:
            self._backend.tap(self._take)
        self._sinks[sink] = None

    def remove(self, sink: _Sink) -> None:
        """Show it nothing more."""
        if self._sinks.pop(sink, sink) is None and not self._sinks:
            self._backend.tap(None)

    def record_all(self, path: str | os.PathLike[str] | None) -> None:
        """Record everything to a file, where one is given."""
        if path is not None:
            open_recording(self, path)

    def end(self) -> None:
        """The bus has stopped."""
        self._over = True
        for sink in list(self._sinks):
            self.remove(sink)
            sink.end()

    def abandon(self) -> None:
        """In a forked process: close the files."""
        for sink in self._sinks:
            if isinstance(sink, Recording):
                sink.end()

    def _take(self, frames: list[TapFrame]) -> None:
        frames = [self._named(frame) for frame in frames]
        for sink in list(self._sinks):
            try:
                sink.take(frames)
            except Exception:  # a bug of ours: it must not reach the kernel
                logger.exception("a tap failed and is removed", extra={"event": "tap_failed"})
                self.remove(sink)
                sink.end()

    def _named(self, frame: TapFrame) -> TapFrame:
        """Add to an answer the method that it answers."""
        if frame.kind != "response" or frame.request is None:
            return frame
        call = self._calls.peer.calls.get(frame.request)
        return frame if call is None else msgspec.structs.replace(frame, method=call.method)


class _Filter(msgspec.Struct, frozen=True):
    pool: str | None
    worker: int | None
    redact: Callable[[Any], Any] | None
    throttle: Throttle = msgspec.field(default_factory=lambda: Throttle(LOG_BURST, LOG_WINDOW_S))

    def takes(self, frame: TapFrame) -> bool:
        return self.pool in (None, frame.pool) and self.worker in (None, frame.worker)

    def shown(self, frame: TapFrame) -> TapFrame:
        """Return a frame as it may be shown."""
        if self.redact is None:
            return frame
        try:
            line = redacted_line(frame.frame, self.redact)
        except Exception:  # of a function that is not ours, or of an encoder
            note = self.throttle.note(frame.at)
            if note is not None:
                extra = {"event": "redaction_failed", "pool": frame.pool, "worker": frame.worker}
                text = "a frame of worker %s could not be redacted%s"
                logger.exception(text, frame.worker, note, extra=extra)
            line = UNSHOWN
        if line is frame.frame:
            return frame
        return msgspec.structs.replace(frame, frame=line, redacted=line != frame.frame)


def _filter(pool: str | None, worker: int | None, redact: Redact) -> _Filter:
    if worker is not None and (isinstance(worker, bool) or not isinstance(worker, int)):
        msg = f"worker must be the number of a worker, not {worker!r}"
        raise InvalidArgumentError(msg, field="worker")
    if redact is None or redact is False:
        return _Filter(pool, worker, None)
    if redact is True:
        return _Filter(pool, worker, hide_secrets)
    if not callable(redact):
        msg = f"redact must be True, False or a function, not {redact!r}"
        raise InvalidArgumentError(msg, field="redact")
    return _Filter(pool, worker, redact)


@final
class FrameStream(anyio.abc.ObjectReceiveStream[TapFrame]):
    """What goes through the pipes of workers, as it comes; made by :meth:`Bus.tap`.

    It ends when the bus has stopped, after what it holds.

    Owns:
        The frames that nobody has read yet: at most ``max_queue``, and 16 MiB and one frame.

    Attributes:
        dropped: How many were dropped; :attr:`TapFrame.dropped` says where.
    """

    def __init__(  # noqa: PLR0917
        self,
        taps: Taps,
        pool: str | None,
        worker: int | None,
        redact: Redact,
        max_queue: int,
        overflow: TapOverflow,
    ) -> None:
        if isinstance(max_queue, bool) or not isinstance(max_queue, int) or max_queue < 1:
            msg = f"max_queue must be at least 1, not {max_queue!r}"
            raise InvalidArgumentError(msg, field="max_queue")
        if overflow not in get_args(TapOverflow):
            names = ", ".join(map(repr, get_args(TapOverflow)))
            msg = f"overflow must be one of {names}, not {overflow!r}"
            raise InvalidArgumentError(msg, field="overflow")
        self.dropped: int = 0
        self._taps = taps
        self._filter = _filter(pool, worker, redact)
        self._max = max_queue
        self._overflow: TapOverflow = overflow
        self._queue: deque[TapFrame] = deque()
        self._bytes = 0
        self._head_gap = 0  # dropped before the first that waits
        self._tail_gap = 0  # dropped after the last one
        self._bell = Bell()
        self._ended = False
        self._error: StreamOverflowError | None = None
        self._turns = FREE_TURNS

    # -- for the bus --------------------------------------------------------------------------

    def take(self, frames: list[TapFrame]) -> None:
        """Queue frames, by the policy."""
        for frame in filter(self._filter.takes, frames):
            if self._ended:
                return
            if len(self._queue) >= self._max or self._bytes > MAX_QUEUE_BYTES:
                self._make_room(frame)
            else:
                self._append(frame)
        self._bell.ring()

    def _append(self, frame: TapFrame) -> None:
        if self._tail_gap:
            frame = msgspec.structs.replace(frame, dropped=self._tail_gap)
            self._tail_gap = 0
        self._queue.append(frame)
        self._bytes += len(frame.frame)

    def _make_room(self, frame: TapFrame) -> None:
        if self._overflow == "close":
            msg = f"the tap ended: its reader was too slow (max_queue={self._max})"
            self._error = StreamOverflowError(msg)
            self._taps.remove(self)
            self.end()
            return
        self.dropped += 1
        if self._overflow == "drop_newest":
            self._tail_gap += 1
            return
        oldest = self._queue.popleft()
        self._bytes -= len(oldest.frame)
        self._head_gap += 1 + oldest.dropped
        self._append(frame)

    def end(self) -> None:
        """Let nothing more come; what it holds can be read."""
        self._ended = True
        self._bell.ring()

    # -- reading ------------------------------------------------------------------------------

    def __aiter__(self) -> FrameStream:
        """Iterate over the frames, until the bus stops."""
        return self

    async def receive(self) -> TapFrame:
        """Return the next frame.

        Raises:
            anyio.EndOfStream: There is none left, and the bus has stopped.
            StreamOverflowError: The policy is ``"close"`` and the reader was too slow; what was
                held has been returned before.

        Cancellation:
            None is lost. A checkpoint whenever it has to wait, and once per 64 frames.
        """
        if self._turns and self._queue:
            self._turns -= 1
            return self._next()  # noqa: ASYNC910  # one in so many is enough
        await anyio.lowlevel.checkpoint()
        while not self._queue:
            if self._ended:
                raise self._error or anyio.EndOfStream
            self._taps.check_thread()
            await self._bell.wait()
        self._turns = FREE_TURNS
        return self._next()

    async def receive_batch(self) -> list[TapFrame]:
        """Return the frames that have come, at least one; errors as :meth:`receive`.

        Cancellation:
            None is lost. Always a checkpoint.
        """
        self._turns = 0
        batch = [await self.receive()]
        while self._queue:
            batch.append(self._next())
        return batch

    def _next(self) -> TapFrame:
        frame = self._queue.popleft()
        self._bytes -= len(frame.frame)
        if self._head_gap:
            frame = msgspec.structs.replace(frame, dropped=frame.dropped + self._head_gap)
            self._head_gap = 0
        return self._filter.shown(frame)

    def _close(self) -> None:
        self._taps.remove(self)
        self._queue.clear()
        self._bytes = 0
        self.end()

    async def aclose(self) -> None:
        """End it and forget what was not read; leaving the block does the same.

        Cancellation:
            Always a checkpoint, after everything is done.
        """
        self._close()
        await anyio.lowlevel.checkpoint()


@final
class MessageHook:
    """A function that sees every line of the workers; made by :meth:`Bus.on_message`."""

    def __init__(self, taps: Taps, function: Callable[[str], object], pool: str | None) -> None:
        if not callable(function) or inspect.iscoroutinefunction(function):
            msg = f"callback must be a plain function, not {function!r}"
            raise InvalidArgumentError(msg, field="callback")
        self._taps = taps
        self._function = function
        self._pool = pool
        self._throttle = Throttle(LOG_BURST, LOG_WINDOW_S)

    def take(self, frames: list[TapFrame]) -> None:
        """Call the function with each line; what it raises costs that line."""
        for frame in frames:
            if frame.direction == "to_worker" or self._pool not in (None, frame.pool):
                continue
            if not frame.whole:
                continue
            try:
                self._function(frame.frame[:-1].decode("utf-8", "surrogateescape"))
            except Exception:
                note = self._throttle.note(frame.at)
                if note is not None:
                    extra = {"event": "callback_raised", "pool": frame.pool, "worker": frame.worker}
                    logger.exception("a callback for messages raised%s", note, extra=extra)

    def end(self) -> None:
        """Nothing is to be ended."""

    def remove(self) -> None:
        """Call the function no more; may be called twice, and from the function."""
        self._taps.remove(self)

    def __enter__(self) -> MessageHook:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self.remove()


@final
class Recording:
    """A file that what goes through the pipes is written to; made by :meth:`Bus.record_tap`.

    Owns:
        The file.

    Attributes:
        frames: How many it holds.
        dropped: How many came after the file was full, or could not be written.
    """

    frames: int

    def __init__(
        self, taps: Taps, file: FileIO, name: str, filter_: _Filter, max_bytes: int
    ) -> None:
        self.frames: int = 0
        self.dropped: int = 0
        self._taps = taps
        self._file = file
        self._name = name
        self._filter = filter_
        self._size = 0
        self._max_bytes = max_bytes

    def take(self, frames: list[TapFrame]) -> None:
        """Write frames, at once and unbuffered: what happened is there even after a crash."""
        lines: list[bytes] = []
        size = 0
        for frame in filter(self._filter.takes, frames):
            if not self.dropped:
                line = encode_record(self._filter.shown(frame))
                size += len(line)
                if self._size + size <= self._max_bytes:
                    lines.append(line)
                    continue
            self._lose("it is full")
        if lines:
            self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        try:
            if self._file.write(data) != len(data):
                os.truncate(self._file.fileno(), self._size)  # no line in part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as exc:
            self._lose(str(exc))
            self.dropped += len(lines) - 1
            return
        self._size += len(data)
        self.frames += len(lines)

    def _lose(self, why: str) -> None:
        """Leave out what comes from here on: a recording with holes would mislead."""
        if not self.dropped:
            extra = {"event": "recording_ended"}
            logger.warning("recording %s ends here: %s", self._name, why, extra=extra)
        self.dropped += 1

    def end(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as exc:
            self._lose(str(exc))

    def close(self) -> None:
        """End the recording; may be called twice."""
        self._taps.remove(self)
        self.end()

    def __enter__(self) -> Recording:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def open_recording(  # noqa: PLR0917
    taps: Taps,
    path: str | os.PathLike[str],
    pool: str | None = None,
    worker: int | None = None,
    redact: Redact = True,
    max_bytes: int = RECORDING_BYTES,
) -> Recording:
    """Make a file, only for its owner to read, and record into it."""
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1:
        msg = f"max_bytes must be at least 1, not {max_bytes!r}"
        raise InvalidArgumentError(msg, field="max_bytes")
    filter_ = _filter(pool, worker, redact)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0)
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as exc:
        msg = f"the recording cannot be written: {exc}"
        raise InvalidArgumentError(msg, field="path") from exc
    recording = Recording(taps, FileIO(fd, "wb"), os.fspath(path), filter_, max_bytes)
    taps.add(recording)
    return recording


def read_tap(path: str | os.PathLike[str]) -> list[TapFrame]:
    """Read the frames of a recording.

    Args:
        path: A file that :meth:`Bus.record_tap` wrote.

    Raises:
        InvalidArgumentError: A line of it is no frame; the message has its number.
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        return list(_records(file, os.fspath(path)))


def _records(lines: Iterable[bytes], name: str) -> Iterable[TapFrame]:
    for number, line in enumerate(lines, 1):
        try:
            yield decode_record(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            msg = f"{name}, line {number}: not a frame of a tap: {exc}"
            raise InvalidArgumentError(msg, field="path") from exc
