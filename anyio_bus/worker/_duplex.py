"""Own the two ends of a pipe: one reader, one writer, the signals, and how all of it ends.

What the lines mean, and what is done with them, is the subclass's.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio

from anyio_bus._io.loop import Bell, current_loop
from anyio_bus._io.stdio import Stdio
from anyio_bus._sansio.lines import LineSplitter, Oversize
from anyio_bus._sansio.messages import PREFIX_BYTES
from anyio_bus.worker._output import Output

__all__ = ("Duplex", "Receive", "Send")

logger = logging.getLogger("anyio_bus.worker")

Receive = Callable[[], Awaitable[bytes]]
Send = Callable[[bytes], Awaitable[None]]
_GONE = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


class Duplex(ABC):
    """A conversation over two byte streams, until one of them ends or it is stopped.

    The reader never waits for what it has started, so what others wait for always gets through.

    Owns:
        A task group: the reader, the writer, and what the subclass starts.

    Args:
        send: Writes bytes, all of them.
        max_frame_bytes: Longest line that is read, newline included.
    """

    def __init__(self, send: Send, max_frame_bytes: int) -> None:
        self._loop = current_loop()
        self._output = Output(send, self._loop)
        self._splitter = LineSplitter(max_frame_bytes)
        self._tasks = anyio.create_task_group()
        self._stop_asked = anyio.Event()
        self._hurry = False
        self._bell = Bell()
        self._fault: BaseException | None = None

    async def run(
        self,
        receive: Receive | Stdio,
        signals: AsyncIterator[object] | None = None,
        on_stuck: Callable[[], object] | None = None,
    ) -> None:
        """Serve until the input ends or a signal comes; then finish what is in progress.

        Args:
            receive: Returns bytes, none at the end; or what has such a method.
            signals: Yields when the worker is to stop; what is in progress may finish at the first,
                and is cancelled at the next.
            on_stuck: Called when handlers have not ended although they were cancelled.

        Raises:
            KeyboardInterrupt: A handler raised it; everything was answered.
            Exception: ``receive`` or ``send`` raised something that is not the pipe's end.

        Cancellation:
            Cancels the handlers and ends.
        """
        if isinstance(receive, Stdio):
            self._output.write_with(receive.write_at_once)
        async with self._tasks:
            self.start_soon(self._write)
            self.start_soon(self._read, receive)
            self._start()
            if signals is not None:
                self.start_soon(self._heed, signals)
            await self._stop_asked.wait()
            await self._wind_up(on_stuck)
            self._tasks.cancel_scope.cancel("the worker is done")
        if self._fault is not None:
            raise self._fault

    def start_soon(self, function: Callable[..., Any], *args: object) -> None:
        """Start a task."""
        self._tasks.start_soon(function, *args)  # type: ignore[unused-awaitable,unused-ignore]

    # -- what the subclass does ----------------------------------------------------------------

    def _start(self) -> None:  # noqa: B027  # most have nothing to start
        """Start what else is to run from the beginning."""

    @abstractmethod
    def _take(self, item: bytes | Oversize) -> None:
        """Take a block of whole lines, or a line that was too long."""

    @abstractmethod
    def _hung_up(self) -> None:
        """The input has ended: nothing will be answered any more."""

    @abstractmethod
    async def _wind_up(self, on_stuck: Callable[[], object] | None) -> None:
        """Finish what is in progress, within a bound."""

    def _may_read(self) -> bool:
        """Whether the reader goes on at once, or waits in :meth:`_room` first."""
        return self._output.has_room_for_reader

    async def _room(self) -> None:
        """Wait until the reader may go on."""
        await self._output.room_for_reader()

    # -- how it ends ---------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """Whether new work is refused."""
        return self._stop_asked.is_set()

    def _stop(self, *, hurry: bool = False) -> None:
        """Take no new work; with ``hurry`` do not wait for what is in progress either."""
        self._hurry = self._hurry or hurry
        self._stop_asked.set()
        self._bell.ring()

    def changed(self) -> None:
        """Something ended."""
        if self.stopping:
            self._bell.ring()

    def interrupted(self) -> None:
        """A handler raised KeyboardInterrupt: stop when everything is answered."""
        self._fault = self._fault or KeyboardInterrupt()
        self._stop()

    async def _heed(self, signals: AsyncIterator[object]) -> None:
        async for _ in signals:
            self._stop(hurry=self.stopping)

    # -- the wire ------------------------------------------------------------------------------

    async def _write(self) -> None:  # noqa: ASYNC910
        try:
            await self._output.run()
        except _GONE as exc:
            logger.debug("the client is gone: %r", exc, extra={"event": "client_gone"})
        except Exception as exc:  # `send` is not ours; raised again by run()  # noqa: BLE001
            self._fault = self._fault or exc
        self._stop(hurry=True)

    async def _read(self, receive: Receive | Stdio) -> None:  # noqa: ASYNC910
        try:
            while await self._feed(receive):
                await self._room()
        except _GONE as exc:
            logger.debug("the client is gone: %r", exc, extra={"event": "client_gone"})
        except Exception as exc:  # `receive` is not ours; raised again by run()  # noqa: BLE001
            self._fault = self._fault or exc
        rest = self._splitter.close()
        if rest:
            text = "the last line has no newline, it is discarded: %r"
            logger.warning(text, rest[:PREFIX_BYTES], extra={"event": "bad_line"})
        self._hung_up()
        self._stop()

    async def _feed(self, receive: Receive | Stdio) -> bool:
        """Take what is read until the reader must wait (True) or the input ends (False)."""
        if isinstance(receive, Stdio):
            return await receive.feed(self._take_data)
        while data := await receive():
            if not self._take_data(data):
                return True
        return False

    def _take_data(self, data: bytes) -> bool:
        self._output.expect()
        for item in self._splitter.feed(data):
            self._take(item)
        return self._may_read()
