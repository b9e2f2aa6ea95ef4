"""Own the bytes on their way to a kernel elsewhere: they wait here until it takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from anyio_bus._io.loop import Bell

if TYPE_CHECKING:
    from anyio_bus._backends.links import Link

__all__ = ("Outflow",)


class Outflow:
    """Whole frames in their order, as far as they were not written.

    Args:
        link: Where they go.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._frames: list[bytes] = []
        self._written = 0  # bytes of the first of them
        self._blocked = False  # the kernel takes nothing now
        self._closed = False
        self._room = Bell()
        self._waiting: anyio.CancelScope | None = None
        self.size = 0  # bytes that are not written

    def add(self, frame: bytes) -> None:
        """Add a frame; :meth:`write` writes it."""
        self._frames.append(frame)
        self.size += len(frame)

    def write(self) -> None:
        """Write what the kernel takes now."""
        if self._blocked or self._closed or not self._frames:
            return
        while self._frames:
            if not self._written and len(self._frames) > 1:
                self._frames = [b"".join(self._frames)]
            data = self._frames[0]
            try:
                written = self._link.write(memoryview(data)[self._written :])
            except OSError:  # its end is seen where we read
                written = len(data) - self._written
            self.size -= written
            self._written += written
            if self._written < len(data):
                self._blocked = True
                self._room.ring()
                return
            del self._frames[0]
            self._written = 0

    async def run(self) -> None:
        """Go on writing whenever there is room again, until cancelled."""
        while True:
            while not self._blocked:
                await self._room.wait()
            with anyio.CancelScope() as self._waiting:
                try:
                    await anyio.wait_writable(self._link.write_fd)
                except anyio.ClosedResourceError:
                    if self._closed:
                        return
                    raise
            self._blocked = False
            self.write()

    def lose(self) -> None:
        """The link is lost, and what waited with it."""
        if self._waiting is not None:
            self._waiting.cancel("the link is lost")
        self._frames.clear()
        self.size = self._written = 0

    def use(self, link: Link) -> None:
        """From now on write there."""
        self._link, self._blocked = link, False

    def close(self) -> None:
        """Write nothing any more."""
        self._closed = True
