"""Stopping: new work is refused, what is in flight may finish, the rest is told and fails."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyio_bus import (
    Bus,
    BusState,
    BusStoppedError,
    InvalidArgumentError,
    Limits,
    TransportError,
    open_bus,
)
from tests.bus.support import begin, fifo, held, one_worker, scripted, until

FOR_EVER_S = 1e6


async def test_stop_with_drain_lets_requests_in_flight_finish_and_waits_no_longer(
    tmp_path: Path,
) -> None:
    with fifo(tmp_path / "gate") as let_go:
        async with one_worker() as bus, anyio.create_task_group() as tasks:
            params = {"fifo": str(tmp_path / "gate")}
            call = begin(tasks, lambda: bus.request("stall", params, timeout=None))
            await until(lambda: bus.statistics().pending == 1)
            behind = begin(tasks, lambda: bus.request("echo", ["behind"], timeout=None))
            await until(lambda: bus.statistics().pending == 2)
            stop = begin(tasks, lambda: bus.stop(drain_s=FOR_EVER_S))
            await until(lambda: bus.state is BusState.STOPPING)

            assert not stop.over
            let_go()

            assert await call.wait() == "stalled"
            assert await behind.wait() == ["behind"]
            await stop.wait()
            assert bus.state is BusState.STOPPED


async def test_new_work_is_refused_while_stopping(tmp_path: Path) -> None:
    with fifo(tmp_path / "gate") as let_go:
        async with one_worker() as bus, anyio.create_task_group() as tasks:
            params = {"fifo": str(tmp_path / "gate")}
            call = begin(tasks, lambda: bus.request("stall", params, timeout=None))
            await until(lambda: bus.workers()[0].in_flight == 1)
            stop = begin(tasks, lambda: bus.stop(drain_s=FOR_EVER_S))
            await until(lambda: bus.state is BusState.STOPPING)

            await every_use_is_refused(bus)

            let_go()
            await call.wait()
            await stop.wait()


async def every_use_is_refused(bus: Bus) -> None:
    for use in (
        bus.request("echo"),
        bus.request_raw(b'{"id":1,"method":"echo"}'),
        bus.notify("echo"),
        bus.send(b'{"method":"echo"}'),
        bus.wait_ready(),
        bus.restart_worker(0),
        bus.resize("w", 2),
        bus.open_scope().__aenter__(),
    ):
        with pytest.raises(BusStoppedError) as caught:
            await use
        assert not caught.value.sent
        assert isinstance(caught.value, anyio.ClosedResourceError)
        assert isinstance(caught.value, TransportError)


async def test_use_after_a_stop_and_after_the_block_is_refused() -> None:
    async with one_worker() as bus:
        await bus.stop()
        assert bus.state is BusState.STOPPED
        await every_use_is_refused(bus)
    assert bus.state is BusState.STOPPED
    await every_use_is_refused(bus)
    await bus.stop()
    assert bus.statistics().kernel.workers == 0
    assert bus.statistics().pending == 0


async def test_requests_left_after_the_drain_fail_and_their_workers_are_told() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        calls = [begin(tasks, lambda: bus.request("hold")) for _ in range(3)]
        await held(bus, 3)

        await bus.stop()

        for call in calls:
            with pytest.raises(BusStoppedError, match="shutting down") as caught:
                await call.wait()
            assert caught.value.sent
        assert bus.statistics().kernel.cancelled == 3


async def test_queued_request_fails_unsent_at_a_stop() -> None:
    async with one_worker(max_in_flight=1) as bus, anyio.create_task_group() as tasks:
        sent = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        queued = begin(tasks, lambda: bus.request("echo"))
        await until(lambda: bus.statistics().kernel.queued_requests == 1)

        await bus.stop()

        for call in (sent, queued):
            with pytest.raises(BusStoppedError) as caught:
                await call.wait()
            assert caught.value.sent is (call is sent)


async def test_caller_that_waits_for_room_is_refused_by_a_stop_and_never_let_in() -> None:
    async with one_worker(Limits(max_pending=1)) as bus, anyio.create_task_group() as tasks:
        sent = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        waiting = [begin(tasks, lambda: bus.request("echo")) for _ in range(3)]
        await until(lambda: bus.statistics().waiting == 3)

        await bus.stop()

        with pytest.raises(BusStoppedError) as caught:
            await sent.wait()
        assert caught.value.sent
        for call in waiting:
            with pytest.raises(BusStoppedError) as caught:
                await call.wait()
            assert not caught.value.sent
        assert bus.statistics().waiting == 0
        assert bus.statistics().kernel.messages_out == 2


async def test_leaving_the_block_stops_the_bus_with_the_drain_it_was_given(tmp_path: Path) -> None:
    with fifo(tmp_path / "gate") as let_go:
        async with anyio.create_task_group() as tasks:
            async with open_bus(scripted(), drain_s=FOR_EVER_S) as bus:
                params = {"fifo": str(tmp_path / "gate")}
                call = begin(tasks, lambda: bus.request("stall", params, timeout=None))
                await until(lambda: bus.workers()[0].in_flight == 1)
                let_go()
            assert bus.state is BusState.STOPPED
            assert await call.wait() == "stalled"


async def test_stop_from_any_task_and_more_than_once() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        stops = [begin(tasks, lambda g=g: bus.stop(grace_s=g)) for g in (5, 1, 3)]
        for stop in stops:
            await stop.wait()
        assert bus.state is BusState.STOPPED
        await bus.stop()


async def test_cancelled_stop_goes_on() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        call = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        stop = begin(tasks, lambda: bus.stop(drain_s=FOR_EVER_S))
        await until(lambda: bus.state is BusState.STOPPING)

        stop.scope.cancel()
        await stop.wait()

        assert bus.state is BusState.STOPPING
        await bus.stop()
        with pytest.raises(BusStoppedError):
            await call.wait()
        assert bus.state is BusState.STOPPED


async def test_drain_and_grace_that_are_no_seconds_are_refused(subtests: pytest.Subtests) -> None:
    wrong: list[Any] = [-1, math.nan, math.inf, "1", None, True]
    async with one_worker() as bus:
        for seconds in wrong:
            for name in ("drain_s", "grace_s"):
                with subtests.test(name=name, seconds=seconds):
                    with pytest.raises(InvalidArgumentError, match=name):
                        await bus.stop(**{name: seconds})
                    with pytest.raises(InvalidArgumentError, match=name):
                        async with open_bus(scripted(), **{name: seconds}):
                            pass
        assert await bus.request("echo", [1]) == [1]
