"""A worker on `anyio_bus.worker` that sends chunks, as many and as long as it is asked for."""

from __future__ import annotations

import sys

import anyio

from anyio_bus.worker import Context, Worker

worker = Worker()
seen: list[str] = []  # methods of requests that were cancelled


@worker.method("count")
async def count(context: Context, chunks: int, size: int = 1, tag: str = "") -> dict[str, int]:
    """Send numbered chunks, each with so many bytes of text."""
    text = "x" * size
    for number in range(chunks):
        await context.send_chunk({"n": number, "tag": tag, "text": text})
    return {"chunks": chunks}


@worker.method("endless")
async def endless(context: Context) -> None:
    """Send chunks until cancelled."""
    number = 0
    try:
        while True:
            await context.send_chunk({"n": number, "text": "x"})
            number += 1
    except anyio.get_cancelled_exc_class():
        seen.append("endless")
        raise


@worker.method("cancelled", inline=True)
def cancelled() -> list[str]:
    """Tell which requests were cancelled."""
    return seen


@worker.method("echo", inline=True)
def echo(params: dict[str, object]) -> object:
    """Return the params."""
    return params


if __name__ == "__main__":
    worker.run(sys.argv[1] if len(sys.argv) > 1 else "asyncio")
