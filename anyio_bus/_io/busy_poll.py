"""Own the looks for an answer that are taken before a loop sleeps: when, and when no more.

To sleep and to be woken takes about as long as a quick peer does, and more processor time than to look
for so long.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyio_bus._io.loop import Loop

__all__ = ("MOMENT_S", "BusyPoll", "linger")

MOMENT_S = 30e-6  # about what it takes to sleep and to be woken
MOST_MISSES = 13  # then 1024 answers are waited for without a look


class BusyPoll:
    """Looks for an answer, for a moment, if the loop has nothing else to do.

    Where that is in vain three times in a row, it is done for fewer and fewer.

    Args:
        loop: The running loop.
        look: Takes the fd on which the loop would sleep, and ends once that is readable. Tells
            whether looking has helped.
    """

    __slots__ = ("_look", "_loop", "_misses", "_skips")

    def __init__(self, loop: Loop, look: Callable[[int], bool]) -> None:
        self._loop = loop
        self._look = look
        self._misses = 0  # in vain, one after the other
        self._skips = 0  # answers that go without

    def is_due(self) -> bool:
        """Tell whether the next look is to be taken; one that is not counts as left out."""
        if self._skips:
            self._skips -= 1
            return False
        return True

    def __call__(self) -> None:
        """Look, if it is due."""
        if not self.is_due():
            return
        fd = self._loop.idle_fd()
        found = fd is not None and self._look(fd)
        self._misses = 0 if found else min(self._misses + 1, MOST_MISSES)
        self._skips = (1 << self._misses) >> 3  # from the third in vain on: 1, 2, 4, ...


def linger(loop: Loop) -> BusyPoll | None:
    """Return what waits a moment for the loop to have something to do; None if it does not tell."""
    if loop.idle_fd() == -1 or not hasattr(select, "poll"):
        return None

    def look(fd: int) -> bool:
        if sys.platform == "win32":
            return False
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        until = perf_counter() + MOMENT_S
        while not (found := poll.poll(0)) and perf_counter() < until:
            pass
        return bool(found)

    return BusyPoll(loop, look)
