"""Two programs on one daemon, with workers that other people wrote: each gets what is its own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyio_bus import Bus, BusConfig, Connect, Handshake, Pool, open_bus
from tests.contract.places import daemon
from tests.daemon import kit
from tests.peers.test_acp import START_S, new_session, prompt

pytestmark = pytest.mark.timeout(180)  # the first test installs the peers
WAITS_S = 10

if sys.platform != "linux":
    pytest.skip("as the tests of the daemon", allow_module_level=True)


@asynccontextmanager
async def two_buses(
    pool: Pool, handlers: tuple[dict[str, Any], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Bus, Bus]]:
    """Open two buses on one daemon that has this pool."""
    monkeypatch.setenv("ANYIO_BUSD", kit.find_daemon())
    with daemon(BusConfig([pool])) as url:
        async with AsyncExitStack() as stack:
            buses = [
                await stack.enter_async_context(open_bus(pool, backend=Connect(url), handlers=each))
                for each in handlers
            ]
            with anyio.fail_after(START_S):
                await buses[0].wait_ready()
                await buses[1].wait_ready()
            with anyio.fail_after(WAITS_S):
                yield buses[0], buses[1]


# --- the agent ------------------------------------------------------------------------------------


def permits(kind: str, asked: list[str]) -> dict[str, Any]:
    """Return the handlers of a client that always chooses options of that kind."""

    def permit(params: dict[str, Any]) -> dict[str, Any]:
        asked.append(params["sessionId"])
        chosen = next(o["optionId"] for o in params["options"] if o["kind"] == kind)
        return {"outcome": {"outcome": "selected", "optionId": chosen}}

    return {"session/request_permission": permit}


async def test_an_agent_asks_the_client_of_the_session_and_streams_to_it(
    peers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One agent, three sessions of each client at once: one client allows, the other does not."""
    pool = Pool.acp("agent", ["node", str(peers / "acp_agent.mjs")])
    asked: tuple[list[str], list[str]] = [], []
    sessions: tuple[list[str], list[str]] = [], []
    texts: dict[str, str] = {}

    async def ask(number: int, bus: Bus, text: str) -> None:
        session = await new_session(bus)
        sessions[number].append(session)
        async with bus.stream("session/prompt", prompt(session, text)) as stream:
            texts[text] = "".join([chunk.text async for chunk in stream])
            assert (await stream.result())["stopReason"] == "end_turn"

    handlers = permits("allow_once", asked[0]), permits("reject_once", asked[1])
    async with two_buses(pool, handlers, monkeypatch) as buses:
        async with anyio.create_task_group() as tasks:
            for text in ("a0", "b1", "c0", "d1", "e0", "f1"):
                number = int(text[1])
                tasks.start_soon(ask, number, buses[number], text)
    choices = "yes", "no"
    assert texts == {
        text: f'You said "{text}". You chose {choices[int(text[1])]}.' for text in texts
    }
    assert len(texts) == 6
    assert [sorted(each) for each in asked] == [sorted(each) for each in sessions]


async def test_a_client_that_leaves_ends_its_prompt_and_no_other(
    peers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool.acp("agent", ["node", str(peers / "acp_agent.mjs")])
    async with two_buses(pool, ({}, permits("allow_once", [])), monkeypatch) as (first, second):
        mine, theirs = await new_session(first), await new_session(second)
        async with second.stream("session/prompt", prompt(theirs, "wait")) as stream:
            assert (await anext(stream)).text == "waiting"
            async with first.stream("session/prompt", prompt(mine, "wait")) as leaving:
                assert (await anext(leaving)).text == "waiting"
            await first.stop()
            await second.notify("session/cancel", {"sessionId": theirs})
            assert (await stream.result())["stopReason"] == "cancelled"
        async with second.stream("session/prompt", prompt(theirs, "hello")) as stream:
            words = "".join([chunk.text async for chunk in stream])
        assert words == 'You said "hello". You chose yes.'


# --- the server that shows everything -------------------------------------------------------------


def everything(peers: Path) -> Pool:
    server = peers / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
    return Pool.mcp(
        "everything",
        ["node", str(server), "stdio"],
        ready=Handshake.mcp(capabilities={"sampling": {}}),
    )


async def test_progress_and_results_of_a_server_reach_the_client_that_called(
    peers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both under way at once, and the ids and tokens of both are the same."""
    seen: dict[int, list[Any]] = {}

    async def call(number: int, bus: Bus, steps: int) -> None:
        arguments = {"duration": 0.3, "steps": steps}
        work = {"name": "trigger-long-running-operation", "arguments": arguments}
        async with bus.stream("tools/call", work) as stream:
            seen[number] = [chunk.params["total"] async for chunk in stream]
            await stream.result()
        for n in range(20):
            sum_of = {"name": "get-sum", "arguments": {"a": n, "b": 1000 * number}}
            found = await bus.request("tools/call", sum_of)
            assert str(n + 1000 * number) in found["content"][0]["text"]

    async with two_buses(everything(peers), ({}, {}), monkeypatch) as buses:
        async with anyio.create_task_group() as tasks:
            for number, steps in ((0, 3), (1, 5)):
                tasks.start_soon(call, number, buses[number], steps)
    assert seen == {0: [3] * 3, 1: [5] * 5}


async def test_a_server_samples_from_the_client_that_called(
    peers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MCP over stdio does not say for which call it asks: the only client at work is meant."""

    def samples(name: str) -> dict[str, Any]:
        def create(params: dict[str, Any]) -> dict[str, Any]:
            assert "a word?" in str(params["messages"])
            content = {"type": "text", "text": f"a word of {name}"}
            return {"role": "assistant", "content": content, "model": name}

        return {"sampling/createMessage": create}

    call = {"name": "trigger-sampling-request", "arguments": {"prompt": "a word?"}}
    handlers = samples("first"), samples("second")
    async with two_buses(everything(peers), handlers, monkeypatch) as buses:
        for bus, name in zip(buses, ("first", "second"), strict=True):
            answer = await bus.request("tools/call", call)
            assert f"a word of {name}" in answer["content"][0]["text"]
