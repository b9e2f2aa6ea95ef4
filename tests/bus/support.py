"""What the tests of the bus share: pools of the scripted worker, and waiting for what it did."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
import uvloop

from anyio_bus import Bus, Limits, Pool, open_bus
from anyio_bus._backends.native import lib

WORKER = Path(__file__).parent / "workers" / "scripted.py"
WAIT_S = 10  # for what happens in milliseconds; the machine may be busy
POLL_S = 0.002
DONE = '{"jsonrpc":"2.0","id":$ID,"result":"done"}'  # for "say"

# For tests of many thousand requests: asyncio's debug mode records a traceback for every task and
# future, which would take most of their time.
QUIET_LOOPS = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("asyncio", {"loop_factory": uvloop.new_event_loop}), id="asyncio+uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


def need_native() -> None:
    """Skip a test of the kernel in C on an install that is without it."""
    if lib is None:
        pytest.skip("NOT TESTED: the C kernel is not built here")


def scripted(pool_id: str = "w", **options: Any) -> Pool:
    """Make a pool of scripted workers."""
    return Pool(pool_id, [sys.executable, "-I", "-S", str(WORKER)], **options)


@asynccontextmanager
async def one_worker(limits: Limits | None = None, **options: Any) -> AsyncIterator[Bus]:
    """Open a bus with one scripted worker that is known to answer."""
    async with open_bus(scripted(**options), limits=limits, grace_s=2) as bus:
        await bus.request("echo")
        yield bus


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells us."""
    with anyio.fail_after(WAIT_S):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(POLL_S)


async def held(bus: Bus, count: int) -> None:
    """Wait until workers have received so many "hold" requests in all."""
    await until(lambda: bus.statistics().unhandled >= count)


async def log(bus: Bus, **options: Any) -> list[Any]:
    """Return what a worker was sent, decoded."""
    lines = await bus.request("log", reply=list[str], **options)
    return [json.loads(line) for line in lines]


def methods(messages: list[Any]) -> list[str]:
    """Return the methods of messages, in order."""
    return [message["method"] for message in messages if "method" in message]


class Outcome:
    """What became of a call that runs in a task of its own."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.scope = anyio.CancelScope()
        self._over = anyio.Event()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    async def run(self, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            with self.scope:
                self.value = await call()
        except Exception as exc:  # the test looks at it
            self.error = exc
        finally:
            self._over.set()

    async def wait(self) -> Any:
        """Return its value or raise its error."""
        with anyio.fail_after(WAIT_S):
            await self._over.wait()
        if self.error is not None:
            raise self.error
        return self.value


def begin(tasks: anyio.abc.TaskGroup, call: Callable[[], Awaitable[Any]]) -> Outcome:
    """Start a call in a task of its own."""
    outcome = Outcome()
    tasks.start_soon(outcome.run, call)
    return outcome


@contextmanager
def fifo(path: Path) -> Iterator[Callable[[], None]]:
    """Make a FIFO for a worker to stall on; call what it yields to let the worker go on."""
    os.mkfifo(path)
    fds: list[int] = []
    try:
        yield lambda: fds.append(os.open(path, os.O_RDWR))
    finally:
        for fd in fds:
            os.close(fd)
