"""``anyio-bus migrate``: rewrite the imports of other libraries to those of what replaces them here."""

from __future__ import annotations

import ast
import difflib
import io
import os
import re
import stat
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anyio_bus import stdiobus
from anyio_bus.cli._exits import FAILED, OK, WRONG_USE, CommandError
from anyio_bus.plugins import nexo
from anyio_bus.stdiobus import client, errors, types

if TYPE_CHECKING:
    from anyio_bus.cli._parser import Arguments

__all__ = ("Note", "Rewritten", "execute", "rewrite")

SUFFIXES = (".py", ".pyi", ".pyw")
SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})
BOM = "\ufeff"

_STDIOBUS = {"": stdiobus, ".client": client, ".errors": errors, ".types": types}
_NEXO = (
    *("", ".adapter", ".broker", ".errors", ".events", ".host"),
    *(".manifest", ".stdout_guard", ".tools", ".wire"),
)


class _Module(NamedTuple):
    """What a module is here, and the names that may be imported from it."""

    here: str
    names: set[str]


# Each package, with what a name in it has to be here.
_PACKAGES = {"stdiobus": "anyio_bus.stdiobus", "nexo_plugin_sdk": "anyio_bus.plugins.nexo"}
_KNOWN = {
    **{
        f"stdiobus{name}": _Module(
            f"anyio_bus.stdiobus{name}",
            {*module.__all__, *(sub[1:] for sub in _STDIOBUS if sub and not name)},
        )
        for name, module in _STDIOBUS.items()
    },
    # All names of its modules are names of the one package here.
    **{
        f"nexo_plugin_sdk{name}": _Module("anyio_bus.plugins.nexo", set(nexo.__all__))
        for name in _NEXO
    },
}
_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_NAMED = re.compile(rf"(?:{'|'.join(_PACKAGES)})(?:\.\w+)*")


class Note(NamedTuple):
    """What was not rewritten, where, and why."""

    line: int
    why: str


class Rewritten(NamedTuple):
    """What became of one source text."""

    text: str
    imports: int
    notes: list[Note]


class _Edit(NamedTuple):
    """Text to be put between two places; a place is a line from 1 and a character from 0."""

    line: int
    start: int
    end: int
    text: str


def execute(arguments: Arguments) -> int:
    """Run the command.

    Raises:
        CommandError: The path is not there.
    """
    root = Path(arguments.path)
    if not root.exists():
        msg = f"{root}: No such file or directory"
        raise CommandError(msg, WRONG_USE)
    counted = files = left = 0
    for path in _sources(root):
        done = _read_and_rewrite(path)
        if done.imports and not _give(path, done, write=arguments.write):
            left += 1
        elif done.imports:
            counted += done.imports
            files += 1
        for note in done.notes:
            left += 1
            print(f"{path}:{note.line}: not rewritten: {note.why}", file=sys.stderr)
    would = "" if arguments.write else " would be"
    print(
        f"{counted} import{'s' * (counted != 1)} in {files} file{'s' * (files != 1)}{would} "
        f"rewritten, {left} left to you",
        file=sys.stderr,
    )
    return FAILED if left else OK


# -- files -----------------------------------------------------------------------------------------


def _sources(root: Path) -> Iterator[Path]:
    """Find the Python files of a tree in order; environments and hidden folders are none of it."""
    if not root.is_dir():
        yield root
        return
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if name not in SKIPPED
            and not name.startswith(".")
            and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
        )
        for name in sorted(names):
            if name.endswith(SUFFIXES):
                yield Path(folder, name)


def _decoded(raw: bytes) -> tuple[str, str]:
    """Return the text of a source and its encoding; a byte order mark stays in the text."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
    if encoding == "utf-8-sig":
        encoding = "utf-8"
    return raw.decode(encoding), encoding


def _read_and_rewrite(path: Path) -> Rewritten:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        return Rewritten("", 0, [Note(1, "it is no file")])
    try:
        raw = path.read_bytes()
        if not any(old.encode() in raw for old in _PACKAGES) and b"\0" not in raw:
            return Rewritten("", 0, [])
        text, _ = _decoded(raw)
    except (OSError, SyntaxError, UnicodeError) as exc:
        return Rewritten("", 0, [Note(1, f"it cannot be read: {exc}")])
    return rewrite(text)


def _give(path: Path, done: Rewritten, *, write: bool) -> bool:
    """Show what would change, or change it; return whether that could be done."""
    before, encoding = _decoded(path.read_bytes())
    if not write:
        lines = difflib.unified_diff(
            _LINES.findall(before), _LINES.findall(done.text), str(path), str(path)
        )
        for line in lines:
            print(
                line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n", end=""
            )
        return True
    try:
        _replace(Path(os.path.realpath(path)), done.text.encode(encoding))
    except (OSError, UnicodeError) as exc:
        print(f"{path}:1: not rewritten: {exc}", file=sys.stderr)
        return False
    print(f"{path}: {done.imports} import{'s' * (done.imports != 1)} rewritten")
    return True


def _replace(path: Path, raw: bytes) -> None:
    """Put a whole file into the place of another one, so that nobody ever sees half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        os.chmod(name, stat.S_IMODE(path.stat().st_mode))
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


# -- source text -----------------------------------------------------------------------------------


def rewrite(text: str) -> Rewritten:
    """Rewrite the imports of one source text; everything else keeps its bytes."""
    mark = BOM if text.startswith(BOM) else ""
    source = text.removeprefix(BOM)
    try:
        tree = ast.parse(source)
        finder = _Finder(source)
        finder.visit(tree)
        changed = _edited(finder.lines, finder.edits)
        ast.parse(changed)  # never leave a file worse than it was
    except (SyntaxError, ValueError, RecursionError, tokenize.TokenError) as exc:
        return Rewritten(text, 0, [Note(getattr(exc, "lineno", None) or 1, f"no Python: {exc}")])
    return Rewritten(mark + changed, len(finder.edits), sorted(finder.notes))


def _edited(lines: list[str], edits: list[_Edit]) -> str:
    lines = lines.copy()
    for edit in sorted(edits, reverse=True):
        line = lines[edit.line - 1]
        lines[edit.line - 1] = line[: edit.start] + edit.text + line[edit.end :]
    return "".join(lines)


class _Finder(ast.NodeVisitor):
    """Finds what is to be changed, and what somebody has to look at.

    Args:
        source: The text without a byte order mark.
    """

    def __init__(self, source: str) -> None:
        self.lines = _LINES.findall(source)
        self.edits: list[_Edit] = []
        self.notes: list[Note] = []
        self._bound: dict[str, str] = {}  # names that stand for a package, and for which
        self._names = _module_names(self.lines)

    def _column(self, line: int, offset: int) -> int:
        """Return the character of a byte of a line, as the parser counts."""
        return len(self.lines[line - 1].encode()[:offset].decode())

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            package, _, rest = alias.name.partition(".")
            if package not in _PACKAGES:
                continue
            known = _KNOWN.get(alias.name)
            if known is None:
                self._note(alias, f"{_PACKAGES[package]} has no module {rest!r}")
                continue
            start = self._column(alias.lineno, alias.col_offset)
            new = known.here if alias.asname else f"{_PACKAGES[package]} as {package}"
            if self._replace(alias, (alias.lineno, start), alias.name, new):
                if alias.asname is None:
                    self._bound[package] = package
                elif not rest:
                    self._bound[alias.asname] = package

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        package, _, rest = module.partition(".")
        if node.level or package not in _PACKAGES:
            return
        known = _KNOWN.get(module)
        if known is None:
            self._note(node, f"{_PACKAGES[package]} has no module {rest!r}")
            return
        missing = [alias.name for alias in node.names if alias.name not in {*known.names, "*"}]
        if missing:
            self._note(node, f"{known.here} has no {', '.join(missing)}")
            return
        start = self._column(node.lineno, node.col_offset)
        place = self._names.get((node.lineno, start))
        if place is None:  # lines that tokenizer and parser count differently
            self._note(node, "its place in the file cannot be told")
            return
        self._replace(node, place, module, known.here)

    def _replace(
        self, node: ast.stmt | ast.alias, place: tuple[int, int], old: str, new: str
    ) -> bool:
        """Have the name of a module replaced; return whether it stands there in one piece."""
        line, start = place
        end = start + len(old)
        if self.lines[line - 1][start:end] != old:
            self._note(node, "the name of the module is not in one piece")
            return False
        self.edits.append(_Edit(line, start, end, new))
        return True

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        package = self._bound.get(node.value.id) if isinstance(node.value, ast.Name) else None
        if package is not None and node.attr not in _KNOWN[package].names:
            self._note(node, f"{_PACKAGES[package]} has no {node.attr}")

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and _NAMED.fullmatch(node.value):
            why = f"the text {node.value!r} may name the module (importlib, mock.patch)"
            self._note(node, why)

    def _note(self, node: ast.stmt | ast.expr | ast.alias, why: str) -> None:
        self.notes.append(Note(node.lineno, why))


def _module_names(lines: list[str]) -> dict[tuple[int, int], tuple[int, int]]:
    """Return for each ``from``, by its place, where the name of its module begins."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    place: tuple[int, int] | None = None
    for token in tokenize.generate_tokens(iter([*lines, ""]).__next__):
        if token.type != tokenize.NAME:
            continue
        if place is not None:
            found[place] = token.start
        place = token.start if token.string == "from" else None
    return found
