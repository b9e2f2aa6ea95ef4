"""``anyio-bus new``: write the files that a project begins with, and that work as they are."""

from __future__ import annotations

import shlex
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from anyio_bus.cli._exits import OK, WRONG_USE, CommandError
from anyio_bus.plugins.nexo import ManifestError, read_manifest

if TYPE_CHECKING:
    from anyio_bus.cli._parser import Arguments

__all__ = ("execute",)

ID = "my_plugin"  # what the templates are called
PROGRAM = "plugin.py"  # the host executes it
NAMES = ("nexo-plugin.toml", PROGRAM, "requirements.txt", "test_plugin.py", "README.md")


def execute(arguments: Arguments) -> int:
    """Run the command.

    Raises:
        CommandError: The id is none, the folder is not empty, or it cannot be written.
    """
    folder = Path(arguments.folder)
    plugin_id = arguments.id or folder.resolve().name.lower().replace("-", "_")
    templates = files("anyio_bus.cli") / "templates" / arguments.kind.replace("-", "_")
    texts = {
        name: (templates / name).read_text(encoding="utf-8").replace(ID, plugin_id)
        for name in NAMES
    }
    try:
        read_manifest(texts["nexo-plugin.toml"])
    except ManifestError:
        hint = "" if arguments.id else "; --id names another one"
        msg = f"{plugin_id!r} is no id: a-z, 0-9 and _, a letter first, at most 32 of them{hint}"
        raise CommandError(msg, WRONG_USE) from None
    try:
        _write(folder, texts)
    except OSError as exc:
        msg = f"{arguments.folder}: {exc.strerror or exc}"
        raise CommandError(msg) from exc
    for name in NAMES:
        print(folder / name)
    print(f"python -m pytest {shlex.quote(str(folder))}  runs its tests", file=sys.stderr)
    return OK


def _write(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        msg = f"{folder}: the folder is not empty"
        raise CommandError(msg, WRONG_USE)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    program = folder / PROGRAM
    program.chmod(program.stat().st_mode | 0o111)
