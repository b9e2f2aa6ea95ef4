"""``anyio-bus check``: what is valid is listed, what is not names file and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kit import WORKER, cli, write_config


def test_a_valid_file_lists_its_pools(tmp_path: Path) -> None:
    path = write_config(tmp_path, echo={"instances": 3}, tools={"spares": 2})
    done = cli("check", path)
    assert (done.returncode, done.stderr) == (0, "")
    first, echo, tools = done.stdout.splitlines()
    assert first == f"{path}: valid, 2 pools"
    assert echo.split()[:3] == ["echo", "3", "workers"]
    assert tools.split()[:6] == ["tools", "1", "worker", "+", "2", "spares"]
    assert echo.endswith(WORKER[-1])


def test_a_toml_file_may_hold_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(
        f'[[tool.anyio-bus.pools]]\nid = "echo"\ncommand = {json.dumps(list(WORKER))}\n'
    )
    done = cli("check", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "valid, 1 pool\n" in done.stdout


POOL = {"id": "echo", "command": ["true"]}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({}, "pools"),
        ({"pools": []}, "pools"),
        ({"pools": [{"id": "echo"}]}, "command"),
        ({"pools": [{**POOL, "instances": "two"}]}, "instances"),
        ({"pools": [{**POOL, "instances": 0}]}, "instances"),
        ({"pools": [{**POOL, "instanzes": 2}]}, "instanzes"),
        ({"pools": [POOL], "limits": {"max_pending": 0}}, "max_pending"),
        ({"pools": [POOL, POOL]}, "echo"),
        ([POOL], "object"),
    ],
)
def test_an_invalid_field_ends_with_2_and_names_file_and_field(
    tmp_path: Path, config: Any, field: str
) -> None:
    path = tmp_path / "bus.json"
    path.write_text(json.dumps(config))
    done = cli("check", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert str(path) in done.stderr
    assert field in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"null"])
def test_what_is_no_configuration_ends_with_2_and_names_the_file(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "bus.json"
    path.write_bytes(content)
    done = cli("check", str(path))
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_file_ends_with_2_and_is_named(tmp_path: Path) -> None:
    done = cli("check", str(tmp_path / "none.json"))
    assert done.returncode == 2
    assert "none.json: No such file" in done.stderr


@pytest.mark.parametrize("command", [["no-such-program-of-ours"], ["./missing", "x"], ["README"]])
def test_a_program_that_is_not_there_ends_with_1_and_names_the_pool(
    tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "README").write_text("not a program")
    path = write_config(tmp_path, good={}, bad={"command": command})
    done = cli("check", path, cwd=tmp_path)
    assert done.returncode == 1
    assert "valid, 2 pools" in done.stdout
    assert f"pool 'bad': {command[0]!r} is not found" in done.stderr
    assert "'good'" not in done.stderr


def test_programs_are_looked_up_in_the_folder_and_path_of_the_pool(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = write_config(
        tmp_path,
        folder={"command": ["./tool"], "cwd": str(tmp_path)},
        path={"command": ["tool"], "env": {"PATH": str(tmp_path)}},
    )
    done = cli("check", path)
    assert (done.returncode, done.stderr) == (0, "")
