"""What open_bus() may be given, and what it refuses before anything starts."""

from __future__ import annotations

import copy
import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyio_bus import (
    Bus,
    BusConfig,
    BusState,
    FrameTooLargeError,
    InvalidArgumentError,
    Limits,
    Memory,
    Pool,
    open_bus,
)
from anyio_bus._bus.blocks import entered_as
from tests.bus.support import WORKER, scripted
from tests.bus.workers.scripted import serve

ARGV = [sys.executable, "-I", "-S", str(WORKER)]


def document(pool_id: str) -> dict[str, Any]:
    """Make a configuration in the schema of a file."""
    return {
        "pools": [{"id": pool_id, "command": ARGV[0], "args": ARGV[1:], "instances": 1}],
        "limits": {"max_input_buffer": 5000, "restart_window_sec": 7},
    }


def toml(pool_id: str) -> str:
    return (
        '[project]\nname = "something"\n\n[tool.anyio-bus]\n'
        f"pools = [{{ id = {json.dumps(pool_id)}, command = {json.dumps(ARGV)} }}]\n"
    )


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave nothing around that a configuration could be found in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANYIO_BUS_CONFIG", raising=False)


async def serves(pool_id: str, *args: Any, **options: Any) -> None:
    async with open_bus(*args, **options) as bus:
        assert bus.state is BusState.RUNNING
        assert await bus.request("echo", [1], pool=pool_id) == [1]


async def test_pools_may_be_given_one_by_one() -> None:
    await serves("a", scripted("a"))
    await serves("b", scripted("a"), scripted("b"))


async def test_configuration_may_be_given_as_an_object_in_both_places() -> None:
    await serves("w", BusConfig([scripted()]))
    await serves("w", config=BusConfig([scripted()]))


async def test_configuration_may_be_given_as_a_mapping() -> None:
    await serves("w", config=document("w"))


@pytest.mark.parametrize("as_text", [True, False])
async def test_configuration_may_be_given_as_the_path_of_a_file(
    tmp_path: Path, as_text: bool
) -> None:
    in_json = tmp_path / "my.json"
    in_json.write_text(json.dumps(document("from-json")))
    in_toml = tmp_path / "my.toml"
    in_toml.write_text(toml("from-toml"))

    await serves("from-json", config=str(in_json) if as_text else in_json)
    await serves("from-toml", config=str(in_toml) if as_text else in_toml)


async def test_without_arguments_the_environment_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    named = tmp_path / "elsewhere" / "named.json"
    named.write_text(json.dumps(document("named")))
    (tmp_path / "anyio-bus.json").write_text(json.dumps(document("near")))
    monkeypatch.setenv("ANYIO_BUS_CONFIG", str(named))

    await serves("named")


async def test_without_arguments_the_nearest_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "project" / "deep" / "inside"
    inner.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(toml("far"))
    (tmp_path / "project" / "pyproject.toml").write_text('[project]\nname = "no table of ours"\n')
    monkeypatch.chdir(inner)
    await serves("far")

    (tmp_path / "project" / "pyproject.toml").write_text(toml("near"))
    await serves("near")

    (tmp_path / "project" / "anyio-bus.json").write_text(json.dumps(document("nearer")))
    await serves("nearer")


async def test_without_any_configuration_the_error_shows_the_two_line_form() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        async with open_bus():
            pass

    text = str(caught.value)
    assert "ANYIO_BUS_CONFIG" in text
    assert 'async with open_bus(Pool("echo", [' in text
    assert "await bus.request(" in text


async def test_limits_go_with_pools_and_over_those_of_a_configuration() -> None:
    limits = Limits(max_frame_bytes=200)
    for args, options in (
        ((scripted(),), {}),
        ((), {"config": document("w")}),
        ((BusConfig([scripted()], Limits(max_frame_bytes=10_000)),), {}),
    ):
        async with open_bus(*args, limits=limits, **options) as bus:  # type: ignore[arg-type]
            with pytest.raises(FrameTooLargeError, match="max_frame_bytes=200"):
                await bus.request("echo", ["x" * 200])


WRONG: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "text": (("echo",), {}, "Pool"),
    "a mapping": (({"pools": []},), {}, "Pool"),
    "a list of pools": (([scripted()],), {}, "Pool"),
    "pools and a configuration": ((scripted(),), {"config": {}}, "not both"),
    "two configurations": ((BusConfig([scripted()]),), {"config": document("w")}, "not both|Pool"),
    "a configuration and a pool": ((BusConfig([scripted()]), scripted()), {}, "Pool"),
    "the same pool twice": ((scripted(), scripted()), {}, "twice"),
    "a number": ((), {"config": 5}, "config"),
    "no pools": ((), {"config": {"pools": []}}, "at least one"),
    "an unknown key": ((), {"config": {**document("w"), "color": 1}}, r"\$\.color"),
    "a wrong type": ((), {"config": {"pools": "none"}}, "pools"),
    "no such file": ((), {"config": "not-there.json"}, "not-there.json"),
    "limits of another type": ((scripted(),), {"limits": {"max_pending": 1}}, "limits"),
    "limits that are a number": (
        (),
        {"config": document("w"), "limits": 5},
        "limits",
    ),
    "an unknown backend": ((scripted(),), {"backend": "nativ"}, "backend='nativ'.*python"),
    "the URL of a daemon": (
        (scripted(),),
        {"backend": "unix:///x"},
        r"; for a daemon: Connect\('unix:///x'\)$",
    ),
    "memory without workers": ((scripted(),), {"backend": "memory"}, "Memory"),
    "no backend": ((scripted(),), {"backend": None}, "backend"),
    "a pool without a memory worker": (
        (scripted("w"), scripted("v")),
        {"backend": Memory({"w": serve})},
        "'v'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_arguments_are_refused_before_anything_starts(name: str) -> None:
    args, options, match = WRONG[name]
    with pytest.raises(InvalidArgumentError, match=match):
        async with open_bus(*args, **options):
            pytest.fail("it opened")


async def test_broken_files_are_refused_by_name(tmp_path: Path) -> None:
    for name, content in {
        "not.json": "{",
        "array.json": "[]",
        "latin.json": b'{"pools":"\xff"}',
        "not.toml": "[tool",
        "latin.toml": b"a = '\xff'",
        "empty.toml": "",
        "field.json": json.dumps({"pools": [{"id": "w", "command": "x", "instances": 0}]}),
    }.items():
        raw = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(InvalidArgumentError, match=name):
            async with open_bus(config=tmp_path / name):
                pytest.fail("it opened")


async def test_unknown_key_of_a_file_is_a_warning_that_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "later.json"
    file.write_text(json.dumps({**document("w"), "color": "blue"}))

    await serves("w", config=file)

    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "$.color" in warnings[0]


def test_memory_worker_must_be_callable() -> None:
    with pytest.raises(InvalidArgumentError, match="workers"):
        Memory({"w": 5})


def test_bus_cannot_be_constructed() -> None:
    with pytest.raises(TypeError, match="open_bus"):
        Bus()


async def test_pools_that_share_a_command_are_two_pools() -> None:
    async with open_bus(Pool("a", ARGV), Pool("b", ARGV)) as bus:
        assert await bus.request("pid", pool="a") != await bus.request("pid", pool="b")


def test_a_list_of_pools_is_refused_with_how_to_give_it() -> None:
    with pytest.raises(InvalidArgumentError, match=r"not list; write open_bus\(\*pools\)$"):
        anyio.run(serves, "w", [scripted()])
    with pytest.raises(InvalidArgumentError, match=r"not str$"):
        anyio.run(serves, "w", "config.json")


# -- used without `async with` ---------------------------------------------------------------------

USAGE = r"use `async with open_bus\(\.\.\.\) as bus:`"


def test_a_bus_that_was_not_entered_says_how_it_is_used() -> None:
    bus: Any = open_bus(scripted())

    with pytest.raises(AttributeError, match=USAGE + ".*'request'"):
        bus.request("echo")
    assert not hasattr(bus, "workers")


async def test_a_bus_cannot_be_awaited_nor_opened_without_async() -> None:
    bus: Any = open_bus(scripted())

    with pytest.raises(TypeError, match=USAGE):
        await bus
    with pytest.raises(TypeError, match=USAGE):
        with bus:
            pass


async def test_a_block_that_decorates_a_function_is_entered_anew_for_each_call() -> None:
    seen: list[str] = []

    @entered_as("async with opened():")
    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        seen.append("in")
        yield
        seen.append("out")

    decorate: Any = opened()

    @decorate
    async def main(word: str) -> str:
        """Say it."""
        seen.append(word)
        return word

    assert (main.__name__, main.__doc__) == ("main", "Say it.")
    assert await main("a") == "a"
    assert await main("b") == "b"
    assert seen == ["in", "a", "out", "in", "b", "out"]


async def test_a_bus_decorates_a_function(caplog: pytest.LogCaptureFixture) -> None:
    decorate: Any = open_bus(scripted(), timeout=5)

    @decorate
    async def main() -> list[str]:
        return [r.getMessage() for r in caplog.records if getattr(r, "event", "") == "bus_running"]

    with caplog.at_level(logging.INFO, logger="anyio_bus"):
        assert len(await main()) == 1
        assert len(await main()) == 2


async def test_a_bus_that_was_not_entered_can_be_copied() -> None:
    block: Any = copy.copy(open_bus(scripted(), timeout=5))

    assert not hasattr(block, "__set_name__")
    with pytest.raises(AttributeError, match=USAGE + ".*'request'"):
        block.request("echo")
    async with block as bus:
        assert await bus.request("echo", {"a": 1})


async def test_what_a_bus_opens_says_how_it_is_used() -> None:
    async with open_bus(scripted(), timeout=5) as bus:
        stream: Any = bus.stream("echo")
        with pytest.raises(TypeError, match=r"use `async with bus\.stream\(\.\.\.\) as stream:`"):
            async for _ in stream:
                pass
        for block, name in (
            (bus.map("echo", []), "map"),
            (bus.subscribe(), "subscribe"),
            (bus.session(), "session"),
            (bus.open_scope(), "open_scope"),
            (bus.tap(), "tap"),
        ):
            with pytest.raises(TypeError, match=rf"use `async with bus\.{name}\(\.\.\.\) as "):
                await block  # type: ignore[misc]
