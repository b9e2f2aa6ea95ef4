"""However the block is left, its own exception comes out bare and nothing stays behind.

The net under every test (``tests/conftest.py``) looks for processes and file descriptors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from anyio_bus import BusInternalError, BusState, BusStoppedError, open_bus
from tests.process.kit import (
    Report,
    Reports,
    children,
    open_reports,
    patience,
    pending,
    puppets,
)

SHORT_S = 0.3


class Oops(Exception):
    """The body's own."""


def stubborn(reports: Reports) -> list[str]:
    return ["--report", reports.path, "--ignore", "eof,term"]


async def test_the_bodys_own_exception_comes_out_bare() -> None:
    with pytest.raises(Oops) as caught:
        async with open_bus(puppets()) as bus:
            await bus.request("echo")
            raise Oops
    assert caught.value.__cause__ is None
    assert bus.state is BusState.STOPPED
    assert children() == []


async def test_the_bodys_own_group_comes_out_as_it_is() -> None:
    group = ExceptionGroup("mine", [Oops(), ValueError()])
    with pytest.RaisesGroup(Oops, ValueError) as caught:
        async with open_bus(puppets()):
            raise group
    assert caught.value is group


async def test_the_bodys_own_exit_keeps_its_class() -> None:
    with pytest.raises(SystemExit) as caught:
        async with open_bus(puppets()):
            raise SystemExit(3)
    assert caught.value.code == 3
    assert children() == []


async def test_an_exception_that_comes_out_while_a_request_is_in_flight_ends_it_first() -> None:
    async def hold() -> None:
        with pytest.raises(BusStoppedError, match="shutting down"):
            await bus.request("hold")
        ended.set()

    ended = anyio.Event()
    async with anyio.create_task_group() as tasks:
        with pytest.raises(Oops):
            async with open_bus(puppets()) as bus:
                await bus.request("echo")
                tasks.start_soon(hold)
                await pending(bus, 1)
                raise Oops
        with patience():
            await ended.wait()


async def test_a_cancelled_block_ends_its_workers_rung_by_rung() -> None:
    async with open_reports() as reports:
        with anyio.CancelScope() as scope:
            async with open_bus(puppets(*stubborn(reports)), grace_s=SHORT_S) as bus:
                report = await reports.accept()
                await bus.request("echo")
                scope.cancel()
                await bus.request("echo")
        assert scope.cancelled_caught
        assert bus.state is BusState.STOPPED
        assert (await report.rest())[-2:] == ["eof", "term"]
        assert children() == []


async def test_a_block_whose_time_is_up_is_left_like_a_cancelled_one() -> None:
    async with open_reports() as reports:
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.2):
                async with open_bus(puppets(*stubborn(reports)), grace_s=SHORT_S) as bus:
                    await bus.request("hold")
        assert children() == []


async def test_a_cancel_while_the_block_is_being_left_waits_for_the_ladder() -> None:
    async def cancel_at_eof(report: Report) -> None:
        await report.until("eof")
        scope.cancel()

    scope = anyio.CancelScope()
    async with open_reports() as reports, anyio.create_task_group() as tasks:
        with scope:
            async with open_bus(puppets(*stubborn(reports)), grace_s=SHORT_S) as bus:
                report = await reports.accept()
                await bus.request("echo")
                tasks.start_soon(cancel_at_eof, report)
        assert children() == []


async def test_a_sibling_that_fails_takes_the_bus_down_in_order() -> None:
    async def fail() -> None:
        await pending(bus, 1)
        raise Oops

    with pytest.RaisesGroup(Oops):
        async with anyio.create_task_group() as tasks:
            async with open_bus(puppets()) as bus:
                tasks.start_soon(fail)
                await bus.request("hold")
    assert children() == []


async def test_a_bug_in_the_kernel_comes_out_as_one_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(BusInternalError, match="report") as caught:
        async with open_bus(puppets(), backend="python") as bus:
            await bus.request("echo")
            router: Any = bus._backend.router  # type: ignore[attr-defined]
            monkeypatch.setattr(router, "settle", broken)
            await bus.request("echo")
    group = caught.value.__cause__
    assert isinstance(group, BaseExceptionGroup)
    assert group.subgroup(ZeroDivisionError)
    assert children() == []


async def _left_by_native_cancels(moments: Callable[[int], bool], anyio_backend_name: str) -> None:
    """Cancel a block's task by asyncio's own means, again whenever ``moments(step)`` says so."""
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has edge cancels")
    async with open_reports() as reports:

        async def block() -> None:
            async with open_bus(puppets(*stubborn(reports)), grace_s=10) as bus:
                report = await reports.accept()
                await bus.request("echo")
                ready.set_result(report)
                await bus.request("hold")

        loop = asyncio.get_running_loop()
        ready: asyncio.Future[Report] = loop.create_future()
        before = asyncio.all_tasks()
        task = asyncio.create_task(block())
        with patience():
            report = await ready
            task.cancel()
            for step in range(100):
                if moments(step):
                    task.cancel()
                await anyio.lowlevel.checkpoint()
            with pytest.raises(asyncio.CancelledError):
                await task
        await report.rest()
        assert children() == []
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize("step", [1, 2, 3, 5, 20])
async def test_a_second_native_cancel_kills_at_once(step: int, anyio_backend_name: str) -> None:
    await _left_by_native_cancels(lambda now: now == step, anyio_backend_name)


async def test_a_storm_of_native_cancels_leaves_nothing(anyio_backend_name: str) -> None:
    await _left_by_native_cancels(lambda _: True, anyio_backend_name)
