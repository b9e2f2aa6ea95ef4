"""Own what is printed: it goes to stderr, line by line, with a mark, and never to the host.

While an adapter runs, file descriptor 1 is a pipe that a thread reads: prints, C code and child
processes all end there. The functions here guard ``sys.stdout`` alone, for programs that write
their frames themselves.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from contextlib import suppress
from typing import Any

import msgspec

__all__ = (
    "STDOUT_GUARD_MARKER",
    "install_stdout_guard",
    "is_stdout_guard_installed",
    "original_stdout",
    "uninstall_stdout_guard",
)

STDOUT_GUARD_MARKER = "[stdout-guard]"

_MARK = STDOUT_GUARD_MARKER.encode() + b" "
_LINE_BYTES = 64 * 1024  # a longer line is cut: it is no frame, only a text
_WRITE_BYTES = 4096  # what a pipe that says it is writable takes at once (PIPE_BUF)
_STUCK_MS = 50  # that stderr may be full; then what was printed is dropped, and counted
_JOIN_S = 1.0


# -- the file descriptor -----------------------------------------------------------------------


class StrayOutput:
    """A pipe to be fd 1, and the thread that passes on what comes out of it.

    Owns:
        The pipe and the thread, until :meth:`close`.

    Attributes:
        fd: The end to write to.
        dropped: Lines that stderr did not take, and that nobody was told of yet.
    """

    def __init__(self) -> None:
        self.fd: int
        self._read_fd, self.fd = os.pipe()
        self._stop_read, self._stop_write = os.pipe()
        self.dropped: int = 0
        # A daemon: it must not hold up the end of the process.
        self._thread = threading.Thread(target=self._run, name="nexo stdout", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Pass on what is there, and end."""
        os.close(self.fd)
        os.close(self._stop_write)
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        if sys.platform == "win32":
            return  # where stray output goes straight to stderr
        poller = select.poll()
        poller.register(self._read_fd, select.POLLIN)
        poller.register(self._stop_read, select.POLLIN)
        rest = b""
        try:
            while True:
                ready = {fd for fd, _ in poller.poll()}
                if self._read_fd not in ready:
                    break  # told to stop, and nothing is left
                data = os.read(self._read_fd, 65536)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                self._pass_on(lines)
                if len(rest) > _LINE_BYTES:
                    self._pass_on([rest])
                    rest = b""
            if rest:
                self._pass_on([rest])
        finally:
            os.close(self._read_fd)
            os.close(self._stop_read)

    def _pass_on(self, lines: list[bytes]) -> None:
        said = [_MARK + line + b"\n" for line in lines]
        if self.dropped:
            said.insert(0, b"%b(%d lines are lost: stderr was full)\n" % (_MARK, self.dropped))
        for block in _blocks(said):
            if not writable(2, 0 if self.dropped else _STUCK_MS):
                self.dropped += block.count(b"\n")
                continue
            if b" lines are lost: " in block:
                self.dropped = 0
            with suppress(OSError):  # there is nobody to tell
                os.write(2, block)


def _blocks(lines: list[bytes]) -> list[bytes]:
    """Join lines up to what can be written without waiting; cut those that are longer."""
    blocks: list[bytes] = []
    run = b""
    for line in lines:
        if run and len(run) + len(line) > _WRITE_BYTES:
            blocks.append(run)
            run = b""
        run += line
        while len(run) > _WRITE_BYTES:
            blocks.append(run[:_WRITE_BYTES])
            run = run[_WRITE_BYTES:]
    return [*blocks, run] if run else blocks


def writable(fd: int, wait_ms: int = 0) -> bool:
    """Whether a small write to a fd returns at once; True where that cannot be known."""
    if sys.platform == "win32":
        return True
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    try:
        return bool(poller.poll(wait_ms))
    except OSError:
        return True


class StrayText(io.TextIOBase):
    """What ``sys.stdout`` is meanwhile: whole lines of each thread, straight to fd 1."""

    encoding = "utf-8"
    errors: str | None = "backslashreplace"
    name = "<stdout>"
    mode = "w"
    line_buffering = True
    write_through = True

    def __init__(self) -> None:
        self._open = threading.local()
        self.buffer: io.FileIO = io.FileIO(1, "wb", closefd=False)

    def write(self, text: str) -> int:
        """Take some text; its whole lines go out."""
        if not isinstance(text, str):
            text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        parts: list[str] = self._open.__dict__.setdefault("parts", [])
        end = text.rfind("\n") + 1
        if not end:
            parts.append(text)
            return len(text)
        self._send("".join([*parts, text[:end]]))
        parts[:] = [text[end:]] if end < len(text) else []
        return len(text)

    def flush(self) -> None:
        """Send the line that is not yet ended as well."""
        parts: list[str] = self._open.__dict__.get("parts", [])
        if parts:
            self._send("".join(parts))
            parts.clear()

    def _send(self, text: str) -> None:
        view = memoryview(text.encode(errors="backslashreplace"))
        with suppress(OSError):
            while view:
                view = view[os.write(1, view) :]

    def writable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """Return 1."""
        return 1

    def reconfigure(self, **_options: Any) -> None:
        """Nothing: programs ask for it as they start, and it is no stream of theirs."""


# -- sys.stdout alone --------------------------------------------------------------------------


class _GuardWriter:
    """Passes frames on to a stream, and everything else to stderr."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._parts: list[str] = []
        self._lock = threading.RLock()

    def write(self, text: Any) -> int:
        """Take text, bytes or anything; return how many characters it was."""
        if isinstance(text, bytes | bytearray):
            text = text.decode("utf-8", "replace")
        elif not isinstance(text, str):
            text = str(text)
        with self._lock:
            *lines, rest = text.split("\n")
            if lines:
                lines[0] = "".join([*self._parts, lines[0]])
                self._parts.clear()
                for line in lines:
                    self._line(line)
            if rest:
                self._parts.append(rest)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream; a line that is not ended stays here."""
        self._stream.flush()

    def flush_partial(self) -> None:
        """Give up a line that is not ended: to stderr, for it is no frame."""
        with self._lock:
            rest = "".join(self._parts)
            self._parts.clear()
            if rest:
                self._line(rest)

    def writable(self) -> bool:
        """Yes."""
        return True

    def readable(self) -> bool:
        """No."""
        return False

    def seekable(self) -> bool:
        """No."""
        return False

    def _line(self, line: str) -> None:
        if not line or _is_frame(line):
            self._stream.write(line + "\n")
            self._stream.flush()
        else:
            sys.stderr.write(f"{STDOUT_GUARD_MARKER} {line}\n")
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":  # construction has not come so far
            raise AttributeError(name)
        return getattr(self._stream, name)


def _is_frame(line: str) -> bool:
    """Whether a line is a JSON object; a number or a word that happens to be JSON is none."""
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False


_installed: _GuardWriter | None = None


def install_stdout_guard() -> None:
    """Guard ``sys.stdout``: lines that are JSON objects pass, others go to stderr with a mark.

    A second call does nothing. :class:`PluginAdapter` needs none of it while it runs.
    """
    global _installed  # noqa: PLW0603  # there is one sys.stdout
    if _installed is None:
        _installed = _GuardWriter(sys.stdout)
        sys.stdout = _installed


def uninstall_stdout_guard() -> None:
    """Undo it; a line that was not ended goes to stderr. Without a guard nothing happens."""
    global _installed
    guard, _installed = _installed, None
    if guard is not None:
        guard.flush_partial()
        if sys.stdout is guard:  # else somebody has put something else there
            sys.stdout = guard._stream


def is_stdout_guard_installed() -> bool:
    """Whether ``sys.stdout`` is guarded."""
    return _installed is not None


def original_stdout() -> Any:
    """Return the stream behind the guard, or ``sys.stdout`` without one."""
    return sys.stdout if _installed is None else _installed._stream
