"""The taps of a bus: what they hide, what they drop, what they cost, when they end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyio_bus import (
    BusStoppedError,
    Handshake,
    InvalidArgumentError,
    Memory,
    MessageHook,
    Pool,
    StreamOverflowError,
    UnknownPoolError,
    open_bus,
    read_tap,
)
from anyio_bus.testing import cancel_sweep
from tests.bus.support import one_worker, until
from tests.bus.workers.scripted import serve


def memory() -> Any:
    return open_bus(Pool("w", ["memory"]), backend=Memory({"w": serve}))


async def test_secrets_are_hidden_unless_asked_for() -> None:
    async with one_worker() as bus, bus.tap() as frames, bus.tap(redact=False) as raw:
        await bus.request("echo", {"user": "ada", "apiKey": "hunter2"})
        await bus.stop()
        hidden = [frame async for frame in frames]
        plain = [frame async for frame in raw]

    assert len(hidden) == len(plain) == 2
    assert all(b"hunter2" in frame.frame and not frame.redacted for frame in plain)
    assert all(b"hunter2" not in frame.frame and frame.redacted for frame in hidden)
    assert all(b"ada" in frame.frame for frame in hidden)
    assert [frame.size for frame in hidden] == [frame.size for frame in plain]


async def test_redacting_function_is_asked_and_its_failure_shows_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def hide(message: Any) -> Any:
        if "result" in message:
            raise LookupError("lost the map")
        return {**message, "params": "gone"}

    async with memory() as bus, bus.tap(redact=hide) as frames:
        await bus.request("echo", [1])
        there, back = await frames.receive(), await frames.receive()

    assert b'"params":"gone"' in there.frame
    assert back.frame == b'"***"\n'
    assert "could not be redacted" in caplog.text


@pytest.mark.parametrize(
    ("overflow", "expected"),
    [("drop_oldest", [(3, 3), (4, 0)]), ("drop_newest", [(0, 0), (1, 0)])],
)
async def test_slow_reader_loses_frames_and_sees_where(overflow: Any, expected: Any) -> None:
    async with memory() as bus:
        async with bus.tap(max_queue=2, overflow=overflow, pool="w") as frames:
            for n in range(5):
                await bus.notify("look", [n])
            await until(lambda: bus.statistics().kernel.bytes_out >= 5 * 45)
            seen = await frames.receive_batch()
            assert frames.dropped == 3
            await bus.notify("look", [9])
            seen += await frames.receive_batch()

    assert [(frame.frame[-4:-3], frame.dropped) for frame in seen[:2]] == [
        (b"%d" % n, gap) for n, gap in expected
    ]
    assert seen[2].dropped == (3 if overflow == "drop_newest" else 0)


async def test_tap_may_end_rather_than_drop() -> None:
    async with memory() as bus, bus.tap(max_queue=1, overflow="close") as frames:
        await bus.request("echo")
        assert (await frames.receive()).method == "echo"
        with pytest.raises(StreamOverflowError, match="max_queue=1"):
            await frames.receive()
        assert await bus.request("echo", [1]) == [1]


async def test_queue_of_large_frames_is_bounded_by_their_bytes() -> None:
    async with memory() as bus, bus.tap(redact=None) as frames:
        for _ in range(3):
            await bus.request("echo", ["x" * 6_000_000])
        sizes = [frame.size for frame in await frames.receive_batch()]

    assert sum(sizes) <= 16 * 1024 * 1024 + 6_100_000
    assert frames.dropped == 6 - len(sizes) > 0


async def test_kernel_shows_nothing_while_nobody_follows() -> None:
    async with memory() as bus:
        kernel: Any = bus._backend
        assert kernel.on_frames is None
        async with bus.tap() as one:
            async with bus.tap():
                assert kernel.on_frames is not None
            assert kernel.on_frames is not None
            await one.aclose()
            assert kernel.on_frames is None
            await one.aclose()
        hook = bus.on_message(print)
        assert kernel.on_frames is not None
        hook.remove()
        hook.remove()
        assert kernel.on_frames is None


async def test_tap_ends_with_the_bus_after_what_it_holds() -> None:
    async with memory() as bus, bus.tap() as frames:
        await bus.request("echo")
        await bus.stop()
        with anyio.fail_after(5):
            assert len([frame async for frame in frames]) == 2
        with pytest.raises(anyio.EndOfStream):
            await frames.receive()
        with pytest.raises(BusStoppedError):
            async with bus.tap():
                pass


async def test_bad_arguments_are_named_before_anything_is_tapped(tmp_path: Path) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("worker", {"worker": "one"}),
        ("redact", {"redact": "all"}),
        ("max_queue", {"max_queue": 0}),
        ("overflow", {"overflow": "block"}),
    ]
    async with memory() as bus:
        for field, options in wrong:
            with pytest.raises(InvalidArgumentError) as caught:
                async with bus.tap(**options):
                    pass
            assert caught.value.field == field
        with pytest.raises(UnknownPoolError):
            async with bus.tap(pool="nowhere"):
                pass
        with pytest.raises(InvalidArgumentError, match="max_bytes"):
            bus.record_tap(tmp_path / "t", max_bytes=0)
        with pytest.raises(InvalidArgumentError, match="plain function"):
            bus.on_message(serve)  # type: ignore[arg-type]
        kernel: Any = bus._backend
        assert kernel.on_frames is None


async def test_on_message_gets_every_line_as_it_was_read(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[str] = []

    def take(line: str) -> None:
        lines.append(line)
        if line == "bad":
            raise LookupError("lost the map")

    async with one_worker() as bus:
        hook = bus.on_message(take)
        said = ["bad", '{"method": "note"}\r', '"\xff"', '{"id":$ID,"result":0}']
        await bus.request("say", {"lines": said})
        hook.remove()
        await bus.request("echo")

    assert lines[:2] == ["bad", '{"method": "note"}\r']
    assert lines[2].encode("utf-8", "surrogateescape") == b'"\xff"'
    assert lines[3].endswith('"result":0}')
    assert len(lines) == 4
    assert [r.exc_info is not None for r in caplog.records if "callback" in r.message] == [True]


async def test_callback_may_remove_itself() -> None:
    lines: list[str] = []
    hooks: list[MessageHook] = []

    def once(line: str) -> None:
        lines.append(line)
        hooks[0].remove()

    async with memory() as bus:
        with bus.on_message(once, pool="w") as hook:
            hooks.append(hook)
            await bus.request("echo")
            await bus.request("echo")

    assert len(lines) == 1


async def test_recording_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "tap.ndjson"
    async with memory() as bus, bus.tap(redact=False) as frames:
        with bus.record_tap(path) as recording:
            await bus.request("echo", {"password": "hunter2"})
            await bus.request("say", {"lines": ["stray", '{"id":$ID,"result":0}']})
        await bus.request("echo")
        seen = await frames.receive_batch()
    kept = read_tap(path)

    assert recording.frames == len(kept) == 5
    assert b"hunter2" not in path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0
    assert [(f.at, f.id, f.kind, f.size) for f in kept] == [
        (f.at, f.id, f.kind, f.size) for f in seen[:5]
    ]


async def test_full_recording_ends_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tap.ndjson"
    async with memory() as bus:
        recording = bus.record_tap(path, max_bytes=1000)
        for _ in range(10):
            await bus.request("echo")
    assert path.stat().st_size <= 1000
    assert recording.frames == len(read_tap(path)) > 0
    assert recording.frames + recording.dropped == 20
    assert [r.levelno for r in caplog.records if "recording" in r.message] == [logging.WARNING]


def test_file_that_is_no_recording_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "wrong.ndjson"
    path.write_text('{"direction":"up"}\n')
    with pytest.raises(InvalidArgumentError, match=r"wrong\.ndjson, line 1"):
        read_tap(path)


async def test_recording_of_a_bus_begins_with_the_first_handshake(tmp_path: Path) -> None:
    path = tmp_path / "tap.ndjson"
    pool = Pool("w", ["memory"], ready=Handshake("echo", {"client": "test"}))
    async with open_bus(pool, backend=Memory({"w": serve}), record_tap=path) as bus:
        await bus.wait_ready()
    assert [frame.id for frame in read_tap(path)] == ["anyio-bus/handshake"] * 2

    with pytest.raises(InvalidArgumentError, match="cannot be written"):
        async with open_bus(pool, backend=Memory({"w": serve}), record_tap=tmp_path):
            pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
async def test_recording_on_a_full_disk_ends_and_the_bus_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory() as bus:
        with bus.record_tap("/dev/full") as recording:
            assert await bus.request("echo", [1]) == [1]
    assert (recording.frames, recording.dropped) == (0, 2)
    assert "recording /dev/full ends here" in caplog.text


async def test_tap_can_be_cancelled_at_any_step() -> None:
    async with memory() as bus:
        kernel: Any = bus._backend

        async def follow() -> None:
            async with bus.tap() as frames:
                await bus.notify("look")
                await frames.receive()
                await frames.receive_batch() if frames.dropped else await frames.aclose()

        def check() -> None:
            assert kernel.on_frames is None

        assert await cancel_sweep(follow, check=check) >= 3


async def test_cancelled_reader_loses_no_frame() -> None:
    async with memory() as bus, bus.tap() as frames:
        with anyio.CancelScope() as scope:
            scope.cancel("never mind")
            await frames.receive()
        await bus.request("echo")
        with anyio.CancelScope() as scope:
            scope.cancel("never mind")
            await frames.receive_batch()
        assert [frame.method for frame in await frames.receive_batch()] == ["echo", "echo"]
