"""A worker is born with what its pool says and with nothing else of this process."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from anyio_bus import Pool, open_bus
from tests.process.kit import WORKERS, patience, puppet, puppets


async def look(pool: Pool) -> dict[str, Any]:
    """Start a worker and return what it sees of itself."""
    async with open_bus(pool) as bus:
        with patience():
            seen: dict[str, Any] = await bus.request("look")
        assert seen["pid"] == bus.workers()[0].pid
        return seen


def in_bytes(arguments: list[str]) -> list[str]:
    return [os.fsencode(argument).hex() for argument in arguments]


async def test_the_arguments_arrive_unchanged() -> None:
    arguments = ["", " ", "a b", "'\"$HOME`*", "\n", "-I", "--", "é", "\udcff"]
    assert (await look(puppets(*arguments)))["argv"] == in_bytes(arguments)


async def test_the_arguments_arrive_unchanged_whatever_the_locale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    arguments = ["é", "\udcff", "日本"]
    assert (await look(puppets(*arguments)))["argv"] == in_bytes(arguments)


async def test_the_environment_is_ours_with_the_pools_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BUS_KEPT", "kept")
    monkeypatch.setenv("BUS_CHANGED", "before")
    monkeypatch.setenv("BUS_REMOVED", "there")
    changes = {"BUS_CHANGED": "after", "BUS_REMOVED": None, "BUS_NEW": "a=b\n", "BUS_EMPTY": ""}
    seen = (await look(puppets(env=changes)))["env"]
    expected = {**os.environ, **changes}
    del expected["BUS_REMOVED"]
    for terminal in ("COLUMNS", "LINES"):  # a C library may have set them behind Python's back
        seen.pop(terminal, None)
        expected.pop(terminal, None)
    assert seen == expected


@pytest.mark.parametrize("locale", [None, "C", "C.UTF-8"])
async def test_the_shim_adds_no_locale(locale: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python sets LC_CTYPE where it finds the C locale, and its children would inherit that."""
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    env = {} if locale is None else {"LC_CTYPE": locale}
    assert (await look(puppets(env=env)))["env"].get("LC_CTYPE") == locale


async def test_the_working_directory_is_the_pools(tmp_path: Path) -> None:
    assert (await look(puppets(cwd=str(tmp_path))))["cwd"] == str(tmp_path)
    assert (await look(puppets()))["cwd"] == os.getcwd()


async def test_a_relative_command_is_found_in_the_pools_directory(tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(sys.executable)
    pool = Pool("here", ["./here", "-I", "-S", str(WORKERS / "puppet.py")], cwd=str(tmp_path))
    assert (await look(pool))["cwd"] == str(tmp_path)


async def test_a_command_is_found_on_the_path_of_the_pools_environment(tmp_path: Path) -> None:
    script = tmp_path / "onlyhere"
    script.write_text(f'#!/bin/sh\nexec {" ".join(puppet())} "$@"\n')
    script.chmod(0o755)
    pool = Pool("path", ["onlyhere"], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (await look(pool))["argv"] == []


async def test_it_leads_a_session_and_a_group_of_its_own() -> None:
    seen = await look(puppets())
    assert seen["sid"] == seen["pgid"] == seen["pid"]


async def test_it_inherits_three_pipes_and_no_other_descriptor() -> None:
    inheritable, other = os.pipe()
    os.set_inheritable(inheritable, True)
    try:
        for guard in (False, True):
            seen = await look(puppets(guard=guard))
            assert seen["fds"] == [0, 1, 2]
            assert seen["pipes"] == ["pipe", "pipe", "pipe"]
    finally:
        os.close(inheritable)
        os.close(other)


async def test_its_signals_have_their_default_meaning_and_none_is_blocked() -> None:
    """Also where this process ignores or blocks some: a worker deaf to SIGTERM has to be killed."""
    changed = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in changed}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
    try:
        async with open_bus(Pool("shell", ["sh", "-c", _SAY_SIGNALS])) as bus:
            with patience():
                seen = await bus.request("look")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert [int(mask, 16) for mask in seen] == [0, 0]


# A shell, since Python ignores SIGPIPE and SIGXFSZ by itself.
_SAY_SIGNALS = """
mask() { sed -n "s/^$1:[^0-9a-f]*//p" /proc/$$/status; }
while read -r line; do echo "{\\"id\\":1,\\"result\\":[\\"$(mask SigIgn)\\",\\"$(mask SigBlk)\\"]}"; done
"""
