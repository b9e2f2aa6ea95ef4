"""Other threads: they are refused by name, and have `bus.from_thread`, which blocks them alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from anyio_bus import (
    Bus,
    BusState,
    BusStoppedError,
    InvalidStateError,
    RemoteError,
    RequestTimeoutError,
    Retry,
    open_bus,
)
from tests.bus.support import begin, held, log, methods, one_worker, scripted, until

LIMIT_S = 5


class Thread:
    """A thread of no event loop, started by nobody that we know."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, name="stranger")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._call()
        except BaseException as exc:  # noqa: ASYNC103  # the test looks at it
            self.error = exc

    async def wait(self) -> Any:
        with anyio.fail_after(LIMIT_S):
            await anyio.to_thread.run_sync(self._thread.join, abandon_on_cancel=True)
        if self.error is not None:
            raise self.error
        return self.value


async def in_thread(call: Callable[[], Any]) -> Any:
    """Call a function in a thread that AnyIO knows nothing of."""
    return await Thread(call).wait()


async def test_any_thread_sends_requests_and_notifications() -> None:
    async with one_worker() as bus:
        own = bus.from_thread
        frame = b'{"jsonrpc":"2.0","id":"x","method":"echo","params":[2]}'

        assert await in_thread(lambda: own.request("echo", [1], reply=list[int])) == [1]
        assert await anyio.to_thread.run_sync(own.request, "echo", [1]) == [1]
        assert b'"id":"x"' in await in_thread(lambda: own.request_raw(frame))
        await in_thread(lambda: own.notify("note", {"n": 3}))

        assert methods(await log(bus)) == ["echo", "echo", "echo", "echo", "note"]


async def test_errors_of_a_request_are_raised_in_the_thread() -> None:
    async with one_worker() as bus:
        own = bus.from_thread
        error = '{"jsonrpc":"2.0","id":$ID,"error":{"code":7,"message":"no"}}'

        with pytest.raises(RemoteError, match="no"):
            await in_thread(lambda: own.request("say", {"lines": [error]}))
        with pytest.raises(RequestTimeoutError):
            await in_thread(lambda: own.request("mute", timeout=0.01))
        with pytest.raises(RemoteError):
            await in_thread(lambda: own.request("say", {"lines": [error]}, retry=Retry(attempts=2)))


USES: list[Callable[[Bus], object]] = [
    lambda bus: bus.workers(),
    lambda bus: bus.statistics(),
    lambda bus: bus.on_notification(print),
    lambda bus: bus.scope.cancel(),
    lambda bus: bus.add_handler("x", print),
    lambda bus: bus.request("echo").send(None),
    lambda bus: bus.notify("echo").send(None),
    lambda bus: bus.stop().send(None),
    lambda bus: bus.stream("echo").__aenter__().send(None),  # type: ignore[attr-defined]
]


async def test_the_methods_of_a_bus_refuse_other_threads_by_name() -> None:
    async with one_worker() as bus:
        for use in USES:
            with pytest.raises(InvalidStateError, match="from_thread") as caught:
                await in_thread(partial(use, bus))

            assert "'stranger'" in str(caught.value)
            assert repr(threading.current_thread().name) in str(caught.value)
        assert bus.state is BusState.RUNNING
        assert not bus.scope.cancelled


async def test_a_bus_is_refused_in_another_event_loop() -> None:
    async with one_worker() as bus:
        with pytest.raises(InvalidStateError, match="from_thread"):
            await in_thread(lambda: anyio.run(bus.request, "echo"))


async def test_what_a_bus_has_open_cannot_be_waited_for_in_another_event_loop() -> None:
    async with (
        one_worker() as bus,
        bus.stream("mute") as stream,
        bus.subscribe("never") as notifications,
        bus.tap(worker=99) as frames,
    ):
        for wait in (stream.receive, stream.result, notifications.receive, frames.receive):
            with pytest.raises(InvalidStateError, match="from_thread"):
                await in_thread(partial(anyio.run, wait))


async def test_blocking_calls_are_refused_where_an_event_loop_runs() -> None:
    async def elsewhere() -> None:
        bus.from_thread.request("echo")

    async with one_worker() as bus:
        with pytest.raises(InvalidStateError, match="would block"):
            bus.from_thread.request("echo")
        with pytest.raises(InvalidStateError, match="would block"):
            await in_thread(lambda: anyio.run(elsewhere))


async def test_a_thread_that_waits_holds_up_no_other() -> None:
    async with one_worker() as bus:
        slow = Thread(lambda: bus.from_thread.request("hold", ["slow"]))
        await held(bus, 1)

        assert await in_thread(lambda: bus.from_thread.request("echo", ["quick"])) == ["quick"]

        await bus.request("release")
        assert await slow.wait() == ["slow"]


async def test_functions_run_in_the_loop_with_the_threads_variables() -> None:
    variable: ContextVar[str] = ContextVar("variable")

    async def look() -> tuple[str, bool]:
        await anyio.lowlevel.checkpoint()
        return variable.get(), anyio.get_current_task().name != ""

    def thread() -> tuple[str, bool]:
        variable.set("mine")
        return bus.from_thread.run(look)

    async with one_worker() as bus:
        assert await in_thread(thread) == ("mine", True)
        await in_thread(lambda: bus.from_thread.run(bus.wait_ready))
        assert len(await in_thread(lambda: bus.from_thread.run_sync(bus.workers))) == 1


async def test_stop_from_a_thread_ends_what_other_threads_wait_for() -> None:
    async with open_bus(scripted(), grace_s=2) as bus, anyio.create_task_group() as tasks:
        request = Thread(lambda: bus.from_thread.request("hold"))
        task = Thread(lambda: bus.from_thread.run(anyio.sleep_forever))
        await held(bus, 1)

        await in_thread(lambda: bus.from_thread.stop(grace_s=2))

        assert bus.state is BusState.STOPPED
        for waiting in (request, task):
            with pytest.raises(BusStoppedError):
                await waiting.wait()
        with pytest.raises(BusStoppedError):
            await in_thread(lambda: bus.from_thread.request("echo"))
        assert await in_thread(lambda: bus.from_thread.run_sync(bus.workers))
        await begin(tasks, lambda: in_thread(bus.from_thread.stop)).wait()


def test_after_the_event_loop_has_ended_there_is_a_clear_error(
    anyio_backend: tuple[str, dict[str, Any]],
) -> None:
    kept: list[Bus] = []

    async def main() -> None:
        async with open_bus(scripted()) as bus:
            await until(lambda: bus.state is BusState.RUNNING)
            kept.append(bus)

    name, options = anyio_backend
    anyio.run(main, backend=name, backend_options=options)

    with pytest.raises(BusStoppedError):
        kept[0].from_thread.request("echo")
    with pytest.raises(BusStoppedError):
        kept[0].from_thread.run_sync(int)
