"""``serve``, ``top``, ``tail`` and ``doctor``: the commands around a daemon."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from anyio_bus import Connect, open_bus
from anyio_bus._daemon import find_daemon
from tests.bus.support import need_native
from tests.cli.kit import cli, finish, interrupt, running, without, write_config

PATIENCE_S = 10


@pytest.fixture(autouse=True)
def there() -> None:
    try:
        find_daemon()
    except FileNotFoundError as exc:
        pytest.skip(f"*** NOT TESTED: {exc} ***")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="busd-") as name:  # short: a socket's path has to be
        yield Path(name)


@pytest.fixture
def served(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    config = write_config(folder, echo={"instances": 2})
    places = f"--unix={folder}/sock", f"--admin-unix={folder}/admin"
    with running("serve", "--config", config, *places) as process:
        assert process.stderr is not None
        while b" ready: " not in process.stderr.readline():
            assert process.poll() is None
        yield process
        if process.poll() is None:
            interrupt(process)
            finish(process)


def ask(folder: Path, **params: object) -> None:
    async def once() -> None:
        async with open_bus(backend=Connect(f"unix://{folder}/sock")) as bus:
            await bus.request("echo", params)

    anyio.run(once)


def test_serve_serves_until_ctrl_c(served: subprocess.Popen[bytes], folder: Path) -> None:
    ask(folder, message="hello")
    interrupt(served)
    code, log = finish(served)
    assert code == 0
    assert "stopped: nothing is left" in log
    assert not (folder / "sock").exists()


def test_serve_finds_its_configuration(folder: Path) -> None:
    os.rename(write_config(folder, echo={}), folder / "anyio-bus.json")
    with running("serve", "--unix=sock", cwd=folder) as process:
        assert process.stderr is not None
        while b" ready: " not in process.stderr.readline():
            assert process.poll() is None
        interrupt(process)
        assert finish(process)[0] == 0


def test_serve_says_what_is_wrong(folder: Path) -> None:
    config = write_config(folder, echo={"instances": 0})
    done = cli("serve", "--config", config, "--unix", f"{folder}/s")
    assert done.returncode == 2
    assert "instances" in done.stderr
    done = cli("serve", "--config", write_config(folder, echo={}))
    assert done.returncode == 2
    assert "--unix PATH" in done.stderr
    done = cli("serve", "--unix", "s", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.endswith("; give --config FILE\n")
    assert "open_bus" not in done.stderr
    environment = {**os.environ, "ANYIO_BUSD": "/no/such"}
    config = write_config(folder, echo={})
    done = cli("serve", "--config", config, "--unix", f"{folder}/s", env=environment)
    assert done.returncode == 1
    assert "ANYIO_BUSD names /no/such" in done.stderr


def test_top_shows_each_worker(served: subprocess.Popen[bytes], folder: Path) -> None:
    ask(folder)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        done = cli("top", f"{folder}/sock", "--once")
        assert (done.returncode, done.stderr) == (0, "")
        if done.stdout.count(" ready ") == 2 or time.monotonic() > deadline:
            break
    first, _, head, *rows = done.stdout.splitlines()
    assert first.startswith("2 workers, 0 requests in flight")
    assert head.split()[:4] == ["POOL", "WORKER", "STATE", "PID"]
    assert [row.split()[:3] for row in rows] == [["echo", "0", "ready"], ["echo", "1", "ready"]]
    assert sum(int(row.split()[6]) for row in rows) == 1  # served
    assert served.poll() is None


@pytest.mark.parametrize("command", ["top", "tail"])
def test_daemon_that_asks_for_a_token_is_told_of_with_the_option(
    folder: Path, command: str
) -> None:
    (folder / "token").write_text("secret")
    config = write_config(folder, echo={})
    places = "--tcp=127.0.0.1:0", f"--token-file={folder}/token"
    with running("serve", "--config", config, *places) as process:
        assert process.stderr is not None
        log = b""
        while b" ready: " not in log:
            assert process.poll() is None
            log += process.stderr.readline()
        port = re.findall(rb"127\.0\.0\.1:(\d+)", log)[0].decode()

        done = cli(command, f"tcp://127.0.0.1:{port}")

        assert done.returncode == 1
        assert done.stderr.endswith(" asks for a token: --token-file PATH\n")
        interrupt(process)
        finish(process)


def test_top_goes_on_until_ctrl_c(served: subprocess.Popen[bytes], folder: Path) -> None:
    with running("top", f"unix://{folder}/sock", "--every", "0.05") as process:
        assert process.stdout is not None
        for _ in range(3):
            while not process.stdout.readline().startswith(b"2 workers"):
                assert process.poll() is None
        interrupt(process)
        assert finish(process)[0] == 130
    assert served.poll() is None


def test_tail_shows_what_passes_without_secrets(
    served: subprocess.Popen[bytes], folder: Path
) -> None:
    with running("tail", f"{folder}/admin") as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        deadline = time.monotonic() + PATIENCE_S
        seen = b""
        while seen.count(b"\n") < 2:  # when it has begun to look is not told
            assert time.monotonic() < deadline
            ask(folder, token="hush")
            seen += process.stdout.read() or b""
        os.set_blocking(process.stdout.fileno(), True)
        interrupt(process)
        assert finish(process)[0] == 130
    asked, answered, *_ = seen.decode().splitlines()
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} echo/[01] -> \{.*\"echo\"", asked)
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} echo/[01] <- \{", answered)
    assert b"hush" not in seen
    assert served.poll() is None


@pytest.mark.parametrize("command", ["top", "tail"])
def test_nobody_there_is_one_line(command: str, folder: Path) -> None:
    done = cli(command, f"{folder}/none")
    assert done.returncode == 1
    assert done.stderr.startswith(f"anyio-bus: unix://{folder}/none: cannot connect: ")
    done = cli(command, f"{folder}/none", "--token-file", f"{folder}/no-token")
    assert done.returncode == 2
    assert "--token-file" in done.stderr
    done = cli(command, "tcp://nowhere")
    assert done.returncode == 2
    assert "Connect.url" in done.stderr


def test_tail_of_no_admin_listener_is_refused(
    served: subprocess.Popen[bytes], folder: Path
) -> None:
    done = cli("tail", f"{folder}/sock")
    assert done.returncode == 1
    assert "admin" in done.stderr
    assert served.poll() is None


def test_doctor_tries_each_backend() -> None:
    need_native()
    done = cli("doctor")
    assert done.returncode == 0
    for name in ("native", "python", "subprocess"):
        assert re.search(
            rf"^  {name} +yes: asyncio \d+ ms, trio \d+ ms", done.stdout, re.MULTILINE
        ), done.stdout
    assert re.search(r"^  docker +(yes: \w+ works|no: \w+)", done.stdout, re.MULTILINE)
    assert re.search(r"^  anyio-busd /", done.stdout, re.MULTILINE)


def test_doctor_says_what_is_missing() -> None:
    done = cli(command=without("anyio_bus._native", "doctor"))
    assert done.returncode == 0
    assert (
        "native     no: backend='native': this install of anyio_bus has no parts in C"
        in done.stdout
    )


def test_doctor_says_which_engine_of_containers_works(tmp_path: Path) -> None:
    def doctor() -> str:
        done = cli("doctor", env={"PATH": str(tmp_path)})
        return next(line for line in done.stdout.splitlines() if line.startswith("  docker "))

    assert doctor() == "  docker     no: there is no docker; there is no podman"
    for name, program in {"docker": "echo 'no luck' >&2; exit 1", "podman": "exit 0"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / name).chmod(0o755)
    assert "yes: podman works" in doctor()
    assert "engine='podman' (docker: no luck)" in doctor()


@pytest.mark.parametrize(("command", "place"), [("top", "sock"), ("tail", "admin")])
def test_who_looks_at_a_daemon_ends_with_it(
    served: subprocess.Popen[bytes], folder: Path, command: str, place: str
) -> None:
    with running(command, f"{folder}/{place}") as process:
        assert served.stderr is not None
        while b"client_came" not in served.stderr.readline():
            assert process.poll() is None
        interrupt(served)
        code, said = finish(process)
    assert code == 1
    assert "kernel is lost" in said or "cannot connect" in said or "did not start" in said
