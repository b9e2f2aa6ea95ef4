"""Run what the docs show, as a reader would.

- A ``python`` block whose first line is ``# name.py`` is a program. It is saved under that name in
  the page's own folder and run there with an empty stdin; one that says ``anyio.run(main)`` runs on
  asyncio and on trio. It must exit with 0.
- A ``text`` block after a program is what it prints, stderr included, on both loops.
- Any other ``python`` block runs in this process, top to bottom, one namespace per page. So does
  ``<!-- invisible-code: python``, which readers do not see: it compares tables with the code.
- A ``json``, ``toml`` or ``sh`` block after ``<!-- file: name -->`` is saved under that name.
- In a ``console`` block each line after ``$ `` is a command, run in the page's folder, and the
  lines after it are what it prints.

Shown output is compared as it stands, with two freedoms: ``...`` stands for anything, and the
number after ``pid``, a time in seconds and runs of white space may differ. A block that only shows
something follows a line ``<!-- skip: next -->``, one that needs the daemon a line
``<!-- skip: next if(no_daemon, reason=no_daemon) -->``, one that needs the C kernel ``no_native``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sybil import Document, Example, Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser, SkipParser

from anyio_bus._backends.native import lib
from anyio_bus._daemon import find_daemon

LOOPS = ("asyncio", "trio")
TIMEOUT_S = 15

_PROGRAM = re.compile(r"# (\w+\.py)\n")
_RUN = re.compile(r"anyio\.run\((\w+)\)")
_FILE = re.compile(r"^<!-- file: (\S+) -->\n+```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FREE = ((r"pid \d+", "pid N"), (r"\d+\.\d+ ?s\b", "N s"), (r"\s+", " "))

_run_here = PythonEvaluator()


class Page:
    """The folders of one page, one for each loop, and what its last program printed there."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory()
        self.printed: list[str] = []
        for loop in LOOPS:
            (self.folder(loop) / "bin").mkdir(parents=True)
        command = self.folder(LOOPS[0]) / "bin" / "anyio-bus"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m anyio_bus "$@"\n')
        command.chmod(0o755)

    def folder(self, loop: str) -> Path:
        return Path(self._place.name) / loop

    def save(self, name: str, text: str) -> None:
        for loop in LOOPS:
            change = rf'anyio.run(\1, backend="{loop}")'
            text_here = _RUN.sub(change, text) if name.endswith(".py") else text
            (self.folder(loop) / name).write_text(text_here)

    def start(self, command: list[str], loop: str) -> subprocess.Popen[str]:
        folder = self.folder(loop)
        path = f"{folder / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}"
        return subprocess.Popen(
            command,
            cwd=folder,
            env={
                **{key: text for key, text in os.environ.items() if not key.startswith("PYTEST")},
                "PATH": path + os.environ["PATH"],
                "PYTHONUNBUFFERED": "1",
                "COLUMNS": "80",
                "PYTEST_ADDOPTS": "-p no:hypothesispytest",  # a second to import, and not needed
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> str:
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            text = f"it did not end within {TIMEOUT_S} s; it printed\n{output}"
            raise AssertionError(text) from None
        return output

    def close(self) -> None:
        self._place.cleanup()


def _same(shown: str, printed: str) -> bool:
    for pattern, same in _FREE:
        shown, printed = (re.sub(pattern, same, text) for text in (shown, printed))
    pattern = ".*".join(map(re.escape, shown.strip().split("...")))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def _page(example: Example) -> Page:
    page: Page = example.namespace["page"]
    return page


def run_python(example: Example) -> None:
    """Run a program in a process of its own, anything else here."""
    named = _PROGRAM.match(example.parsed)
    if named is None:
        example.namespace["__file__"] = example.path
        _run_here(example)
        return
    page = _page(example)
    page.save(named[1], example.parsed)
    loops = LOOPS if _RUN.search(example.parsed) else LOOPS[:1]
    processes = [page.start([sys.executable, named[1]], loop) for loop in loops]
    page.printed = [page.finish(process) for process in processes]
    for loop, process, printed in zip(loops, processes, page.printed, strict=True):
        if process.returncode:
            raise AssertionError(f"on {loop} it exited with {process.returncode}:\n{printed}")


def compare_text(example: Example) -> str | None:
    """Compare what is shown with what the program before it printed."""
    page = _page(example)
    printed, page.printed = page.printed, []
    for output in printed:
        if not _same(example.parsed, output):
            return f"shown:\n{example.parsed}\nprinted:\n{output}"
    return None


def run_console(example: Example) -> str | None:
    """Run the commands of a console block and compare their output with what is shown."""
    page = _page(example)
    steps = re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)[1:]
    for step in steps:
        command, _, shown = step.partition("\n")
        printed = page.finish(page.start(["sh", "-c", command], LOOPS[0]))
        if not _same(shown, printed):
            return f"$ {command}\nshown:\n{shown}\nprinted:\n{printed}"
    return None


def save_file(example: Example) -> None:
    """Save a file that the programs of the page read."""
    _page(example).save(*example.parsed)


def find_files(document: Document) -> Iterator[Region]:
    for found in _FILE.finditer(document.text):
        # Only the comment: the block itself may belong to a parser as well.
        yield Region(found.start(), found.start(2) - 1, (found[1], found[2]), save_file)


def open_page(namespace: dict[str, Any]) -> None:
    namespace["page"] = Page()
    namespace["no_daemon"] = why_no_daemon()
    namespace["no_native"] = "" if lib is not None else "NOT TESTED: the C kernel is not built here"


def why_no_daemon() -> str:
    """Say why programs that need the daemon cannot run here, for `skip: next if(no_daemon)`."""
    try:
        find_daemon()
    except FileNotFoundError as exc:
        return f"NOT TESTED: {exc}"
    return ""


def close_page(namespace: dict[str, Any]) -> None:
    namespace["page"].close()


pytest_collect_file = Sybil(
    parsers=[
        CodeBlockParser("python", run_python),
        CodeBlockParser("text", compare_text),
        CodeBlockParser("console", run_console),
        SkipParser(),
        find_files,
    ],
    patterns=["*.md"],
    setup=open_page,
    teardown=close_page,
).pytest()
