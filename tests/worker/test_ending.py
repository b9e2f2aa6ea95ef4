"""At the end of its input a worker finishes what it has; then it is cancelled; then it is gone."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from anyio_bus.worker import Worker
from anyio_bus.worker._serving import Conversation
from tests.worker.kit import Client, notification, request


class Serving:
    """A worker that serves in the background, and is left to end by itself."""

    def __init__(self, tasks: anyio.abc.TaskGroup, worker: Worker) -> None:
        self.client = Client()
        self.worker = worker
        self.tasks = tasks
        self.signals, self._received = anyio.create_memory_object_stream[object](10)
        self.stuck: list[bool] = []

    async def run(self) -> None:
        """Serve as a process does, with signals."""
        worker = self.worker
        conversation = Conversation(
            worker._methods, worker._notifications, worker._settings, self.client.send
        )
        try:
            await conversation.run(
                self.client.receive, self._received, lambda: self.stuck.append(True)
            )
        finally:
            self.client.ended.set()
            self.client._output.close()

    def close(self) -> None:
        self.signals.close()
        self._received.close()
        self.client.close()


class Held:
    """Requests that wait for a gate, and how they ended."""

    def __init__(self, **options: Any) -> None:
        self.worker = Worker(**options)
        self.gate = anyio.Event()
        self.begun = 0
        self.cancelled = 0
        self.noted: list[int] = []
        self.worker.method("hold")(self.hold)
        self.worker.notification("note")(self.note)

    async def hold(self) -> str:
        self.begun += 1
        try:
            await self.gate.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        return "done"

    async def note(self, number: int) -> None:
        await self.gate.wait()
        self.noted.append(number)


@pytest.fixture
async def held() -> Held:
    return Held(max_concurrency=2)


def answers(messages: list[Any]) -> dict[Any, Any]:
    return {m["id"]: m.get("result", m.get("error", {}).get("code")) for m in messages}


async def test_what_is_in_progress_or_waits_is_finished_after_the_end_of_input(
    held: Held,
) -> None:
    async with anyio.create_task_group() as tasks:
        serving = Serving(tasks, held.worker)
        tasks.start_soon(serving.run)
        client = serving.client
        client.write(*(request(n, "hold") for n in range(4)), notification("note", [1]))
        client._to_worker.close()
        await anyio.wait_all_tasks_blocked()
        assert not client.ended.is_set()
        held.gate.set()
        assert answers(await client.rest()) == dict.fromkeys(range(4), "done")
        assert held.noted == [1]
        serving.close()


@pytest.mark.parametrize("drain_s", [0, 0.01])
async def test_when_the_time_is_over_all_is_cancelled_and_answered(drain_s: float) -> None:
    held = Held(max_concurrency=2, drain_s=drain_s)
    async with anyio.create_task_group() as tasks:
        serving = Serving(tasks, held.worker)
        tasks.start_soon(serving.run)
        client = serving.client
        client.write(*(request(n, "hold") for n in range(4)), notification("note", [1]))
        await anyio.wait_all_tasks_blocked()
        assert answers(await client.rest()) == {0: -32800, 1: -32800, 2: -32055, 3: -32055}
        assert (held.begun, held.cancelled, held.noted) == (2, 2, [])
        assert not serving.stuck
        serving.close()


async def test_after_a_signal_new_requests_are_refused_and_the_old_ones_finished(
    held: Held,
) -> None:
    async with anyio.create_task_group() as tasks:
        serving = Serving(tasks, held.worker)
        tasks.start_soon(serving.run)
        client = serving.client
        client.write(request(1, "hold"))
        await anyio.wait_all_tasks_blocked()
        serving.signals.send_nowait(15)
        await anyio.wait_all_tasks_blocked()
        client.write(request(2, "hold"), request(3, "nope"), notification("note", [1]))
        refused = await client.take(2)
        assert answers(refused) == {2: -32055, 3: -32601}
        held.gate.set()
        assert answers([await client.next()]) == {1: "done"}
        with anyio.fail_after(5):
            await client.ended.wait()  # its input is still open
        assert held.noted == []
        serving.close()


async def test_while_it_ends_cancels_still_get_through(held: Held) -> None:
    async with anyio.create_task_group() as tasks:
        serving = Serving(tasks, held.worker)
        tasks.start_soon(serving.run)
        client = serving.client
        client.write(request(1, "hold"))
        await anyio.wait_all_tasks_blocked()
        serving.signals.send_nowait(15)
        await anyio.wait_all_tasks_blocked()
        client.write(notification("$/cancelRequest", {"id": 1}))
        assert answers([await client.next()]) == {1: -32800}
        with anyio.fail_after(5):
            await client.ended.wait()
        serving.close()


@pytest.mark.parametrize("first", ["end of input", "signal"])
async def test_a_signal_while_it_ends_cancels_at_once(held: Held, first: str) -> None:
    async with anyio.create_task_group() as tasks:
        serving = Serving(tasks, held.worker)
        tasks.start_soon(serving.run)
        client = serving.client
        client.write(request(1, "hold"))
        await anyio.wait_all_tasks_blocked()
        if first == "signal":
            serving.signals.send_nowait(15)
        else:
            client._to_worker.close()
        await anyio.wait_all_tasks_blocked()
        assert held.cancelled == 0
        serving.signals.send_nowait(15)
        assert answers([await client.next()]) == {1: -32800}
        with anyio.fail_after(5):
            await client.ended.wait()
        serving.close()


async def test_the_end_of_input_after_a_signal_is_no_reason_to_hurry(held: Held) -> None:
    async with anyio.create_task_group() as tasks:
        serving = Serving(tasks, held.worker)
        tasks.start_soon(serving.run)
        client = serving.client
        client.write(request(1, "hold"))
        await anyio.wait_all_tasks_blocked()
        serving.signals.send_nowait(15)
        await anyio.wait_all_tasks_blocked()
        client._to_worker.close()
        await anyio.wait_all_tasks_blocked()
        assert held.cancelled == 0
        held.gate.set()
        assert answers(await client.rest()) == {1: "done"}
        serving.close()


async def test_handlers_that_do_not_end_are_reported_by_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("anyio_bus.worker._serving.CANCEL_GRACE_S", 0.01)
    worker = Worker(drain_s=0)
    release = anyio.Event()

    @worker.method("stubborn")
    async def stubborn() -> str:
        with anyio.CancelScope(shield=True):
            await release.wait()
        return "at last"

    async with anyio.create_task_group() as tasks:
        serving = Serving(tasks, worker)
        tasks.start_soon(serving.run)
        serving.client.start("stubborn")
        await anyio.wait_all_tasks_blocked()
        serving.client._to_worker.close()
        with anyio.fail_after(5):
            while not serving.stuck:
                await anyio.wait_all_tasks_blocked()
        release.set()
        with anyio.fail_after(5):
            await serving.client.ended.wait()
        serving.close()
    assert "cancelled handlers did not end: stubborn" in caplog.text


@pytest.mark.parametrize("error", [BrokenPipeError(), anyio.BrokenResourceError()])
async def test_when_the_client_is_gone_everything_is_cancelled_quietly(
    held: Held, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    @held.worker.method("ping", inline=True)
    def ping() -> None: ...

    client = Client()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.serve, held.worker)
        client.start("hold")
        await anyio.wait_all_tasks_blocked()
        client.fail_with = error
        client.start("ping")
        with anyio.fail_after(5):
            await client.ended.wait()
    client.close()
    assert held.cancelled == 1
    assert not [r for r in caplog.records if r.levelname in {"WARNING", "ERROR"}]


async def test_a_stream_s_own_error_comes_out_bare(held: Held) -> None:
    client = Client()
    client.fail_with = ZeroDivisionError("not a pipe's")
    client.start("nope")
    with anyio.fail_after(5), pytest.raises(ZeroDivisionError):
        await client.serve(held.worker)

    async def receive() -> bytes:
        await anyio.lowlevel.checkpoint()
        raise ZeroDivisionError

    with anyio.fail_after(5), pytest.raises(ZeroDivisionError):
        await held.worker.serve_stream(receive, client.send)
    client.close()


@pytest.mark.parametrize("error", [OSError(), anyio.EndOfStream(), anyio.ClosedResourceError()])
async def test_a_broken_input_is_the_end_of_input(error: Exception) -> None:
    async def receive() -> bytes:
        await anyio.lowlevel.checkpoint()
        raise error

    async def send(data: bytes) -> None:
        await anyio.lowlevel.checkpoint()

    with anyio.fail_after(5):
        await Worker().serve_stream(receive, send)


async def test_a_client_that_stops_reading_does_not_hold_up_the_end() -> None:
    worker = Worker(drain_s=0)

    @worker.method("big", inline=True)
    def big() -> str:
        return "x" * 100_000

    client = Client()
    client.reading = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.serve, worker)
        client.start("big")
        await anyio.wait_all_tasks_blocked()
        client._to_worker.close()
        with anyio.fail_after(5):
            await client.ended.wait()
    client.close()


async def test_cancelling_serve_stream_cancels_the_handlers_and_ends(held: Held) -> None:
    client = Client()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.serve, held.worker)
        client.start("hold")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert held.cancelled == 1
    client.close()
