"""Requests of many tasks are handed to the kernel together; each has its own fate."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import NoneType
from typing import Any

import anyio
import msgspec
import pytest

from anyio_bus import (
    Bus,
    BusStoppedError,
    InvalidArgumentError,
    Limits,
    RemoteError,
    RequestTimeoutError,
    ScopeCancelledError,
    open_bus,
)
from anyio_bus._bus.rows import Row
from anyio_bus._io.loop import running_loop_name
from tests.bus.support import (
    DONE,
    begin,
    held,
    log,
    methods,
    need_native,
    one_worker,
    scripted,
    until,
)

FLOAT = {"lines": ['{"id":$ID.0,"result":"float"}']}
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


@asynccontextmanager
async def gathering_bus(**options: Any) -> AsyncIterator[tuple[Bus, Gathering]]:
    """Open a bus that expects many requests at once."""
    need_native()
    async with open_bus(scripted(), backend="native", grace_s=2, **options) as bus:
        await bus.request("echo")
        gathering = Gathering(bus)
        gathering.expect()
        yield bus, gathering


async def test_requests_of_many_tasks_are_handed_over_at_once() -> None:
    async with gathering_bus() as (bus, gathering):
        async with anyio.create_task_group() as tasks:
            calls = [begin(tasks, lambda n=n: bus.request("echo", {"n": n})) for n in range(20)]
        assert [call.value for call in calls] == [{"n": n} for n in range(20)]
        assert gathering.counts == [20]


async def test_what_cannot_be_sent_costs_its_own_request() -> None:
    async with gathering_bus() as (bus, gathering):
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
    async with gathering_bus() as (bus, _gathering):

        async def cancelled() -> None:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(bus.request, "never")
                    await anyio.lowlevel.cancel_shielded_checkpoint()
                    scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancelled)
            calls = [begin(tasks, lambda n=n: bus.request("echo", {"n": n})) for n in range(9)]
        assert [call.value for call in calls] == [{"n": n} for n in range(9)]
        assert bus.statistics().pending == bus.statistics().waiting == 0


async def test_a_stop_that_drains_takes_what_was_just_asked_for() -> None:
    async with gathering_bus() as (bus, _gathering):
        async with anyio.create_task_group() as tasks:
            calls = [begin(tasks, lambda n=n: bus.request("echo", {"n": n})) for n in range(5)]
            await anyio.lowlevel.checkpoint()
            await bus.stop(drain_s=5)
        assert [call.value for call in calls] == [{"n": n} for n in range(5)]
        with pytest.raises(BusStoppedError):
            await bus.request("echo")


async def test_no_more_than_may_be_pending_are_handed_over() -> None:
    async with gathering_bus(limits=Limits(max_pending=4)) as (bus, gathering):
        async with anyio.create_task_group() as tasks:
            calls = [begin(tasks, lambda n=n: bus.request("echo", {"n": n})) for n in range(30)]
        assert [call.value for call in calls] == [{"n": n} for n in range(30)]
        assert max(gathering.counts) == 4


async def test_what_is_of_one_kind_is_handed_over_at_once_and_nothing_overtakes() -> None:
    async with gathering_bus() as (bus, gathering):
        async with anyio.create_task_group() as tasks:
            for n in range(3):
                begin(tasks, lambda n=n: bus.request("echo", {"n": n}))
            alone = begin(tasks, lambda: bus.request("echo", {"n": 3}, session="s"))
            for n in range(4, 6):
                begin(tasks, lambda n=n: bus.request("echo", {"n": n}))
            for n in range(6, 10):
                begin(tasks, lambda n=n: bus.request("echo", {"n": n}, timeout=9))
            for n in range(10, 12):
                begin(tasks, lambda n=n: bus.request("echo", {"n": n}, timeout=9, reply=dict))
        assert alone.value == {"n": 3}
        counts = gathering.counts.copy()
        sent = [m["params"]["n"] for m in await log(bus) if m.get("params")]
        if running_loop_name() != "trio":  # which shuffles tasks
            assert counts == [3, 2, 6]
            assert sent == [*range(12)]


async def test_answers_to_a_row_are_of_any_sort() -> None:
    class Typed(msgspec.Struct):
        n: int

    async with gathering_bus() as (bus, gathering):
        async with anyio.create_task_group() as tasks:
            calls = [begin(tasks, lambda p=p: bus.request("say", p)) for p in (FLOAT, FAIL, FLOAT)]
        assert (calls[0].value, calls[2].value) == ("float", "float")
        assert isinstance(calls[1].error, RemoteError)
        async with anyio.create_task_group() as tasks:
            gathering.expect()
            typed = [
                begin(tasks, lambda n=n: bus.request("echo", {"n": n}, reply=Typed))
                for n in (1, "x")
            ]
        assert typed[0].value == Typed(1)
        assert type(typed[1].error).__name__ == "RemoteProtocolError"
        assert gathering.counts == [3, 2]


async def test_a_row_has_deadlines() -> None:
    async with gathering_bus() as (bus, gathering):
        async with anyio.create_task_group() as tasks:
            calls = [begin(tasks, lambda: bus.request("hold", timeout=0.05)) for _ in range(5)]
            other = begin(tasks, lambda: bus.request("echo", [1], timeout=0.05))
        assert [type(call.error) for call in calls] == [RequestTimeoutError] * 5
        assert "'hold'" in str(calls[0].error)
        assert other.value == [1]
        assert sum(gathering.counts) >= 4  # one alone is no row; trio shuffles them
        assert (bus.statistics().timeouts, bus.statistics().pending) == (5, 0)


async def test_those_of_a_row_are_cancelled_one_by_one() -> None:
    async with gathering_bus() as (bus, gathering):
        async with anyio.create_task_group() as tasks:
            calls = [begin(tasks, lambda: bus.request("hold", ["held"])) for _ in range(6)]
            await held(bus, 6)
            for call in calls[::2]:
                call.scope.cancel()
            await until(lambda: bus.statistics().pending == 3)
            await bus.notify("release")
        assert gathering.counts == [6]
        assert [call.value for call in calls[1::2]] == [["held"]] * 3
        assert bus.statistics().kernel.cancelled == 3
        assert bus.statistics().pending == bus.statistics().pending_bytes == 0


async def test_a_request_that_waits_keeps_no_answer_of_another() -> None:
    async with gathering_bus() as (bus, _gathering), anyio.create_task_group() as tasks:
        slow = begin(tasks, lambda: bus.request("say", {"lines": []}))
        calls = [begin(tasks, lambda: bus.request("say", {"lines": [DONE]})) for _ in range(8)]
        for call in calls:
            await call.wait()
        rows = [found for found in gc.get_objects() if type(found) is Row and found.keys]
        assert sum(waiter is not None for row in rows for waiter in row.waiters) == 1
        slow.scope.cancel()


async def test_scopes_reach_what_was_not_handed_over() -> None:
    async with gathering_bus() as (bus, gathering):

        async def cancel() -> None:
            bus.scope.cancel("enough")

        async with anyio.create_task_group() as tasks:
            calls = [begin(tasks, lambda: bus.request("echo")) for _ in range(3)]
            begin(tasks, cancel)
        assert [type(call.error) for call in calls] == [ScopeCancelledError] * 3
        assert gathering.counts == []
        assert bus.statistics().pending == bus.statistics().waiting == 0


async def test_what_cannot_go_together_is_still_taken_by_a_stop_that_drains() -> None:
    async with gathering_bus() as (bus, gathering):

        async def stop() -> None:
            bus._life.ask_to_stop(5, 5)

        async with anyio.create_task_group() as tasks:
            calls = [begin(tasks, lambda p=p: bus.request("echo", p)) for p in ([1], object(), [3])]
            begin(tasks, stop)
        assert gathering.counts in ([0], [])  # trio may begin with the stop
        if running_loop_name() != "trio":
            assert [calls[0].value, calls[2].value] == [[1], [3]]
            assert isinstance(calls[1].error, InvalidArgumentError)
        assert {type(call.error) for call in calls} <= {
            NoneType,
            InvalidArgumentError,
            BusStoppedError,
        }


async def test_a_row_that_is_refused_is_not_overtaken() -> None:
    async with gathering_bus() as (bus, gathering):
        async with anyio.create_task_group() as tasks:
            for n in range(3):
                begin(tasks, lambda n=n: bus.request("echo", {"n": n}))
            wrong = begin(tasks, lambda: bus.request("echo", {"n": object()}))
            for n in range(3, 6):
                begin(tasks, lambda n=n: bus.request("echo", {"n": n}, timeout=9))
            begin(tasks, lambda: bus.notify("note", {"n": 6}))
        assert isinstance(wrong.error, InvalidArgumentError)
        sent = [m["params"]["n"] for m in await log(bus) if m.get("params")]
        assert sorted(sent) == [*range(7)]
        if running_loop_name() != "trio":  # which shuffles tasks
            assert gathering.counts[:2] == [0, 3]
            assert sent == [*range(7)]


async def test_those_of_a_row_that_was_refused_are_cancelled_one_by_one() -> None:
    async with gathering_bus() as (bus, _gathering):
        async with anyio.create_task_group() as tasks:
            params: list[Any] = [["held"], object(), ["held"], ["held"]]
            calls = [begin(tasks, lambda p=p: bus.request("hold", p)) for p in params]
            await held(bus, 3)
            calls[2].scope.cancel()
            await until(lambda: bus.statistics().pending == 2)
            await bus.notify("release")
        assert [call.value for call in calls] == [["held"], None, None, ["held"]]
        assert bus.statistics().kernel.cancelled == 1
        assert bus.statistics().pending == bus.statistics().pending_bytes == 0


async def test_what_a_cancelled_scope_asks_for_among_others_is_not_sent_or_taken_back() -> None:
    async with gathering_bus() as (bus, gathering):

        async def ask() -> None:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await bus.request("never")

        for _ in range(3):
            gathering.expect()
            async with anyio.create_task_group() as tasks:
                calls = [begin(tasks, ask) for _ in range(5)]
                echoes = [begin(tasks, lambda: bus.request("echo", [1])) for _ in range(5)]
            assert [call.value for call in echoes] == [[1]] * 5
            assert all(call.over and call.error is None for call in calls)
        sent = methods(await log(bus))
        assert sent.count("never") == sent.count("$/cancelRequest")
        assert bus.statistics().pending == bus.statistics().pending_bytes == 0


async def test_kinds_that_alternate_are_soon_asked_for_one_by_one() -> None:
    async with gathering_bus() as (bus, gathering):
        async with anyio.create_task_group() as tasks:
            for n in range(40):
                begin(tasks, lambda n=n: bus.request("echo", {"n": n}, timeout=10 + n % 2))
        gathering.expect()
        async with anyio.create_task_group() as tasks:
            for n in range(80):
                begin(tasks, lambda n=n: bus.request("echo", {"n": n}))
        assert bus.statistics().pending == 0
        if running_loop_name() != "trio":
            assert gathering.counts == [16]  # those after the first 64
            gathering.expect()
            async with anyio.create_task_group() as tasks:
                for n in range(9):
                    begin(tasks, lambda n=n: bus.request("echo", {"n": n}))
            assert gathering.counts == [16, 9]


async def test_a_row_leaves_no_cycle() -> None:
    async with gathering_bus() as (bus, gathering):
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                gathering.expect()
                async with anyio.create_task_group() as tasks:
                    for n in range(9):
                        tasks.start_soon(bus.request, "echo", {"n": n})
            left = [found for found in gc.get_objects() if type(found) is Row]
        finally:
            gc.enable()
        assert len(left) <= 1
