"""``anyio-bus new``: what it writes works as it is, and nothing is overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from anyio_bus.plugins.nexo import lint_manifest
from anyio_bus.testing.nexo import open_host
from tests.cli.kit import LIMIT_S, cli

FILES = ["README.md", "nexo-plugin.toml", "plugin.py", "requirements.txt", "test_plugin.py"]


def new(folder: str | Path, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return cli("new", "nexo-plugin", str(folder), *options, cwd=cwd)


def test_the_tests_of_a_new_plugin_pass(tmp_path: Path) -> None:
    done = new("plugins/word-count", cwd=tmp_path)
    assert (done.returncode, sorted(done.stdout.split())) == (
        0,
        [f"plugins/word-count/{name}" for name in FILES],
    )
    folder = tmp_path / "plugins" / "word-count"
    env = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST")}
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:hypothesispytest"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout
    assert "3 passed" in tests.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="./plugin.py is for Unix")
async def test_a_host_starts_what_the_manifest_names_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert new(tmp_path / "new", "--id", "counts", cwd=tmp_path).returncode == 0
    python = tmp_path / "bin" / "python3"  # where anyio-bus is installed
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PATH", str(python.parent), prepend=os.pathsep)
    async with open_host(
        [str(tmp_path / "new" / "plugin.py")], plugin_id="counts", cwd="/"
    ) as host:
        assert await host.invoke("counts_count", {"text": "a b c"}) == 3


def test_the_command_for_its_tests_can_be_pasted(tmp_path: Path) -> None:
    done = new("word count", "--id", "counts", cwd=tmp_path)
    assert done.stderr == "python -m pytest 'word count'  runs its tests\n"


def test_its_id_is_everywhere_and_the_host_takes_its_manifest(tmp_path: Path) -> None:
    assert new("a", "--id", "x" * 32, cwd=tmp_path).returncode == 0
    texts = {name: (tmp_path / "a" / name).read_text() for name in FILES}
    assert not [name for name, text in texts.items() if "my_plugin" in text]
    assert lint_manifest(texts["nexo-plugin.toml"]) == []


def test_a_folder_that_is_not_empty_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("mine")
    done = new(".", "--id", "counts", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "not empty" in done.stderr
    assert os.listdir(tmp_path) == ["plugin.py"]
    assert (tmp_path / "plugin.py").read_text() == "mine"


def test_a_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "counts").touch()
    done = new("counts", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "anyio-bus: counts: File exists\n"


@pytest.mark.parametrize(
    ("folder", "options"), [("2nd", []), ("é", []), ("a", ["--id", 'a"\nb = "']), ("x" * 33, [])]
)
def test_what_is_no_id_writes_nothing(tmp_path: Path, folder: str, options: list[str]) -> None:
    done = new(folder, *options, cwd=tmp_path)
    assert done.returncode == 2
    assert "is no id" in done.stderr
    assert ("--id" in done.stderr) is not bool(options)
    assert os.listdir(tmp_path) == []
