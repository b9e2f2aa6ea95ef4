"""A program that opens a bus, says "ready" and waits to be ended.

python host.py asyncio|uvloop|trio REPORT-PATH wait|guard [PUPPET-OPTION...]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio

from anyio_bus import Pool, open_bus

PUPPET = Path(__file__).parents[1] / "workers" / "puppet.py"


async def main(path: str, what: str, options: list[str]) -> None:
    command = [sys.executable, "-I", "-S", str(PUPPET), "--report", path, *options]
    pool = Pool("puppets", command, instances=2, guard=what == "guard")
    async with open_bus(pool, grace_s=1) as bus:
        await bus.wait_ready()
        for _ in range(2):
            await bus.request("echo")
        if what == "guard":
            for _ in range(2):
                await bus.request("fork", {"path": path})
        print("ready", flush=True)
        await bus.request("hold", timeout=None)


def loop_options(loop: str) -> dict[str, Any]:
    if loop != "uvloop":
        return {"backend": loop}
    import uvloop

    return {"backend": "asyncio", "backend_options": {"loop_factory": uvloop.new_event_loop}}


if __name__ == "__main__":
    loop, path, what, *options = sys.argv[1:]
    try:
        anyio.run(main, path, what, options, **loop_options(loop))
    except KeyboardInterrupt:
        sys.exit(42)
