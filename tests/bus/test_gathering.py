"""Requests of many tasks are handed to the kernel together; each has its own fate."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from anyio_bus import Bus, BusStoppedError, InvalidArgumentError, Limits, RemoteError, open_bus
from tests.bus.support import begin, log, methods, need_native, one_worker, scripted

FAIL = {"lines": ['{"id":$ID,"error":{"code":5,"message":"no"}}']}


class Gathering:
    """Makes a bus believe that many lines came last, and counts what is handed over at once."""

    def __init__(self, bus: Bus) -> None:
        self._backend: Any = bus._calls.backend
        self._submit_many = self._backend.submit_many
        self._backend.submit_many = self._count
        self.counts: list[int] = []

    def expect(self) -> None:
        self._backend._flusher.batch = 64

    def _count(self, method: str, items: Any, *rest: Any) -> int:
        self.counts.append(0)  # also if it is refused
        size: int = self._submit_many(method, items, *rest)
        if size > 0:
            self.counts[-1] = len(items)
        return size


async def test_requests_of_many_tasks_are_handed_over_at_once() -> None:
    need_native()
    async with open_bus(scripted(), backend="native", grace_s=2) as bus:
        await bus.request("echo")
        gathering = Gathering(bus)
        gathering.expect()
        async with anyio.create_task_group() as tasks:
            calls = [begin(tasks, lambda n=n: bus.request("echo", {"n": n})) for n in range(20)]
        assert [call.value for call in calls] == [{"n": n} for n in range(20)]
        assert gathering.counts == [20]


async def test_what_cannot_be_sent_costs_its_own_request() -> None:
    need_native()
    async with open_bus(scripted(), backend="native", grace_s=2) as bus:
        await bus.request("echo")
        gathering = Gathering(bus)
        gathering.expect()
        params: list[Any] = [{"n": 0}, {"n": object()}, {"n": 2}, "text", {"n": None}]
        async with anyio.create_task_group() as tasks:
            calls = [begin(tasks, lambda p=p: bus.request("echo", p)) for p in params]
        assert gathering.counts == [0]
        wrong = [calls[1].error, calls[3].error]
        assert [type(error) for error in wrong] == [InvalidArgumentError] * 2
        assert [calls[n].value for n in (0, 2, 4)] == [params[n] for n in (0, 2, 4)]
        assert bus.statistics().pending == bus.statistics().waiting == 0


async def test_requests_of_several_kinds_are_handed_over_in_their_order() -> None:
    async with one_worker() as bus:
        for _ in range(2):
            async with anyio.create_task_group() as tasks:
                begin(tasks, lambda: bus.request("echo", {"n": 1}))
                begin(tasks, lambda: bus.request("log"))
                failed = begin(tasks, lambda: bus.request("say", FAIL))
                typed = begin(tasks, lambda: bus.request("echo", {"n": 2}, reply=dict[str, int]))
                begin(tasks, lambda: bus.request("echo", {"n": 3}, timeout=None))
            assert isinstance(failed.error, RemoteError)
            assert typed.value == {"n": 2}
        assert len([m for m in methods(await log(bus)) if m in {"echo", "say"}]) == 9


async def test_a_request_that_is_cancelled_before_it_is_handed_over_never_runs() -> None:
    need_native()
    async with open_bus(scripted(), backend="native", grace_s=2) as bus:
        await bus.request("echo")
        gathering = Gathering(bus)

        async def cancelled() -> None:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(bus.request, "never")
                    await anyio.lowlevel.cancel_shielded_checkpoint()
                    scope.cancel()

        gathering.expect()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancelled)
            calls = [begin(tasks, lambda n=n: bus.request("echo", {"n": n})) for n in range(9)]
        assert [call.value for call in calls] == [{"n": n} for n in range(9)]
        assert bus.statistics().pending == bus.statistics().waiting == 0


async def test_a_stop_that_drains_takes_what_was_just_asked_for() -> None:
    need_native()
    async with open_bus(scripted(), backend="native", grace_s=2) as bus:
        await bus.request("echo")
        gathering = Gathering(bus)
        gathering.expect()
        async with anyio.create_task_group() as tasks:
            calls = [begin(tasks, lambda n=n: bus.request("echo", {"n": n})) for n in range(5)]
            await anyio.lowlevel.checkpoint()
            await bus.stop(drain_s=5)
        assert [call.value for call in calls] == [{"n": n} for n in range(5)]
        with pytest.raises(BusStoppedError):
            await bus.request("echo")


async def test_no_more_than_may_be_pending_are_handed_over() -> None:
    need_native()
    limits = Limits(max_pending=4)
    async with open_bus(scripted(), backend="native", limits=limits, grace_s=2) as bus:
        await bus.request("echo")
        gathering = Gathering(bus)
        gathering.expect()
        async with anyio.create_task_group() as tasks:
            calls = [begin(tasks, lambda n=n: bus.request("echo", {"n": n})) for n in range(30)]
        assert [call.value for call in calls] == [{"n": n} for n in range(30)]
        assert max(gathering.counts) == 4
