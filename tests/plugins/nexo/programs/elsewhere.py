"""A plugin whose adapter runs where it is not usual.

Arguments: the loop; as JSON, ``where``.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import anyio

from anyio_bus.plugins.nexo import PluginAdapter, PluginError

MANIFEST = '[plugin]\nid = "elsewhere"\nversion = "1"\n'
BACKEND = sys.argv[1]
WHERE = json.loads(sys.argv[2])["where"]

adapter = PluginAdapter(manifest_toml=MANIFEST)
adapter.on_request("custom", lambda params: params)


def in_thread() -> None:
    thread = threading.Thread(target=adapter.run_forever, args=(BACKEND,))
    thread.start()
    thread.join()


def without_signals() -> None:
    import asyncio

    class Loop(asyncio.SelectorEventLoop):
        def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
            raise NotImplementedError

    if BACKEND == "trio":  # which has them in the main thread, always
        in_thread()
    else:
        adapter.run_forever("asyncio", {"loop_factory": Loop})


async def own_loop() -> None:
    stdout = sys.stdout
    await adapter.run()
    assert sys.stdout is stdout


def with_the_loops_own_run() -> None:
    if BACKEND == "trio":
        import trio

        trio.run(own_loop)
    else:
        import asyncio

        asyncio.run(own_loop())


async def twice() -> None:
    await adapter.run()
    try:
        await adapter.run()
    except PluginError as exc:
        print(exc, file=sys.stderr)


if __name__ == "__main__":
    if WHERE == "thread":
        in_thread()
    elif WHERE == "no-signals":
        without_signals()
    elif WHERE == "own-run":
        with_the_loops_own_run()
    elif WHERE == "twice":
        anyio.run(twice, backend=BACKEND)
    else:
        anyio.run(own_loop, backend=BACKEND)
