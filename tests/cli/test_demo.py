"""``anyio-bus demo``: the newcomer's first contact, true on every loop, over when it says so."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.cli.kit import LIMIT_S, LOOPS, cli, finish, interrupt, running, without

STEPS = ("backend", "started", "answered", "killed", "restarted", "cancelled", "stopped", "in all")


def section(text: str, heading: str) -> dict[str, str]:
    """Return the rows below a heading."""
    _, _, rest = text.partition(f"\n{heading}\n")
    rows = rest.partition("\n\n")[0].splitlines()
    return {row[2:13].strip(): row[13:] for row in rows if row[2] != " "}


def pids(text: str) -> list[str]:
    return re.findall(r"pid (\d+)", text)


def test_both_loops_are_shown_one_after_the_other() -> None:
    done = cli("demo")
    assert (done.returncode, done.stderr) == (0, "")
    for loop in LOOPS:
        assert tuple(section(done.stdout, loop)) == STEPS


@pytest.mark.parametrize("loop", LOOPS)
def test_what_it_shows_is_what_happened(loop: str) -> None:
    done = cli("demo", "--loop", loop, "--workers", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "asyncio" not in done.stdout or loop == "asyncio"
    rows = section(done.stdout, loop)
    started, victim, successor = map(pids, (rows["started"], rows["killed"], rows["restarted"]))
    assert len(set(started)) == 3
    assert sorted(pids(rows["answered"])) == sorted(started)
    assert re.findall(r"(\d+) by pid", rows["answered"]) == ["4"] * 3
    assert victim[0] in started
    assert successor[0] not in started
    assert f"(pid {victim[0]}) was killed by SIGKILL" in done.stdout
    assert "signal=9 sent=True" in done.stdout
    assert pids(rows["cancelled"])[0] in {*started, *successor}
    assert rows["stopped"].endswith("no process left")
    assert rows["in all"].endswith("1 restart, 1 cancelled")
    for step in ("started", "answered", "killed", "restarted", "cancelled", "stopped"):
        assert re.search(r"\d m?s\b", rows[step])


def test_one_worker_is_enough() -> None:
    done = cli("demo", "--loop", "asyncio", "--workers", "1")
    assert done.returncode == 0
    assert tuple(section(done.stdout, "asyncio")) == STEPS


def test_without_trio_it_says_so_and_shows_asyncio() -> None:
    done = cli("demo", command=without("trio"))
    assert (done.returncode, done.stderr) == (0, "")
    assert tuple(section(done.stdout, "asyncio")) == STEPS
    assert "pip install 'anyio-bus[trio]'" in section(done.stdout, "trio")["skipped"]


def test_without_trio_asking_for_it_ends_with_2() -> None:
    done = cli("demo", "--loop", "trio", command=without("trio"))
    assert done.returncode == 2
    assert "trio is not installed" in done.stderr


def test_without_rich_a_terminal_gets_plain_text() -> None:
    ours, its = os.openpty()
    command = (*without("rich"), "demo", "--loop", "asyncio")
    process = subprocess.Popen(command, stdout=its, stdin=subprocess.DEVNULL)
    os.close(its)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # EIO: its end of the terminal is closed
        pass
    os.close(ours)
    assert process.wait(LIMIT_S) == 0
    assert b"\x1b" not in shown
    assert tuple(section(shown.decode().replace("\r\n", "\n"), "asyncio")) == STEPS


@pytest.mark.parametrize("loop", LOOPS)
def test_ctrl_c_ends_it_and_its_workers(loop: str) -> None:
    with running("demo", "--loop", loop, "--workers", "8") as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith(b"  backend"):
            pass
        interrupt(process)
        assert finish(process) == (130, "")


BROKEN = """
import sys
from anyio_bus import Pool
from anyio_bus.cli import _demo, main
_demo.Pool = lambda name, argv, **options: Pool(name, ["sh", "-c", "echo broken >&2; exit 3"])
sys.exit(main())
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_workers_that_do_not_start_end_it_with_1_and_one_line(loop: str) -> None:
    done = cli("demo", "--loop", loop, command=(sys.executable, "-c", BROKEN))
    assert done.returncode == 1
    assert "exited with code 3" in done.stderr
    assert "last on stderr: broken" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_one_that_takes_too_long_is_ended() -> None:
    code = BROKEN.replace("echo broken >&2; exit 3", "exec cat >/dev/null")
    command = (sys.executable, "-c", code.replace("sys.exit", "_demo.LIMIT_S = 0.1; sys.exit"))
    done = cli("demo", "--loop", "asyncio", command=command)
    assert done.returncode == 1
    assert (
        done.stderr == "anyio-bus: the demo took longer than 0.1 s; its workers have been ended\n"
    )
