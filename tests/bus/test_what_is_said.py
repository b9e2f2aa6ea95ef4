"""Errors and the log say what to do about it; both kernels in the same words."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from anyio_bus import (
    Bus,
    FrameTooLargeError,
    Handshake,
    Limits,
    Pool,
    WorkerStartError,
    open_bus,
)
from tests.bus.support import DONE, need_native, scripted, until

FAST = Limits(restart_delay_s=0.01, start_attempts=1, max_frame_bytes=4000)


@pytest.fixture(params=["python", "native"])
def backend(request: pytest.FixtureRequest) -> Any:
    if request.param == "native":
        need_native()
    return request.param


@asynccontextmanager
async def a_bus(backend: Any, pool: Pool) -> AsyncIterator[Bus]:
    async with open_bus(pool, backend=backend, limits=FAST, timeout=5, grace_s=2) as bus:
        yield bus


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if getattr(record, "event", "") == event
    ]


async def failed_start(backend: Any, pool: Pool) -> str:
    async with a_bus(backend, pool) as bus:
        with pytest.raises(WorkerStartError) as caught:
            await bus.wait_ready()
            await bus.request("echo")
        return str(caught.value)


async def test_first_answer_of_a_worker_that_it_was_not_asked_with_is_logged(
    backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_bus(backend, scripted()) as bus:
        lines = ['{"id":"1","result":0}', '{"id":%d,"result":0}' % 10**15, DONE]
        assert await bus.request("say", {"lines": lines}) == "done"
        await until(lambda: bus.statistics().kernel.stray_answers == 2)

        (text,) = said(caplog, "stray_answer")
        assert text == 'worker w/0 answered id "1", which no request waits for'
        (record,) = [r for r in caplog.records if getattr(r, "event", "") == "stray_answer"]
        assert (record.levelno, record.pool, record.worker) == (logging.WARNING, "w", 0)  # type: ignore[attr-defined]

        await bus.restart_worker(0)
        await bus.wait_ready()
        long = '{"id":"%s","result":0}' % ("x" * 3000)
        assert await bus.request("say", {"lines": [long, DONE]}) == "done"

        await until(lambda: len(said(caplog, "stray_answer")) == 2)
        assert "x" * 99 + ", which" in said(caplog, "stray_answer")[1]


async def test_first_bad_line_of_a_bus_is_logged_with_what_stdout_is_for(
    backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_bus(backend, scripted()) as bus:
        assert await bus.request("say", {"lines": ["ready!", "still ready!", DONE]}) == "done"

        first, second = said(caplog, "bad_line")
        assert first.endswith("b'ready!'; a worker logs to stderr, stdout is for messages")
        assert second.endswith("b'still ready!'")


LONG_ANSWER = """
import json
key = json.loads(input())["id"]
print(json.dumps({"id": key, "result": "x" * 5000}), flush=True)
input()
"""


async def test_answer_over_the_limit_is_told_with_both_sizes(backend: Any) -> None:
    async with a_bus(backend, Pool("p", [sys.executable, "-c", LONG_ANSWER])) as bus:
        with pytest.raises(FrameTooLargeError) as caught:
            await bus.request("echo")

    size = len('{"id": 1, "result": ""}\n') + 5000
    text = f" answered with a line of {size} bytes, over max_frame_bytes=4000"
    assert str(caught.value).endswith(text)


async def test_refused_handshake_is_told_apart_from_what_was_done_about_it(backend: Any) -> None:
    program = 'input(); print(\'{"id":"anyio-bus/handshake","error":5}\', flush=True); input()'
    pool = Pool("p", [sys.executable, "-c", program], ready=Handshake("initialize"))

    text = await failed_start(backend, pool)

    assert "refused 'initialize': " in text
    assert "; it was ended" in text
    assert "and was ended" not in text


async def test_parked_worker_whose_command_is_not_there_is_told_of_once(
    backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_bus(backend, Pool("p", ["/no/such"])) as bus:
        await until(lambda: bus.workers()[0].state == "parked")
        why = "worker 0 of pool 'p' could not be started: '/no/such': No such file or directory"

        assert bus.workers()[0].reason == why
        await until(lambda: said(caplog, "worker_parked"))
        assert said(caplog, "worker_parked") == [f"worker p/0 is parked: {why}"]


async def test_python_program_that_ends_without_a_word_is_asked_whether_it_runs_its_worker(
    backend: Any,
) -> None:
    silent = await failed_start(backend, Pool("p", [sys.executable, "-c", ""]))
    failing = await failed_start(backend, Pool("p", [sys.executable, "-c", "raise SystemExit(1)"]))
    other = await failed_start(backend, Pool("p", ["true"]))

    assert silent.endswith(" exited with code 0 before its first line; does it call worker.run()?")
    assert failing.endswith(" exited with code 1 before its first line")
    assert other.endswith(" exited with code 0 before its first line")
