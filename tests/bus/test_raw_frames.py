"""Prepared JSON passed through: request_raw, send, and notify beside them."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from anyio_bus import (
    BusStoppedError,
    InvalidArgumentError,
    PoolUnavailableError,
    RequestTimeoutError,
    open_bus,
)
from tests.bus.support import begin, held, log, methods, one_worker, scripted, until

IDS = ["1", "0", "-7", "1.0", "1e2", "-0", str(2**70), '"a"', '"\\u0041\\/"', '""', "null"]


async def test_raw_request_gets_its_own_id_back_as_it_was_spelled() -> None:
    async with one_worker() as bus:
        for key in IDS:
            frame = '{"jsonrpc":"2.0","id": %s ,"method":"echo","params":[1]}' % key
            response = await bus.request_raw(frame.encode())
            assert response == b'{"jsonrpc":"2.0","id":%b,"result":[1]}' % key.encode()


async def test_raw_requests_with_the_same_id_get_each_its_own_answer() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        frames = [b'{"id":1,"method":"hold","params":[%d]}' % i for i in range(10)]
        calls = [begin(tasks, lambda f=f: bus.request_raw(f)) for f in frames]
        await held(bus, 10)
        await bus.request("release", {"reversed": True})

        for number, call in enumerate(calls):
            response = json.loads(await call.wait())
            assert response == {"jsonrpc": "2.0", "id": 1, "result": [number]}


async def test_raw_request_may_be_text_and_may_end_in_a_newline() -> None:
    async with one_worker() as bus:
        for frame in (
            '{"id":1,"method":"echo"}',
            b'{"id":1,"method":"echo"}\n',
            b' {"id":1,\n"method":\r\n"echo"} \r\n',
            bytearray(b'{"id":1,"method":"echo"}'),
            memoryview(b'{"id":1,"method":"echo"}'),
        ):
            response = await bus.request_raw(frame)  # type: ignore[arg-type]
            assert json.loads(response) == {"jsonrpc": "2.0", "id": 1, "result": None}
        assert bus.statistics().kernel.bad_lines == 0


async def test_raw_request_keeps_its_other_members_and_their_bytes() -> None:
    frame = b'{"method":"echo","_meta":{"x": 1.50,"y":"\\u0041"},"id":"i","params":{"a": 2.0}}'
    async with one_worker() as bus:
        response = await bus.request_raw(frame)
        lines = await bus.request("log", reply=list[str])

    assert '"_meta":{"x": 1.50,"y":"\\u0041"}' in lines[-1]
    assert '"params":{"a": 2.0}' in lines[-1]
    assert json.loads(lines[-1])["jsonrpc"] == "2.0"
    assert json.loads(response)["result"] == {"a": 2.0}


async def test_raw_request_to_a_worker_of_plain_json_rpc_loses_the_routing_members() -> None:
    frame = b'{"id":1,"method":"echo","sessionId":"s","pool":"elsewhere","params":{"pool":1}}'
    async with one_worker() as bus:
        await bus.request_raw(frame)
        await bus.send(b'{"method":"note","sessionId":"s","pool":"elsewhere"}')
        _, request, note = await log(bus)
    async with one_worker(envelope="keep") as bus:
        await bus.request_raw(frame)
        _, kept = await log(bus)

    assert set(request) == {"jsonrpc", "id", "method", "params"}
    assert request["params"] == {"pool": 1}
    assert set(note) == {"method"}
    assert kept["sessionId"] == "s"


async def test_raw_request_returns_an_error_response() -> None:
    error = '{"code":-5,"message":"no","data":{"why": 1.50}}'
    say = {"id": "me", "method": "say", "params": {"lines": [f'{{"id":$ID,"error":{error}}}']}}
    async with one_worker() as bus:
        response = await bus.request_raw(json.dumps(say))

    assert response == b'{"jsonrpc":"2.0","id":"me","error":%b}' % error.encode()


async def test_raw_response_has_result_or_error_and_never_both() -> None:
    both = ['{"id":$ID,"result":1,"error":null}', '{"id":$ID,"result":1,"error":{"code":2}}']
    async with one_worker() as bus:
        responses = [json.loads(await bus.request_raw(json.dumps(raw_say(line)))) for line in both]

    assert responses[0] == {"jsonrpc": "2.0", "id": 1, "result": 1}
    assert responses[1] == {"jsonrpc": "2.0", "id": 1, "error": {"code": 2}}


def raw_say(line: str) -> dict[str, Any]:
    return {"id": 1, "method": "say", "params": {"lines": [line]}}


NO_REQUESTS: list[Any] = [
    b"",
    b"\n",
    b"{",
    b"null",
    b"5",
    b'"text"',
    b"[]",
    b'[{"id":1,"method":"echo"}]',
    b"{}",
    b'{"id":1}',
    b'{"method":"echo"}',
    b'{"id":1,"result":2}',
    b'{"id":1,"method":5}',
    b'{"id":1,"method":null}',
    b'{"id":{},"method":"echo"}',
    b'{"id":[1],"method":"echo"}',
    b'{"id":true,"method":"echo"}',
    b'{"id":1,"method":"echo"}{"id":2,"method":"echo"}',
    b'{"id":1,"method":"echo"}\n{"id":2,"method":"echo"}\n',
    b'{"id":1,"method":"\xff"}',
    "{\ud800}",
    None,
    5,
]


async def test_what_is_no_request_is_refused_by_request_raw(subtests: pytest.Subtests) -> None:
    async with one_worker() as bus:
        for frame in NO_REQUESTS:
            with subtests.test(frame=frame):
                with pytest.raises(InvalidArgumentError, match="frame") as caught:
                    await bus.request_raw(frame)
                assert caught.value.field == "frame"
        assert bus.statistics().pending == 0
        assert bus.statistics().kernel.messages_out == 1


async def test_raw_request_times_out_and_is_cancelled_like_any_other() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        with pytest.raises(RequestTimeoutError) as caught:
            await bus.request_raw(b'{"id":9,"method":"hold"}', timeout=0.05)
        assert caught.value.method == "hold"
        doomed = begin(tasks, lambda: bus.request_raw(b'{"id":9,"method":"hold"}'))
        await held(bus, 2)
        doomed.scope.cancel()
        await doomed.wait()

        _, one, cancel_one, other, cancel_other = await log(bus)
        assert cancel_one["params"] == {"id": one["id"]}
        assert cancel_other["params"] == {"id": other["id"]}
        assert one["id"] != other["id"]


async def test_notification_reaches_a_worker_once_and_in_order() -> None:
    async with one_worker() as bus:
        for number in range(20):
            await bus.notify("note", [number])

        notes = [m for m in await log(bus) if m["method"] == "note"]
        assert notes == [{"jsonrpc": "2.0", "method": "note", "params": [n]} for n in range(20)]


async def test_send_passes_a_notification_as_it_is() -> None:
    async with one_worker() as bus:
        await bus.send(b'{ "method" : "note",\n "params":[ 1.50 ] }\r\n')
        await bus.send('{"method":"note2"}')

        lines = await bus.request("log", reply=list[str])
        assert lines[1:] == ['{ "method" : "note",  "params":[ 1.50 ] }', '{"method":"note2"}']


async def test_send_takes_a_response_to_the_worker_that_asked() -> None:
    async with open_bus(scripted(instances=2)) as bus:
        await bus.wait_ready()
        for worker in bus.workers():
            frame = b'{"id":5,"result":%d}' % worker.worker
            await bus.send(frame, worker=worker.worker)
            await bus.send(b'{"id":6,"error":{"code":1,"message":"no"}}', worker=worker.worker)

        results = []
        for _ in range(2):
            first, second = await log(bus)
            assert second["error"]["code"] == 1
            results.append(first["result"])
        assert sorted(results) == [worker.worker for worker in bus.workers()]


NO_NOTIFICATIONS_OR_RESPONSES: list[Any] = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"{}",
    b'{"params":[1]}',
    b'{"id":1}',
    b'{"id":1,"method":"echo"}',
    b'{"method":5}',
    b'{"result":1}',
    b'{"method":"a"}\n{"method":"b"}',
    "{\ud800}",
    None,
]


async def test_what_is_no_notification_or_response_is_refused_by_send(
    subtests: pytest.Subtests,
) -> None:
    async with one_worker() as bus:
        for frame in NO_NOTIFICATIONS_OR_RESPONSES:
            with subtests.test(frame=frame):
                with pytest.raises(InvalidArgumentError, match="frame") as caught:
                    await bus.send(frame, worker=0)
                assert caught.value.field == "frame"
        assert methods(await log(bus)) == ["echo"]


async def test_response_without_the_worker_that_it_is_for_is_refused() -> None:
    async with one_worker() as bus:
        with pytest.raises(InvalidArgumentError, match="worker") as caught:
            await bus.send(b'{"id":1,"result":2}')
        assert caught.value.field == "worker"


async def test_send_to_a_worker_that_is_not_there_says_so() -> None:
    async with one_worker() as bus:
        with pytest.raises(PoolUnavailableError, match="77") as caught:
            await bus.send(b'{"method":"note"}', worker=77)
        assert not caught.value.sent


async def test_notification_before_the_worker_is_ready_waits_for_it() -> None:
    async with open_bus(scripted()) as bus:
        await bus.notify("note", [1])
        await bus.send(b'{"method":"note","params":[2]}')

        await until(lambda: bus.statistics().kernel.queued_requests == 0)
        assert [m["params"] for m in await log(bus) if m["method"] == "note"] == [[1], [2]]


async def test_notify_and_send_on_a_stopped_bus_are_refused() -> None:
    async with one_worker() as bus:
        await bus.stop()
        for call in (
            bus.notify("note"),
            bus.send(b'{"method":"note"}'),
            bus.request_raw(b'{"id":1,"method":"echo"}'),
        ):
            with pytest.raises(BusStoppedError) as caught:
                await call
            assert not caught.value.sent
