"""Scopes: groups of calls that are cancelled together, from any task or by a deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from anyio_bus import (
    Bus,
    InvalidArgumentError,
    Limits,
    Retry,
    ScopeCancelledError,
    open_bus,
)
from tests.bus.support import begin, held, log, methods, one_worker, scripted, until


async def test_cancelling_a_scope_ends_its_calls_with_the_reason_and_tells_the_worker() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        async with bus.open_scope(name="turn") as scope:
            calls = [begin(tasks, lambda: bus.request("hold", scope=scope)) for _ in range(3)]
            await held(bus, 3)

            scope.cancel("the user pressed stop")

            for call in calls:
                with pytest.raises(ScopeCancelledError, match="turn") as caught:
                    await call.wait()
                assert caught.value.reason == "the user pressed stop"
                assert caught.value.sent
            assert scope.cancelled
            assert scope.cancel_reason == "the user pressed stop"
        assert methods(await log(bus)) == ["echo", *["hold"] * 3, *["$/cancelRequest"] * 3]


async def test_calls_in_other_scopes_are_untouched() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        async with bus.open_scope() as doomed, bus.open_scope() as other:
            call = begin(tasks, lambda: bus.request("hold", [1], scope=doomed))
            in_other = begin(tasks, lambda: bus.request("hold", [2], scope=other))
            in_root = begin(tasks, lambda: bus.request("hold", [3]))
            await held(bus, 3)

            doomed.cancel()
            with pytest.raises(ScopeCancelledError):
                await call.wait()
            await bus.request("release")

            assert await in_other.wait() == [2]
            assert await in_root.wait() == [3]
            assert not other.cancelled
            assert not bus.scope.cancelled


async def test_cancelling_a_scope_cancels_the_scopes_in_it_and_not_the_one_around_it() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        async with (
            bus.open_scope(name="outer") as outer,
            bus.open_scope(name="middle", parent=outer) as middle,
            bus.open_scope(name="inner", parent=middle) as inner,
        ):
            above = begin(tasks, lambda: bus.request("hold", [1], scope=outer))
            below = [
                begin(tasks, lambda s=s: bus.request("hold", scope=s)) for s in (middle, inner)
            ]
            await held(bus, 3)

            middle.cancel("enough")

            for call in below:
                with pytest.raises(ScopeCancelledError) as caught:
                    await call.wait()
                assert caught.value.reason == "enough"
            assert inner.cancelled
            assert not outer.cancelled
            await bus.request("release")
            assert await above.wait() == [1]


async def test_call_in_a_cancelled_scope_fails_at_once_unsent() -> None:
    async with one_worker() as bus, bus.open_scope(name="over") as scope:
        scope.cancel("done with it")
        for call in (
            bus.request("echo", scope=scope),
            bus.request_raw(b'{"id":1,"method":"echo"}', scope=scope),
        ):
            with pytest.raises(ScopeCancelledError, match="over") as caught:
                await call
            assert caught.value.reason == "done with it"
            assert not caught.value.sent
        assert methods(await log(bus)) == ["echo"]


async def test_scope_opened_in_a_cancelled_one_is_cancelled_with_its_reason() -> None:
    async with one_worker() as bus, bus.open_scope() as outer:
        outer.cancel("outer is over")
        async with bus.open_scope(parent=outer) as inner:
            assert inner.cancelled
            assert inner.cancel_reason == "outer is over"


async def test_first_reason_stays() -> None:
    async with one_worker() as bus, bus.open_scope() as scope:
        scope.cancel("first")
        scope.cancel("second")
        with pytest.raises(ScopeCancelledError) as caught:
            await bus.request("echo", scope=scope)

    assert caught.value.reason == "first"


async def test_queued_call_of_a_cancelled_scope_never_reaches_a_worker() -> None:
    async with one_worker(max_in_flight=1) as bus, anyio.create_task_group() as tasks:
        blocker = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        async with bus.open_scope() as scope:
            call = begin(tasks, lambda: bus.request("echo", ["doomed"], scope=scope))
            await until(lambda: bus.statistics().kernel.queued_requests == 1)
            scope.cancel()
            with pytest.raises(ScopeCancelledError) as caught:
                await call.wait()
            assert not caught.value.sent
        await bus.notify("release")
        await blocker.wait()
        assert methods(await log(bus)) == ["echo", "hold", "release"]


async def test_call_that_waits_for_room_ends_with_its_scope_too() -> None:
    async with one_worker(Limits(max_pending=1)) as bus, anyio.create_task_group() as tasks:
        blocker = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        async with bus.open_scope() as scope:
            call = begin(tasks, lambda: bus.request("echo", ["doomed"], scope=scope))
            await until(lambda: bus.statistics().waiting == 1)
            scope.cancel("no longer")
            with pytest.raises(ScopeCancelledError) as caught:
                await call.wait()
            assert caught.value.reason == "no longer"
            assert not caught.value.sent
        assert bus.statistics().waiting == 0
        await bus.notify("release")
        await blocker.wait()
        assert methods(await log(bus)) == ["echo", "hold", "release"]


async def test_cancelled_scope_lets_none_of_its_own_waiting_calls_in() -> None:
    async with one_worker(Limits(max_pending=1)) as bus, anyio.create_task_group() as tasks:
        async with bus.open_scope() as scope, bus.open_scope(parent=scope) as inner:
            first = begin(tasks, lambda: bus.request("hold", scope=inner))
            await held(bus, 1)
            waiting = [
                begin(tasks, lambda s=s: bus.request("echo", ["no"], scope=s))
                for s in (scope, inner, scope)
            ]
            await until(lambda: bus.statistics().waiting == 3)

            scope.cancel()

            for call in (first, *waiting):
                with pytest.raises(ScopeCancelledError) as caught:
                    await call.wait()
                assert caught.value.sent is (call is first)
        assert methods(await log(bus)) == ["echo", "hold", "$/cancelRequest"]


async def test_leaving_the_block_cancels_what_is_still_in_it() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        async with bus.open_scope() as scope:
            call = begin(tasks, lambda: bus.request("hold", scope=scope))
            await held(bus, 1)

        with pytest.raises(ScopeCancelledError) as caught:
            await call.wait()
        assert caught.value.reason == "scope closed"
        with pytest.raises(ScopeCancelledError):
            await bus.request("echo", scope=scope)


async def test_block_that_raises_cancels_its_calls_and_keeps_its_exception() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        with pytest.raises(LookupError):
            async with bus.open_scope() as scope:
                call = begin(tasks, lambda: bus.request("hold", scope=scope))
                await held(bus, 1)
                raise LookupError
        with pytest.raises(ScopeCancelledError):
            await call.wait()


async def test_deadline_cancels_the_scope() -> None:
    async with (
        one_worker() as bus,
        bus.open_scope(deadline=anyio.current_time() + 0.05) as scope,
        bus.open_scope(parent=scope) as inner,
    ):
        with pytest.raises(ScopeCancelledError) as caught:
            await bus.request("hold", scope=inner)

        assert caught.value.reason == "deadline"
        assert scope.cancel_reason == "deadline"
        assert await bus.request("echo", [1]) == [1]


async def test_deadline_that_is_past_cancels_at_once() -> None:
    async with one_worker() as bus:
        async with bus.open_scope(deadline=anyio.current_time() - 1) as scope:
            with pytest.raises(ScopeCancelledError):
                await bus.request("hold", scope=scope)


async def test_scope_left_before_its_deadline_is_forgotten() -> None:
    async with one_worker() as bus:
        async with bus.open_scope(deadline=anyio.current_time() + 0.05) as scope:
            pass
        async with bus.open_scope(deadline=anyio.current_time() + 0.06) as later:
            with pytest.raises(ScopeCancelledError):
                await bus.request("hold", scope=later)

    assert scope.cancel_reason == "scope closed"


async def test_deadline_that_is_no_time_is_refused() -> None:
    wrong: list[Any] = [float("nan"), "soon", True]
    async with one_worker() as bus:
        for deadline in wrong:
            with pytest.raises(InvalidArgumentError, match="deadline"):
                async with bus.open_scope(deadline=deadline):
                    pass
        async with bus.open_scope(deadline=float("inf")) as scope:
            assert await bus.request("echo", [1], scope=scope) == [1]


async def test_cancelling_the_root_scope_ends_every_call_and_refuses_new_ones() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        async with bus.open_scope() as scope:
            calls = [
                begin(tasks, lambda: bus.request("hold")),
                begin(tasks, lambda: bus.request("hold", scope=scope)),
            ]
            await held(bus, 2)
            bus.scope.cancel("all of it")
            for call in calls:
                with pytest.raises(ScopeCancelledError) as caught:
                    await call.wait()
                assert caught.value.reason == "all of it"
        with pytest.raises(ScopeCancelledError) as caught:
            await bus.request("echo")
        assert not caught.value.sent


async def test_scope_of_another_bus_is_refused() -> None:
    async with one_worker() as bus, one_worker() as other, other.open_scope() as scope:
        with pytest.raises(InvalidArgumentError, match="scope"):
            await bus.request("echo", scope=scope)
        with pytest.raises(InvalidArgumentError, match="parent"):
            async with bus.open_scope(parent=scope):
                pass


async def test_scopes_and_their_calls_leave_nothing_behind() -> None:
    async with one_worker() as bus:
        before = shape(bus)
        for number in range(200):
            later = anyio.current_time() + 100 + number
            async with bus.open_scope(deadline=later) as outer, bus.open_scope(parent=outer) as s:
                await bus.request("echo", scope=s)
                with pytest.raises(ScopeCancelledError):
                    s.cancel()
                    await bus.request("echo", scope=s)

        assert shape(bus) == before


def shape(bus: Bus) -> tuple[int, int, str]:
    statistics = bus.statistics()
    return statistics.pending, statistics.pending_bytes, repr(bus.scope)


async def test_cancelling_from_another_task_wakes_the_caller_only_once() -> None:
    async with open_bus(scripted(instances=2)) as bus, anyio.create_task_group() as tasks:
        async with bus.open_scope() as scope:
            calls = [begin(tasks, lambda: bus.request("hold", scope=scope)) for _ in range(20)]
            await held(bus, 20)
            for call in calls[::2]:
                call.scope.cancel()  # the task and its scope in the same step
            scope.cancel("both")
            for call in calls[1::2]:
                with pytest.raises(ScopeCancelledError):
                    await call.wait()
            for call in calls[::2]:
                with pytest.raises(ScopeCancelledError):
                    await call.wait()
                    raise ScopeCancelledError  # it was cancelled before it woke: both are right
        assert bus.statistics().pending == 0
        assert bus.statistics().kernel.cancelled == 20


NO_SCOPE: Any = "turn"
USES: dict[str, Callable[[Bus], Any]] = {
    "request": lambda bus: bus.request("echo", scope=NO_SCOPE),
    "collect": lambda bus: bus.request("echo", scope=NO_SCOPE, collect="text"),
    "retry": lambda bus: bus.request("echo", scope=NO_SCOPE, retry=Retry()),
    "raw": lambda bus: bus.request_raw('{"id":1,"method":"echo"}', scope=NO_SCOPE),
    "stream": lambda bus: bus.stream("echo", scope=NO_SCOPE).__aenter__(),
    "map": lambda bus: bus.map("echo", [[1]], scope=NO_SCOPE).__aenter__(),
    "thread": lambda bus: anyio.to_thread.run_sync(
        lambda: bus.from_thread.request("echo", scope=NO_SCOPE)
    ),
}


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
async def test_what_is_no_scope_is_refused_by_each_call(use: Callable[[Bus], Any]) -> None:
    async with one_worker() as bus:
        with pytest.raises(
            InvalidArgumentError, match=r"Scope from bus.open_scope\(\), not .turn."
        ):
            await use(bus)
        assert bus.statistics().pending == 0
        assert methods(await log(bus)) == ["echo"]


async def test_what_is_no_scope_is_refused_as_a_parent_and_of_a_handler() -> None:
    async with one_worker() as bus:
        with pytest.raises(InvalidArgumentError, match="parent must be a Scope"):
            await bus.open_scope(parent=NO_SCOPE).__aenter__()
        with pytest.raises(InvalidArgumentError, match="scope must be a Scope"):
            bus.add_handler("x", print, scope=NO_SCOPE)
