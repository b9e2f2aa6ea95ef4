"""The console script `anyio-busd`: which program it becomes, and what it says where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from anyio_bus import _daemon
from anyio_bus._daemon import find_daemon

LAUNCH = "from anyio_bus._daemon import main; main()"


def make_program(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on an otherwise empty PATH, with a package that has no daemon."""
    monkeypatch.delenv("ANYIO_BUSD", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(_daemon, "__file__", str(tmp_path / "package" / "_daemon.py"))
    return tmp_path


def test_the_environment_comes_first_then_the_package_then_the_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = make_program(folder / "path" / "anyio-busd", "exit 0")
    assert find_daemon() == on_path
    packaged = make_program(folder / "package" / "_bin" / "anyio-busd", "exit 0")
    assert find_daemon() == packaged
    named = make_program(folder / "mine", "exit 0")
    monkeypatch.setenv("ANYIO_BUSD", named)
    assert find_daemon() == named


def test_what_the_environment_names_must_be_a_program(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_program(folder / "path" / "anyio-busd", "exit 0")
    monkeypatch.setenv("ANYIO_BUSD", str(folder / "nothing"))
    with pytest.raises(FileNotFoundError, match=r"ANYIO_BUSD names .*nothing, which is no program"):
        find_daemon()


def test_the_script_does_not_find_itself(folder: Path) -> None:
    make_program(folder / "path" / "anyio-busd", "# from anyio_bus._daemon import main")
    with pytest.raises(FileNotFoundError, match="anyio-bus build-native"):
        find_daemon()


def launch(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LAUNCH, *arguments]
    return subprocess.run(
        command,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


def test_the_script_becomes_the_daemon_with_its_arguments(tmp_path: Path) -> None:
    program = make_program(tmp_path / "daemon", 'echo "$@"; exit 7')
    done = launch("--config", "a b", ANYIO_BUSD=program)
    assert (done.returncode, done.stdout) == (7, "--config a b\n")


def test_without_a_daemon_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = launch(ANYIO_BUSD=str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert done.stderr.startswith("anyio-busd: ANYIO_BUSD names ")
    assert done.stderr.count("\n") == 1
