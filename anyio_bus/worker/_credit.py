"""Own the credit window of a request: how many bytes of chunks may be on the way to its reader."""

from __future__ import annotations

import anyio

from anyio_bus._io.loop import Bell

__all__ = ("Window",)


class Window:
    """Bytes that were sent and not yet credited, against a limit.

    Args:
        limit_bytes: The limit; None where the client gave none, so only the pipe holds back.
    """

    __slots__ = ("_bell", "_limit", "_turn", "_used")

    def __init__(self, limit_bytes: int | None) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._bell = Bell()
        self._turn = anyio.Lock()

    @property
    def limited(self) -> bool:
        """Whether chunks are charged."""
        return self._limit is not None

    def _fits(self, size: int) -> bool:
        # What is larger than the whole window goes out alone, or it never would.
        return self._limit is None or not self._used or self._used + size <= self._limit

    async def take(self, size: int) -> None:
        """Wait until so many bytes may be sent, in turn, and count them as sent.

        Cancellation:
            Nothing is counted.
        """
        if self._limit is None:
            return  # noqa: ASYNC910  # its caller has one
        async with self._turn:
            while not self._fits(size):
                await self._bell.wait()
            self._used += size

    def give(self, size: int) -> None:
        """The client took so many bytes."""
        self._used = max(0, self._used - size)
        self._bell.ring()

    def open(self) -> None:
        """There will be no more credit: from here on only the pipe holds back."""
        self._limit = None
        self._bell.ring()
