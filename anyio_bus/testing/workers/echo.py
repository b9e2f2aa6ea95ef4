"""A worker that does what it is asked to."""

from __future__ import annotations

import os
import sys
from typing import Any

import anyio
import anyio.lowlevel

from anyio_bus import RemoteError
from anyio_bus.worker import Context, Worker

worker = Worker()


@worker.method("echo", inline=True)
def echo(params: Any) -> Any:
    """Return the params."""
    return params


@worker.method("stream")
async def stream(text: str, context: Context) -> dict[str, Any]:
    """Send a chunk for each word, then return the text and the number of chunks."""
    await anyio.lowlevel.checkpoint()
    words = text.split()
    for index, word in enumerate(words):
        await context.send_chunk(word if index == 0 else f" {word}")
    return {"text": text, "chunks": len(words)}


@worker.method("sleep")
async def sleep(seconds: float) -> float:
    """Return after some seconds; can be cancelled."""
    await anyio.sleep(seconds)
    return seconds


@worker.method("fail", inline=True)
def fail(code: int = -32000, message: str = "failed", data: Any = None) -> None:
    """Answer with an error."""
    raise RemoteError(code, message, data)


@worker.method("pid", inline=True)
def pid() -> int:
    """Return the id of this process."""
    return os.getpid()


@worker.method("env", inline=True)
def env(name: str) -> str | None:
    """Return a variable of the environment, null if it is not set."""
    return os.environ.get(name)


@worker.method("cwd", inline=True)
def cwd() -> str:
    """Return the working directory."""
    return os.getcwd()


@worker.method("crash", inline=True)
def crash(exit_code: int = 1, signal: int | None = None) -> None:
    """End this process at once, with an exit code or by a signal."""
    os.write(2, b"echo: crashing as told\n")
    if signal is not None:
        os.kill(os.getpid(), signal)
    os._exit(exit_code)


@worker.method("stderr")
def stderr(bytes: int) -> int:  # the name on the wire  # noqa: A002
    """Write so many bytes to stderr, in lines, and return their number."""
    line = b"e" * 127 + b"\n"
    for start in range(0, bytes, len(line)):
        os.write(2, line[-min(len(line), bytes - start) :])
    return bytes


@worker.method("print")
def stray_print(text: str) -> None:
    """Print to stdout, which is not the wire any more."""
    print(text, flush=True)


@worker.method("big", inline=True)
def big(bytes: int) -> str:  # the name on the wire  # noqa: A002
    """Return a string of so many bytes."""
    return "x" * bytes


@worker.method("ask")
async def ask(method: str, context: Context, params: Any = None) -> Any:
    """Send a request to the client and return its answer; fail as it fails."""
    return await context.request(method, params)


@worker.method("notify")
async def notify(method: str, context: Context, params: Any = None) -> None:
    """Send a notification to the client."""
    await context.notify(method, params)


if __name__ == "__main__":
    worker.run(sys.argv[1] if len(sys.argv) > 1 else "asyncio")
