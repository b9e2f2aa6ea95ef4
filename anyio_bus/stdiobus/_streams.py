"""Own one request under these names: its chunks as events, or joined, and its result."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, final

import anyio
import anyio.lowlevel

import anyio_bus
from anyio_bus.stdiobus._translation import translating
from anyio_bus.stdiobus._wire import chunk_text
from anyio_bus.stdiobus.types import StreamEvent, StreamEventType

__all__ = ("StreamRequest", "collected")

OpenStream = Callable[[], AbstractAsyncContextManager["anyio_bus.Stream[Any]"]]


class _Texts:
    """The text of an answer's chunks, in order; no longer than a frame may be.

    Args:
        limit: Most characters.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[str] = []
        self._size = 0

    def add(self, chunk: anyio_bus.Chunk) -> str | None:
        """Take a chunk; return its text, None where it has none at all."""
        if not chunk.text and chunk_text(chunk.method, chunk.params) is None:
            return None
        self._size += len(chunk.text)
        if self._size > self._limit:
            msg = f"the joined text of the chunks is over max_input_buffer={self._limit}"
            raise anyio_bus.StreamOverflowError(msg)
        self._parts.append(chunk.text)
        return chunk.text

    def put_into(self, result: Any) -> Any:
        """Put the text into a result that is an object, over a text of its own."""
        if self._parts and isinstance(result, dict):
            result["text"] = "".join(self._parts)
        return result


async def collected(open_stream: OpenStream, method: str, limit: int) -> Any:
    """Send a request; return its result with the text of its chunks."""
    texts = _Texts(limit)
    with translating(method):
        async with open_stream() as stream:
            while True:
                try:
                    batch = await stream.receive_batch()
                except anyio.EndOfStream:
                    break
                for chunk in batch:
                    texts.add(chunk)
            return texts.put_into(await stream.result())


@final
class StreamRequest:
    """The events of one request: a chunk event each, then one result event.

    The request is sent when the first event is asked for. It is cancelled when, before its end, the
    iterator is closed, the task that waits for an event is cancelled, or nobody holds the iterator
    any more.

    Owns:
        The block of the stream, left at the end.

    Args:
        open_stream: Sends the request.
        method: Its method.
        limit: Most characters of joined text.
    """

    def __init__(self, open_stream: OpenStream, method: str, limit: int) -> None:
        self._open = open_stream
        self._method = method
        self._texts = _Texts(limit)
        self._block: AbstractAsyncContextManager[anyio_bus.Stream[Any]] | None = None
        self._stream: anyio_bus.Stream[Any] | None = None
        self._over = False
        self._thread = threading.get_ident()

    def __aiter__(self) -> StreamRequest:
        """Iterate over the events."""
        return self

    async def __anext__(self) -> StreamEvent:
        """Return the next event."""
        if self._over:
            raise StopAsyncIteration
        with translating(self._method):
            try:
                return await self._next()
            except BaseException:  # as a generator ends with whatever is raised in it
                self._finish()
                raise

    async def _next(self) -> StreamEvent:
        if self._stream is None:
            block = self._open()
            self._stream = await block.__aenter__()
            self._block = block
        try:
            while True:
                text = self._texts.add(await self._stream.receive())
                if text is not None:
                    return StreamEvent(StreamEventType.CHUNK, text)
        except anyio.EndOfStream:
            result = self._texts.put_into(await self._stream.result())
        self._finish()
        return StreamEvent(StreamEventType.RESULT, result=result)

    def _finish(self) -> None:
        """Leave the block of the stream, which never waits."""
        self._over = True
        block, self._block = self._block, None
        if block is None:
            return
        leaving: Any = block.__aexit__(None, None, None)
        with suppress(StopIteration):  # it is done: there was nothing to wait for
            leaving.send(None)

    async def aclose(self) -> None:
        """Cancel the request if it is not over.

        Cancellation:
            Always a checkpoint, after everything is done.
        """
        self._finish()
        await anyio.lowlevel.checkpoint()

    def __del__(self) -> None:
        if self._block is not None and threading.get_ident() == self._thread:
            with suppress(Exception):  # the loop may be gone, and the request with it
                self._finish()
