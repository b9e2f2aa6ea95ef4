"""What is refused or told without any engine of containers: options, and engines that are none."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from anyio_bus import (
    ConnectionLostError,
    Docker,
    InvalidArgumentError,
    NotSupportedError,
    Pool,
    open_bus,
)

POOL = Pool("e", ["/echo_worker"])


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"image": ""}, "image"),
        ({"image": "--privileged"}, "image"),
        ({"image": "two words"}, "image"),
        ({"pull": "sometimes"}, "pull"),
        ({"args": "--init"}, "args"),
        ({"args": ["a\0b"]}, "args"),
        ({"args": [5]}, "args"),
        ({"image": 5}, "image"),
        ({"env": {"A": 5}}, "env"),
        ({"env": {"A=B": "c"}}, "env"),
        ({"env": {"": "c"}}, "env"),
        ({"env": {"A": "\0"}}, "env"),
        ({"config": "relative.json"}, "config"),
        ({"config": "-"}, "config"),
        ({"name_prefix": "-x"}, "name_prefix"),
        ({"name_prefix": "a/b"}, "name_prefix"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError, match=rf"^Docker\.{field}: ") as caught:
        Docker(**{"image": "i"} | options)
    assert caught.value.field == field


def engine(folder: Path, name: str, script: str) -> str:
    """Make an engine of our own: what it does is a script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


async def opened(options: Docker) -> None:
    async with open_bus(POOL, backend=options):
        pass


async def test_a_missing_engine_is_told_with_what_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotSupportedError, match="docker or podman: none is on PATH") as caught:
        await opened(Docker("i"))
    assert caught.value.backend == "docker"
    with pytest.raises(NotSupportedError, match="moby is no program"):
        await opened(Docker("i", engine="moby"))


async def test_docker_comes_before_podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("podman", "docker"):
        engine(tmp_path, name, f"echo this is {name} >&2; exit 125")
        with pytest.raises(ConnectionLostError, match=f"exited with 125: this is {name}"):
            await opened(Docker("i"))


async def test_an_engine_gets_no_secret_as_an_argument(tmp_path: Path) -> None:
    program = engine(tmp_path, "engine", 'echo "$@" >&2; head -n 2 >&2; exit 3')
    pool = Pool("e", ["/w"], env={"KEY": "secret"})
    with pytest.raises(ConnectionLostError, match="exited with 3") as caught:
        async with open_bus(
            pool, backend=Docker("i", engine=program, args=["--x"], env={"A": "b"})
        ):
            pass
    words, config, token = caught.value.reason.partition(": ")[2].splitlines()
    assert words.startswith("run --interactive --rm --name anyio-bus-")
    assert " --pull=missing --publish 127.0.0.1::8765 " in words
    assert " --env A=b --x i --config - --token-file - " in words
    assert "secret" in config
    assert "secret" not in words
    assert len(token) == 64
    assert token not in words


async def test_an_engine_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    program = engine(tmp_path, "engine", "exec cat >/dev/null")
    with pytest.raises(ConnectionLostError, match=r"not serve within 0.1 s: it said nothing"):
        await opened(Docker("i", engine=program, timeout_s=0.1))


@pytest.mark.timeout(60)
async def test_an_engine_that_heeds_nothing_is_killed_and_the_container_said_to_be_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyio_bus._backends.docker.END_S", 0.1)
    script = 'test "$1" = run || { echo busy; exit 1; }; trap "" TERM; while :; do read x; done'
    program = engine(tmp_path, "engine", script)
    with pytest.raises(ConnectionLostError, match="did not serve"):
        await opened(Docker("i", engine=program, timeout_s=0.1))
    (record,) = (r for r in caplog.records if getattr(r, "event", "") == "container_left")
    assert "anyio-bus-" in record.getMessage()
    assert record.getMessage().endswith("busy")


async def test_a_name_of_a_backend_is_no_image() -> None:
    with pytest.raises(InvalidArgumentError, match=r"needs an image: Docker\('image'\)"):
        async with open_bus(POOL, backend="docker"):  # type: ignore[arg-type]
            pass
