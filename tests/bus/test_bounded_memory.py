"""Nothing grows with time: tables and memory are after many requests what they were before."""

from __future__ import annotations

import gc
import logging
import sys
import tracemalloc
from collections.abc import Awaitable, Callable

import anyio
import pytest

from anyio_bus import Bus, Limits, RequestTimeoutError, Scope, ScopeCancelledError, open_bus
from tests.bus.support import QUIET_LOOPS, one_worker, scripted, until
from tests.conftest import Backend

WARM_UP = 500
SOME_BLOCKS = 1500  # of memory: caches and free lists come and go
TRIO_BLOCKS = 4000  # trio keeps some thousand deadlines that are over before it tidies them up


@pytest.fixture(scope="module", params=QUIET_LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend


async def grows(bus: Bus, many: int, one: Callable[[int], Awaitable[object]]) -> int:
    """Return how many blocks of memory are left over from many calls."""
    for number in range(WARM_UP):
        await one(number)
    await until(lambda: is_empty(bus))
    gc.collect()
    before = sys.getallocatedblocks()
    for number in range(WARM_UP, WARM_UP + many):
        await one(number)
    await until(lambda: is_empty(bus))
    gc.collect()
    return sys.getallocatedblocks() - before


def is_empty(bus: Bus) -> bool:
    statistics = bus.statistics()
    return (
        statistics.pending == statistics.pending_bytes == statistics.waiting == 0
        and statistics.kernel.live_requests == statistics.kernel.queued_requests == 0
        and statistics.kernel.sessions == 0
        and all(worker.in_flight == worker.queued_bytes == 0 for worker in bus.workers())
    )


@pytest.mark.timeout(60)
async def test_thousands_of_requests_one_after_the_other_leave_nothing() -> None:
    async with one_worker() as bus:
        left = await grows(bus, 4_000, lambda number: bus.request("echo", [number]))

        assert left < SOME_BLOCKS
        assert bus.statistics().kernel.messages_in == 4_000 + WARM_UP + 1


async def test_requests_with_a_timeout_of_their_own_each_leave_nothing() -> None:
    async with one_worker() as bus:
        timeouts = (1000 + number / 7 for number in range(100_000))
        left = await grows(bus, 2500, lambda _: bus.request("echo", timeout=next(timeouts)))

        assert left < SOME_BLOCKS


async def test_requests_that_time_out_or_are_cancelled_leave_nothing() -> None:
    async def give_up(number: int) -> None:
        if number % 2:
            with pytest.raises(RequestTimeoutError):
                await bus.request("mute", timeout=0)
        else:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await bus.request("mute")

    limits = Limits(cancel_grace_s=0.01)
    async with open_bus(scripted(), limits=limits) as bus:
        assert await grows(bus, 8000, give_up) < SOME_BLOCKS + TRIO_BLOCKS


async def test_scopes_leave_nothing() -> None:
    async def in_a_scope(number: int) -> None:
        later = anyio.current_time() + 1000 + number
        async with bus.open_scope(deadline=later) as outer, bus.open_scope(parent=outer) as scope:
            await bus.request("echo", scope=scope)

    async with one_worker() as bus:
        assert await grows(bus, 2000, in_a_scope) < SOME_BLOCKS


async def test_bad_lines_stray_answers_and_requests_of_workers_leave_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "anyio_bus")  # what pytest captures, it keeps
    lines = ["bad", '{"id":"stray","result":1}', '{"id":1,"method":"ask"}', '{"method":"note"}']

    async def provoke(_: int) -> None:
        await bus.request("say", {"lines": [*lines, '{"id":$ID,"result":1}']})

    async with one_worker() as bus:
        assert await grows(bus, 2000, provoke) < SOME_BLOCKS


async def test_errors_that_were_caught_are_freed() -> None:
    async def fail(scope: Scope) -> None:
        with pytest.raises(ScopeCancelledError):
            await bus.request("mute", scope=scope)

    def alive() -> list[object]:
        gc.collect()
        return [each for each in gc.get_objects() if isinstance(each, ScopeCancelledError)]

    async with one_worker() as bus:
        before = len(alive())
        for _ in range(10):
            async with bus.open_scope() as scope, anyio.create_task_group() as tasks:
                tasks.start_soon(fail, scope)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        assert len(alive()) == before


@pytest.mark.parametrize("of", ["stream", "subscription"])
async def test_what_waits_for_a_reader_does_not_hold_what_was_read_with_it(of: str) -> None:
    large = '{"jsonrpc":"2.0","id":$ID,"result":"%s"}' % ("x" * 50_000)
    async with one_worker() as bus, bus.subscribe("note") as notes, bus.stream("hold") as stream:
        key = stream._call.key
        method = "chunk" if of == "stream" else "note"
        small = '{"method":"%s","params":{"_meta":{"requestId":%d}}}'
        name = key if of == "stream" else 0
        tracemalloc.start()
        try:
            for _ in range(100):
                await bus.request("say", {"lines": [small % (method, name), large]})
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 1_000_000
        await bus.request("release")
        assert len(await (stream if of == "stream" else notes).receive_batch()) == 100
