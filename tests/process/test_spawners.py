"""One contract for the three ways to own a child: posix with pidfd, without, and portable."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest

from anyio_bus import Pool
from anyio_bus._io.process import Child, Exit, Spawner, SpawnError
from anyio_bus._io.spawners import open_spawner
from tests.process.kit import (
    children,
    patience,
)

CAT = Pool("cat", ["cat"])
IGNORE_TERM = Pool("deaf", ["sh", "-c", "trap '' TERM; echo up; exec sleep 100"])


@pytest.fixture
def spawner(way: str) -> Spawner:
    """The spawner of that way."""
    spawner = open_spawner()
    assert spawner.name == way.partition("-")[0]
    return spawner


@asynccontextmanager
async def spawned(spawner: Spawner, pool: Pool) -> AsyncIterator[Child]:
    """Own a child as the kernel does: in the end kill it, wait, reap, close."""
    child = await spawner.spawn(pool)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(child.run)  # noqa: ASYNC113  # it is none of those that can be started
        try:
            with patience():
                await child.started()
                yield child
        finally:
            with anyio.move_on_after(10, shield=True):
                child.kill()
                await child.wait()
                child.reap()
                await child.aclose()
                spawner.close()
            tasks.cancel_scope.cancel()


async def write_all(child: Child, data: bytes) -> None:
    while data:
        data = data[child.try_write([data]) or await child.write([data]) :]


async def read_all(child: Child) -> bytes:
    got = bytearray()
    while chunk := await child.read_stdout(65536):
        got += chunk
    return bytes(got)


async def ended(child: Child) -> Exit | None:
    """Wait for its exit, and return how it went."""
    await child.wait()
    return child.reap()


async def test_what_is_written_comes_back_and_the_end_of_input_ends_it(spawner: Spawner) -> None:
    async with spawned(spawner, CAT) as child:
        assert child.reap() is None
        assert child.pid in children()
        await write_all(child, b"hello\n")
        assert await child.read_stdout(65536) == b"hello\n"
        await child.aclose_stdin()
        assert await child.read_stdout(65536) == b""
        assert await child.read_stderr(65536) == b""
        assert await ended(child) == Exit(exit_code=0)


async def test_several_buffers_are_written_in_order(spawner: Spawner) -> None:
    async with spawned(spawner, CAT) as child:
        written = await child.write([b"one ", memoryview(b"two "), b"three\n"])
        assert 0 < written <= len(b"one two three\n")
        if written == len(b"one two three\n"):
            assert await child.read_stdout(65536) == b"one two three\n"


async def test_8_mib_go_through_in_both_directions(spawner: Spawner) -> None:
    data = os.urandom(1024) * 1024 * 8
    async with spawned(spawner, CAT) as child, anyio.create_task_group() as tasks:

        async def feed() -> None:
            await write_all(child, data)
            await child.aclose_stdin()

        tasks.start_soon(feed)
        assert await read_all(child) == data


@pytest.mark.parametrize(("script", "expected"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255)])
async def test_the_exit_code_is_told(spawner: Spawner, script: str, expected: int) -> None:
    async with spawned(spawner, Pool("sh", ["sh", "-c", script])) as child:
        assert await ended(child) == Exit(exit_code=expected)
        assert await ended(child) == Exit(exit_code=expected)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
async def test_the_signal_is_told(spawner: Spawner, number: int) -> None:
    async with spawned(spawner, Pool("sh", ["sh", "-c", f"kill -{int(number)} $$"])) as child:
        assert await ended(child) == Exit(signal=number)


async def test_terminate_asks_and_kill_does_not(spawner: Spawner) -> None:
    async with spawned(spawner, IGNORE_TERM) as child:
        assert await child.read_stdout(65536) == b"up\n"
        child.terminate()
        assert child.reap() is None
        child.kill()
        assert await ended(child) == Exit(signal=signal.SIGKILL)
    async with spawned(spawner, CAT) as child:
        child.terminate()
        assert await ended(child) == Exit(signal=signal.SIGTERM)


async def test_killing_what_is_reaped_does_nothing(spawner: Spawner) -> None:
    async with spawned(spawner, Pool("true", ["true"])) as child:
        assert await ended(child) == Exit(exit_code=0)
        child.terminate()
        child.kill()
        child.kill_now(0.1)
        assert child.reap() == Exit(exit_code=0)


async def test_kill_now_kills_and_reaps_without_the_loop(spawner: Spawner) -> None:
    if spawner.name == "portable":
        pytest.skip("only the loop can reap what AnyIO spawned")
    async with spawned(spawner, IGNORE_TERM) as child:
        assert await child.read_stdout(65536) == b"up\n"
        child.kill_now(5.0)
        assert child.reap() == Exit(signal=signal.SIGKILL)
        assert children() == []
        assert await child.read_stdout(65536) == b""


async def test_writing_to_a_closed_stdin_is_an_oserror(spawner: Spawner) -> None:
    async with spawned(spawner, CAT) as child:
        await child.aclose_stdin()
        await child.aclose_stdin()
        with pytest.raises(OSError, match="closed"):
            await child.write([b"too late\n"])


async def test_writing_to_one_that_is_gone_is_an_oserror(spawner: Spawner) -> None:
    async with spawned(spawner, Pool("true", ["true"])) as child:
        await child.wait()
        with pytest.raises(OSError, match=r"closed|[Pp]ipe"):
            for _ in range(100):  # the first may land in a buffer of the loop
                await child.write([b"x" * 65536])


async def test_a_closed_stdin_frees_a_writer_that_is_stuck(spawner: Spawner) -> None:
    stuck = anyio.Event()

    async def write_for_ever() -> None:
        with pytest.raises(OSError, match=r"closed|[Pp]ipe"):
            while True:
                await child.write([b"x" * 65536])
        stuck.set()

    async with spawned(spawner, Pool("deaf", ["sleep", "100"])) as child:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_for_ever)
            for _ in range(100):
                await anyio.lowlevel.checkpoint()
            await child.aclose_stdin()
            child.kill()
            await stuck.wait()


async def test_its_exit_is_seen_though_others_hold_its_pipes(spawner: Spawner) -> None:
    script = "sleep 100 & echo $!; exit 3"
    async with spawned(spawner, Pool("fork", ["sh", "-c", script])) as child:
        grandchild = int(await child.read_stdout(65536))
        assert await ended(child) == Exit(exit_code=3)
        with suppress(ProcessLookupError):
            os.kill(grandchild, signal.SIGKILL)


async def test_a_wait_that_is_cancelled_can_be_repeated(spawner: Spawner) -> None:
    async with spawned(spawner, CAT) as child:
        for _ in range(3):
            with anyio.move_on_after(0):
                await child.wait()
        child.kill()
        assert await ended(child) == Exit(signal=signal.SIGKILL)


@pytest.mark.parametrize(
    ("argv", "number"), [(["/no/such"], errno.ENOENT), (["/etc/passwd"], errno.EACCES)]
)
async def test_what_cannot_be_executed_is_a_permanent_spawn_error(
    spawner: Spawner, argv: list[str], number: int
) -> None:
    with patience(), pytest.raises(SpawnError) as caught:
        child = await spawner.spawn(Pool("bad", argv))  # here, or else below
        try:
            await child.started()
        finally:
            with anyio.move_on_after(5, shield=True):
                await child.wait()
                child.reap()
                await child.aclose()
    assert (caught.value.errno, caught.value.permanent) == (number, True)
    assert children() == []
