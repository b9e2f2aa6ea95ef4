"""Own when frames that were submitted are written: one by one at once, many together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyio_bus._io.busy_poll import BusyPoll
    from anyio_bus._io.loop import Loop

__all__ = ("Flusher",)


class Flusher:
    """Has what was submitted written, in as few writes as cost nobody time.

    As many frames as lines came last may follow each other soon: they are written together. What is
    submitted by those who are delivered to is written after the delivery.

    Args:
        loop: The running loop.
        write: Writes what was submitted.
        poll: Looks for answers for a moment; None: nobody does.
    """

    __slots__ = (
        "_before",
        "_expects",
        "_loop",
        "_poll",
        "_waiter",
        "_write",
        "batch",
        "delivering",
        "owes",
    )

    def __init__(self, loop: Loop, write: Callable[[], None], poll: BusyPoll | None = None) -> None:
        self._loop = loop
        self._write = write
        self._poll = poll
        self._expects = False  # something was asked, since the last look
        self._waiter: Any = None  # of the task that writes; None while it is on its way
        self.batch = 0  # lines that came last
        self.delivering = False
        self.owes = False  # something was submitted by what was delivered
        self._before: Callable[[], None] | None = None  # is to be called before the next write

    def ask(self, count: int = 1) -> None:
        """Have what was submitted written: at once if as many as have come last, else together."""
        if self.delivering:
            self.owes = True
        elif self.batch <= count:
            self._write()
        else:
            self._wake()

    def expect_answer(self, count: int = 1) -> None:
        """Look for the answers to what :meth:`ask` has had written, after those who are ready."""
        self._expects = True
        if self._poll is not None and self.batch <= count and self._poll.is_due():
            self._wake()

    def put_off(self, before: Callable[[], None]) -> bool:
        """Call a function before the next write, if more may be submitted together; else False."""
        if self.batch <= 1 or self.delivering:
            return False
        self._before = before
        self._wake()
        return True

    def _wake(self) -> None:
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            self._loop.wake(waiter, None)

    async def run(self) -> None:
        """Write whenever that was put off, until cancelled."""
        while True:
            self._waiter = self._loop.waiter()
            await self._waiter
            if self._before is not None:
                before, self._before = self._before, None
                before()
            self._write()
            if self._poll is not None and self._expects:
                self._expects = False
                self._poll()
