"""A worker that does not come up says why; its slot parks, the bus and its other pools live on."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from anyio_bus import Bus, Limits, Pool, PoolUnavailableError, WorkerStartError, open_bus
from tests.process.kit import FAST, SED, only, patience, puppets, until, until_state

CRASH = ["sh", "-c", "echo no such module >&2; exit 3"]


async def start_error(bus: Bus, pool: str) -> WorkerStartError:
    """Make a request that fails since no worker of its pool comes up."""
    with patience(), pytest.raises(WorkerStartError) as caught:
        await bus.request("echo", pool=pool)
    return caught.value


async def test_a_crash_at_start_gives_exit_code_and_stderr() -> None:
    async with open_bus(Pool("crash", CRASH), limits=FAST) as bus:
        error = await start_error(bus, "crash")
        assert (error.phase, error.exit_code, error.permanent) == ("start", 3, False)
        assert error.stderr_tail == "no such module\n"
        assert (error.pool, error.worker, error.errno) == ("crash", 0, None)
        assert "exited with code 3" in str(error)
        assert "no such module" in str(error)


async def test_three_failed_starts_park_the_slot_and_later_requests_fail_with_the_reason() -> None:
    async with open_bus(Pool("crash", CRASH), limits=FAST) as bus:
        info = await until_state(bus, "parked")
        assert (info.generation, info.restarts, info.pid) == (3, 2, None)
        assert "exited with code 3" in info.reason
        assert info.stderr_tail == "no such module\n"
        error = await start_error(bus, "crash")
        assert (error.exit_code, error.sent, error.stderr_tail) == (3, False, "no such module\n")
        assert only(bus).generation == 3


async def test_what_waits_in_the_queue_fails_when_the_pool_parks() -> None:
    errors: list[WorkerStartError] = []

    async def ask() -> None:
        errors.append(await start_error(bus, "crash"))

    pool = Pool("crash", CRASH, max_in_flight=1)
    async with open_bus(pool, limits=FAST) as bus, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
    assert len(errors) == 5
    assert sum(not error.sent for error in errors) >= 2  # three starts took one each at most


async def test_a_restart_unparks_a_slot(tmp_path: Path) -> None:
    program = tmp_path / "program"
    async with open_bus(Pool("late", [str(program)]), limits=FAST) as bus:
        await until_state(bus, "parked")
        os.symlink(_sed_script(tmp_path), program)
        await bus.restart_worker(0)
        with patience():
            assert await bus.request("echo") == {}
        assert only(bus).reason == ""


async def test_the_slow_retry_unparks_a_slot(tmp_path: Path) -> None:
    program = tmp_path / "program"
    limits = Limits(restart_delay_s=0.001, restart_delay_max_s=0.002, park_retry_s=0.05)
    async with open_bus(Pool("late", [str(program)]), limits=limits) as bus:
        await until_state(bus, "parked")
        os.symlink(_sed_script(tmp_path), program)
        await until_state(bus, "ready")
        with patience():
            assert await bus.request("echo") == {}


def _sed_script(folder: Path) -> Path:
    script = folder / "sed.sh"
    script.write_text(f"#!/bin/sh\nexec {SED[0]} {SED[1]} {SED[2]} '{SED[3]}'\n")
    script.chmod(0o755)
    return script


def _missing(_folder: Path) -> Pool:
    return Pool("bad", ["/no/such/program"])


def _missing_on_path(_folder: Path) -> Pool:
    return Pool("bad", ["no-such-program-on-the-path"])


def _not_executable(folder: Path) -> Pool:
    (folder / "data").write_text("no program\n")
    return Pool("bad", [str(folder / "data")])


def _no_format(folder: Path) -> Pool:
    (folder / "garbage").write_bytes(b"\0garbage\n")
    (folder / "garbage").chmod(0o755)
    return Pool("bad", [str(folder / "garbage")])


def _folder(folder: Path) -> Pool:
    return Pool("bad", [str(folder)])


def _too_long(_folder: Path) -> Pool:
    return Pool("bad", ["true", "x" * 1024 * 1024])


def _no_interpreter(folder: Path) -> Pool:
    (folder / "script").write_text("#!/no/such/interpreter\n")
    (folder / "script").chmod(0o755)
    return Pool("bad", [str(folder / "script")])


def _missing_cwd(folder: Path) -> Pool:
    return Pool("bad", ["true"], cwd=str(folder / "nowhere"))


def _cwd_is_a_file(folder: Path) -> Pool:
    (folder / "file").touch()
    return Pool("bad", ["true"], cwd=str(folder / "file"))


@pytest.mark.parametrize(
    ("make", "number", "named"),
    [
        (_missing, errno.ENOENT, "/no/such/program"),
        (_missing_on_path, errno.ENOENT, "no-such-program-on-the-path"),
        (_not_executable, errno.EACCES, "data"),
        (_no_format, errno.ENOEXEC, "garbage"),
        (_folder, errno.EACCES, ""),
        (_too_long, errno.E2BIG, "true"),
        (_no_interpreter, errno.ENOENT, "script"),
        (_missing_cwd, errno.ENOENT, "nowhere"),
        (_cwd_is_a_file, errno.ENOTDIR, "file"),
    ],
)
async def test_what_cannot_be_executed_parks_at_once_and_the_other_pool_serves(
    make: Callable[[Path], Pool], number: int, named: str, tmp_path: Path
) -> None:
    async with open_bus(make(tmp_path), Pool("good", SED), limits=FAST) as bus:
        error = await start_error(bus, "bad")
        assert (error.phase, error.errno, error.permanent) == ("spawn", number, True)
        assert (error.sent, error.exit_code) == (False, None)
        assert os.strerror(number) in str(error)
        assert named in str(error)
        info = await until_state(bus, "parked", worker=0)
        assert info.generation == 1
        with patience():
            assert await bus.request("echo", pool="good") == {}


async def test_wait_ready_says_why_a_pool_is_parked() -> None:
    async with open_bus(Pool("bad", ["/no/such"]), Pool("good", SED), limits=FAST) as bus:
        with patience():
            await bus.wait_ready("good")
            with pytest.raises(WorkerStartError, match="/no/such"):
                await bus.wait_ready("bad")
            with pytest.raises(WorkerStartError, match="/no/such"):
                await bus.wait_ready()


async def test_a_pool_parked_for_dying_too_often_is_unavailable_with_the_reason() -> None:
    limits = Limits(max_restarts=0, park_retry_s=0)
    async with open_bus(puppets(), limits=limits) as bus:
        await bus.request("pid")
        await bus.notify("die", {"code": 5, "stderr": "enough\n"})
        await until_state(bus, "parked")
        for ask in (bus.request("pid"), bus.wait_ready()):
            with patience(), pytest.raises(PoolUnavailableError) as caught:
                await ask
            assert caught.value.pool == "puppets"
            assert "max_restarts=0" in caught.value.reason
            assert "exited with code 5" in str(caught.value)
            assert not caught.value.sent


async def test_a_slot_that_parks_leaves_the_work_to_the_others(tmp_path: Path) -> None:
    once = tmp_path / "once"  # the first worker that starts serves, every other crashes
    script = f"mkdir {once} 2>/dev/null || exit 4; exec {SED[0]} -u -E '{SED[3]}'"
    async with open_bus(Pool("odd", ["sh", "-c", script], instances=3), limits=FAST) as bus:
        await until(bus, lambda: sum(i.state == "parked" for i in bus.workers()) == 2)
        with patience():
            assert await bus.request("echo") == {}


async def test_no_descriptors_left_is_no_reason_to_give_up_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, calls = os.pipe, 0

    def exhausted() -> tuple[int, int]:
        nonlocal calls
        calls += 1
        if calls == 6:  # in the middle of the second spawn
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real()

    limits = Limits(restart_delay_s=0.001, restart_delay_max_s=0.002)
    monkeypatch.setattr(os, "pipe", exhausted)
    async with open_bus(Pool("good", SED, instances=2), limits=limits, backend="python") as bus:
        await until(bus, lambda: all(info.state == "ready" for info in bus.workers()))
        assert bus.statistics().kernel.worker_restarts == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the paths of other systems are not bytes")
async def test_a_command_that_is_not_utf_8_is_executed_as_it_is(tmp_path: Path) -> None:
    program = os.fsencode(tmp_path) + b"/caf\xe9"
    os.symlink(_sed_script(tmp_path), program)
    async with open_bus(Pool("latin", [os.fsdecode(program)]), limits=FAST) as bus:
        with patience():
            assert await bus.request("echo") == {}
