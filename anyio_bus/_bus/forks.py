"""Own what happens in a forked child: every bus of its parent is dead there."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ("abandon_in_fork",)


class _Forkable(Protocol):
    def abandon(self) -> None: ...


_open: weakref.WeakSet[_Forkable] = weakref.WeakSet()


@contextmanager
def abandon_in_fork(bus: _Forkable) -> Iterator[None]:
    """Inside the block, a fork of this process abandons the bus: closes its fds, refuses its use."""
    _open.add(bus)
    try:
        yield
    finally:
        _open.discard(bus)


def _after_fork() -> None:
    for bus in list(_open):
        bus.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
