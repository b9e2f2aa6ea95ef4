"""The layers of the package as a test: a new import edge is a change of the design.

Section 3 of the design names the layers; ``ALLOWED`` is that section as a table. Imports count
wherever they stand: at top level, inside a function, under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "anyio_bus"
_spec = importlib.util.find_spec(PACKAGE)
assert _spec is not None
assert _spec.origin is not None
ROOT = Path(_spec.origin).parent

# The ladder: each part may import itself and what is listed here, nothing else. "public" is
# `import anyio_bus` and the names in it.
_VALUES = {"_errors", "_config"}
_WIRE = _VALUES | {"_sansio"}
_EDGES = _WIRE | {"_io"}
_KERNEL = _EDGES | {"_kernel"}
_BACKENDS = _KERNEL | {"_backends"}
_PUBLIC = {"public", "abc", "framing"}

ALLOWED: dict[str, set[str]] = {
    "_errors": set(),
    "_native": set(),  # the C kernel, where it was built
    "_daemon": set(),  # a console script: it starts quickly
    "_config": {"_errors"},
    "_sansio": _VALUES,
    "_io": _WIRE,
    "_kernel": _EDGES,
    "_backends": _KERNEL | {"_native", "_daemon"},
    "_bus": _BACKENDS,
    "public": _BACKENDS | {"_bus"},
    "abc": _WIRE | {"public"},
    "framing": _WIRE | {"abc"},
    "worker": _EDGES,
    "plugins": _PUBLIC | _EDGES | {"worker"},  # as a worker, with another wire
    "agents": _PUBLIC,
    "integrations": _PUBLIC,
    "otel": _WIRE,  # workers load it as well
    "sync": _PUBLIC,
    "stdiobus": _PUBLIC,
    "testing": _PUBLIC | {"worker", "plugins"},
    "cli": _PUBLIC | {"_daemon", "worker", "testing", "stdiobus", "plugins"},
    "__main__": {"cli"},
}

# Who may own a task group or a nursery (style C8); whoever needs one more writes it here. The
# command line is a program on top of the library, with groups as any program has them.
TASK_GROUP_OWNERS = {
    "_backends.docker",  # tells a container what it is to be, beside whoever reads its log
    "_backends.native",  # its flusher, beside the loop that steps the kernel
    "_backends.wire",  # the same beside the loop that reads the link, and whoever waits for room
    "_bus.host",
    "_bus.lifetime",
    "_bus.maps",  # reads asynchronous params while results are awaited
    "_bus.opening",
    "_kernel.kernel",
    "_kernel.slot",
    "stdiobus._keeper",  # stops the buses of a client at once, in the task that holds them
    "testing.nexo",  # reads what a plugin says while the test goes on
    "sync._runner",  # what threads have open lives in tasks around the bus
    "worker._duplex",
}
_TASK_GROUPS = {"create_task_group", "open_nursery", "TaskGroup"}

UNIX_ONLY = frozenset(
    {"curses", "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
)


class Edge(NamedTuple):
    """One import statement that reaches from one part into another."""

    source: str
    target: str
    where: str

    def __str__(self) -> str:
        return f"{self.where}: {self.source} imports {self.target}"


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def _modules() -> dict[str, ast.Module]:
    """Parse every module; the key is its name inside the package, "" for the package itself."""
    return {_module_name(path): ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}


def _part(module: str) -> str:
    return module.partition(".")[0] or "public"


def _is_package(module: str) -> bool:
    return (ROOT / module.replace(".", "/") / "__init__.py").exists()


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """Return the module that a ``from x import y`` names, with relative dots resolved."""
    if not node.level:
        return node.module or ""
    base = [PACKAGE, *filter(None, module.split("."))]
    up = node.level - (1 if _is_package(module) else 0)
    return ".".join([*base[: len(base) - up], *([node.module] if node.module else [])])


def _imported(module: str, node: ast.AST) -> list[str]:
    """Return the full dotted names that an import statement reaches, most specific first."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute(module, node)
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def _target_part(name: str) -> str | None:
    """Return the part of the package a dotted name lies in, None for other packages."""
    head, _, rest = name.partition(".")
    if head != PACKAGE:
        return None
    first = rest.partition(".")[0]
    inside = first == "_native" or (ROOT / first).is_dir() or (ROOT / f"{first}.py").exists()
    return first if first and inside else "public"


def _edges() -> Iterator[Edge]:
    for module, tree in _modules().items():
        for node in ast.walk(tree):
            for name in _imported(module, node):
                target = _target_part(name)
                if target is not None and target != _part(module):
                    line = getattr(node, "lineno", 0)
                    yield Edge(_part(module), target, f"{module or '__init__'}:{line}")


def test_every_part_of_the_package_has_its_row_in_the_table() -> None:
    assert {_part(module) for module in _modules()} <= ALLOWED.keys()


def test_imports_follow_the_layers() -> None:
    wrong = [str(edge) for edge in _edges() if edge.target not in ALLOWED[edge.source]]
    assert not wrong, "\n".join(wrong)


def test_the_table_has_no_cycle() -> None:
    seen: set[str] = set()
    while remaining := {part for part in ALLOWED if part not in seen}:
        free = {part for part in remaining if not (ALLOWED[part] & remaining) - {part}}
        assert free, f"these parts import each other: {sorted(remaining)}"
        seen |= free


def test_task_groups_live_only_with_their_listed_owners() -> None:
    owners = {
        module
        for module, tree in _modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _called(node) in _TASK_GROUPS and _part(module) != "cli"
    }
    assert owners == TASK_GROUP_OWNERS


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def test_sansio_knows_no_loop_no_clock_and_no_system() -> None:
    forbidden = {
        "anyio",
        "asyncio",
        "os",
        "select",
        "socket",
        "subprocess",
        "threading",
        "time",
        "trio",
    }
    wrong = [
        f"{module}: {name}"
        for module, tree in _modules().items()
        if _part(module) == "_sansio"
        for node in ast.walk(tree)
        for name in _imported(module, node)
        if name.partition(".")[0] in forbidden
    ]
    assert not wrong


def test_sansio_has_no_coroutine() -> None:
    wrong = [
        f"{module}: {node.name}"
        for module, tree in _modules().items()
        if _part(module) == "_sansio"
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef)
    ]
    assert not wrong


# --- what an import loads ---------------------------------------------------------------------

# Every import statement that stands in the package goes through here, those of modules that are
# loaded already as well; imports by other packages are not our business.
_WITHOUT_UNIX = """
import builtins
real = builtins.__import__
def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {{}}).get("__name__", "")
    if name.partition(".")[0] in {blocked!r} and importer.partition(".")[0] == "anyio_bus":
        raise ImportError(f"{{importer}} imports {{name}} at top level")
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = guarded
"""


def _python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=15
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["", ".worker", ".plugins.nexo", ".testing", ".cli"])
def test_importing_loads_no_unix_only_module(module: str) -> None:
    guard = _WITHOUT_UNIX.format(blocked=set(UNIX_ONLY))
    _python(
        f"{guard}\n"
        f"import anyio_bus{module} as it\n"
        "for name in getattr(it, '__all__', ()): getattr(it, name)\n"
    )


def _top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Walk what runs at import on every platform: not functions, not platform branches."""
    todo: list[ast.stmt] = list(tree.body)
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.Try | ast.With | ast.ClassDef):
            todo += node.body
        elif isinstance(node, ast.If) and "sys.platform" not in ast.unparse(node.test):
            todo += [*node.body, *node.orelse]


def test_no_module_imports_a_unix_only_one_unguarded() -> None:
    wrong = [
        f"{module}: {name}"
        for module, tree in _modules().items()
        for node in _top_level(tree)
        for name in _imported(module, node)
        if name.partition(".")[0] in UNIX_ONLY
    ]
    assert not wrong


def test_a_worker_loads_neither_the_bus_nor_a_loop_that_does_not_run() -> None:
    loaded = set(
        _python("import sys, anyio_bus.worker; print(*sys.modules, sep='\\n')").splitlines()
    )
    assert PACKAGE + ".worker" in loaded
    unwanted = {
        "asyncio",
        "trio",
        "uvloop",
        *(f"{PACKAGE}.{part}" for part in ("_bus", "_backends", "_kernel")),
    }
    assert not loaded & unwanted


def test_importing_the_package_loads_no_event_loop() -> None:
    loaded = set(_python("import sys, anyio_bus; print(*sys.modules, sep='\\n')").splitlines())
    assert not loaded & {"asyncio", "trio", "uvloop"}
