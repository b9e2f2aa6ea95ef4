"""Own the watchdog process of pools with ``guard=True``: it kills groups when this process dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress

__all__ = ("Guard",)

_HERE = os.path.dirname(os.path.abspath(__file__))


class Guard:
    """A list of process groups, kept in a process of its own that is started with the first.

    Owns:
        That process.
    """

    __slots__ = ("_groups", "_process")

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: set[int] = set()

    def open(self) -> None:
        """Start it, so that an error comes before there is anything to guard.

        Raises:
            OSError: The system does not start it.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", os.path.join(_HERE, "_guard.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )

    def add(self, group: int) -> None:
        """Put a group on the list."""
        self._groups.add(group)
        self._tell(b"+", group)

    def discard(self, group: int) -> None:
        """Take a group that is gone from the list."""
        if group in self._groups:
            self._groups.discard(group)
            self._tell(b"-", group)

    def follow(self, groups: Iterable[int]) -> None:
        """Make the list these groups and no others."""
        now = set(groups)
        for gone in self._groups - now:
            self.discard(gone)
        for new in now - self._groups:
            self.add(new)

    def _tell(self, sign: bytes, group: int) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.write(b"%b%d\n" % (sign, group))

    def close(self) -> None:
        """End it: nothing is to be killed any more."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            for group in tuple(self._groups):
                self.discard(group)
            process.stdin.close()
            process.kill()
            process.wait()

    def abandon(self) -> None:
        """In a forked process: close the pipe; the watchdog is the parent's."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.returncode = 0  # it is the parent's child, not ours
