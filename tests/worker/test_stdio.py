"""The wire moves away from fds 0 and 1 and comes back; threads stand in where nothing can be polled."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import anyio
import pytest

from anyio_bus._io.fdguard import FdGuard
from anyio_bus._io.stdio import Stdio, open_stdio
from anyio_bus.worker import Worker
from tests.worker.kit import line, request


class Wire(NamedTuple):
    """Our ends of what stands on fds 0 and 1."""

    write: int
    read: int


@contextmanager
def on_pipes() -> Iterator[Wire]:
    """Put pipes on fds 0 and 1 of this very process."""
    saved = os.dup(0), os.dup(1)
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    try:
        os.dup2(in_read, 0)
        os.dup2(out_write, 1)
        os.close(in_read)
        os.close(out_write)
        yield Wire(in_write, out_read)
    finally:
        for fd, kept in enumerate(saved):
            os.dup2(kept, fd)
            os.close(kept)
        for fd in (in_write, out_read):
            try:
                os.close(fd)
            except OSError:
                continue


def same_file(left: int, right: int) -> bool:
    one, other = os.fstat(left), os.fstat(right)
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def test_the_guard_moves_the_wire_and_puts_it_back() -> None:
    with on_pipes() as wire:
        before = sys.stdout
        guard = FdGuard()
        assert same_file(1, 2)
        assert os.read(0, 1) == b""
        assert sys.stdout is sys.stderr
        assert not os.get_inheritable(guard.wire_in)
        assert not os.get_inheritable(guard.wire_out)
        assert os.get_inheritable(0)
        assert os.get_inheritable(1)
        os.write(guard.wire_out, b"wire")
        assert os.read(wire.read, 10) == b"wire"

        guard.give_back()
        assert sys.stdout is before
        os.write(1, b"back")
        assert os.read(wire.read, 10) == b"back"
        os.write(wire.write, b"in")
        assert os.read(0, 10) == b"in"


def test_a_stdout_that_somebody_else_put_there_stays() -> None:
    before = sys.stdout
    guard = FdGuard()
    try:
        mine = sys.stdout = io.StringIO()
        guard.give_back()
        assert sys.stdout is mine
    finally:
        sys.stdout = before


def test_without_sys_stderr_a_stray_print_still_lands_on_fd_2(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    guard = FdGuard()
    print("stray \ud800")
    guard.give_back()
    assert sys.stderr is None
    assert capfd.readouterr().err == "stray \\ud800\n"


async def served(stdio: Stdio, wire: Wire) -> list[bytes]:
    """Serve two requests, the second of them in small pieces."""
    worker = Worker()

    @worker.method("echo", inline=True)
    def echo(params: object) -> object:
        return params

    found: list[bytes] = []

    def talk() -> None:
        os.write(wire.write, line(request(1, "echo", [1])))
        found.append(os.read(wire.read, 1000))
        for byte in line(request(2, "echo", [2])):
            os.write(wire.write, bytes([byte]))
        os.close(wire.write)
        found.append(os.read(wire.read, 1000))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, talk)
            await worker.serve_stream(stdio.receive, stdio.send)
    return found


@pytest.mark.parametrize("threads", [False, True])
async def test_a_worker_serves_this_process_s_own_stdio(threads: bool) -> None:
    with on_pipes() as wire:
        with open_stdio(threads=threads) as stdio:
            first, second = await served(stdio, wire)
        assert b'"result":[1]' in first
        assert b'"result":[2]' in second


async def test_an_fd_that_is_non_blocking_already_can_be_read_in_a_thread() -> None:
    with on_pipes() as wire:
        os.set_blocking(0, False)
        with open_stdio(threads=True) as stdio:
            assert len(await served(stdio, wire)) == 2


async def test_without_proc_the_blocking_mode_is_changed_and_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anyio_bus._io.stdio._own_description", lambda *_: None)
    with on_pipes() as wire:
        with open_stdio() as stdio:
            assert not os.get_blocking(stdio._out)
            assert len(await served(stdio, wire)) == 2
        assert os.get_blocking(1)


async def test_a_reading_thread_does_not_outlive_what_wants_it() -> None:
    with on_pipes() as wire:
        with open_stdio(threads=True) as stdio:
            with anyio.move_on_after(0.05):
                await stdio.receive()
            os.write(wire.write, b"x")
        os.write(wire.write, b"y")


async def test_a_large_block_is_written_in_pieces_as_the_pipe_takes_them() -> None:
    data = os.urandom(1 << 20)
    found = bytearray()
    with on_pipes() as wire, open_stdio() as stdio:

        def read() -> None:
            while len(found) < len(data):
                found.extend(os.read(wire.read, 100_000))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, read)
                await stdio.send(data)
    assert bytes(found) == data


async def test_a_broken_pipe_is_reported() -> None:
    with on_pipes() as wire, open_stdio() as stdio:
        os.close(wire.read)
        with pytest.raises(BrokenPipeError):
            await stdio.send(b"x")


async def test_serve_puts_fds_0_and_1_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_pipes() as wire:
        os.close(wire.write)
        with anyio.fail_after(5):
            await Worker().serve(signals=False)
        os.write(1, b"back")
        assert os.read(wire.read, 10) == b"back"


async def test_serve_takes_signals_and_gives_them_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with on_pipes() as wire, anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Worker().serve)
            await anyio.wait_all_tasks_blocked()
            os.kill(os.getpid(), signal.SIGTERM)
        del wire
    assert signal.getsignal(signal.SIGTERM) == before
