"""Bad input costs a line, is answered where JSON-RPC says so, and never ends the worker."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from anyio_bus.worker import Worker
from tests.worker.kit import Client, line, notification, request, serving

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
TOO_LARGE = -32054


def echoing(**options: Any) -> Worker:
    worker = Worker(**options)

    @worker.method("echo", inline=True)
    def echo(params: Any) -> Any:
        return params

    return worker


@pytest.mark.parametrize(
    ("bad", "key", "code"),
    [
        (b"hello", None, PARSE_ERROR),
        (b"\xff\xfe", None, PARSE_ERROR),
        (b"\x00", None, PARSE_ERROR),
        (b'{"id":7,"method":"echo"', None, PARSE_ERROR),
        (b'{"id":7,"method":"echo"}}', None, PARSE_ERROR),
        (b'{"method":"\xff"}', None, PARSE_ERROR),
        (b"null", None, INVALID_REQUEST),
        (b"42", None, INVALID_REQUEST),
        (b'"text"', None, INVALID_REQUEST),
        (b"[]", None, INVALID_REQUEST),
        (b'[{"id":7,"method":"echo"}]', None, INVALID_REQUEST),
        (b"{}", None, INVALID_REQUEST),
        (b'{"id":7}', None, INVALID_REQUEST),
        (b'{"id":7,"method":5}', 7, INVALID_REQUEST),
        (b'{"id":"x","method":null}', "x", INVALID_REQUEST),
        (b'{"id":true,"method":"echo"}', None, INVALID_REQUEST),
        (b'{"id":[7],"method":"echo"}', None, INVALID_REQUEST),
        (b'{"id":7,"method":5,"params":"' + b"x" * 300 + b'"}', None, INVALID_REQUEST),
    ],
)
async def test_a_bad_line_is_refused_and_its_neighbours_are_served(
    bad: bytes, key: Any, code: int
) -> None:
    async with serving(echoing()) as client:
        client.write(request(1, "echo", [1]), bad + b"\n", request(2, "echo", [2]))
        first, refused, second = await client.take(3)
        assert (first["result"], second["result"]) == ([1], [2])
        assert (refused["id"], refused["error"]["code"]) == (key, code)


@pytest.mark.parametrize("blank", [b"\n", b"  \t\n", b"\r\n"])
async def test_blank_lines_are_nothing(blank: bytes) -> None:
    async with serving(echoing()) as client:
        client.write(blank, request(1, "echo", [1]), blank)
        assert (await client.next())["id"] == 1


async def test_a_line_may_end_with_cr_lf() -> None:
    async with serving(echoing()) as client:
        client.write(line(request(1, "echo", [1])).replace(b"\n", b"\r\n"))
        assert (await client.next())["result"] == [1]


async def test_the_version_member_is_not_required() -> None:
    async with serving(echoing()) as client:
        client.write(b'{"id":1,"method":"echo"}\n')
        assert (await client.next())["result"] is None


async def test_invalid_utf_8_inside_the_params_costs_that_request() -> None:
    worker = Worker()

    @worker.method("text")
    async def text(text: str) -> str:
        return text

    async with serving(worker) as client:
        client.write(b'{"id":1,"method":"text","params":{"text":"\xff"}}\n')
        answer = await client.next()
        assert answer["id"] == 1 or answer["id"] is None
        assert answer["error"]["code"] in {-32602, PARSE_ERROR}


async def test_params_nested_without_end_cost_that_request() -> None:
    async with serving(echoing()) as client:
        deep = b"[" * 100_000 + b"]" * 100_000
        client.write(b'{"id":1,"method":"echo","params":' + deep + b"}\n", request(2, "echo", [2]))
        first, second = await client.take(2)
        assert first["error"]["code"] in {-32602, PARSE_ERROR, INVALID_REQUEST}
        assert second["result"] == [2]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
async def test_however_the_bytes_come_the_messages_are_the_same(size: int) -> None:
    data = b"".join(line(request(n, "echo", ["ünï", n])) for n in range(20))
    async with serving(echoing()) as client:
        for start in range(0, len(data), size):
            client.write(data[start : start + size])
        assert [m["result"] for m in await client.take(20)] == [["ünï", n] for n in range(20)]


async def test_an_unterminated_last_line_is_discarded(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.serve, echoing())
        client.write(request(1, "echo", [1]), line(request(2, "echo", [2]))[:-1])
        assert [m["id"] for m in await client.rest()] == [1]
    client.close()
    assert "has no newline" in caplog.text


async def test_4_mib_go_through_in_both_directions() -> None:
    async with serving(echoing()) as client:
        text = "x" * (4 << 20)
        answer = await client.call("echo", [text])
        assert answer["result"] == [text]


LARGE = "x" * 10_000


@pytest.mark.parametrize(
    ("message", "key"),
    [
        ({"jsonrpc": "2.0", "id": 7, "method": "echo", "params": [LARGE]}, 7),
        ({"id": "seven", "method": "echo", "params": {"id": 8, "text": LARGE}}, "seven"),
        ({"method": "echo", "params": [LARGE], "id": 7}, 7),
        ({"id": 7, "params": [LARGE], "method": "echo"}, 7),
        ({"params": {"a": LARGE}, "method": "echo", "id": 7, "jsonrpc": "2.0"}, 7),
        ({"method": "echo", "id": [1], "params": [LARGE]}, None),
    ],
)
async def test_a_request_over_the_limit_is_refused_with_its_id(message: Any, key: Any) -> None:
    async with serving(echoing(max_frame_bytes=9000)) as client:
        client.write(line(message), request(1, "echo", [1]))
        refused, served = await client.take(2)
        assert (refused["id"], refused["error"]["code"]) == (key, TOO_LARGE)
        assert served["result"] == [1]


@pytest.mark.parametrize(
    "message",
    [
        {"id": 7, "result": {"method": "echo", "text": LARGE}},
        {"id": 7, "error": {"code": 1, "message": LARGE}},
        {"result": LARGE, "id": 7},
        {"x": LARGE},
    ],
)
async def test_an_answer_over_the_limit_is_no_request(message: Any) -> None:
    async with serving(echoing(max_frame_bytes=9000)) as client:
        client.write(line(message), request(1, "echo", [1]))
        assert (await client.next())["result"] == [1]


async def test_an_answer_nobody_waits_for_is_ignored() -> None:
    async with serving(echoing()) as client:
        client.write({"id": 1, "result": 5}, {"id": "x", "error": {"code": 1, "message": ""}})
        await client.call("echo")


async def test_whatever_comes_every_answer_is_one_json_object_per_line() -> None:
    async with serving(echoing()) as client:
        client.write(request(1, "echo", {"text": "a\nb\r\u2028", "raw": "\x00"}))
        answer = await client.next()
        assert answer["result"] == {"text": "a\nb\r\u2028", "raw": "\x00"}
        assert all(json.loads(text) for data in client.writes for text in data.splitlines())


async def test_a_notification_nobody_handles_is_ignored() -> None:
    async with serving(echoing()) as client:
        client.write(notification("$/progress"), notification("initialized"))
        await client.call("echo")
