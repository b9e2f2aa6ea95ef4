"""A line that is no message costs that line: counted, logged in short, and the worker goes on."""

from __future__ import annotations

import logging

import anyio
import pytest

from anyio_bus import RequestTimeoutError, WorkerLostError
from tests.bus.support import DONE, begin, held, log, one_worker, until

BAD_LINES: dict[str, str] = {
    "text": "this is not JSON",
    "half an object": '{"jsonrpc":"2.0","id":1,',
    "two objects": '{"id":1,"result":1}{"id":2,"result":2}',
    "invalid UTF-8": "\xff\xfe\x80",
    "invalid UTF-8 in a method": '{"method":"\xff"}',
    "NUL": "\x00",
    "NULs around": '\x00{"method":"x"}\x00',
    "null": "null",
    "true": "true",
    "a number": "17",
    "text in quotes": '"result"',
    "array": "[]",
    "batch": '[{"jsonrpc":"2.0","method":"x"}]',
    "empty object": "{}",
    "object that is no message": '{"jsonrpc":"2.0","params":[1]}',
    "id alone": '{"id":1}',
    "result without an id": '{"result":1}',
    "method that is no text": '{"method":5}',
    "id that is an object": '{"id":{},"result":1}',
    "id that is true": '{"id":true,"result":1}',
    "id out of range": '{"id":%s,"result":1}' % ("9" * 5000),
    "number out of range": '{"id":1e999,"result":1}',
    "deep nesting": '{"method":"x","params":%s%s}' % ("[" * 50_000, "]" * 50_000),
    "deep nesting, unended": "[" * 50_000,
    "long text": "x" * 100_000,
}


async def test_bad_line_costs_that_line_alone(
    caplog: pytest.LogCaptureFixture, subtests: pytest.Subtests
) -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        other = begin(tasks, lambda: bus.request("hold", [1]))
        await held(bus, 1)

        for number, (name, line) in enumerate(BAD_LINES.items(), start=1):
            with subtests.test(line=name):
                caplog.clear()
                assert await bus.request("say", {"lines": [line, DONE, line]}) == "done"
                assert await bus.request("echo", [number]) == [number]
                assert bus.statistics().kernel.bad_lines == 2 * number
                assert_told_twice_and_shortly(caplog, line)

        await bus.request("release")
        assert await other.wait() == [1]
        assert bus.statistics().kernel.stray_answers == 0
        assert bus.statistics().kernel.worker_restarts == 0


def assert_told_twice_and_shortly(caplog: pytest.LogCaptureFixture, line: str) -> None:
    logged = [record for record in caplog.records if record.name.startswith("anyio_bus")]
    told = [record.getMessage() for record in logged if record.levelno == logging.WARNING]
    assert len(told) == 2
    assert all("w/0" in text for text in told)
    assert all(len(text) < 4 * 200 + 200 for text in told)  # 200 bytes, escaped, and the rest
    assert all(text.count(line[-1]) <= 200 + 20 for text in told)


async def test_blank_lines_and_carriage_returns_are_no_bad_lines() -> None:
    async with one_worker() as bus:
        lines = ["", "  ", "\r", DONE + "\r", ""]
        assert await bus.request("say", {"lines": lines}) == "done"
        assert bus.statistics().kernel.bad_lines == 0


async def test_message_without_jsonrpc_and_with_more_members_is_a_message() -> None:
    async with one_worker() as bus:
        line = ' { "extra" : {"id":9} , "result" : [1] , "id" : $ID , "jsonrpc" : "2.0" } '
        assert await bus.request("say", {"lines": [line]}) == [1]


async def test_bad_lines_between_good_ones_in_one_block_cost_only_themselves() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        calls = [begin(tasks, lambda i=i: bus.request("hold", [i])) for i in range(5)]
        await held(bus, 5)
        keys = [message["id"] for message in await log(bus) if message["method"] == "hold"]
        lines = [text for key in keys for text in ("{", f'{{"id":{key},"result":{key}}}', "[]")]

        assert await bus.request("say", {"lines": [*lines, DONE]}) == "done"

        assert sorted([await call.wait() for call in calls]) == sorted(keys)
        assert bus.statistics().kernel.bad_lines == 10


async def test_answer_that_is_a_bad_line_leaves_its_caller_to_its_timeout() -> None:
    async with one_worker() as bus:
        with pytest.raises(RequestTimeoutError):
            await bus.request("say", {"lines": ['{"id":$ID,"result":}']}, timeout=0.05)
        assert await bus.request("echo", [1]) == [1]


async def test_unterminated_last_line_of_a_mebibyte_is_discarded_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with one_worker() as bus:
        with pytest.raises(WorkerLostError) as caught:
            await bus.request("leave_unended", {"bytes": 1024 * 1024})

        assert caught.value.sent
        assert bus.statistics().kernel.bad_lines == 1
        assert await bus.request("echo", [1]) == [1]

    [told] = [r.getMessage() for r in caplog.records if "bad line" in r.getMessage()]
    assert told.count("x") <= 200
    assert "unterminated" in told


async def test_complete_answer_without_its_newline_is_not_believed() -> None:
    async with one_worker() as bus:
        with pytest.raises(WorkerLostError):
            await bus.request("leave_unended", {"answer": True})
        assert bus.statistics().kernel.stray_answers == 0


async def test_bad_lines_in_great_number_do_not_stop_the_bus() -> None:
    async with one_worker() as bus:
        lines = ["x"] * 5000
        assert await bus.request("say", {"lines": [*lines, DONE]}) == "done"
        assert bus.statistics().kernel.bad_lines == 5000


async def test_bad_lines_while_nobody_waits_are_counted_too() -> None:
    async with one_worker() as bus:
        await bus.notify("say", {"lines": ["x", "y"]})
        await until(lambda: bus.statistics().kernel.bad_lines == 2)
