"""Own the splitting of a byte stream into lines: bounded, linear, a block of whole lines at a time.

NDJSON ends a line with LF; a CR before it is left to the JSON decoder, which skips it as white
space. An unterminated last line is discarded, since its writer cannot have finished it.
"""

from __future__ import annotations

import msgspec

__all__ = ("EDGE_BYTES", "READ_BYTES", "LineSplitter", "Oversize", "next_read_bytes")

READ_BYTES = 64 * 1024  # what a Linux pipe holds; memory for much more is mapped anew for each read
_MAX_READ_BYTES = 1024 * 1024

EDGE_BYTES = 4096  # of an oversize line, kept from both ends: enough to find the id in either
_PIECE_BYTES = 1024  # smaller pieces of an open line are put together, for each costs its overhead


def next_read_bytes(size: int, got: int) -> int:
    """Return how much to ask for after a read: twice as much where it was filled."""
    return min(size * 2, _MAX_READ_BYTES) if got == size else READ_BYTES


class Oversize(msgspec.Struct, frozen=True):
    """A line that was over the limit: its first and last bytes, and how long it was."""

    prefix: bytes
    suffix: bytes
    size: int


class LineSplitter:
    """Cut chunks of bytes into blocks of whole lines.

    A block is handed on as one ``bytes`` object that holds one line or many, so that a decoder can
    take all of them in one call. Only new bytes are searched, and a long line is joined once.

    Owns:
        The bytes of the one line that is not yet ended, at most ``max_line_bytes``.

    Args:
        max_line_bytes: Longest line, its newline included.
    """

    __slots__ = ("_max", "_oversize", "_parts", "_size")

    def __init__(self, max_line_bytes: int) -> None:
        self._max = max_line_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._oversize: Oversize | None = None

    @property
    def open_bytes(self) -> int:
        """The length so far of the line that is not yet ended."""
        return self._oversize.size if self._oversize is not None else self._size

    def feed(self, data: bytes) -> list[bytes | Oversize]:
        """Take a chunk and return the blocks that it completes, in order.

        Returns:
            Each item is a block (``bytes``: one or more whole lines) or an :class:`Oversize` line.
        """
        out: list[bytes | Oversize] = []
        if self._oversize is not None:
            data = self._skip(self._oversize, data, out)
        end = data.rfind(b"\n") + 1
        if end:
            block = data[:end]
            if self._parts:
                block = b"".join([*self._parts, block])
                self._parts.clear()
                self._size = 0
            if len(block) <= self._max:
                out.append(block)
            else:
                self._split(block, out)
        if end < len(data):
            self._hold(data[end:])
        return out

    def rest(self) -> bytes:
        """Give up the line that is not yet ended, whole: another splitter takes over."""
        rest = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return rest

    def close(self) -> bytes:
        """End the stream; return the first bytes of the unterminated line that is discarded."""
        rest = self._oversize.prefix if self._oversize is not None else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        self._oversize = None
        return rest[:EDGE_BYTES]

    def _hold(self, tail: bytes) -> None:
        if self._parts and len(self._parts[-1]) < _PIECE_BYTES:
            self._parts[-1] += tail
        else:
            self._parts.append(tail)
        self._size += len(tail)
        if self._size >= self._max:  # no room is left for its newline
            line = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
            self._oversize = Oversize(line[:EDGE_BYTES], line[-EDGE_BYTES:], len(line))

    def _skip(self, open_line: Oversize, data: bytes, out: list[bytes | Oversize]) -> bytes:
        """Go on with an oversize line; return what follows its end."""
        end = data.find(b"\n") + 1
        piece = data[:end] if end else data
        prefix = open_line.prefix + piece[: EDGE_BYTES - len(open_line.prefix)]
        suffix = (open_line.suffix + piece[-EDGE_BYTES:])[-EDGE_BYTES:]
        open_line = Oversize(prefix, suffix, open_line.size + len(piece))
        if not end:
            self._oversize = open_line
            return b""
        self._oversize = None
        out.append(open_line)
        return data[end:]

    def _split(self, block: bytes, out: list[bytes | Oversize]) -> None:
        """Cut a block that may hold oversize lines into runs without them."""
        run = start = 0
        while start < len(block):
            end = block.index(b"\n", start) + 1
            if end - start > self._max:
                if start > run:
                    out.append(block[run:start])
                line = block[start:end]
                out.append(Oversize(line[:EDGE_BYTES], line[-EDGE_BYTES:], len(line)))
                run = end
            start = end
        if run < len(block):
            out.append(block[run:])
