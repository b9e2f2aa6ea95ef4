"""A real MCP server: the reference server that shows everything, from its authors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyio_bus import Bus, Pool, Probe, open_bus

pytestmark = pytest.mark.timeout(180)  # the first test installs the peers
START_S = 30  # that node and its modules may take on a busy machine


@asynccontextmanager
async def everything(peers: Path, **options: Any) -> AsyncIterator[Bus]:
    """Open a bus with the server, greeted."""
    server = peers / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
    pool = Pool.mcp("everything", ["node", str(server), "stdio"], **options)
    with anyio.fail_after(START_S):
        async with open_bus(pool) as bus:
            await bus.wait_ready()
            yield bus


async def test_tools_are_listed_and_called(peers: Path) -> None:
    async with everything(peers) as bus:
        listed = await bus.request("tools/list")
        assert {"echo", "get-sum"} <= {tool["name"] for tool in listed["tools"]}
        call = {"name": "get-sum", "arguments": {"a": 2, "b": 3}}
        called = await bus.request("tools/call", call)
        assert "5" in called["content"][0]["text"]


async def test_progress_arrives_as_chunks_of_its_call(peers: Path) -> None:
    arguments = {"duration": 0.2, "steps": 4}
    call = {"name": "trigger-long-running-operation", "arguments": arguments}
    async with everything(peers) as bus, bus.stream("tools/call", call) as stream:
        progress = [chunk.params["progress"] async for chunk in stream]
        result = await stream.result()
    assert progress == [1, 2, 3, 4]
    assert "completed" in result["content"][0]["text"]


async def test_a_cancelled_call_is_told_in_its_way_and_the_server_goes_on(peers: Path) -> None:
    arguments = {"duration": 60, "steps": 600}
    call = {"name": "trigger-long-running-operation", "arguments": arguments}
    async with everything(peers) as bus:
        async with bus.stream("tools/call", call) as stream:
            await anext(stream)
        assert bus.statistics().kernel.cancelled == 1
        assert await bus.request("ping") == {}


async def test_a_server_that_is_replaced_is_greeted_again_and_no_call_is_lost(peers: Path) -> None:
    async with everything(peers, max_requests=3, health=Probe("ping", every_s=5)) as bus:
        for number in range(8):
            call = {"name": "echo", "arguments": {"message": str(number)}}
            answer = await bus.request("tools/call", call)
            assert answer["content"][0]["text"] == f"Echo: {number}"
