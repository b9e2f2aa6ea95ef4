"""On asyncio, tasks whose waiters were set go on together, and each as if it went on alone."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import selectors
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import anyio
import pytest
import trio
import trio.lowlevel
import uvloop

from anyio_bus._io.asyncio_loop import AsyncioLoop
from anyio_bus._io.loop import _TrioLoop, current_loop, running_loop_name

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [
    asyncio.new_event_loop,
    uvloop.new_event_loop,
]
number: contextvars.ContextVar[int] = contextvars.ContextVar("number")


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    made = request.param()
    yield made
    if not made.is_closed():
        made.close()


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_tasks_go_on_in_the_order_in_which_they_were_woken(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        ours, order = AsyncioLoop(), []

        async def wait(waiter: Any) -> None:
            order.append(await waiter)

        waiters = [ours.waiter() for _ in range(5)]
        tasks = [asyncio.create_task(wait(waiter)) for waiter in waiters]
        await settle()
        for place in (3, 0, 4, 1, 2):
            ours.wake(waiters[place], place)
            ours.wake(waiters[place], "again")
        assert order == []
        await asyncio.gather(*tasks)
        assert order == [3, 0, 4, 1, 2]

    loop.run_until_complete(main())


def test_who_is_woken_while_an_fd_is_served_comes_after_all_else_that_was_brought_about(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        ours, order = AsyncioLoop(), []

        async def wait(waiter: Any) -> None:
            order.append(await waiter)

        def answer(n: int) -> bool:
            tasks.append(asyncio.create_task(wait(put(f"handler {n}"))))
            ours.wake(waiters[n], f"caller {n}")
            return True

        def put(value: str) -> Any:
            waiter = ours.waiter()
            ours.wake(waiter, value)
            return waiter

        waiters = [ours.waiter() for _ in range(4)]
        tasks = [asyncio.create_task(wait(waiter)) for waiter in waiters]
        await settle()
        ours.wake(waiters[0], "by itself")
        for n in (1, 2, 3):
            assert ours.serve(lambda n=n: answer(n))
        await asyncio.gather(*tasks)
        assert order == [
            "by itself",
            *(f"{who} {n}" for n in (1, 2, 3) for who in ("handler", "caller")),
        ]

    loop.run_until_complete(main())


def test_who_is_woken_while_what_serves_an_fd_runs_the_loop_goes_on(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        ours = AsyncioLoop()
        waiters = [ours.waiter() for _ in range(3)]

        async def wait(waiter: Any) -> None:
            await waiter

        def wake(n: int) -> None:
            ours.wake(waiters[n], None)

        def serve() -> None:  # what it calls may be a loop that some have patched to run in itself
            wake(0)
            ours.serve(partial(wake, 1))
            wake(2)

        tasks = [asyncio.create_task(wait(waiter)) for waiter in waiters]
        await settle()
        ours.serve(serve)
        await settle()
        assert [task.done() for task in tasks] == [True] * 3

    loop.run_until_complete(main())


@pytest.mark.parametrize("due", [False, True])
def test_one_that_ends_the_loop_leaves_those_of_its_own_turn_to_it(
    loop: asyncio.AbstractEventLoop, due: bool
) -> None:
    ours: list[AsyncioLoop] = []
    over: list[int] = []

    async def wait(n: int, waiter: Any) -> None:
        await waiter
        over.append(n)
        if n == 0:
            raise SystemExit

    async def main() -> None:
        ours.append(AsyncioLoop())
        waiters = [ours[0].waiter() for _ in range(3)]
        tasks = [asyncio.create_task(wait(n, waiter)) for n, waiter in enumerate(waiters)]
        await settle()
        ours[0].wake(waiters[0], None)
        ours[0].wake(waiters[1], None)
        if due:
            ours[0].serve(lambda: ours[0].wake(waiters[2], None))
        else:
            ours[0].wake(waiters[2], None)
        await asyncio.gather(*tasks[1:])

    task = loop.create_task(main())
    with pytest.raises(SystemExit):
        loop.run_until_complete(task)
    assert over[0] == 0  # uvloop ends its turn first
    loop.run_until_complete(task)
    assert sorted(over) == [0, 1, 2]


def test_a_loop_is_not_idle_before_all_of_a_turn_have_gone_on(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> list[bool]:
        ours, idle = AsyncioLoop(), []

        async def wait(waiter: Any) -> None:
            await waiter
            idle.append(ours.idle_fd() is not None)

        waiters = [ours.waiter() for _ in range(3)]
        tasks = [asyncio.create_task(wait(waiter)) for waiter in waiters]
        await settle()
        for waiter in waiters:
            ours.wake(waiter, None)
        await asyncio.gather(*tasks)
        return idle

    known = hasattr(loop, "_ready")
    assert loop.run_until_complete(main())[:2] == [not known, not known]


def test_each_goes_on_in_its_own_context_as_its_own_task(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        ours = AsyncioLoop()

        async def wait(n: int, waiter: Any) -> tuple[int, bool]:
            number.set(n)
            task = asyncio.current_task()
            await waiter
            return number.get(), asyncio.current_task() is task

        waiters = [ours.waiter() for _ in range(3)]
        tasks = [asyncio.create_task(wait(n, waiter)) for n, waiter in enumerate(waiters)]
        await settle()
        for waiter in waiters:
            ours.wake(waiter, None)
        assert await asyncio.gather(*tasks) == [(n, True) for n in range(3)]

    loop.run_until_complete(main())


def test_what_was_set_before_it_is_awaited_is_had_at_once(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        ours = AsyncioLoop()
        waiter = ours.waiter()
        ours.wake(waiter, 5)
        assert await waiter == 5

    loop.run_until_complete(main())


def test_a_task_is_cancelled_before_and_after_its_waiter_is_set(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        ours = AsyncioLoop()

        async def wait(waiter: Any) -> None:
            await waiter

        for woken in (False, True):
            waiter = ours.waiter()
            task = asyncio.create_task(wait(waiter))
            await settle()
            if woken:
                ours.wake(waiter, None)
            assert task.cancel("why")
            with pytest.raises(asyncio.CancelledError):
                await task
            ours.wake(waiter, "late")
            assert waiter.cancelled() is not woken
        waiter = ours.waiter()
        assert waiter.cancel()
        assert not waiter.cancel()

    loop.run_until_complete(main())


@pytest.mark.parametrize("readable", [False, True])
def test_one_that_ends_the_loop_leaves_the_others_to_it(
    loop: asyncio.AbstractEventLoop, readable: bool
) -> None:
    over: list[int] = []
    ours: list[AsyncioLoop] = []
    waiters: list[Any] = []
    tasks: list[asyncio.Task[None]] = []
    reading, writing = os.pipe()

    async def wait(n: int, waiter: Any) -> None:
        await waiter
        over.append(n)
        if n == 1:
            raise SystemExit

    def wake_all() -> bool:
        for waiter in waiters:
            ours[0].wake(waiter, None)
        return False

    async def main() -> None:
        ours.append(AsyncioLoop())
        waiters.extend(ours[0].waiter() for _ in range(4))
        tasks.extend(asyncio.create_task(wait(n, waiter)) for n, waiter in enumerate(waiters))
        await settle()
        if readable:
            os.write(writing, b"x")
            await ours[0].serve_readable(reading, wake_all)
        else:
            wake_all()
        await asyncio.gather(tasks[0], tasks[2], tasks[3])

    runner = loop.create_task(main())
    with pytest.raises(SystemExit):
        loop.run_until_complete(runner)
    assert over[:2] == [0, 1]  # uvloop ends its turn first
    loop.run_until_complete(runner)
    assert over == [0, 1, 2, 3]
    assert type(tasks[1].exception()) is SystemExit
    os.close(reading)
    os.close(writing)


def test_those_who_are_woken_while_an_fd_is_served_go_on_after_all_that_it_brings_about(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        ours, others, order = AsyncioLoop(), AsyncioLoop(), list[str]()
        waiter = ours.waiter()
        reading, writing = os.pipe()

        async def wait() -> None:
            await waiter
            order.append("woken")

        def serve() -> bool:
            os.read(reading, 1)
            ours.wake(waiter, None)
            loop.call_soon(order.append, "handler")
            return False

        task = asyncio.create_task(wait())
        await settle()
        os.write(writing, b"x")
        await others.serve_readable(reading, serve)
        await task
        assert order == ["handler", "woken"]
        os.close(reading)
        os.close(writing)

    loop.run_until_complete(main())


def test_each_has_the_context_in_which_it_was_made(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        seen: list[int] = []

        async def read(n: int) -> None:
            number.set(n)
            ours = AsyncioLoop()
            reading, writing = os.pipe()
            os.write(writing, b"x")
            await ours.serve_readable(reading, lambda: bool(seen.append(number.get())))
            os.close(reading)
            os.close(writing)
            ours.post(lambda: seen.append(number.get()))
            await settle()

        for n in (1, 2):
            await asyncio.create_task(read(n))
        assert seen == [1, 1, 2, 2]

    loop.run_until_complete(main())


def test_a_task_that_was_woken_may_run_the_loop_itself(loop: asyncio.AbstractEventLoop) -> None:
    """As some have it, by a patch: the callback that steps it must not be in the way."""

    async def main() -> None:
        ours = AsyncioLoop()
        first, second = ours.waiter(), ours.waiter()
        handles: list[Any] = []

        async def nested() -> None:
            await first
            ours.wake(second, None)
            handles.append(ours._turns._due)

        async def other() -> None:
            await second
            handles.append("other")

        tasks = [asyncio.create_task(nested()), asyncio.create_task(other())]
        await settle()
        ours.wake(first, None)
        await asyncio.gather(*tasks)
        assert handles == [True, "other"]  # it is asked for anew, not left to who steps this one

    loop.run_until_complete(main())


def test_tasks_that_wake_each_other_for_ever_leave_turns_to_others(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        ours = AsyncioLoop()
        waiters = [ours.waiter(), ours.waiter()]

        async def play(mine: int) -> None:
            while True:
                await waiters[mine]
                waiters[mine] = ours.waiter()
                ours.wake(waiters[1 - mine], None)

        tasks = [asyncio.create_task(play(n)) for n in range(2)]
        await settle()
        ours.wake(waiters[0], None)
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    loop.run_until_complete(asyncio.wait_for(main(), 10))


def test_all_who_use_a_loop_share_its_turns_while_anybody_uses_it(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def ask() -> AsyncioLoop:
        return AsyncioLoop()

    first, second = (loop.run_until_complete(ask()) for _ in range(2))
    assert first._turns is second._turns
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(asyncio.run, ask()).result()._turns is not first._turns
    assert loop.run_until_complete(ask())._turns is first._turns
    seen = weakref.ref(first._turns)
    del first, second
    gc.collect()
    assert seen() is None


def test_trio_that_another_thread_is_just_loading_is_not_the_loop(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> tuple[type, str | None]:
        return type(current_loop()), running_loop_name()

    monkeypatch.setitem(sys.modules, "trio", ModuleType("trio"))  # as it is at the first moment
    assert loop.run_until_complete(main()) == (AsyncioLoop, "asyncio")


class Odd(selectors.SelectSelector):
    """One of its own kind."""

    def fileno(self) -> int:
        raise NotImplementedError


def test_a_loop_without_an_fd_to_sleep_on_does_not_tell_whether_it_is_idle() -> None:
    async def main() -> int | None:
        return AsyncioLoop().idle_fd()

    for selector, known in (
        (selectors.DefaultSelector(), True),
        (selectors.SelectSelector(), False),
        (Odd(), False),
    ):
        loop = asyncio.SelectorEventLoop(selector)
        assert (loop.run_until_complete(main()) == -1) is not known
        loop.close()


def test_a_trio_with_other_names_does_not_tell_whether_it_is_idle() -> None:
    async def main() -> tuple[int | None, int | None]:
        lowlevel = trio.lowlevel
        changed = SimpleNamespace(**{**vars(lowlevel), "current_task": object})
        return _TrioLoop(lowlevel).idle_fd(), _TrioLoop(changed).idle_fd()

    known, unknown = trio.run(main)
    assert known not in (None, -1)
    assert unknown == -1


def test_nothing_is_asked_of_a_loop_that_has_ended(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> tuple[AsyncioLoop, Any]:
        ours = AsyncioLoop()
        return ours, ours.waiter()

    ours, waiter = loop.run_until_complete(main())
    loop.close()
    ours.wake(waiter, None)
    assert waiter.done()


async def test_a_wait_can_be_cancelled_by_a_scope(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("of asyncio")
    ours = AsyncioLoop()
    waiter = ours.waiter()
    with anyio.move_on_after(0.01) as scope:
        await waiter
    assert scope.cancelled_caught
