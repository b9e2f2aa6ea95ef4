"""The same loop as ``loop_event``, with the cheapest thing each loop has to wait on.

On asyncio a future; on trio the task itself, rescheduled. What a library may use below AnyIO.
"""

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import outcome
import trio
from _common import (
    Answer,
    Figures,
    LineReader,
    Options,
    Pipes,
    Request,
    measure,
    run_with_worker,
    write_all,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WRITER = 0  # the key under which the writer waits; requests begin at 1


class AsyncioWaiters(dict[int, "asyncio.Future[Any]"]):
    """Tasks that wait, each under its key."""

    async def wait(self, key: int) -> Any:
        """Wait for the value that ``wake`` brings."""
        future = self[key] = asyncio.get_running_loop().create_future()
        return await future

    def wake(self, key: int, value: object) -> None:
        """Wake the task under this key."""
        future = self.pop(key)
        if not future.done():
            future.set_result(value)


class TrioWaiters(dict[int, trio.lowlevel.Task]):
    """Tasks that wait, each under its key."""

    async def wait(self, key: int) -> Any:
        """Wait for the value that ``wake`` brings."""

        def abort(_: object) -> trio.lowlevel.Abort:
            del self[key]
            return trio.lowlevel.Abort.SUCCEEDED

        self[key] = trio.lowlevel.current_task()
        return await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self, key: int, value: object) -> None:
        """Wake the task under this key."""
        trio.lowlevel.reschedule(self.pop(key), outcome.Value(value))


class Connection:
    """Requests of many tasks over one pair of pipes; ``read`` and ``write`` run beside them."""

    def __init__(self, pipes: Pipes, waiters: AsyncioWaiters | TrioWaiters) -> None:
        self._pipes = pipes
        self._waiters = waiters
        self._wait: Callable[[int], Awaitable[Any]] = waiters.wait
        self._ids = itertools.count(1)
        self._encoder = msgspec.json.Encoder()
        self._out = bytearray()

    async def request(self, method: str, params: object) -> object:
        """Send one request and return its decoded result."""
        key = next(self._ids)
        self._encoder.encode_into(Request(key, method, params), self._out, -1)
        self._out += b"\n"
        if WRITER in self._waiters:
            self._waiters.wake(WRITER, None)
        return msgspec.json.decode(await self._wait(key))

    async def write(self) -> None:
        """Write what has been queued, all of it at once."""
        while True:
            if not self._out:
                await self._wait(WRITER)
            frames, self._out = self._out, bytearray()
            await write_all(self._pipes.to_worker, frames)

    async def read(self) -> None:
        """Wake the tasks whose answers have come."""
        reader = LineReader(self._pipes.from_worker)
        decoder = msgspec.json.Decoder(Answer)
        wake = self._waiters.wake
        while True:
            for answer in decoder.decode_lines(await reader.receive()):
                wake(answer.id, answer.result)


async def main(options: Options, pipes: Pipes) -> Figures:
    """Measure requests through one connection."""
    waiters = TrioWaiters() if options.loop == "trio" else AsyncioWaiters()
    connection = Connection(pipes, waiters)
    async with anyio.create_task_group() as tg:
        tg.start_soon(connection.read)
        tg.start_soon(connection.write)
        figures = await measure(options, connection.request)
        tg.cancel_scope.cancel()
    return figures


if __name__ == "__main__":
    run_with_worker("loop_waiter", main)
