"""Own how things look on stdout: for a reader on a terminal, or for a program in a pipe."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import msgspec

__all__ = ("Page", "on_terminal", "pretty_json", "to_json")


def on_terminal() -> bool:
    """Tell whether somebody looks at stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def _console() -> Any:
    """Return a console of rich; None where it is not installed or nobody looks."""
    if not on_terminal() or importlib.util.find_spec("rich") is None:
        return None
    from rich.console import Console  # optional  # noqa: PLC0415

    return Console(highlight=False)


def to_json(value: object) -> bytes:
    """Encode a value as it came from a worker, on one line or as a terminal wants it."""
    raw = msgspec.json.encode(value)
    return pretty_json(raw) if on_terminal() else raw


def pretty_json(raw: bytes) -> bytes:
    """Lay out JSON for reading."""
    console = _console()
    if console is None:
        return msgspec.json.format(raw, indent=2)
    with console.capture() as captured:
        console.print_json(raw.decode(), ensure_ascii=False)
    return str(captured.get()).rstrip("\n").encode()


class Page:
    """Text in headings and labelled rows, coloured where that is possible."""

    LABEL_WIDTH = 11

    def __init__(self) -> None:
        self._console = _console()

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._print(f"\n{text}", "bold")

    def row(self, label: str, text: str, style: str = "green") -> None:
        """Print one fact."""
        self._print(f"  {label:<{self.LABEL_WIDTH}}", style, end="")
        self._print(text)

    def more(self, text: str) -> None:
        """Print what belongs to the fact above."""
        self._print(" " * (self.LABEL_WIDTH + 2) + text, "dim")

    def text(self, text: str) -> None:
        """Print a line as it is."""
        self._print(text)

    def _print(self, text: str, style: str | None = None, *, end: str = "\n") -> None:
        if self._console is None:
            print(text, end=end, flush=True)
        else:
            self._console.print(text, style=style, end=end, markup=False, soft_wrap=True)
