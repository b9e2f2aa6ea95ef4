"""Lines from stdin and to stdout: whole, bounded, without blocking the loop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyio_bus.cli._stdio import LineReader, LineWriter, Oversize

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe whose ends a test may close."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        with suppress(OSError):
            os.close(fd)


async def test_lines_come_one_by_one_however_they_are_cut(pipe: Pipe) -> None:
    reading, writing = pipe
    lines = LineReader(reading)
    for byte in b"one\n\ntwo\r\n":
        os.write(writing, bytes([byte]))
    with anyio.fail_after(5):
        assert [await lines.read_line() for _ in range(3)] == [b"one", b"", b"two"]


async def test_the_last_line_needs_no_newline(pipe: Pipe) -> None:
    reading, writing = pipe
    lines = LineReader(reading)
    os.write(writing, b"one\ntwo")
    os.close(writing)
    assert [await lines.read_line() for _ in range(4)] == [b"one", b"two", None, None]


async def test_a_line_over_the_limit_is_skipped_and_the_next_one_is_read(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyio_bus.cli._stdio.MAX_LINE_BYTES", 10)
    monkeypatch.setattr("anyio_bus.cli._stdio.READ_BYTES", 4)
    reading, writing = pipe
    lines = LineReader(reading)
    os.write(writing, b"x" * 35 + b"\nshort\n" + b"y" * 11 + b"\nten bytes!\n" + b"z" * 50)
    os.close(writing)
    assert await lines.read_line() == Oversize(35)
    assert await lines.read_line() == b"short"
    assert await lines.read_line() == Oversize(11)
    assert await lines.read_line() == b"ten bytes!"
    assert await lines.read_line() == Oversize(50)
    assert await lines.read_line() is None


async def test_a_cancelled_read_loses_nothing(pipe: Pipe) -> None:
    reading, writing = pipe
    lines = LineReader(reading)
    os.write(writing, b"half")
    with anyio.move_on_after(0.01):
        await lines.read_line()
    os.write(writing, b" and half\n")
    assert await lines.read_line() == b"half and half"


async def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"one\ntwo\n")
    fd = os.open(tmp_path / "lines", os.O_RDONLY)
    lines = LineReader(fd)
    assert [await lines.read_line() for _ in range(3)] == [b"one", b"two", None]
    os.close(fd)


async def test_the_loop_runs_while_a_line_is_written_that_nobody_reads(pipe: Pipe) -> None:
    reading, writing = pipe
    line = b"x" * 300_000
    writer = LineWriter(writing)
    got = bytearray()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.write, line)
        tasks.start_soon(writer.write, line)
        await checkpoint()
        with anyio.fail_after(5):
            while len(got) < 2 * len(line) + 2:
                await anyio.wait_readable(reading)
                got += os.read(reading, 10_000)
    assert bytes(got) == (line + b"\n") * 2


async def test_a_writer_whose_reader_is_gone_is_told(pipe: Pipe) -> None:
    reading, writing = pipe
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        await LineWriter(writing).write(b"anybody?")


async def test_lines_are_written_to_a_file(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    writer = LineWriter(fd)
    await writer.write(b"one")
    await writer.write(b"two")
    os.close(fd)
    assert (tmp_path / "out").read_bytes() == b"one\ntwo\n"
