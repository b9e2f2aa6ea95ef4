"""A loop may wait a moment before it sleeps, where that has helped lately."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from anyio_bus._io import busy_poll
from anyio_bus._io.busy_poll import BusyPoll, linger
from anyio_bus._io.loop import current_loop

WAIT_S = 10  # for what happens in milliseconds


@asynccontextmanager
async def lingering() -> AsyncIterator[tuple[BusyPoll, int]]:
    """Yield what lingers, and an fd: what is written there is something to do for the loop."""
    poll = linger(current_loop())
    if poll is None:
        pytest.skip("of loops that tell what they sleep on")
    reading, writing = os.pipe()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.wait_readable, reading)
            await anyio.sleep(0.01)  # it waits now
            yield poll, writing
            tasks.cancel_scope.cancel()
    finally:
        os.close(reading)
        os.close(writing)


async def test_it_ends_when_the_loop_has_something_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy_poll, "MOMENT_S", WAIT_S)
    async with lingering() as (poll, writing):
        poll._misses = 1
        timer = threading.Timer(0.1, os.write, [writing, b"x"])
        timer.start()  # it runs: who lingers lets other threads go on
        with anyio.fail_after(WAIT_S / 2):
            poll()
            await anyio.sleep(0.01)
        timer.join()
        assert poll._misses == 0


async def test_it_ends_when_the_moment_is_over() -> None:
    async with lingering() as (poll, writing):
        for misses in range(1, 4):
            poll()
            assert poll._misses == misses
        os.write(writing, b"x")
        poll()  # the next is left out
        assert poll._misses == 3
        poll()
        assert poll._misses == 0
        assert poll.is_due()


async def test_it_does_not_begin_while_a_task_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy_poll, "MOMENT_S", WAIT_S)
    async with lingering() as (poll, _), anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 0)
        with anyio.fail_after(WAIT_S / 2):
            poll()
            await anyio.sleep(0.01)
        assert poll._misses == 1
