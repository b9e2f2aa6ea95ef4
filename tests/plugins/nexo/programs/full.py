"""A plugin that does what it is told: tools and events carry code.

Arguments: the loop, and the options of the adapter as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import anyio
import msgspec

from anyio_bus.plugins import nexo
from anyio_bus.plugins.nexo import BrokerSender, Event, PluginAdapter, ToolContext, methods

MANIFEST = """
[plugin]
id = "demo"
version = "2.0.1"
[plugin.extends]
tools = ["demo_run", "demo_add", "demo_block"]
"""

shared: dict[str, Any] = {"log": []}
NAMES = {
    **{name: getattr(nexo, name) for name in nexo.__all__},
    "MethodError": nexo.MethodError,
    "anyio": anyio,
    "msgspec": msgspec,
    "os": os,
    "shared": shared,
    "subprocess": subprocess,
    "sys": sys,
    "threading": threading,
    "time": time,
}


async def run(code: str, **names: Any) -> Any:
    """Run code as the body of an async function."""
    place = {**NAMES, **names, "adapter": adapter}
    exec("async def body():\n" + textwrap.indent(textwrap.dedent(code), "    "), place)
    return await place["body"]()


async def on_event(topic: str, event: Event, broker: BrokerSender) -> None:
    if topic == "echo":
        await broker.publish("plugin.inbound.echo", event.reply(event.payload))
    elif topic == "code":
        await run(event.payload, event=event, broker=broker)


async def on_shutdown() -> None:
    if code := shared.get("at_shutdown"):
        await run(code, broker=adapter.broker)


options = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
adapter = PluginAdapter(
    manifest_toml=MANIFEST, on_event=on_event, on_shutdown=on_shutdown, **options
)


@adapter.tool()
async def demo_run(code: str, ctx: ToolContext) -> Any:
    """Run code."""
    return await run(code, broker=ctx.broker)


@adapter.tool()
def demo_add(a: int, b: int = 2) -> int:
    """Add two numbers.

    Slowly.
    """
    return a + b


@adapter.tool()
def demo_block(seconds: float) -> str:
    """Block a thread."""
    time.sleep(seconds)
    return "awake"


def asked(params: Any, context: nexo.RequestContext) -> Any:
    return {"params": params, "id": context.request_id, "method": context.method}


adapter.on_request("custom.asked", asked)


@adapter.on(methods.LlmChat)
async def chat(asked: methods.LlmChat, context: nexo.RequestContext) -> Any:
    if asked.stream:
        await context.send_delta({"type": "text_delta", "text": asked.model})
    return methods.chat_text(asked.model)


if __name__ == "__main__":
    backend = sys.argv[1]
    if backend == "uvloop":
        adapter.run_forever("asyncio", {"use_uvloop": True})
    else:
        adapter.run_forever(backend)
