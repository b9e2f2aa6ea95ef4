"""What workers send unasked: stray answers, requests of their own, notifications."""

from __future__ import annotations

import json

import anyio

from anyio_bus import Limits, open_bus
from tests.bus.support import DONE, begin, held, log, one_worker, scripted, until


async def test_answer_to_an_unknown_id_is_stray_and_harms_nobody() -> None:
    strays = ["99", "0", "-1", "1.5", '"1"', '"$ID"', "null", str(2**70)]
    lines = [f'{{"id":{stray},"result":"stray"}}' for stray in strays]
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        other = begin(tasks, lambda: bus.request("hold", [1]))
        await held(bus, 1)

        assert await bus.request("say", {"lines": [*lines, DONE]}) == "done"

        await bus.request("release")
        assert await other.wait() == [1]
        assert bus.statistics().kernel.stray_answers == len(strays)
        assert bus.statistics().kernel.bad_lines == 0
        assert bus.statistics().unhandled == 1


async def test_second_answer_to_the_same_id_is_stray() -> None:
    async with one_worker() as bus:
        second = '{"id":$ID,"result":"again"}'
        error = '{"id":$ID,"error":{"code":1,"message":"changed my mind"}}'

        assert await bus.request("say", {"lines": [DONE, second, error]}) == "done"

        await bus.request("echo")  # what came behind the first is through now
        assert bus.statistics().kernel.stray_answers == 2
        assert bus.statistics().kernel.late_answers == 0


async def test_worker_cannot_answer_for_another_worker() -> None:
    async with open_bus(scripted("a"), scripted("b")) as bus, anyio.create_task_group() as tasks:
        call = begin(tasks, lambda: bus.request("hold", ["right"], pool="a"))
        await held(bus, 1)
        [key] = [message["id"] for message in await log(bus, pool="a")]

        forged = f'{{"id":{key},"result":"forged"}}'
        assert await bus.request("say", {"lines": [forged, DONE]}, pool="b") == "done"

        assert bus.statistics().kernel.stray_answers == 1
        await bus.request("release", pool="a")
        assert await call.wait() == ["right"]


async def test_answer_with_the_id_as_another_number_of_the_same_value_is_the_answer() -> None:
    async with one_worker() as bus:
        assert await bus.request("say", {"lines": ['{"id":$ID.0,"result":5}']}) == 5
        assert await bus.request("say", {"lines": ['{"id":$ID.0e0,"result":6}']}) == 6
        assert bus.statistics().kernel.stray_answers == 0


async def test_request_of_a_worker_is_answered_that_there_is_no_such_method() -> None:
    keys = ["7", '"a\\"b"', "1.5", "-0.0", "null", str(2**70)]
    asks = ['{"jsonrpc":"2.0","id":%s,"method":"fs/read","params":{}}' % key for key in keys]
    async with one_worker() as bus:
        assert await bus.request("say", {"lines": [*asks, DONE]}) == "done"

        replies = (await log(bus))[-len(keys) :]
        assert [reply["id"] for reply in replies] == [json.loads(key) for key in keys]
        assert all(reply["jsonrpc"] == "2.0" for reply in replies)
        assert all(reply["error"]["code"] == -32601 for reply in replies)
        assert all("fs/read" in reply["error"]["message"] for reply in replies)
        assert all("result" not in reply for reply in replies)
        assert bus.statistics().unhandled == len(keys)


async def test_request_of_a_worker_with_an_id_of_ours_does_not_answer_ours() -> None:
    async with one_worker() as bus:
        ask = '{"id":$ID,"method":"ask"}'
        assert await bus.request("say", {"lines": [ask, ask, DONE]}) == "done"
        assert [m["error"]["code"] for m in await log(bus) if "error" in m] == [-32601] * 2


async def test_request_with_a_method_too_long_to_be_repeated_is_answered_all_the_same() -> None:
    async with one_worker(Limits(max_frame_bytes=4096)) as bus:
        assert await bus.request("blow", {"bytes": 4000, "shape": "long method"}) == "done"

        reply = (await log(bus))[-1]
        assert reply["id"] == "long"
        assert reply["error"]["code"] == -32601


async def test_requests_of_a_worker_are_answered_to_that_worker() -> None:
    async with open_bus(scripted("a"), scripted("b")) as bus:
        for pool in ("a", "b"):
            ask = '{"id":"from %s","method":"ask"}' % pool
            assert await bus.request("say", {"lines": [ask, DONE]}, pool=pool) == "done"
        for pool in ("a", "b"):
            assert (await log(bus, pool=pool))[-1]["id"] == f"from {pool}"


async def test_worker_that_asks_while_every_slot_is_taken_is_answered() -> None:
    async with one_worker(max_in_flight=1) as bus:
        ask = '{"id":1,"method":"ask"}'
        assert await bus.request("say", {"lines": [ask] * 50 + [DONE]}) == "done"
        answers = [m for m in await log(bus) if "error" in m]
        assert len(answers) == 50


async def test_notifications_are_counted_as_unhandled() -> None:
    note = '{"jsonrpc":"2.0","method":"progress","params":{"at":1}}'
    async with one_worker() as bus:
        assert await bus.request("say", {"lines": [note, note, DONE, note]}) == "done"

        await until(lambda: bus.statistics().unhandled == 3)
        assert bus.statistics().kernel.stray_answers == 0
        assert bus.statistics().kernel.bad_lines == 0


async def test_notification_with_a_result_or_an_id_of_null_is_what_its_method_says() -> None:
    async with one_worker() as bus:
        odd = '{"method":"note","result":5}'
        assert await bus.request("say", {"lines": [odd, DONE]}) == "done"
        assert bus.statistics().unhandled == 1
        assert await bus.request("echo", [1]) == [1]
