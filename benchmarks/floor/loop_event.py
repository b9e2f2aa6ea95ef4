"""The hand-written AnyIO loop: one task a client, one ``anyio.Event`` a request.

What a careful programmer writes in an afternoon with AnyIO's public names alone.
"""

import itertools

import anyio
import msgspec
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


class Connection:
    """Requests of many tasks over one pair of pipes; ``read`` and ``write`` run beside them."""

    def __init__(self, pipes: Pipes) -> None:
        self._pipes = pipes
        self._ids = itertools.count(1)
        self._encoder = msgspec.json.Encoder()
        self._out = bytearray()
        self._filled = anyio.Event()
        self._answered: dict[int, anyio.Event] = {}
        self._results: dict[int, msgspec.Raw] = {}

    async def request(self, method: str, params: object) -> object:
        """Send one request and return its decoded result."""
        key = next(self._ids)
        if not self._out:
            self._filled.set()
        self._encoder.encode_into(Request(key, method, params), self._out, -1)
        self._out += b"\n"
        answered = self._answered[key] = anyio.Event()
        await answered.wait()
        return msgspec.json.decode(self._results.pop(key))

    async def write(self) -> None:
        """Write what has been queued, all of it at once."""
        while True:
            await self._filled.wait()
            self._filled = anyio.Event()
            frames, self._out = self._out, bytearray()
            await write_all(self._pipes.to_worker, frames)

    async def read(self) -> None:
        """Wake the tasks whose answers have come."""
        reader = LineReader(self._pipes.from_worker)
        decoder = msgspec.json.Decoder(Answer)
        while True:
            for answer in decoder.decode_lines(await reader.receive()):
                self._results[answer.id] = answer.result
                self._answered.pop(answer.id).set()


async def main(options: Options, pipes: Pipes) -> Figures:
    """Measure requests through one connection."""
    connection = Connection(pipes)
    async with anyio.create_task_group() as tg:
        tg.start_soon(connection.read)
        tg.start_soon(connection.write)
        figures = await measure(options, connection.request)
        tg.cancel_scope.cancel()
    return figures


if __name__ == "__main__":
    run_with_worker("loop_event", main)
