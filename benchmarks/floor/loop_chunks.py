"""One ``stream`` request, its chunks decoded one by one: the floor for ``bus.stream``.

The rate is chunks a second. ``--count N`` is one stream of N chunks; ``--seconds`` opens streams
of 100,000 chunks one after the other until the time is over. A chunk is decoded with the id it
belongs to and looked at by the task that reads; there is nothing between the pipe and the
reader. There is no latency to report, and the worker fixes the chunk's text to one byte.
"""

import msgspec
from _common import (
    WARM_UP_COUNT,
    Figures,
    LineReader,
    Meter,
    Options,
    Pipes,
    Request,
    run_with_worker,
    write_all,
)

STREAM_CHUNKS = 100_000


class Meta(msgspec.Struct, gc=False, rename="camel"):
    """Says which request a chunk belongs to."""

    request_id: int


class Chunk(msgspec.Struct, gc=False):
    """The params of a chunk."""

    meta: Meta = msgspec.field(name="_meta")
    text: str


class Message(msgspec.Struct, gc=False):
    """A chunk, or the answer that ends its stream."""

    id: int | None = None
    result: msgspec.Raw = msgspec.Raw()
    params: Chunk | None = None


class Streams:
    """Streams over one pair of pipes, one after the other."""

    def __init__(self, pipes: Pipes) -> None:
        self._pipes = pipes
        self._reader = LineReader(pipes.from_worker)
        self._decoder = msgspec.json.Decoder(Message)
        self._last_id = 0

    async def read_stream(self, count: int) -> None:
        """Ask for ``count`` chunks and read them all."""
        key = self._last_id = self._last_id + 1
        params = {"count": count}
        frame = bytearray(msgspec.json.encode(Request(key, "stream", params)) + b"\n")
        await write_all(self._pipes.to_worker, frame)
        text_bytes = 0
        while True:
            for message in self._decoder.decode_lines(await self._reader.receive()):
                if (chunk := message.params) is not None and chunk.meta.request_id == key:
                    text_bytes += len(chunk.text)
                elif message.id == key:
                    if text_bytes != count or msgspec.json.decode(message.result) != params:
                        raise AssertionError(f"{count} chunks were asked for, {text_bytes} came")
                    return


async def main(options: Options, pipes: Pipes) -> Figures:
    """Measure streams, one after the other."""
    streams = Streams(pipes)
    for count in (0, 1, WARM_UP_COUNT):
        await streams.read_stream(count)
    meter = Meter(seconds=options.seconds, count=options.count)
    while count := meter.take(options.count or STREAM_CHUNKS):
        await streams.read_stream(count)
    return meter.figures()


if __name__ == "__main__":
    run_with_worker("loop_chunks", main, streams=True)
