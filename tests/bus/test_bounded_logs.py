"""What a worker can write into our log with each of its lines is bounded, and counted all the same."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from anyio_bus import Bus, Limits
from tests.bus.support import DONE, one_worker, until

LOGGED = 100


async def say(bus: Bus, *lines: str, **options: Any) -> None:
    """Have a scripted worker write lines."""
    assert await bus.request("say", {"lines": [*lines, DONE]}, **options) == "done"


def told(caplog: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in record.getMessage() for record in caplog.records)


async def test_last_64_bad_lines_are_kept_and_the_log_of_them_is_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with one_worker() as bus:
        assert bus.bad_lines() == []
        await say(bus, *(f"bad {number}" for number in range(500)))
        await say(bus, "x" * 1000)
        kept = bus.bad_lines()
        assert len(kept) == 64
        assert kept[0].prefix == b"bad 437"
        assert (kept[-1].pool, kept[-1].worker, kept[-1].size) == ("w", 0, 1001)
        assert kept[-1].prefix == b"x" * 200
        assert "malformed" in kept[-1].reason
    assert told(caplog, "bad line") == LOGGED


async def test_stderr_of_a_worker_goes_to_the_log_at_a_bounded_rate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "anyio_bus.stderr")
    async with one_worker() as bus:
        await bus.request("warn", {"text": "line\n" * 5000})
        await until(lambda: bus.statistics().kernel.stderr_bytes == 5 * 5000)
        assert bus.workers()[0].stderr_tail == "line\n" * 5000
    assert sum(record.name == "anyio_bus.stderr" for record in caplog.records) == 1000


async def test_each_worker_has_its_own_share_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with one_worker(instances=2) as bus:
        bad = ["bad"] * 500
        for _ in bus.workers():  # ties go in turn
            await say(bus, *bad)
        assert bus.statistics().kernel.bad_lines == 1000
    assert told(caplog, "w/0: bad line") == LOGGED
    assert told(caplog, "w/1: bad line") == LOGGED


async def test_handlers_and_callbacks_that_raise_are_logged_in_bounds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail_on_request() -> None:
        raise ValueError("broken here")

    seen: list[object] = []

    def fail_on_note(note: object) -> None:
        seen.append(note)
        raise ValueError("broken here")

    async with one_worker() as bus:
        bus.add_handler("ask", fail_on_request)
        bus.on_notification(fail_on_note, "note")
        await say(bus, *(f'{{"id":{number},"method":"ask"}}' for number in range(500)))
        await say(bus, *['{"method":"note"}'] * 500)
        assert len(seen) == 500
    assert told(caplog, "handler of 'ask' raised") == LOGGED
    assert told(caplog, "callback for notification 'note' raised") == LOGGED


async def test_the_next_line_that_is_logged_says_how_many_were_not(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyio_bus._bus.bad_lines.LOG_BURST", 2)
    monkeypatch.setattr("anyio_bus._bus.bad_lines.LOG_WINDOW_S", 0.05)
    async with one_worker(Limits()) as bus:
        await say(bus, *["bad"] * 100)
        sent = 100
        while not told(caplog, "more of these were not logged"):
            await say(bus, "bad")  # until the window is over
            sent += 1
        assert bus.statistics().kernel.bad_lines == sent
