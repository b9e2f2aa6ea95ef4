"""Every backend: a stop refuses new work, lets old work finish, fails the rest, leaves nothing."""

from __future__ import annotations

import anyio
import pytest

from anyio_bus import BusState, BusStoppedError
from anyio_bus.testing import cancel_sweep
from tests.bus.support import begin, held, until
from tests.conftest import Backend
from tests.contract.places import Place, all_places

pytestmark = all_places


async def test_stop_with_drain_lets_requests_finish_and_refuses_new_ones(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        call = begin(tasks, lambda: bus.request("hold", ["kept"], timeout=None))
        await held(bus, 1)
        stop = begin(tasks, lambda: bus.stop(drain_s=1e6))
        await until(lambda: bus.state is BusState.STOPPING)

        with pytest.raises(BusStoppedError) as caught:
            await bus.request("echo")
        assert not caught.value.sent
        assert not stop.over
        second = begin(tasks, lambda: bus.stop(drain_s=0))

        with pytest.raises(BusStoppedError, match="shutting down"):
            await call.wait()
        await stop.wait()
        await second.wait()
        assert bus.state is BusState.STOPPED


async def test_answer_that_comes_during_the_drain_ends_the_stop(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        call = begin(tasks, lambda: bus.request("echo", ["x" * 2_000_000], timeout=None))
        await until(lambda: bus.statistics().pending == 1)
        await bus.stop(drain_s=1e6)
        assert (await call.wait())[0][:1] == "x"


async def test_rest_fails_at_a_stop_and_its_workers_are_told(place: Place) -> None:
    pool = {"max_in_flight": 2}
    async with place.bus(pool=pool) as bus, anyio.create_task_group() as tasks:
        calls = [begin(tasks, lambda: bus.request("hold")) for _ in range(2)]
        await held(bus, 2)
        queued = begin(tasks, lambda: bus.request("hold"))
        await until(lambda: bus.statistics().kernel.queued_requests == 1)

        await bus.stop()

        for call in (*calls, queued):
            with pytest.raises(BusStoppedError) as caught:
                await call.wait()
            if not place.remote:  # where every byte that left this process may have been sent
                assert caught.value.sent is (call is not queued)
        assert bus.statistics().kernel.cancelled == 2
        assert bus.statistics().kernel.workers == 0


async def test_leaving_the_block_by_an_exception_keeps_it_bare(place: Place) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with place.bus() as bus:
            assert await bus.request("echo", [1]) == [1]
            raise LookupError("mine")
    assert bus.state is BusState.STOPPED


async def test_cancelled_block_stops_too(place: Place) -> None:
    with anyio.CancelScope() as scope:
        async with place.bus() as bus:
            scope.cancel()
            await bus.request("hold")
    assert scope.cancelled_caught
    assert bus.state is BusState.STOPPED


@pytest.mark.timeout(60)  # it opens and leaves a bus once per step
async def test_block_cancelled_at_any_step_leaves_nothing(
    place: Place, anyio_backend: Backend
) -> None:
    if place.name == "python-portable" and "loop_factory" in anyio_backend[1]:
        pytest.skip("uvloop opens /dev/null when a spawn is cancelled, once, and keeps it")

    async def converse() -> None:
        async with place.bus(grace_s=0.5) as bus:
            await bus.request("echo", [1])

    assert await cancel_sweep(converse) > 10
