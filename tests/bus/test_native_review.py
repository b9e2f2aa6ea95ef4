"""What a review broke in the native backend itself, where no bus is in the way."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from anyio_bus import Pool
from anyio_bus._backends.native import NativeKernel, lib, open_native
from anyio_bus._config import BusConfig, Limits
from anyio_bus._errors import KernelCode
from anyio_bus._io.loop import running_loop_name
from anyio_bus._sansio.events import KernelEvent, Lines, Results, WorkerChanged
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.routing import Refused, Route
from tests.bus.support import scripted, until

pytestmark = pytest.mark.skipif(lib is None, reason="no extension")

ANY = Route("w")


def frame(key: int, params: str = "[1]") -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"method":"echo","params":%b}\n' % (key, params.encode())


class Host:
    """Keeps what is delivered; ``then`` is called with each event."""

    def __init__(self, **options: Any) -> None:
        self.pool = Pool("w", scripted().argv, **options)
        self.events: list[KernelEvent] = []
        self.then: Any = lambda _event: None

    def deliver(self, events: list[KernelEvent]) -> None:
        self.events += events
        for event in events:
            self.then(event)

    def answered(self) -> set[Any]:
        lines = [event for event in self.events if isinstance(event, Lines)]
        results = [event for event in self.events if isinstance(event, Results)]
        found = {message.id for event in lines for message in event.messages}
        return found.union(*[event.keys for event in results])

    @asynccontextmanager
    async def run(self) -> AsyncIterator[NativeKernel]:
        native = open_native(BusConfig(pools=(self.pool,), limits=Limits()), self.deliver)
        async with anyio.create_task_group() as tasks:
            await tasks.start(native.run)
            try:
                yield native
            finally:
                with anyio.CancelScope(shield=True):
                    await native.stop(0.5)
                    native.kill_now(1.0)


async def test_what_is_submitted_while_events_of_a_primitive_are_delivered_is_written() -> None:
    host = Host()
    async with host.run() as native:
        native.submit(frame(1), ANY, 1)
        await until(lambda: 1 in host.answered())

        def once(event: KernelEvent) -> None:
            if isinstance(event, WorkerChanged):
                host.then = lambda _event: None
                native.submit(frame(2), Route("w", worker=0), 2)

        host.then = once
        native.hold(0)
        await until(lambda: 2 in host.answered())


async def test_refusal_after_the_end_is_of_the_end_and_not_the_last_one() -> None:
    host = Host()
    async with host.run() as native:
        with pytest.raises(Refused) as caught:
            native.submit(frame(1), Route("nobody"), 1)
        assert caught.value.failure.code == KernelCode.UNKNOWN_POOL
        await native.stop(0.5)
        with pytest.raises(Refused) as caught:
            native.submit(frame(2), ANY, 2)
        assert caught.value.failure.code == KernelCode.SHUTTING_DOWN


async def test_worker_number_that_no_worker_can_have_is_refused_and_leaves_no_trace() -> None:
    host = Host()
    async with host.run() as native:
        native.submit(frame(1), ANY, 1)
        for worker in (1 << 31, -1):
            with pytest.raises(Refused):
                native.submit(frame(2), Route("w", session="s", worker=worker), 2)
            with pytest.raises(Refused):
                native.kill(worker)
        native.submit(frame(3), ANY, 3)
        await until(lambda: {1, 3} <= host.answered())
        assert native.find_session("s") is None


async def test_requests_of_which_one_may_be_refused_are_not_taken_together() -> None:
    host = Host(session="params.s")
    async with host.run() as native:
        native.submit(frame(1, '{"s":"lost"}'), ANY, 1)
        await until(lambda: 1 in host.answered())
        native.kill(0)
        await until(lambda: native.workers()[0].generation == 2)
        items = [{"s": "a"}, {"s": "lost"}]
        assert native.submit_many("echo", items, ANY, [2, 3], 1 << 20) == 0
        assert native.statistics().live_requests == 0


async def test_nothing_is_kept_of_workers_that_have_stopped() -> None:
    host = Host()
    async with host.run() as native:
        for number in range(5):
            worker = native.spawn("w", session=f"s{number}")
            native.end_session(f"s{number}")
            await until(lambda: all(info.worker != worker for info in native.workers()))  # noqa: B023
        stopped = [
            e for e in host.events if isinstance(e, WorkerChanged) and e.state is State.STOPPED
        ]
        assert len(stopped) == 5
        assert set(native._pool_of) <= {0}


@pytest.mark.skipif(sys.platform != "linux", reason="takes a number of an fd over")
async def test_fd_that_takes_the_number_of_a_killed_kernels_is_read() -> None:
    if running_loop_name() == "trio":
        pytest.skip("there a second reader of a number is told so")
    loop = asyncio.get_running_loop()
    native = open_native(BusConfig(pools=(Pool("w", scripted().argv),)), lambda _events: None)
    mine, other = socket.socketpair()
    read: list[bytes] = []
    async with anyio.create_task_group() as tasks:
        await tasks.start(native.run)
        fd = lib.abk_fd(native._bus)
        native.kill_now(1.0)
        tasks.cancel_scope.cancel()
        taken = socket.socket(fileno=fcntl.fcntl(mine, fcntl.F_DUPFD, fd))
        assert taken.fileno() == fd
        loop.add_reader(fd, lambda: read.append(taken.recv(10)))
    with mine, other, taken:
        other.send(b"x")
        await until(lambda: read == [b"x"])
        loop.remove_reader(fd)
