"""Each public async function lets others run, and heeds a cancelled scope."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import anyio.lowlevel
import pytest
import trio.testing

from anyio_bus import Bus, BusHost, open_bus
from tests.bus.support import log, methods, one_worker, scripted

Use = Callable[[Bus], Awaitable[object]]


async def open_and_leave_a_scope(bus: Bus) -> None:
    async with bus.open_scope():
        pass


USES: dict[str, Use] = {
    "request": lambda bus: bus.request("echo", [1]),
    "request_raw": lambda bus: bus.request_raw(b'{"id":1,"method":"echo"}'),
    "notify": lambda bus: bus.notify("note"),
    "send": lambda bus: bus.send(b'{"method":"note"}'),
    "wait_ready": lambda bus: bus.wait_ready(),
    "open_scope": open_and_leave_a_scope,
    "resize": lambda bus: bus.resize("w", 1),
    "restart_worker": lambda bus: bus.restart_worker(0),
    "stop": lambda bus: bus.stop(),
    "stop again": lambda bus: bus.stop(),
}


LetsOthersRun = Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]


@pytest.fixture
def lets_others_run(anyio_backend_name: str) -> LetsOthersRun:
    """Await a call, and see that the event loop got its turn meanwhile."""

    async def on_trio(call: Callable[[], Awaitable[object]]) -> None:
        with trio.testing.assert_checkpoints():
            await call()

    async def on_asyncio(call: Callable[[], Awaitable[object]]) -> None:
        turns: list[int] = []
        asyncio.get_running_loop().call_soon(turns.append, 1)
        await call()
        assert turns

    return on_trio if anyio_backend_name == "trio" else on_asyncio


async def test_every_public_async_function_is_a_checkpoint(
    lets_others_run: LetsOthersRun, subtests: pytest.Subtests
) -> None:
    async with one_worker() as bus:
        for name, use in USES.items():
            with subtests.test(use=name):
                await lets_others_run(partial(use, bus))


async def test_every_public_async_function_heeds_a_cancelled_scope() -> None:
    async with one_worker() as bus:
        for name, use in USES.items():
            with anyio.CancelScope() as scope:
                scope.cancel()
                await use(bus)
            assert scope.cancelled_caught, name
            assert bus.statistics().pending == 0, name

        assert await bus.request("echo", [1]) == [1]
        assert bus.workers()[0].generation == 1
        assert "note" not in methods(await log(bus))


async def test_opening_and_closing_in_a_host_are_checkpoints(
    lets_others_run: LetsOthersRun,
) -> None:
    async with BusHost() as host:
        opened: list[Bus] = []

        async def open_one() -> None:
            opened.append(await host.open(scripted()))

        await lets_others_run(open_one)
        await lets_others_run(lambda: host.aclose(opened[0]))
        await lets_others_run(lambda: host.aclose(opened[0]))


async def test_opening_and_leaving_a_bus_are_checkpoints(lets_others_run: LetsOthersRun) -> None:
    async def enter() -> None:
        await context.__aenter__()

    async def leave() -> None:
        await context.__aexit__(None, None, None)

    context = open_bus(scripted())
    await lets_others_run(enter)
    await lets_others_run(leave)


async def test_opening_in_a_cancelled_scope_opens_nothing() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with open_bus(scripted()):
            pytest.fail("it opened")
    assert scope.cancelled_caught


async def test_requests_that_are_answered_at_once_do_not_keep_the_loop_to_themselves() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with one_worker() as bus, anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        for _ in range(100):
            await bus.request("echo")
        assert turns >= 100
        tasks.cancel_scope.cancel()
