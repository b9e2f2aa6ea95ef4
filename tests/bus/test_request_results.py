"""A result is decoded once, straight into the type that the caller asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from anyio_bus import RemoteError, RemoteProtocolError
from tests.bus.support import DONE, one_worker


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclass
class Pair:
    left: str
    right: list[int]


RESULTS: list[tuple[object, Any, object]] = [
    ({"x": 1, "y": 2}, Point, Point(1, 2)),
    ({"x": 1, "more": True}, Point, Point(1)),
    ({"left": "l", "right": [1, 2]}, Pair, Pair("l", [1, 2])),
    ([1, 2, 3], list[int], [1, 2, 3]),
    ([1, 2, 3], set[int], {1, 2, 3}),
    ({"a": [None, 1.5, "t"]}, Any, {"a": [None, 1.5, "t"]}),
    ({"a": {"x": 3}}, dict[str, Point], {"a": Point(3)}),
    ([1, "b"], tuple[int, str], (1, "b")),
]


async def test_result_is_decoded_into_the_type_asked_for() -> None:
    async with one_worker() as bus:
        for params, kind, expected in RESULTS:
            assert await bus.request("echo", params, reply=kind) == expected
        assert await bus.request("pid", reply=int) > 0
        assert await bus.request("say", {"lines": [DONE]}, reply=str) == "done"


async def test_result_without_a_type_comes_as_plain_objects() -> None:
    async with one_worker() as bus:
        assert await bus.request("echo", {"x": [1, {"y": None}]}) == {"x": [1, {"y": None}]}
        assert await bus.request("echo") is None


async def test_result_can_stay_raw() -> None:
    async with one_worker() as bus:
        raw = await bus.request("echo", {"x": 1}, reply=msgspec.Raw)

    assert msgspec.json.decode(raw) == {"x": 1}


WRONG_RESULTS: list[tuple[object, Any, str]] = [
    ({"x": "one"}, Point, "$.x"),
    ({"left": "l", "right": [1, "2"]}, Pair, "$.right[1]"),
    ([1, None], list[int], "$[1]"),
    ({}, int, "int"),
]


async def test_result_of_another_type_names_the_path_and_costs_that_call() -> None:
    async with one_worker() as bus:
        for params, kind, path in WRONG_RESULTS:
            with pytest.raises(RemoteProtocolError) as caught:
                await bus.request("echo", params, reply=kind)

            assert path in str(caught.value)
            assert caught.value.sent
            assert len(caught.value.line_prefix) <= 200
        assert await bus.request("echo", [1], reply=list[int]) == [1]


async def test_result_that_is_not_utf8_or_out_of_range_costs_that_call() -> None:
    async with one_worker() as bus:
        for result in ('"\xff"', "9" * 5000):
            with pytest.raises(RemoteProtocolError):
                await bus.request("say", {"lines": [f'{{"id":$ID,"result":{result}}}']})
        assert await bus.request("echo", [1]) == [1]


async def test_remote_error_keeps_code_message_and_data() -> None:
    error = '{"code":-32011,"message":"no \\u00fc","data":{"why":[1,null]}}'
    async with one_worker() as bus:
        with pytest.raises(RemoteError) as caught:
            await bus.request("say", {"lines": [f'{{"jsonrpc":"2.0","id":$ID,"error":{error}}}']})

    assert caught.value.code == -32011
    assert caught.value.message == "no \N{LATIN SMALL LETTER U WITH DIAERESIS}"
    assert caught.value.data == {"why": [1, None]}
    assert "-32011" in str(caught.value)


async def test_remote_error_may_have_neither_message_nor_data() -> None:
    async with one_worker() as bus:
        with pytest.raises(RemoteError) as caught:
            await bus.request("say", {"lines": ['{"id":$ID,"error":{"code":1}}']})

    assert (caught.value.code, caught.value.message, caught.value.data) == (1, "", None)


async def test_malformed_error_object_is_the_workers_breach() -> None:
    errors = ["1", '"no"', "[]", "{}", '{"code":"x"}', '{"code":1.5}', '{"code":1,"message":5}']
    async with one_worker() as bus:
        for error in errors:
            with pytest.raises(RemoteProtocolError, match="error"):
                await bus.request("say", {"lines": [f'{{"id":$ID,"error":{error}}}']})
        assert await bus.request("echo", [1]) == [1]


async def test_null_error_beside_a_result_is_no_error() -> None:
    async with one_worker() as bus:
        line = '{"jsonrpc":"2.0","id":$ID,"error":null,"result":5}'
        assert await bus.request("say", {"lines": [line]}, reply=int) == 5


async def test_null_error_without_a_result_is_the_workers_breach() -> None:
    async with one_worker() as bus:
        with pytest.raises(RemoteProtocolError):
            await bus.request("say", {"lines": ['{"id":$ID,"error":null}']})


async def test_error_wins_over_a_result_beside_it() -> None:
    async with one_worker() as bus:
        with pytest.raises(RemoteError, match="both"):
            line = '{"id":$ID,"result":5,"error":{"code":7,"message":"both"}}'
            await bus.request("say", {"lines": [line]})


async def test_reply_type_that_cannot_be_decoded_is_refused_before_anything_is_sent() -> None:
    async with one_worker() as bus:
        with pytest.raises(ValueError, match="reply"):
            await bus.request("echo", [1], reply=list[int] | set[int])
        assert bus.statistics().kernel.messages_out == 1  # the first one of one_worker()
