"""What goes out: params of any kind as one line, and refusal of what cannot be one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from msgspec import UNSET, Raw

from anyio_bus import Bus, InvalidArgumentError
from tests.bus.support import log, one_worker


class Point(msgspec.Struct):
    x: int


@dataclass
class Pair:
    left: str


class Broken:
    """Something that msgspec cannot encode."""


def cycle() -> list[object]:
    ring: list[object] = []
    ring.append(ring)
    return ring


async def last_params(bus: Bus, params: object) -> object:
    await bus.request("echo", params)
    return (await log(bus))[-1]["params"]


async def test_params_are_left_out_when_unset_or_none() -> None:
    async with one_worker() as bus:
        await bus.request("echo")
        await bus.request("echo", UNSET)
        await bus.request("echo", None)
        await bus.notify("echo", None)

        sent = await log(bus)

    assert all("params" not in message for message in sent)
    assert len(sent) == 5  # with the first one of one_worker()


async def test_params_of_every_kind_arrive_as_they_are_encoded() -> None:
    async with one_worker() as bus:
        assert await last_params(bus, Point(1)) == {"x": 1}
        assert await last_params(bus, Pair("l")) == {"left": "l"}
        assert await last_params(bus, {"a": [1, None, "\u2028\n"]}) == {"a": [1, None, "\u2028\n"]}
        assert await last_params(bus, [1, 2]) == [1, 2]
        assert await last_params(bus, (1, "b")) == [1, "b"]
        assert await last_params(bus, {}) == {}
        assert await last_params(bus, []) == []
        assert await last_params(bus, {"a": None, "b": 1.5, "c": "null"}) == {
            "a": None,
            "b": 1.5,
            "c": "null",
        }


async def test_frame_is_json_rpc_2_on_one_line() -> None:
    async with one_worker() as bus:
        await bus.request("echo", {"text": "two\nlines\r\n"})
        lines = await bus.request("log", reply=list[str])

    message = json.loads(lines[-1])
    assert message == {
        "jsonrpc": "2.0",
        "id": message["id"],
        "method": "echo",
        "params": {"text": "two\nlines\r\n"},
    }
    assert isinstance(message["id"], int)


async def test_raw_params_keep_their_bytes() -> None:
    async with one_worker() as bus:
        await bus.request("echo", Raw(b'{"n": 1.50, "u": "\\u0041"}'))
        lines = await bus.request("log", reply=list[str])

    assert '"params":{"n": 1.50, "u": "\\u0041"}' in lines[-1]


async def test_raw_params_with_newlines_cannot_break_the_framing() -> None:
    async with one_worker() as bus:
        assert await bus.request("echo", Raw(b'\n{"a":\r\n[1,\n2]}\n')) == {"a": [1, 2]}
        assert await bus.request("echo", {"in": Raw(b"[1,\n2]\n")}) == {"in": [1, 2]}
        assert bus.statistics().kernel.bad_lines == 0


WRONG: dict[str, Any] = {
    "int": 5,
    "text": "text",
    "bool": True,
    "float": 1.5,
    "bytes": b"bytes",
    "raw scalar": Raw(b"5"),
    "raw nothing": Raw(b""),
    "raw space": Raw(b"  "),
    "raw broken": Raw(b"{broken"),
    "raw smuggler": Raw(b'{},"id":77,"x":{}'),
    "nan": float("nan"),
    "nan inside": {"a": float("nan")},
    "infinity inside": [1.0, [float("inf")], None],
    "infinity deep inside": {"a": {"b": [None, -float("inf")]}},
    "nan in a dataclass": {"a": Pair(float("nan"))},  # type: ignore[arg-type]
    "object": object(),
    "object inside": {"a": Broken()},
    "lone surrogate": {"a": "\ud800"},
    "object in a key": {object(): 1},
    "cycle": cycle(),
}


async def test_params_that_are_no_object_or_array_are_refused_and_the_bus_goes_on(
    subtests: pytest.Subtests,
) -> None:
    async with one_worker() as bus:
        for name, params in WRONG.items():
            with subtests.test(params=name):
                for call in (bus.request, bus.notify):
                    with pytest.raises(InvalidArgumentError, match="params") as caught:
                        await call("echo", params)
                    assert caught.value.field == "params"
        assert bus.statistics().pending == 0
        assert await bus.request("echo", [1]) == [1]
        assert bus.statistics().kernel.messages_out == 2


async def test_method_that_is_no_text_is_refused(subtests: pytest.Subtests) -> None:
    methods: list[Any] = ["\ud800", 5, None, b"echo", ["echo"]]
    async with one_worker() as bus:
        for method in methods:
            with subtests.test(method=method):
                for call in (bus.request, bus.notify):
                    for params in (None, [1]):
                        with pytest.raises(InvalidArgumentError, match="method"):
                            await call(method, params)
        assert await bus.request("echo", [1]) == [1]


async def test_method_may_be_any_text() -> None:
    method = 'a"b\\c\nd \u2028 \N{PILE OF POO}'
    async with one_worker() as bus:
        await bus.notify(method)

        assert (await log(bus))[-1]["method"] == method
