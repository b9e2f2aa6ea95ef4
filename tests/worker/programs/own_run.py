"""A worker in a loop that AnyIO has not started."""

from __future__ import annotations

import asyncio

import anyio

from anyio_bus.worker import Context, Worker

worker = Worker()


@worker.method("echo")
async def echo(params: object, context: Context) -> object:
    await anyio.sleep(0.001)
    await context.notify("noted")
    return params


@worker.notification("note")
async def note(params: object, context: Context) -> None:
    await context.notify("noted", params)


if __name__ == "__main__":
    asyncio.run(worker.serve())
