"""Each public async function lets others run, and heeds a cancelled scope."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
import sniffio
import trio.testing

from anyio_bus import Bus, BusHost, open_bus
from tests.bus.support import one_worker, scripted

Use = Callable[[Bus], Awaitable[object]]


async def open_and_leave_a_scope(bus: Bus) -> None:
    async with bus.open_scope():
        pass


USES: dict[str, Use] = {
    "request": lambda bus: bus.request("echo", [1]),
    "request_raw": lambda bus: bus.request_raw(b'{"id":1,"method":"echo"}'),
    "notify": lambda bus: bus.notify("echo"),
    "send": lambda bus: bus.send(b'{"method":"echo"}'),
    "wait_ready": lambda bus: bus.wait_ready(),
    "open_scope": open_and_leave_a_scope,
    "resize": lambda bus: bus.resize("w", 1),
    "restart_worker": lambda bus: bus.restart_worker(0),
    "stop": lambda bus: bus.stop(),
    "stop again": lambda bus: bus.stop(),
}


async def lets_others_run(call: Callable[[], Awaitable[object]]) -> None:
    """Await a call, and see that the event loop got its turn meanwhile."""
    if anyio.get_current_task and current_library() == "trio":
        with trio.testing.assert_checkpoints():
            await call()
        return
    turns: list[int] = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    await call()
    assert turns


def current_library() -> str:
    return sniffio.current_async_library()


async def test_every_public_async_function_is_a_checkpoint() -> None:
    async with one_worker() as bus:
        for name, use in USES.items():
            try:
                await lets_others_run(lambda use=use: use(bus))  # type: ignore[misc]
            except AssertionError as exc:
                exc.add_note(name)
                raise


async def test_every_public_async_function_heeds_a_cancelled_scope() -> None:
    async with one_worker() as bus:
        before = bus.statistics().kernel.messages_out
        for name, use in USES.items():
            with anyio.CancelScope() as scope:
                scope.cancel()
                await use(bus)
            assert scope.cancelled_caught, name
            assert bus.statistics().pending == 0, name

        assert await bus.request("echo", [1]) == [1]
        assert bus.workers()[0].generation == 1
        unsent = bus.statistics().kernel.withdrawn - bus.statistics().kernel.cancelled
        assert bus.statistics().kernel.messages_out - unsent - before <= 3


async def test_opening_and_closing_in_a_host_are_checkpoints() -> None:
    async with BusHost() as host:
        opened: list[Bus] = []

        async def open_one() -> None:
            opened.append(await host.open(scripted()))

        await lets_others_run(open_one)
        await lets_others_run(lambda: host.aclose(opened[0]))
        await lets_others_run(lambda: host.aclose(opened[0]))


async def test_opening_and_leaving_a_bus_are_checkpoints() -> None:
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
