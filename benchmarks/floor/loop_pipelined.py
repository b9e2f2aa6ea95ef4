"""No task a request: one task keeps a window of requests full and decodes answers in batches.

The floor for ``bus.map``. A second task writes only what a full pipe refused.
"""

import contextlib
import os
import time

import anyio
import msgspec
from _common import (
    Answer,
    Figures,
    LineReader,
    Meter,
    Options,
    Pipes,
    Request,
    check_echo,
    run_with_worker,
    write_all,
)


class Pipeline:
    """A window of requests over one pair of pipes; ``write_rest`` runs beside it."""

    def __init__(self, pipes: Pipes) -> None:
        self._pipes = pipes
        self._reader = LineReader(pipes.from_worker)
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Answer)
        self._out = bytearray()
        self._blocked = anyio.Event()
        self._last_id = 0
        self._pending: set[int] = set()

    async def request(self, method: str, params: object) -> object:
        """Send one request and return its decoded result."""
        self._send(1, method, params)
        return (await self._receive())[-1]

    async def run(self, meter: Meter, options: Options) -> None:
        """Keep as many requests as asked for on their way until the meter says stop.

        One request at a time is followed for its latency: the last of a refill. The worker
        answers in order, so its answer has come once as many are pending as were sent after it.
        """
        method, params = options.method, options.params
        followed, began_ns = 0, 0
        self._send(meter.take(options.in_flight), method, params)
        while self._pending:
            if not followed:
                followed, began_ns = self._last_id, time.perf_counter_ns()
            answered = len(await self._receive())
            if followed not in self._pending:
                meter.samples_ns.append(time.perf_counter_ns() - began_ns)
                followed = 0
            self._send(meter.take(answered), method, params)

    def _send(self, count: int, method: str, params: object) -> None:
        encode_into, out, pending = self._encoder.encode_into, self._out, self._pending
        for key in range(self._last_id + 1, self._last_id + 1 + count):
            encode_into(Request(key, method, params), out, -1)
            out += b"\n"
            pending.add(key)
        self._last_id += count
        if out and not self._blocked.is_set():
            self._write()

    def _write(self) -> None:
        with contextlib.suppress(BlockingIOError):
            del self._out[: os.write(self._pipes.to_worker, self._out)]
        if self._out:
            self._blocked.set()

    async def _receive(self) -> list[object]:
        decode, finish = msgspec.json.decode, self._pending.remove
        results = []
        for answer in self._decoder.decode_lines(await self._reader.receive()):
            finish(answer.id)
            results.append(decode(answer.result))
        return results

    async def write_rest(self) -> None:
        """Write what the pipe would not take, while the window goes on reading."""
        while True:
            await self._blocked.wait()
            while self._out:
                frames = self._out[:]
                self._out.clear()
                await write_all(self._pipes.to_worker, frames)
            self._blocked = anyio.Event()


async def main(options: Options, pipes: Pipes) -> Figures:
    """Measure one task that keeps the window full."""
    pipeline = Pipeline(pipes)
    async with anyio.create_task_group() as tg:
        tg.start_soon(pipeline.write_rest)
        await check_echo(pipeline.request)
        await pipeline.run(Meter(count=options.warm_up), options)
        meter = Meter(seconds=options.seconds, count=options.count)
        await pipeline.run(meter, options)
        tg.cancel_scope.cancel()
    return meter.figures()


if __name__ == "__main__":
    run_with_worker("loop_pipelined", main)
