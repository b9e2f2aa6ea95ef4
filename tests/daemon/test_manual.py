"""The manual of the daemon is true: its flags are those of --help, its examples print what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon import kit

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "anyio-busd.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"^```shell-session\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FILES = re.findall(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FLAG = re.compile(r"(?<![\w-])(?:--[a-z][a-z-]*|-[a-z](?![a-z-]))")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return where and with what the examples run: a folder, and a PATH with both programs."""
    folder = tmp_path_factory.mktemp("manual")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "anyio-busd").symlink_to(kit.find_daemon())
    command = programs / "anyio-bus"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m anyio_bus "$@"\n')
    command.chmod(0o755)
    for name, content in FILES:
        (folder / name).write_text(content)
    env = {key: value for key, value in os.environ.items() if key != "DEBUG_STDIO"}
    return {**env, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PWD": str(folder)}


def run(command: str, shell: dict[str, str]) -> str:
    done = subprocess.run(
        ["sh", "-c", command],
        env=shell,
        cwd=shell["PWD"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=15,
        check=False,
    )
    return done.stdout


def commands() -> list[tuple[str, str]]:
    """Return the commands that the page shows, each with what it prints."""
    steps = [step for block in BLOCKS for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(command, shown) for command, _, shown in (step.partition("\n") for step in steps)]


def table(head: str) -> list[str]:
    """Return the first cell of each row of the table with this head."""
    rows = TEXT.partition(head)[2].partition("\n\n")[0].splitlines()
    return [row.split("|")[1] for row in rows if row.startswith("| `")]


def test_examples_print_what_the_page_shows(shell: dict[str, str]) -> None:
    assert FILES
    for command, shown in commands():
        printed = run(command, shell)
        pattern = ".*".join(map(re.escape, shown.strip().split("...")))
        assert re.fullmatch(pattern, printed.strip(), re.DOTALL), f"$ {command}\n{printed}"


def test_each_flag_of_the_help_stands_on_the_page_and_none_else(shell: dict[str, str]) -> None:
    options = run("anyio-busd --help", shell).partition("\nsignals:")[0]
    assert set(FLAG.findall(" ".join(table("| flag |")))) == set(FLAG.findall(options))


def test_each_name_of_an_event_stands_on_the_page() -> None:
    sources = PAGE.parents[2] / "kernel" / "daemon"
    if not sources.is_dir():
        pytest.skip("NOT TESTED: the sources of the daemon are not here")
    shown = set(re.findall(r"`([a-z_]+)`", " ".join(table("| event |"))))
    code = "".join(path.read_text() for path in sources.glob("*.c"))
    said = set(re.findall(r'ABK_LOG_[A-Z]+, "([a-z_]+)"', code))
    assert said
    assert said <= shown
