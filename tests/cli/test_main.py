"""The command as a whole: help, version, exit codes, and what it loads for them."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import anyio_bus
from tests.cli.kit import COMMAND, cli, running

COMMANDS = ("demo", "run", "request", "check", "build-native", "new", "worker")


def test_version_is_that_of_the_package() -> None:
    done = cli("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"anyio-bus {anyio_bus.__version__} (Python ")


def test_help_lists_the_commands_and_the_exit_codes() -> None:
    done = cli("--help")
    assert done.returncode == 0
    for word in (*COMMANDS, "exit codes", "130", "141"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("encoding", "name", "shown"),
    [("ascii:strict", "\xe9", "\\xe9"), ("utf-8:strict", "\udcff", "\\udcff")],
)
def test_a_name_that_stdout_cannot_show_is_escaped(
    tmp_path: Path, encoding: str, name: str, shown: str
) -> None:
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    done = cli("new", "nexo-plugin", name, "--id", "words", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert f"{shown}/plugin.py\n" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_its_exit_codes(command: str) -> None:
    done = cli(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "exit codes:" in done.stdout


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ((), "COMMAND"),
        (("dance",), "dance"),
        (("demo", "--loop", "curio"), "curio"),
        (("demo", "--workers", "0"), "1 or more"),
        (("demo", "--workers", "many"), "1 or more"),
        (("request", "cat"), "METHOD"),
        (("request", "cat", "m", "--timeout", "-1"), "more than 0"),
        (("request", "cat", "m", "--timeout", "soon"), "more than 0"),
        (("worker", "nobody"), "nobody"),
        (("check",), "CONFIG"),
    ],
)
def test_wrong_arguments_end_with_2_and_say_what_is_wrong(args: tuple[str, ...], word: str) -> None:
    done = cli(*args)
    assert done.returncode == 2
    assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("args", [("--help",), ("--version",), ("demo", "--help"), ("dance",)])
def test_what_needs_no_bus_loads_none(args: tuple[str, ...]) -> None:
    code = "from anyio_bus.cli import main; main(); import sys; print('LOADED', *sys.modules)"
    done = cli(*args, command=(sys.executable, "-c", code))
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert "anyio_bus.cli" in loaded
    assert not loaded & {"anyio", "msgspec", "asyncio", "trio", "rich"}


@pytest.mark.parametrize("args", [("--help",), ("demo", "--loop", "asyncio")])
def test_a_reader_that_goes_away_ends_it_quietly(args: tuple[str, ...]) -> None:
    # Without a buffer argparse writes at once, and takes no notice of errors.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with running(*args, env=buffered) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate(timeout=15)
    assert errors == b""
    assert process.returncode == 141


def test_closed_standard_streams_do_no_harm() -> None:
    shell = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *COMMAND)
    assert cli("--version", command=shell).returncode == 0


def test_the_installed_script_is_the_same_command() -> None:
    scripts = entry_points(group="console_scripts", name="anyio-bus")
    if not scripts:
        pytest.skip("the package is not installed")
    assert {script.value for script in scripts} == {"anyio_bus.cli:main"}
