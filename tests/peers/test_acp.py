"""A real ACP agent: a small one, on the official SDK (``acp_agent.mjs``)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyio_bus import Bus, Pool, open_bus
from tests.bus.support import until

pytestmark = pytest.mark.timeout(180)  # the first test installs the peers
START_S = 30  # that node and its modules may take on a busy machine


@asynccontextmanager
async def agents(peers: Path, **options: Any) -> AsyncIterator[Bus]:
    """Open a bus with greeted agents, which are allowed what they ask for."""
    pool = Pool.acp("agent", ["node", str(peers / "acp_agent.mjs")], **options)
    with anyio.fail_after(START_S):
        async with open_bus(pool) as bus:

            @bus.handler("session/request_permission")
            def permit(params: dict[str, Any]) -> dict[str, Any]:
                options = params["options"]
                allowed = next(o["optionId"] for o in options if o["kind"] == "allow_once")
                return {"outcome": {"outcome": "selected", "optionId": allowed}}

            await bus.wait_ready()
            yield bus


async def new_session(bus: Bus) -> str:
    made = await bus.request("session/new", {"cwd": "/", "mcpServers": []})
    return str(made["sessionId"])


def prompt(session: str, text: str) -> dict[str, Any]:
    return {"sessionId": session, "prompt": [{"type": "text", "text": text}]}


async def test_a_prompt_streams_its_text_and_is_given_a_permission(peers: Path) -> None:
    async with agents(peers) as bus:
        session = await new_session(bus)
        async with bus.stream("session/prompt", prompt(session, "hello")) as stream:
            words = [chunk.text async for chunk in stream]
            result = await stream.result()
        assert words == ["You", " said", ' "hello".', " You chose yes."]
        assert result["stopReason"] == "end_turn"


async def test_prompts_of_several_sessions_at_once_do_not_mix(peers: Path) -> None:
    texts: dict[str, str] = {}

    async def ask(name: str) -> None:
        session = await new_session(bus)
        async with bus.stream("session/prompt", prompt(session, name)) as stream:
            texts[name] = "".join([chunk.text async for chunk in stream])

    async with agents(peers, instances=2) as bus:
        async with anyio.create_task_group() as tasks:
            for name in "abcdef":
                tasks.start_soon(ask, name)
    assert texts == {name: f'You said "{name}". You chose yes.' for name in "abcdef"}


async def test_a_prompt_may_be_cancelled_by_its_session(peers: Path) -> None:
    async with agents(peers) as bus:
        session = await new_session(bus)
        async with bus.stream("session/prompt", prompt(session, "wait")) as stream:
            assert (await anext(stream)).text == "waiting"
            await bus.notify("session/cancel", {"sessionId": session})
            assert (await stream.result())["stopReason"] == "cancelled"


async def test_leaving_a_prompt_tells_the_agent_which_ends_it(peers: Path) -> None:
    async with agents(peers) as bus:
        session = await new_session(bus)
        async with bus.stream("session/prompt", prompt(session, "wait")) as stream:
            await anext(stream)
        await until(lambda: bus.statistics().kernel.late_answers == 1)
