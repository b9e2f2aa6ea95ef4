"""An answer may be looked for, a moment, before the loop may sleep."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.abc
import pytest

from anyio_bus import Bus, InvalidArgumentError, Native, WorkerLostError, open_bus
from anyio_bus._backends.native import lib
from anyio_bus._io.loop import running_loop_name
from tests.bus.support import WAIT_S, begin, fifo, held, log, need_native, scripted, until

LONG_US = WAIT_S * 1_000_000  # what is looked for comes within it, for certain


@asynccontextmanager
async def host(**options: Any) -> AsyncIterator[tuple[Bus, Any]]:
    """Open a bus, and yield what decides when to look as well."""
    need_native()
    options.setdefault("busy_poll_s", 30e-6)
    async with open_bus(scripted(), backend=Native(**options), grace_s=2) as bus:
        backend: Any = bus._calls.backend
        yield bus, backend


def look_always(backend: Any) -> Any:
    """Have it look even if an answer was so quick that the loop has it to do already."""
    poll = backend._flusher._poll
    poll._loop = SimpleNamespace(idle_fd=lambda: -1)
    return poll


class Looks:
    """Takes the place of what looks: counts, and finds what it is told to find."""

    def __init__(self, backend: Any) -> None:
        self.count = 0
        self.finds = False
        poll = look_always(backend)
        poll._look, poll._misses, poll._skips = self, 0, 0

    def __call__(self, idle_fd: int) -> bool:
        self.count += 1
        return self.finds


def watch(backend: Any) -> list[bool]:
    """Look for very long; return a list of what each look will have come to."""
    found: list[bool] = []
    backend._poll_us = LONG_US
    poll = backend._flusher._poll
    look: Callable[[int], bool] = poll._look

    def note(idle_fd: int) -> bool:
        found.append(look(idle_fd))
        return found[-1]

    poll._look = note
    return found


async def test_an_answer_that_comes_in_that_moment_is_found(tmp_path: Path) -> None:
    async with host() as (bus, backend):
        await bus.request("echo")
        found = watch(backend)
        with fifo(tmp_path / "gate") as go_on:
            timer = threading.Timer(0.1, go_on)  # it runs: who looks holds no lock of Python's
            timer.start()
            assert await bus.request("stall", {"fifo": str(tmp_path / "gate")}) == "stalled"
            timer.join()
        assert found == [True]


async def test_what_came_with_an_answer_is_had_before_its_caller_goes_on(tmp_path: Path) -> None:
    order: list[str] = []

    async def listen(bus: Bus, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with bus.subscribe("note") as messages:
            task_status.started()
            await messages.receive()
            order.append("subscriber")

    async def handle() -> None:
        order.append("handler")

    async with host() as (bus, backend), anyio.create_task_group() as tasks:
        bus.add_handler("ask", handle)
        await tasks.start(listen, bus)
        begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        first = (await log(bus))[-1]["id"]
        found = watch(backend)
        lines = [
            f'{{"id":{first},"result":"its caller goes on, and not the other one with it"}}',
            '{"method":"note"}',
            '{"id":1,"method":"ask"}',
            '{"id":$ID,"result":1}',
        ]
        with fifo(tmp_path / "gate") as go_on:  # till it looks, the worker reads nothing
            await bus.notify("stall", {"fifo": str(tmp_path / "gate")})
            timer = threading.Timer(0.1, go_on)
            timer.start()
            await bus.request("say", {"lines": lines})
            order.append("caller")
            timer.join()
        assert found == [True]
        await until(lambda: len(order) == 3)
        tasks.cancel_scope.cancel()
    if running_loop_name() == "asyncio":  # trio shuffles its tasks
        assert order.index("caller") == 2, order


async def test_where_it_is_in_vain_it_is_done_less_and_less() -> None:
    async with host() as (bus, backend):
        await bus.request("echo")
        looks = Looks(backend)
        at = []
        for n in range(1, 201):
            before = looks.count
            await bus.request("echo")
            at += [n] * (looks.count - before)
        assert at == [1, 2, 3, 5, 8, 13, 22, 39, 72, 137]
        for _ in range(2000):
            await bus.request("echo")
        assert looks.count == 14  # 266, 523, 1036, 2061: at last after 1024
        looks.finds = True
        for _ in range(1100):
            await bus.request("echo")
        assert looks.count >= 15 + 1100 - 1025  # each, from the first that was found on


async def test_nobody_looks_where_nothing_is_asked_and_once_for_many_that_are() -> None:
    async with host() as (bus, backend):
        await bus.request("echo")
        looks = Looks(backend)
        for _ in range(5):
            await bus.notify("log")
        await bus.request("echo")
        assert looks.count == 1
        looks.finds = True
        async with anyio.create_task_group() as tasks:
            waiting = [begin(tasks, lambda: bus.request("hold")) for _ in range(8)]
            await held(bus, 8)
            await bus.request("release")  # nine answers in a row
            for outcome in waiting:
                await outcome.wait()
        count = looks.count
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(bus.request, "echo")
        assert looks.count == count + 1
        async with bus.map("echo", [[n] for n in range(8)], in_flight=8) as results:
            assert [result async for result in results] == [[n] for n in range(8)]
        assert looks.count == count + 2
        for _ in range(5):
            await bus.notify("log")  # it is put off, for many answers came last
            await anyio.sleep(0.01)
        assert looks.count == count + 2


async def test_what_was_there_already_does_not_tell_that_looking_helps() -> None:
    async with host() as (bus, backend):
        await bus.request("echo")
        found: list[bool] = []
        backend._poll_us = LONG_US
        poll = look_always(backend)
        look = poll._look

        def late(idle_fd: int) -> bool:
            select.select([lib.abk_fd(backend._bus)], [], [], WAIT_S)
            found.append(look(idle_fd))
            return found[-1]

        poll._look = late
        assert await bus.request("echo", [1]) == [1]
        assert found == [False]


async def test_it_ends_when_the_loop_has_something_else_to_do(tmp_path: Path) -> None:
    async with host() as (bus, backend), anyio.create_task_group() as tasks:
        if backend._loop.idle_fd() == -1:
            pytest.skip("of loops that tell what they sleep on")
        await bus.request("echo")
        ours, other = socket.socketpair()
        with ours, other, fifo(tmp_path / "gate") as go_on, anyio.fail_after(WAIT_S / 2):

            async def serve() -> None:
                await anyio.wait_readable(ours)
                go_on()

            tasks.start_soon(serve)
            await anyio.sleep(0.01)  # it waits now
            found = watch(backend)
            timer = threading.Timer(0.1, other.send, [b"x"])
            timer.start()
            assert await bus.request("stall", {"fifo": str(tmp_path / "gate")}) == "stalled"
            timer.join()
        assert found[0] is False


async def test_it_is_not_done_while_a_task_is_ready() -> None:
    async with host() as (bus, backend), anyio.create_task_group() as tasks:
        if backend._loop.idle_fd() == -1:
            pytest.skip("of loops that tell what they sleep on")
        await bus.request("echo")
        poll, backend._poll_us = backend._flusher._poll, LONG_US
        poll._misses = poll._skips = 0
        with anyio.fail_after(WAIT_S / 2):
            tasks.start_soon(anyio.sleep, 0)
            poll()
            await anyio.sleep(0.01)
        assert poll._misses == 1


async def test_it_is_done_where_the_loop_tells_whether_it_is_idle_unless_it_is_switched_off() -> (
    None
):
    assert Native().busy_poll_s is None
    async with host(busy_poll_s=None) as (_, backend):
        uvloop = running_loop_name() == "asyncio" and not hasattr(
            asyncio.get_running_loop(), "_ready"
        )
        assert (backend._flusher._poll is None) is uvloop
        assert (backend._loop.idle_fd() == -1) is uvloop
    async with host(busy_poll_s=4e-7) as (_, backend):
        assert backend._flusher._poll is not None
        assert backend._poll_us == 1
    async with host(busy_poll_s=0) as (bus, backend):
        assert backend._flusher._poll is None
        assert await bus.request("echo", [1]) == [1]


async def test_it_ends_when_its_worker_does() -> None:
    async with host() as (bus, backend):
        await bus.request("echo")
        found = watch(backend)
        look_always(backend)
        with anyio.fail_after(WAIT_S / 2), pytest.raises(WorkerLostError):
            await bus.request("die")
        assert len(found) == 1


@pytest.mark.parametrize("value", [True, -1e-6, 0.0011, float("nan"), "30"])
def test_what_is_no_moment_is_refused_by_name(value: Any) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"Native.busy_poll_s: expected seconds"
    ) as caught:
        Native(busy_poll_s=value)
    assert caught.value.field == "busy_poll_s"
