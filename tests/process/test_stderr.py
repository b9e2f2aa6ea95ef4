"""Stderr is always read: into a bounded tail, and to logging with pool and worker."""

from __future__ import annotations

import logging

import pytest

from anyio_bus import Bus, Limits, Pool, WorkerLostError, open_bus
from tests.process.kit import SED, only, patience, polled, puppets


async def test_4_mib_on_stderr_do_not_hold_up_an_answer() -> None:
    async with open_bus(puppets()) as bus:
        with patience():
            assert await bus.request("shout", {"kib": 4096}) == {"kib": 4096}
            assert await bus.request("echo", {"a": 1}) == {"a": 1}
        await until_read(bus, 4096 * 1024)
        assert len(only(bus).stderr_tail) == Limits().stderr_tail_bytes


async def until_read(bus: Bus, count: int) -> None:
    """Wait until so many bytes of stderr were read: that is another pipe than the answer's."""
    await polled(lambda: bus.statistics().kernel.stderr_bytes >= count)


async def test_of_much_stderr_the_last_bytes_are_kept() -> None:
    async with open_bus(puppets(), limits=Limits(stderr_tail_bytes=10)) as bus:
        with patience(), pytest.raises(WorkerLostError) as caught:
            await bus.request("die", {"stderr": "0123456789abcdef\n"})
        assert caught.value.stderr_tail == "789abcdef\n"


async def test_an_error_holds_the_last_4_kib_and_a_report_all_that_is_kept() -> None:
    async with open_bus(puppets()) as bus:
        await bus.request("shout", {"kib": 10})
        await until_read(bus, 10 * 1024)
        assert len(only(bus).stderr_tail) == 10 * 1024
        with pytest.raises(WorkerLostError) as caught:
            await bus.request("die")
        assert len(caught.value.stderr_tail) == 4096


async def test_stderr_that_is_no_utf_8_is_shown_as_escapes() -> None:
    script = "printf 'caf\\351 \\0 end\\n' >&2; exit 1"
    async with open_bus(Pool("latin", ["sh", "-c", script])) as bus:
        with patience(), pytest.raises(OSError, match="exited with code 1") as caught:
            await bus.request("x")
        assert caught.value.stderr_tail == "caf\\xe9 \0 end\n"  # type: ignore[attr-defined]


async def test_each_line_is_logged_with_pool_and_worker(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anyio_bus.stderr")
    script = f"echo one >&2; printf 'two\\r\\n\\nlast' >&2; exec {SED[0]} -u -E '{SED[3]}'"
    async with open_bus(Pool("talk", ["sh", "-c", script], instances=2)) as bus:
        await bus.wait_ready()
    records = [record for record in caplog.records if record.name == "anyio_bus.stderr"]
    for worker in range(2):
        mine = [record for record in records if record.__dict__["worker"] == worker]
        assert [record.getMessage() for record in mine] == [
            f"talk/{worker}: {line}" for line in ("one", "two", "", "last")
        ]
        assert {record.__dict__["pool"] for record in mine} == {"talk"}


async def test_a_line_without_end_is_logged_in_pieces(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anyio_bus.stderr")
    script = f"head -c 100000 /dev/zero | tr '\\0' x >&2; exec {SED[0]} -u -E '{SED[3]}'"
    async with open_bus(Pool("flood", ["sh", "-c", script])) as bus:
        await until_read(bus, 100_000)
    pieces = [r.getMessage() for r in caplog.records if r.name == "anyio_bus.stderr"]
    assert all(len(piece) <= 8192 + len("flood/0: ") for piece in pieces)
    assert sum(len(piece.removeprefix("flood/0: ")) for piece in pieces) == 100_000


async def test_a_closed_stderr_is_no_reason_to_end_a_worker() -> None:
    async with open_bus(puppets()) as bus:
        pid = await bus.request("pid")
        await bus.request("mute")
        for _ in range(10):
            assert await bus.request("pid") == pid
