"""``anyio-bus migrate``: imports are rewritten where they stand, and the rest is said."""

from __future__ import annotations

import ast
import os
import stat
from pathlib import Path

import pytest

from anyio_bus.cli._migrate import rewrite
from tests.cli.kit import cli


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import stdiobus", "import anyio_bus.stdiobus as stdiobus"),
        ("import stdiobus as s", "import anyio_bus.stdiobus as s"),
        ("import os, stdiobus , sys", "import os, anyio_bus.stdiobus as stdiobus , sys"),
        ("import stdiobus.errors", "import anyio_bus.stdiobus as stdiobus"),
        ("import stdiobus.errors as e", "import anyio_bus.stdiobus.errors as e"),
        (
            "import nexo_plugin_sdk, stdiobus",
            "import anyio_bus.plugins.nexo as nexo_plugin_sdk, anyio_bus.stdiobus as stdiobus",
        ),
        ("import nexo_plugin_sdk as n", "import anyio_bus.plugins.nexo as n"),
        ("import nexo_plugin_sdk.wire as w", "import anyio_bus.plugins.nexo as w"),
        (
            "from nexo_plugin_sdk import (\n    Event,\n)",
            "from anyio_bus.plugins.nexo import (\n    Event,\n)",
        ),
        (
            "from nexo_plugin_sdk.events import Event",
            "from anyio_bus.plugins.nexo import Event",
        ),
        ("from stdiobus import *", "from anyio_bus.stdiobus import *"),
        ("from stdiobus import types", "from anyio_bus.stdiobus import types"),
        (
            "from stdiobus.types import ExtensionInfo as E",
            "from anyio_bus.stdiobus.types import ExtensionInfo as E",
        ),
        (
            "from   stdiobus import (\n    StdioBus,  # kept\n    BusConfig as C,\n)\n",
            "from   anyio_bus.stdiobus import (\n    StdioBus,  # kept\n    BusConfig as C,\n)\n",
        ),
        (
            "from \\\n  stdiobus \\\n import StdioBus",
            "from \\\n  anyio_bus.stdiobus \\\n import StdioBus",
        ),
        (
            's = "é"; import stdiobus as s; from stdiobus import StdioBus',
            's = "é"; import anyio_bus.stdiobus as s; from anyio_bus.stdiobus import StdioBus',
        ),
        (
            "\ufefftry:\r\n\timport stdiobus\r\nexcept ImportError:\r\n\traise\r\n",
            "\ufefftry:\r\n\timport anyio_bus.stdiobus as stdiobus\r\n"
            "except ImportError:\r\n\traise\r\n",
        ),
    ],
)
def test_an_import_is_rewritten_and_all_else_keeps_its_bytes(before: str, after: str) -> None:
    done = rewrite(before)
    assert done.text == after
    assert done.notes == []
    again = rewrite(after)
    assert (again.text, again.imports) == (after, 0)


@pytest.mark.parametrize(
    "source",
    [
        "from .stdiobus import x",
        "import mystdiobus, stdiobus_tools",
        "from stdiobus_tools import stdiobus",
        "stdiobus = 1  # import stdiobus",
        '"""How to use stdiobus."""',
        "def f():\n    yield from stdiobus()",
    ],
)
def test_what_only_looks_like_it_is_left_alone(source: str) -> None:
    assert rewrite(source) == (source, 0, [])


@pytest.mark.parametrize(
    ("source", "line", "why"),
    [
        ("\nfrom stdiobus.backends import X", 2, "no module 'backends'"),
        ("import stdiobus.backends.docker", 1, "no module 'backends.docker'"),
        ("from stdiobus.types import BusOptions, Identity", 1, "has no BusOptions"),
        ("import stdiobus\nstdiobus.resolve()", 2, "has no resolve"),
        ("import stdiobus as s\n\ns.nothing.at_all", 3, "has no nothing"),
        ('import_module("stdiobus")', 1, "importlib"),
        ('patch("stdiobus.client.StdioBus")', 1, "'stdiobus.client.StdioBus'"),
        ("import stdiobus\nprint 'hello'", 2, "no Python"),
        ("import \\\n  stdiobus. \\\n errors", 2, "one piece"),
        ("from stdiobus . errors import *", 1, "one piece"),
        ("from nexo_plugin_sdk.stdout_guard import original_stdout", 1, "no original_stdout"),
        ("from nexo_plugin_sdk.contract import X", 1, "no module 'contract'"),
        ("import nexo_plugin_sdk.wire\nnexo_plugin_sdk.wire.serialize_frame", 2, "has no wire"),
        ('patch("nexo_plugin_sdk.adapter.signal")', 1, "mock.patch"),
    ],
)
def test_what_cannot_be_rewritten_is_said_with_its_line(source: str, line: int, why: str) -> None:
    done = rewrite(source)
    assert [note.line for note in done.notes] == [line]
    assert why in done.notes[0].why


PROGRAM = b"import stdiobus\nfrom stdiobus import StdioBus\n"
MOVED = b"import anyio_bus.stdiobus as stdiobus\nfrom anyio_bus.stdiobus import StdioBus\n"


def test_without_write_the_differences_are_shown_and_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_bytes(PROGRAM)
    done = cli("migrate", "app.py", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "--- app.py",
        "+++ app.py",
        "@@ -1,2 +1,2 @@",
        "-import stdiobus",
        "-from stdiobus import StdioBus",
        "+import anyio_bus.stdiobus as stdiobus",
        "+from anyio_bus.stdiobus import StdioBus",
    ]
    assert done.stderr == "2 imports in 1 file would be rewritten, 0 left to you\n"
    assert path.read_bytes() == PROGRAM


def test_a_tree_is_rewritten_without_what_is_not_its_own(tmp_path: Path) -> None:
    own = [tmp_path / "app.py", tmp_path / "package" / "stubs.pyi"]
    foreign = [
        tmp_path / "env" / "lib.py",
        tmp_path / ".git" / "hook.py",
        tmp_path / "__pycache__" / "x.py",
        tmp_path / "notes.txt",
    ]
    for path in (*own, *foreign):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(PROGRAM)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    own[0].chmod(0o755)
    latin = tmp_path / "latin.py"
    latin.write_bytes(b"# coding: latin-1\nimport stdiobus  # \xe9\n")

    done = cli("migrate", str(tmp_path), "--write")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)
    assert done.stderr == "5 imports in 3 files rewritten, 0 left to you\n"
    assert [path.read_bytes() for path in own] == [MOVED] * 2
    assert [path.read_bytes() for path in foreign] == [PROGRAM] * 4
    assert latin.read_bytes().endswith(b"import anyio_bus.stdiobus as stdiobus  # \xe9\n")
    assert stat.S_IMODE(own[0].stat().st_mode) == 0o755
    assert sorted(os.listdir(tmp_path / "package")) == ["stubs.pyi"]


def test_what_is_left_ends_with_1_and_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(PROGRAM + b"from stdiobus.backends import X\n")
    (tmp_path / "b.py").write_bytes(b"import stdiobus (\n")
    (tmp_path / "c.py").write_bytes(b"# coding: utf-8\nimport stdiobus  # \xe9\n")
    done = cli("migrate", str(tmp_path), "--write")
    assert done.returncode == 1
    assert (tmp_path / "a.py").read_bytes().startswith(MOVED)
    for place in ("a.py:3: not rewritten", "b.py:1: not rewritten", "c.py:1: not rewritten"):
        assert place in done.stderr


def test_a_path_that_is_not_there_ends_with_2(tmp_path: Path) -> None:
    done = cli("migrate", str(tmp_path / "none.py"))
    assert done.returncode == 2
    assert "none.py: No such file" in done.stderr
    assert cli("migrate").returncode == 2


def test_every_name_of_the_client_is_rewritten_to_one_that_is_there() -> None:
    from anyio_bus import stdiobus

    names = ", ".join(name for name in stdiobus.__all__)
    done = rewrite(f"from stdiobus import {names}")
    assert done.notes == []
    namespace: dict[str, object] = {}
    exec(compile(ast.parse(done.text), "migrated", "exec"), namespace)
    assert namespace["AsyncStdioBus"] is stdiobus.AsyncStdioBus


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    done = cli("migrate", "pipe.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("pipe.py:1: not rewritten: it is no file\n")
