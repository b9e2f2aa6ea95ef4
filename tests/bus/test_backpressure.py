"""Bounds on what waits: callers wait for room in order, a kernel's full queue refuses."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
import trio.testing

from anyio_bus import (
    InvalidArgumentError,
    Limits,
    Memory,
    OverloadedError,
    RequestTimeoutError,
    open_bus,
)
from tests.bus.support import begin, fifo, held, log, methods, one_worker, scripted, until
from tests.bus.workers.scripted import serve
from tests.conftest import Backend


async def test_requests_over_max_queued_are_refused_unsent() -> None:
    limits = Limits(max_queued=2)
    async with one_worker(limits, max_in_flight=1) as bus, anyio.create_task_group() as tasks:
        begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        waiting = [begin(tasks, lambda i=i: bus.request("echo", [i])) for i in range(2)]
        await until(lambda: bus.statistics().kernel.queued_requests == 2)

        with pytest.raises(OverloadedError) as caught:
            await bus.request("echo", ["too many"])

        assert caught.value.limit == "max_queued"
        assert not caught.value.sent
        await bus.notify("release")
        assert [await call.wait() for call in waiting] == [[0], [1]]
        assert await bus.request("echo", [3]) == [3]


async def test_notifications_over_max_output_bytes_are_refused(tmp_path: Path) -> None:
    limits = Limits(max_output_bytes=100_000, max_frame_bytes=1_000_000)
    with fifo(tmp_path / "gate") as let_go:
        async with one_worker(limits) as bus:
            await bus.notify("stall", {"fifo": str(tmp_path / "gate")})
            with pytest.raises(OverloadedError) as caught:
                for _ in range(1000):
                    await bus.notify("ignored", ["x" * 50_000])

            assert caught.value.limit == "max_output_bytes"
            assert not caught.value.sent
            let_go()
            await until(lambda: bus.workers()[0].queued_bytes == 0)
            assert await bus.request("echo", [1]) == [1]


async def test_request_behind_a_frame_larger_than_max_output_bytes_is_sent_once_that_is_written(
    tmp_path: Path,
) -> None:
    limits = Limits(max_output_bytes=1000)
    async with one_worker(limits) as bus, anyio.create_task_group() as tasks:
        await bus.notify("ignored", ["x" * 500_000])
        calls = [begin(tasks, lambda i=i: bus.request("echo", [i])) for i in range(10)]

        assert [await call.wait() for call in calls] == [[i] for i in range(10)]


async def test_callers_over_max_pending_wait_and_are_let_in_in_order() -> None:
    async with one_worker(Limits(max_pending=1)) as bus, anyio.create_task_group() as tasks:
        calls = [begin(tasks, lambda: bus.request("hold", [0]))]
        await held(bus, 1)
        for i in range(1, 5):
            calls.append(begin(tasks, lambda i=i: bus.request("echo", [i])))
            await until(lambda i=i: bus.statistics().waiting == i)

        assert bus.statistics().pending == 1
        assert bus.statistics().kernel.queued_requests == 0
        await bus.notify("release")

        assert [await call.wait() for call in calls] == [[i] for i in range(5)]
        sent = [m["params"] for m in await log(bus) if m["method"] == "echo" and "params" in m]
        assert sent == [[1], [2], [3], [4]]
        assert bus.statistics().waiting == 0


async def test_no_more_than_max_pending_are_ever_pending() -> None:
    async with one_worker(Limits(max_pending=2)) as bus, anyio.create_task_group() as tasks:
        calls = [begin(tasks, lambda i=i: bus.request("hold", [i])) for i in range(6)]
        for round_ in (1, 2, 3):
            await held(bus, 2 * round_)
            assert bus.statistics().pending == 2
            assert bus.statistics().waiting == 6 - 2 * round_
            await bus.notify("release")  # both are answered in one write

        assert [await call.wait() for call in calls] == [[i] for i in range(6)]
        assert bus.statistics().unhandled == 6


async def test_caller_that_comes_while_others_wait_does_not_overtake() -> None:
    async with one_worker(Limits(max_pending=1)) as bus, anyio.create_task_group() as tasks:
        order: list[int] = []

        async def ask(number: int) -> None:
            for _ in range(5):
                await bus.request("echo", [number])
                order.append(number)

        for number in range(4):
            tasks.start_soon(ask, number)

    assert sorted(order[:4]) == [0, 1, 2, 3]
    assert order == order[:4] * 5


async def test_waiting_caller_times_out_unsent_and_leaves_the_queue() -> None:
    async with one_worker(Limits(max_pending=1)) as bus, anyio.create_task_group() as tasks:
        blocker = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)

        with pytest.raises(RequestTimeoutError) as caught:
            await bus.request("echo", timeout=0.05)

        assert (caught.value.method, caught.value.timeout_s) == ("echo", 0.05)
        assert not caught.value.sent
        assert bus.statistics().waiting == 0
        assert bus.statistics().timeouts == 1
        await bus.notify("release")
        await blocker.wait()
        assert methods(await log(bus)) == ["echo", "hold", "release"]


def with_jumping_clock() -> pytest.MarkDecorator:
    """Run a test without children on trio alone: no other loop has a clock that jumps."""
    backend = ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})
    return pytest.mark.parametrize("anyio_backend", [backend], ids=["trio"])


@with_jumping_clock()
async def test_time_in_the_queue_counts_for_the_timeout(anyio_backend: Backend) -> None:
    limits = Limits(max_pending=1)
    memory = Memory({"w": serve})
    async with (
        open_bus(scripted(), limits=limits, backend=memory) as bus,
        anyio.create_task_group() as tasks,
    ):
        first = begin(tasks, lambda: bus.request("mute", timeout=20))
        await until(lambda: bus.statistics().pending == 1)
        start = anyio.current_time()
        with pytest.raises(RequestTimeoutError) as caught:
            await bus.request("mute", timeout=50)

        assert caught.value.timeout_s == 50
        assert anyio.current_time() - start == pytest.approx(50)
        with pytest.raises(RequestTimeoutError):
            await first.wait()


@with_jumping_clock()
async def test_callers_that_time_out_together_are_not_let_in_by_each_other(
    anyio_backend: Backend,
) -> None:
    limits = Limits(max_pending=1)
    memory = Memory({"w": serve})
    async with (
        open_bus(scripted(), limits=limits, backend=memory) as bus,
        anyio.create_task_group() as tasks,
    ):
        calls = [begin(tasks, lambda: bus.request("mute", timeout=5)) for _ in range(10)]
        sent = []
        for call in calls:
            with pytest.raises(RequestTimeoutError) as caught:
                await call.wait()
            sent.append(caught.value.sent)

        assert sorted(sent) == [False] * 9 + [True]
        assert methods(await log(bus)) == ["mute", "$/cancelRequest"]


async def test_cancelled_caller_that_was_just_let_in_passes_its_place_on() -> None:
    async with one_worker(Limits(max_pending=1)) as bus, anyio.create_task_group() as tasks:
        first = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        doomed = begin(tasks, lambda: bus.request("echo", ["doomed"]))
        await until(lambda: bus.statistics().waiting == 1)
        last = begin(tasks, lambda: bus.request("echo", ["last"]))
        await until(lambda: bus.statistics().waiting == 2)

        first.scope.cancel()  # both in one step: the place goes to a caller that is gone
        doomed.scope.cancel()

        assert await last.wait() == ["last"]
        assert bus.statistics().pending == 0


async def test_waiting_caller_whose_params_cannot_be_sent_passes_its_place_on() -> None:
    async with one_worker(Limits(max_pending=1)) as bus, anyio.create_task_group() as tasks:
        first = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        wrong = [begin(tasks, lambda: bus.request("echo", object())) for _ in range(3)]
        await until(lambda: bus.statistics().waiting == 3)
        last = begin(tasks, lambda: bus.request("echo", ["last"]))
        await until(lambda: bus.statistics().waiting == 4)

        await bus.notify("release")
        await first.wait()

        for call in wrong:
            with pytest.raises(InvalidArgumentError, match="params"):
                await call.wait()
        assert await last.wait() == ["last"]


async def test_callers_over_max_output_bytes_wait_instead_of_being_refused() -> None:
    limits = Limits(max_output_bytes=100_000)
    pool = {"max_in_flight": 1}
    async with one_worker(limits, **pool) as bus, anyio.create_task_group() as tasks:
        text = "x" * 60_000
        calls = [begin(tasks, lambda i=i: bus.request("hold", [i, text])) for i in range(8)]
        for count in range(1, 9):
            await held(bus, count)
            assert bus.statistics().pending_bytes <= 100_000 + 61_000
            await bus.notify("release")

        assert [(await call.wait())[0] for call in calls] == list(range(8))
        assert bus.statistics().pending_bytes == 0


async def test_many_callers_give_up_their_wait_at_once() -> None:
    async with one_worker(Limits(max_pending=1)) as bus, anyio.create_task_group() as tasks:
        first = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        with anyio.CancelScope() as all_of_them:
            async with anyio.create_task_group() as waiting:
                for _ in range(400):
                    waiting.start_soon(bus.request, "echo")
                await until(lambda: bus.statistics().waiting == 400)
                all_of_them.cancel()

        assert bus.statistics().waiting == 0
        await bus.notify("release")
        await first.wait()
        assert methods(await log(bus)) == ["echo", "hold", "release"]
