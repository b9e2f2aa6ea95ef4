"""What a caller may say of the frames themselves: more members, what ids are, raw frames at once."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from anyio_bus import InvalidArgumentError, open_bus
from tests.bus.support import held, log, one_worker, scripted

EXT = {"agentId": "a", "_ext": {"identity": {"role": "r"}}}


async def test_a_call_may_add_members_at_the_top_level_of_its_frame() -> None:
    async with one_worker(envelope="keep", chunks="acp") as bus:
        await bus.request("echo", {"x": 1}, session="s", envelope=EXT)
        async with bus.stream("echo", session="s", envelope=EXT) as stream:
            await stream.result()
        await bus.notify("note", envelope=EXT)
        seen = (await log(bus))[1:]

    shared = {"jsonrpc": "2.0", **EXT}
    assert [{k: v for k, v in message.items() if k != "id"} for message in seen] == [
        {**shared, "method": "echo", "params": {"x": 1}, "sessionId": "s"},
        {**shared, "method": "echo", "sessionId": "s"},
        {**shared, "method": "note"},
    ]


@pytest.mark.parametrize("name", ["jsonrpc", "id", "method", "params", "sessionId", "pool"])
async def test_what_is_the_bus_s_own_cannot_be_added(name: str) -> None:
    async with one_worker() as bus:
        with pytest.raises(InvalidArgumentError, match=name) as caught:
            await bus.request("echo", envelope={name: "mine"})
        assert caught.value.field == "envelope"
        with pytest.raises(InvalidArgumentError, match="envelope"):
            await bus.notify("echo", envelope=["agentId"])  # type: ignore[arg-type]
        assert await log(bus) == [{"jsonrpc": "2.0", "id": 1, "method": "echo"}]


async def test_ids_may_be_text_unlike_those_of_any_other_bus() -> None:
    ids: list[list[Any]] = []
    for _ in range(2):
        async with open_bus(scripted(), ids="text") as bus:
            await bus.request("echo", {"x": 1})
            await bus.request("echo")
            with anyio.move_on_after(0.01):
                await bus.request("hold")
            ids.append([message["id"] for message in await log(bus) if "id" in message])
    first, second = ids
    assert len({*first, *second}) == 6
    assert all(isinstance(key, str) and key for key in first + second)
    with pytest.raises(InvalidArgumentError, match="ids"):
        async with open_bus(scripted(), ids="uuid"):  # type: ignore[arg-type]
            pass


async def test_a_raw_request_sent_at_once_is_answered_to_those_who_watch_the_lines() -> None:
    async with one_worker() as bus:
        lines: list[str] = []
        bus.on_message(lines.append)
        bus.send_nowait('{"jsonrpc":"2.0","id":"mine","method":"echo","params":[1]}\n')
        bus.send_nowait(b'{"method":"hold"}')
        await held(bus, 1)

        assert json.loads(lines[0]) == {"jsonrpc": "2.0", "id": "mine", "result": [1]}
        assert bus.statistics().kernel.stray_answers == 1
        with pytest.raises(InvalidArgumentError, match="worker="):
            bus.send_nowait('{"id":1,"result":2}')
