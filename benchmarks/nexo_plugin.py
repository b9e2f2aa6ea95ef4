"""The plugin under the figures of ``nexo.py``: ``nexo_plugin.py SDK LOOP``.

Of those that are no SDK ``bare`` is what no start can do without: Python, the libraries, a loop, and one
line answered. ``by-hand`` is what no call can do without: a write and a read of a pipe, without a loop.
"""

import json
import os
import sys
from types import ModuleType
from typing import Any

MANIFEST = '[plugin]\nid = "bench"\nversion = "1.0.0"\n[plugin.extends]\ntools = ["bench_echo"]'
TOPIC = "plugin.inbound.bench"
READ_BYTES = 65536


def make_adapter(sdk: ModuleType, tasks: Any) -> Any:
    """Return the same plugin by either SDK; ``tasks`` runs so many of a function at once."""
    seen = 0

    async def on_event(topic: str, event: Any, broker: Any) -> None:
        nonlocal seen
        seen += 1
        wanted = event.payload["then"]
        if wanted is None:
            return
        if wanted == "count":
            payload: Any = {"seen": seen}
        elif wanted == "publish":
            payload = {"text": event.payload["text"]}
        else:
            payload = {"found": await recall(broker, wanted["calls"], wanted["in_flight"])}
        await broker.publish(TOPIC, sdk.Event.new(TOPIC, "bench", payload))

    async def recall(broker: Any, calls: int, in_flight: int) -> int:
        found, left = 0, calls

        async def client() -> None:
            nonlocal found, left
            while left:
                left -= 1
                entries = await broker.memory_recall(agent_id="ana", query="apples")
                found += len(entries)

        await tasks(client, in_flight)
        return found

    async def on_tool(invocation: Any) -> Any:
        return invocation.args

    adapter = sdk.PluginAdapter(manifest_toml=MANIFEST, on_event=on_event)
    adapter.declare_tools([sdk.ToolDef("bench_echo", "Echo.", {"type": "object"})])
    adapter.on_tool(on_tool)
    return adapter


def run_nexoai() -> None:
    """Run the rival."""
    import asyncio

    import nexo_plugin_sdk

    async def tasks(function: Any, count: int) -> None:
        await asyncio.gather(*(function() for _ in range(count)))

    asyncio.run(make_adapter(nexo_plugin_sdk, tasks).run())


def run_ours(loop: str) -> None:
    """Run ours."""
    import anyio

    from anyio_bus.plugins import nexo

    async def tasks(function: Any, count: int) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(function)

    backend = "trio" if loop == "trio" else "asyncio"
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    make_adapter(nexo, tasks).run_forever(backend, options)


def run_bare(loop: str) -> None:
    """Answer one line in a loop."""
    import anyio
    import msgspec

    async def main() -> None:
        key = msgspec.json.decode(sys.stdin.buffer.readline())["id"]
        result = {"manifest": {"plugin": {"id": "bench"}}}
        print(json.dumps({"jsonrpc": "2.0", "id": key, "result": result}), flush=True)
        sys.stdin.buffer.readline()

    backend = "trio" if loop == "trio" else "asyncio"
    anyio.run(
        main, backend=backend, backend_options={"use_uvloop": True} if loop == "uvloop" else {}
    )


def run_by_hand() -> None:
    """Call the host as often as it says, one call at a time, and do nothing else."""

    def say(method: str, params: object, key: int | None = None) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        os.write(1, json.dumps(message if key is None else message | {"id": key}).encode() + b"\n")

    key = json.loads(os.read(0, READ_BYTES))["id"]
    result = {"manifest": {"plugin": {"id": "bench"}}}
    os.write(1, json.dumps({"jsonrpc": "2.0", "id": key, "result": result}).encode() + b"\n")
    while line := os.read(0, READ_BYTES):  # the host says nothing before it has its answer
        found = 0
        for number in range(json.loads(line)["params"]["event"]["payload"]["then"]["calls"]):
            say("memory.recall", {"agent_id": "ana", "query": "apples", "limit": 10}, number)
            found += len(json.loads(os.read(0, READ_BYTES))["result"]["entries"])
        say("broker.publish", {"topic": TOPIC, "event": {"payload": {"found": found}}})


if __name__ == "__main__":
    sdk, loop = sys.argv[1:]
    if sdk == "nexoai":
        run_nexoai()
    elif sdk == "bare":
        run_bare(loop)
    elif sdk == "by-hand":
        run_by_hand()
    else:
        run_ours(loop)
