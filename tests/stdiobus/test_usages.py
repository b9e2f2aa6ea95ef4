"""What the public pages of the stdiobus client show, one test for each, as programs have it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from anyio_bus.stdiobus import (
    AsyncStdioBus,
    AuditEvent,
    BusConfig,
    DockerOptions,
    HelloParams,
    Identity,
    LimitsConfig,
    ListenMode,
    NativeOptions,
    PoolConfig,
    RequestOptions,
    StdioBus,
    StdioBusBuilder,
    StdioBusError,
    SubprocessOptions,
    TimeoutError,  # noqa: A004
    TransportError,
)
from tests.stdiobus.support import ARGS

AGENT = {"command": sys.executable, "args": ARGS}


async def test_quick_start() -> None:
    async with AsyncStdioBus(
        config=BusConfig(pools=[PoolConfig(id="echo", instances=1, **AGENT)])  # type: ignore[arg-type]
    ) as bus:
        result = await bus.request("echo", {"message": "hello"})
    assert result["params"] == {"message": "hello"}


def test_quick_start_for_code_that_blocks() -> None:
    with StdioBus(
        config=BusConfig(pools=[PoolConfig(id="echo", instances=1, **AGENT)])  # type: ignore[arg-type]
    ) as bus:
        result = bus.request("echo", {"message": "hello"})
    assert result["params"] == {"message": "hello"}


def test_a_file_for_code_that_blocks(tmp_path: Path) -> None:
    path = tmp_path / "stdio-bus-config.json"
    limits = LimitsConfig(max_input_buffer=2_097_152, max_restarts=10)
    path.write_text(BusConfig([PoolConfig("echo", **AGENT)], limits).to_json())  # type: ignore[arg-type]
    bus = StdioBus(config_path=str(path))
    bus.start()
    assert bus.request("echo")["method"] == "echo"
    bus.stop()
    bus.destroy()


async def test_an_agent_with_hello_identity_and_audit() -> None:
    bus = AsyncStdioBus(
        config=BusConfig(pools=[PoolConfig(id="acp-worker", **AGENT)]),  # type: ignore[arg-type]
        timeout_ms=60000,
    )
    await bus.start()
    hello = await bus.hello(HelloParams())
    assert hello.negotiated_protocol_version == "0.1.0"
    result = await bus.request(
        "prompt",
        {"texts": ["All ", "quiet."], "result": {"stopReason": "end_turn"}},
        options=RequestOptions(
            agent_id="agent-42",
            identity=Identity(subject_id="user-123", role="operator"),
            audit=AuditEvent(event_id="evt-1001", action="prompt"),
        ),
    )
    assert result.get("text", result) == "All quiet."
    await bus.stop()
    bus.destroy()


async def test_tools_of_several_workers() -> None:
    async with AsyncStdioBus(
        config=BusConfig(pools=[PoolConfig(id="mcp-tools", instances=2, **AGENT)])  # type: ignore[arg-type]
    ) as bus:
        assert "params" not in await bus.request("tools/list")
        call = {"name": "search_docs", "arguments": {"query": "retry policy"}}
        assert (await bus.request("tools/call", call))["params"] == call


async def test_live_output_of_an_agent() -> None:
    live = ""
    final: Any = None
    params = {"texts": ["Once", " upon", " a time"], "result": {}}
    config = BusConfig(pools=[PoolConfig(id="agent", **AGENT)])  # type: ignore[arg-type]
    async with AsyncStdioBus(config=config) as bus:
        async for event in bus.stream_request("prompt", params):
            if event.type == "chunk":
                live += event.text or ""
            elif event.type == "result":
                final = event.result.get("text", "")
        assert final == live == "Once upon a time"
        assert final == (await bus.request("prompt", params))["text"]


async def test_notifications_by_an_iterator() -> None:
    config = BusConfig(pools=[PoolConfig(id="agent", **AGENT)])  # type: ignore[arg-type]
    async with AsyncStdioBus(config=config) as bus:
        subscription = bus.subscribe_notifications(max_queue=256, overflow="drop")
        await bus.notify("progress/start", {"step": 1})
        async for notification in subscription:
            assert notification["method"] == "heard"
            break


async def test_errors_by_class_and_as_objects() -> None:
    config = BusConfig(pools=[PoolConfig(id="agent", **AGENT)])  # type: ignore[arg-type]
    async with AsyncStdioBus(config=config) as bus:
        with pytest.raises(TimeoutError) as late:
            await bus.request("hang", timeout_ms=20)
        assert late.value.to_dict() == {"code": 3, "message": "Request timeout: hang"}
        with pytest.raises(TransportError):
            await bus.request("die")
        with pytest.raises(StdioBusError) as bad:
            await bus.request("fail", {"code": 1, "message": "bad", "data": {"field": "x"}})
        assert f"{bad.value} {bad.value.details}" == "[INVALID_ARGUMENT] bad {'field': 'x'}"


def test_options_of_the_backends() -> None:
    config = BusConfig(pools=[PoolConfig(id="agent", **AGENT)])  # type: ignore[arg-type]
    StdioBus(
        config=config,
        backend="subprocess",
        subprocess=SubprocessOptions(binary_path="/usr/local/bin/stdio_bus", start_timeout_sec=10),
    )
    docker = DockerOptions(image="bus:1", pull_policy="never", extra_args=["--cpus=1"])
    AsyncStdioBus(config=config, backend="docker", docker=docker)
    listen = NativeOptions(listen_mode=ListenMode.TCP, tcp_host="127.0.0.1", tcp_port=8765)
    listen.validate()


async def test_a_builder() -> None:
    config = BusConfig(pools=[PoolConfig(id="echo", **AGENT)])  # type: ignore[arg-type]
    bus = StdioBusBuilder().config(config).backend("auto").timeout_ms(15000).build()
    async with bus:
        assert (await bus.request("echo", {"message": "hello"}))["params"] == {"message": "hello"}
