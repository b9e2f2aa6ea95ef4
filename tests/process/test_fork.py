"""A fork of the host is no second owner of its buses: it may not use them, nor keep their fds open."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyio_bus import (
    Bus,
    BusState,
    Connect,
    ConnectionLostError,
    InvalidStateError,
    Native,
    open_bus,
)
from tests.bus.support import need_native
from tests.process.kit import Reports, open_reports, patience, pending, polled, puppets

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Fork:
    """A forked child that has said what it thinks, and lives until told to go."""

    def __init__(self, pid: int, verdict: int, leash: int) -> None:
        self._pid = pid
        self._verdict = verdict
        self._leash = leash

    async def verdict(self) -> str:
        """Return what its checks found: "fine", or an exception."""
        with patience():
            await anyio.wait_readable(self._verdict)
        return os.read(self._verdict, 4096).decode()

    def end(self) -> None:
        """Let it go, and reap it."""
        os.close(self._leash)
        os.close(self._verdict)
        os.waitpid(self._pid, 0)


@contextmanager
def forked(check: Callable[[], None]) -> Iterator[Fork]:
    """Fork here and now; the child runs the check and never comes back."""
    ours, its = os.pipe()
    waits, leash = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that threads may run: none of ours
        pid = os.fork()
    if pid == 0:
        os.close(leash)
        try:
            check()
            verdict = "fine"
        except BaseException as exc:  # noqa: ASYNC103  # the parent is told
            verdict = repr(exc)
        os.write(its, verdict.encode())
        os.read(waits, 1)
        os._exit(0)
    os.close(its)
    os.close(waits)
    fork = Fork(pid, ours, leash)
    try:
        yield fork
    finally:
        fork.end()


def at_once(use: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine without a loop: it must be over before it waits for anything."""
    try:
        use.send(None)
    except StopIteration:
        return
    finally:
        use.close()
    msg = "it waits, in a process whose loop must not run"
    raise AssertionError(msg)


def refuses_every_use(bus: Bus) -> None:
    """Check that each public method raises, before it touches the loop."""
    uses: list[Callable[[], object]] = [
        lambda: at_once(bus.request("echo")),
        lambda: at_once(bus.request_raw(b'{"id":1,"method":"echo"}')),
        lambda: at_once(bus.notify("echo")),
        lambda: at_once(bus.send(b'{"method":"echo"}')),
        lambda: at_once(bus.wait_ready()),
        lambda: at_once(bus.restart_worker(0)),
        lambda: at_once(bus.resize("puppets", 2)),
        lambda: at_once(bus.stop()),
        lambda: at_once(bus.open_scope().__aenter__()),
        lambda: at_once(bus.tap().__aenter__()),
        lambda: bus.on_message(print),
        lambda: bus.record_tap(os.devnull),
        lambda: bus.on_client(print),
        bus.workers,
        bus.statistics,
    ]
    for use in uses:
        with pytest.raises(InvalidStateError, match="fork"):
            use()
    assert bus.state is BusState.FORKED


def fds_of(bus: Bus) -> list[int]:
    """Return every descriptor of this bus that is open in this process."""
    backend: Any = bus._backend
    fds = [fd for slot in backend.slots.values() for fd in slot.incarnation.child._fds.values()]
    guard = _guard(bus)
    return [*fds, guard.stdin.fileno()] if guard is not None else fds


def closed(fds: list[int]) -> None:
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


async def test_a_forked_child_may_use_nothing_and_keeps_no_descriptor(tmp_path: Path) -> None:
    async with open_bus(puppets(instances=2, guard=True), backend="python") as bus:
        await bus.wait_ready()
        recording: Any = bus.record_tap(tmp_path / "tap.ndjson")
        fds = [*fds_of(bus), recording._file.fileno()]
        assert len(fds) >= 2 * 3 + 2

        def check() -> None:
            refuses_every_use(bus)
            closed(fds)

        with forked(check) as fork:
            assert await fork.verdict() == "fine"
            assert await bus.request("echo", {"a": 1}) == {"a": 1}
            assert bus.state is BusState.RUNNING


def open_fds() -> set[int]:
    """Return the descriptors of this process, without the one that the look itself takes."""
    return {int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


async def test_a_forked_child_of_a_native_bus_keeps_no_descriptor() -> None:
    """Those of the loop are the loop's; epoll, pipes and pidfds of the kernel are closed."""
    need_native()
    before = open_fds()
    async with open_bus(puppets(instances=2, guard=True), backend="native") as bus:
        await bus.wait_ready()
        fds = [*open_fds() - before]
        assert len(fds) >= 2 * 4 + 3

        def check() -> None:
            refuses_every_use(bus)
            closed(fds)

        with forked(check) as fork:
            assert await fork.verdict() == "fine"
            assert await bus.request("echo", {"a": 1}) == {"a": 1}


async def test_a_forked_child_of_a_bus_that_listens_serves_nobody() -> None:
    need_native()
    before = open_fds()
    with tempfile.TemporaryDirectory(prefix="bus-") as folder:
        native = Native(listen=["tcp://127.0.0.1:0", f"unix://{folder}/s"])
        async with open_bus(puppets(), backend=native) as bus:
            async with open_bus(backend=Connect(bus.listeners[1])) as other:
                assert await other.request("echo", {"a": 1}) == {"a": 1}
                fds = [*open_fds() - before]

                def check() -> None:
                    refuses_every_use(bus)
                    refuses_every_use(other)
                    closed(fds)

                with forked(check) as fork:
                    assert await fork.verdict() == "fine"
                    assert await other.request("echo", {"a": 2}) == {"a": 2}
                    assert await bus.request("echo", {"a": 3}) == {"a": 3}
                    assert os.path.exists(f"{folder}/s")  # the child has removed nothing
                    await bus.stop(grace_s=2)
                    with pytest.raises(ConnectionLostError, match="refused"):
                        async with open_bus(backend=Connect(bus.listeners[0])):
                            pass
        assert os.listdir(folder) == []


async def test_a_worker_still_sees_eof_while_a_forked_child_lives() -> None:
    async with open_reports() as reports:
        with patience():
            async with open_bus(puppets("--report", reports.path), grace_s=60) as bus:
                report = await reports.accept()
                await bus.request("echo")
                with forked(lambda: None) as fork:
                    await fork.verdict()
                    await bus.stop(grace_s=60)
                    assert (await report.rest())[1:] == ["echo", "eof"]


async def test_forks_under_load_do_not_disturb_the_parent() -> None:
    """An epoll_ctl in a child would make the parent deaf."""
    served = 0

    async def ask_on_and_on() -> None:
        nonlocal served
        while not done:
            assert await bus.request("echo", {"n": served}) is not None
            served += 1

    done = False
    async with open_bus(puppets(instances=2)) as bus, anyio.create_task_group() as tasks:
        await bus.wait_ready()
        for _ in range(32):
            tasks.start_soon(ask_on_and_on)
        for _ in range(4):
            await pending(bus, 32)
            with forked(lambda: refuses_every_use(bus)) as fork:
                assert await fork.verdict() == "fine"
                goal = served + 200
                await polled(lambda: served >= goal)  # noqa: B023
        done = True


async def test_with_a_guard_workers_die_with_their_host_though_a_forked_child_lives() -> None:
    """The child must not hold the guard's pipe open either."""
    async with open_reports() as reports:
        async with open_bus(puppets("--report", reports.path, guard=True)) as bus:
            report = await reports.accept()
            guard = _guard(bus)
            with forked(lambda: None) as fork:
                await fork.verdict()
                _cut(guard.stdin.fileno())
                assert "eof" not in await report.rest()


def _cut(fd: int) -> None:
    """Close a pipe as the system does when this process is killed, behind its owner's back."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, fd)
    os.close(nowhere)


def _guard(bus: Bus) -> Any:
    backend: Any = bus._backend
    return (backend._guard if bus.backend == "native" else backend.spawner._guard)._process


async def test_a_fork_while_the_bus_stops_is_abandoned_too() -> None:
    async with open_reports() as reports:
        pool = puppets("--report", reports.path, "--ignore", "eof")
        async with open_bus(pool) as bus, anyio.create_task_group() as tasks:
            report = await _started(reports, bus)
            tasks.start_soon(bus.stop)
            await report.until("eof")
            with forked(lambda: refuses_every_use(bus)) as fork:
                assert await fork.verdict() == "fine"
                await bus.stop(grace_s=0)


async def _started(reports: Reports, bus: Bus) -> Any:
    report = await reports.accept()
    await bus.request("echo")
    return report


async def test_a_fork_after_the_bus_is_closed_sees_it_stopped() -> None:
    async with open_bus(puppets()) as bus:
        await bus.request("echo")

    def check() -> None:
        assert bus.state is BusState.STOPPED

    with forked(check) as fork:
        assert await fork.verdict() == "fine"
