"""Own the file descriptors 0, 1 and 2 of a worker process: the wire is moved out of their way.

Afterwards 0 reads nothing and 1 writes to stderr (or elsewhere), so that a stray ``print``, C code and
children that inherit them can neither write into the conversation nor take something from it.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any

__all__ = ("FdGuard", "fill_gaps")


class FdGuard:
    """Takes the wire away from fds 0 and 1 when it is made.

    Args:
        stray: What fd 1 becomes; default stderr.
        text: What ``sys.stdout`` becomes; default ``sys.stderr``.

    Owns:
        ``wire_in`` and ``wire_out``: what was on fd 0 and fd 1, close-on-exec, until
        :meth:`give_back`.
    """

    def __init__(self, stray: int = 2, text: Any = None) -> None:
        fill_gaps()
        self._stdout: Any = sys.stdout
        self._stderr: Any = sys.stderr
        self.wire_in = os.dup(0)
        self.wire_out = os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(stray, 1)
        if sys.stderr is None:
            sys.stderr = _text_of(2)
        _flush(self._stdout)  # what was printed before: it has not reached the wire, and must not
        self._ours: Any = sys.stderr if text is None else text
        sys.stdout = self._ours

    def give_back(self) -> None:
        """Undo it."""
        _flush(self._stdout)
        _flush(self._ours)
        if sys.stdout is self._ours:  # nobody else has put something there
            sys.stdout = self._stdout
        if self._stderr is None:
            sys.stderr = self._stderr
        os.dup2(self.wire_in, 0)
        os.dup2(self.wire_out, 1)
        self.close()

    def close(self) -> None:
        """Close the wire; 0 and 1 stay as they are."""
        os.close(self.wire_in)
        os.close(self.wire_out)


def fill_gaps() -> None:
    """Open the null device in place of a closed standard fd, or the next file would land there."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free number
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            os.set_inheritable(fd, True)


def _text_of(fd: int) -> io.TextIOWrapper:
    binary = open(fd, "wb", buffering=0, closefd=False)  # lives as long as sys.stderr  # noqa: SIM115
    return io.TextIOWrapper(binary, encoding="utf-8", errors="backslashreplace", write_through=True)


def _flush(stream: Any) -> None:
    with suppress(OSError, ValueError, AttributeError):  # closed, broken, or None
        stream.flush()
