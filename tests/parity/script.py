"""Transcripts: what is said at each end of a kernel, in the order in which it is said.

A transcript is a file in ``frames/``. Its first line is about it; each line after that is one step, and
its one member says who does what, with the frame as it stands on the wire:

    {"a sends": FRAME}        a client sends it; the names of clients are ``a`` and ``b``
    {"w gets": FRAME}         a worker reads it; its name is given to the first that gets a frame so
    {"w sends": FRAME}        the worker writes it
    {"a gets": FRAME}         the client reads it, and nothing else before it
    {"a sends text": TEXT}    a line that is no frame; a worker can do so as well
    {"a ends": null}          the client closes its half of the connection: it asks for nothing more
    {"a goes": null}          the client is gone
    {"w exits": CODE}         the worker ends

The rule for values that a kernel chooses: ``"$1"``, ``"$2"``, ... stand for one value each, the same
wherever the name stands, and no two names for the same value; ``"$_"`` stands for anything. All else
is compared byte by byte with parties that pass bytes on, and as JSON with those that do not.

After the last step nothing else may have come, to any of them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

FRAMES = Path(__file__).parent / "frames"
PLACEHOLDER = re.compile(rb'"\$(\w+)"')


class Other(msgspec.Struct, forbid_unknown_fields=True):
    """What the existing daemon does instead, and the first step at which that can show."""

    step: int
    instead: str


class About(msgspec.Struct, forbid_unknown_fields=True):
    """The first line.

    Attributes:
        about: What the transcript shows.
        pools: Options of each pool, beside its name and command.
        limits: Of the configuration.
        wire_only: Why the stdiobus API cannot say this; "" where it can.
        stdio_bus: Where the existing daemon differs; ``docs/howto/coming-from-stdiobus.md`` says why.
    """

    about: str
    pools: dict[str, dict[str, Any]] = msgspec.field(default_factory=lambda: {"p": {}})
    limits: dict[str, Any] = {}
    wire_only: str = ""
    stdio_bus: Other | None = None


class Step(NamedTuple):
    """Who does what, and the frame as it is written in the file."""

    who: str
    does: str
    frame: bytes

    def __str__(self) -> str:
        return f"{self.who} {self.does} {self.frame.decode()}"


class Script(NamedTuple):
    """A transcript."""

    name: str
    about: About
    steps: list[Step]

    def clients(self) -> list[str]:
        """Return the names of its clients."""
        return sorted({step.who for step in self.steps if step.who in CLIENTS})


CLIENTS = {"a", "b"}
DEEDS = {"sends", "sends text", "gets", "ends", "goes", "exits"}


def load(path: Path) -> Script:
    """Read a transcript."""
    first, *lines = path.read_bytes().splitlines()
    about = msgspec.json.decode(first, type=About)
    steps = []
    for line in lines:
        ((words, frame),) = msgspec.json.decode(line, type=dict[str, msgspec.Raw]).items()
        who, does = words.split(" ", 1)
        assert does in DEEDS, line
        steps.append(Step(who, does, bytes(frame)))
    return Script(path.stem, about, steps)


SCRIPTS = [load(path) for path in sorted(FRAMES.glob("*.ndjson"))]


class Names:
    """What the placeholders of one performance stand for."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def fill_in(self, frame: bytes) -> bytes:
        """Put the values where their names stand."""
        return PLACEHOLDER.sub(lambda found: self._spelt(found[1].decode()), frame)

    def _spelt(self, name: str) -> bytes:
        assert name in self._values, f"nothing was seen yet that is ${name}"
        return json.dumps(self._values[name]).encode()

    def check(self, expected: bytes, line: bytes, *, exact: bool) -> None:
        """Compare a line with a frame of the transcript, and learn from it."""
        whole = f"\nexpected {expected.decode()}\ngot      {line.decode()}"
        self.check_value(json.loads(expected), json.loads(line), whole)
        if exact:
            pattern = b".+".join(re.escape(self.fill_in(part)) for part in expected.split(b'"$_"'))
            assert re.fullmatch(pattern, line), f"the same JSON in other bytes:{whole}"

    def check_value(self, expected: Any, found: Any, whole: object = "") -> None:
        """Compare a value, in which placeholders may stand."""
        if isinstance(expected, str) and expected.startswith("$"):
            self._learn(expected[1:], found, whole)
            return
        assert type(expected) is type(found), whole
        if isinstance(expected, dict):
            assert expected.keys() == found.keys(), whole
            for key, value in expected.items():
                self.check_value(value, found[key], whole)
        elif isinstance(expected, list):
            assert len(expected) == len(found), whole
            for one, other in zip(expected, found, strict=True):
                self.check_value(one, other, whole)
        else:
            assert expected == found, whole

    def _learn(self, name: str, value: Any, whole: object) -> None:
        if name == "_":
            return
        for known, its in self._values.items():
            same = type(its) is type(value) and its == value
            assert same == (known == name), f"${known} is {its!r}, ${name} is {value!r}:{whole}"
        self._values[name] = value
