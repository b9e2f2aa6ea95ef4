"""A recorded conversation as a test's worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from anyio_bus import Bus, InvalidArgumentError, RemoteError, TapFrame
from anyio_bus.testing import memory_worker, open_memory_bus, replay
from anyio_bus.testing.workers import echo as echo_program
from anyio_bus.worker import Context
from tests.bus.support import begin, until
from tests.bus.workers.scripted import serve


async def recorded(bus: Bus, path: Path, *requests: tuple[str, Any]) -> list[Any]:
    """Record some requests; return their results."""
    with bus.record_tap(path):
        return [await bus.request(method, params) for method, params in requests]


async def test_recorded_requests_are_answered_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "tap.ndjson"
    asked = [("echo", {"a": 1, "b": [1.5, None]}), ("big", {"bytes": 3}), ("pid", None)]
    async with open_memory_bus(echo_program.worker) as bus:
        await bus.request("echo", ["not recorded"])
        results = await recorded(bus, path, *asked)

    worker = replay(path)
    async with open_memory_bus(worker) as bus:
        for (method, params), result in reversed(list(zip(asked, results, strict=True))):
            assert await bus.request(method, params) == result
    assert worker.unused == []


async def test_answers_of_equal_requests_come_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "tap.ndjson"
    numbers = iter(range(9))
    async with open_memory_bus(memory_worker({"next": lambda: next(numbers)})) as bus:
        await recorded(bus, path, ("next", None), ("next", {}))

    async with open_memory_bus(replay(path)) as bus:
        assert [await bus.request("next") for _ in range(2)] == [0, 1]
        with pytest.raises(RemoteError, match=r"recorded 2 times, all of which are used up"):
            await bus.request("next")
    async with open_memory_bus(replay(path, repeat=True)) as bus:
        assert [await bus.request("next") for _ in range(4)] == [0, 1, 1, 1]


async def test_what_was_not_recorded_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "tap.ndjson"
    async with open_memory_bus(echo_program.worker) as bus:
        await recorded(bus, path, ("echo", {"who": {"name": "Ada", "at": [1, 2]}}))

    worker = replay(path)
    async with open_memory_bus(worker) as bus:
        for params, why in [
            ({"who": {"name": "Bob", "at": [1, 2]}}, r'params\.who\.name was "Ada", not "Bob"'),
            ({"who": {"name": "Ada", "at": [1, 3]}}, r"params\.who\.at\[1\] was 2, not 3"),
            ({"who": {"name": "Ada", "at": [1]}}, r"params\.who\.at was \[1,2\], not \[1\]"),
            ({"who": {"name": "Ada"}}, r"params\.who\.at is missing"),
            ({"who": {"name": "Ada", "at": [True, 2]}}, r"was 1, not true"),
            ({"who": {}, "x": "y" * 200}, r"params\.who\.name is missing"),
            (None, r"not null"),
        ]:
            with pytest.raises(RemoteError, match=why):
                await bus.request("echo", params)
        with pytest.raises(RemoteError, match=r"no request 'sing' was recorded.*'echo' \(1\)"):
            await bus.request("sing")
    assert worker.unused == ["echo"]


async def test_chunks_carry_the_id_of_the_new_request(tmp_path: Path) -> None:
    path = tmp_path / "tap.ndjson"
    async with open_memory_bus(echo_program.worker) as bus:
        await recorded(bus, path, ("stream", {"text": "to be"}))

    async with open_memory_bus(replay(path)) as bus, bus.tap() as frames:
        with pytest.raises(RemoteError):
            await bus.request("uses up an id")
        await bus.request("stream", {"text": "to be", "_meta": {"trace": "does not count"}})
        with anyio.fail_after(5):
            seen = [await frames.receive() for _ in range(6)][2:]
    assert [frame.kind for frame in seen] == ["request", "notification", "notification", "response"]
    assert {frame.request for frame in seen} == {seen[0].id}
    assert b'"requestId":%d' % seen[0].id in seen[1].frame  # type: ignore[operator]


async def test_stream_is_replayed_chunk_by_chunk(tmp_path: Path) -> None:
    path = tmp_path / "tap.ndjson"
    params = {"text": "to be or not to be"}

    async def listen(bus: Bus) -> tuple[list[str], Any]:
        async with bus.stream("stream", params) as stream:
            return [chunk.text async for chunk in stream], await stream.result()

    async with open_memory_bus(echo_program.worker) as bus:
        with bus.record_tap(path):
            recorded_one = await listen(bus)
    async with open_memory_bus(replay(path, repeat=True)) as bus:
        assert await listen(bus) == recorded_one
        assert await listen(bus) == recorded_one
    assert len(recorded_one[0]) == 6


def frame(direction: Any, line: bytes, **members: Any) -> TapFrame:
    where: dict[str, Any] = {"pool": "p", "worker": 0, "generation": 1, "at": 0.0, "time": 0.0}
    return TapFrame(direction=direction, frame=line, size=len(line), **where, **members)


def conversation() -> list[TapFrame]:
    """A worker that asks its client before it answers, and reports progress."""
    return [
        frame("from_worker", b'{"method":"hello"}\n', kind="notification", method="hello"),
        frame(
            "to_worker",
            b'{"id":1,"method":"work","params":{"_meta":{"progressToken":"t"}}}\n',
            kind="request", id=1, method="work", request=1,
        ),
        frame(
            "from_worker",
            b'{"method":"notifications/progress","params":{"progressToken":"t","progress":1}}\n',
            kind="notification", method="notifications/progress", request=1,
        ),
        frame("from_worker", b"stray\n", kind="bad"),
        frame("from_worker", b'{"id":1,"method":"ask"}\n', kind="request", id=1, method="ask"),
        frame("to_worker", b'{"id":1,"result":5}\n', kind="response", id=1),
        frame("from_worker", b'{"id":1,"result":"ok"}\n', kind="response", id=1, request=1),
    ]  # fmt: skip


async def test_worker_waits_for_the_answer_to_its_own_request() -> None:
    async with open_memory_bus(replay(conversation())) as bus, bus.tap(redact=False) as frames:
        params = {"_meta": {"progressToken": 9}}
        assert await bus.request("work", params) == "ok"
        await bus.stop()
        seen = [shown async for shown in frames if shown.method != "hello"]

    assert [(shown.direction, shown.kind) for shown in seen] == [
        ("to_worker", "request"),
        ("from_worker", "notification"),
        ("from_worker", "bad"),
        ("from_worker", "request"),
        ("to_worker", "response"),
        ("from_worker", "response"),
    ]
    assert b'"progressToken":9' in seen[1].frame
    assert seen[3].id == seen[4].id != 1


async def test_cancelled_request_is_answered_when_it_is_cancelled_again(tmp_path: Path) -> None:
    path = tmp_path / "tap.ndjson"

    async def wait(context: Context) -> None:
        await context.notify("waiting")
        await anyio.sleep_forever()

    async def run(worker: Any, record: bool) -> list[TapFrame]:
        async with open_memory_bus(worker) as bus, bus.tap() as frames:
            recording = bus.record_tap(path) if record else None
            async with anyio.create_task_group() as tasks:
                call = begin(tasks, lambda: bus.request("wait"))
                await until(lambda: bus.statistics().kernel.messages_in)
                call.scope.cancel("enough")
            await until(lambda: bus.statistics().kernel.late_answers)
            if recording is not None:
                recording.close()
            return await frames.receive_batch()

    first = await run(memory_worker({"wait": wait}), True)
    again = await run(replay(path), False)

    assert [f.frame for f in again] == [f.frame for f in first]
    async with open_memory_bus(replay(path)) as bus:
        with pytest.raises(TimeoutError):
            await bus.request("wait", timeout=0.01)


async def test_request_cancelled_for_the_first_time_is_answered_with_that() -> None:
    silent = [frame("to_worker", b'{"id":1,"method":"a"}\n', kind="request", id=1, method="a")]
    async with open_memory_bus(replay(silent)) as bus:
        with pytest.raises(TimeoutError):
            await bus.request("a", timeout=0.01)
        await until(lambda: bus.statistics().kernel.late_answers)
        await bus.notify("$/cancelRequest", {"id": 99})
        await bus.notify("anything", [1])
        with pytest.raises(RemoteError, match="used up"):
            await bus.request("a")


async def test_hidden_secret_fits_any_value(tmp_path: Path) -> None:
    path = tmp_path / "tap.ndjson"
    async with open_memory_bus(echo_program.worker) as bus:
        await recorded(bus, path, ("echo", {"password": "hunter2"}))

    async with open_memory_bus(replay(path)) as bus:
        assert await bus.request("echo", {"password": "other"}) == {"password": "***"}


async def test_recording_of_several_pools_needs_the_name_of_one(tmp_path: Path) -> None:
    path = tmp_path / "tap.ndjson"
    async with open_memory_bus({"a": echo_program.worker, "b": serve}) as bus:
        with bus.record_tap(path):
            for pool in ("a", "b"):
                await bus.request("echo", {"pool": pool}, pool=pool)

    with pytest.raises(InvalidArgumentError, match=r"pool= must be given: .* 'a', 'b'"):
        replay(path)
    async with open_memory_bus(replay(path, pool="b")) as bus:
        assert await bus.request("echo", {"pool": "b"}) == {"pool": "b"}
        with pytest.raises(RemoteError):
            await bus.request("echo", {"pool": "a"})


def test_recording_without_requests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        replay(tmp_path / "nothing")
    with pytest.raises(InvalidArgumentError, match="no request"):
        replay([])
    with pytest.raises(InvalidArgumentError, match="no request of pool 'q'"):
        replay(conversation(), pool="q")
