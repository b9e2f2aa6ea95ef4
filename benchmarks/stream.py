"""``bus.stream``: chunks a second, by the command line of ``floor/loop_chunks.py``.

One stream follows the other, or with ``--streams N`` one N after the other N. The reader takes the
chunks in batches, as the hand-written loop does; ``--one-by-one`` iterates over them, as most programs
do. ``--chunks acp`` asks for chunks as an ACP agent writes them.
"""

import anyio
from _echo import open_echo
from floor._common import (
    WARM_UP_COUNT,
    Figures,
    Meter,
    Options,
    parse_options,
    refuse_requests,
    run_in_loop,
)

from anyio_bus import Bus, Stream

STREAM_CHUNKS = 100_000
METHODS = {"anyio-bus": "stream", "acp": "prompt"}


async def count_batches(stream: Stream) -> int:
    """Read to the end in batches, and return how long all texts are."""
    text_bytes = 0
    try:
        while True:
            for chunk in await stream.receive_batch():
                text_bytes += len(chunk.text)
    except anyio.EndOfStream:
        return text_bytes


async def count_chunks(stream: Stream) -> int:
    """Iterate to the end, and return how long all texts are."""
    text_bytes = 0
    async for chunk in stream:
        text_bytes += len(chunk.text)
    return text_bytes


async def read_stream(bus: Bus, options: Options, count: int) -> None:
    """Ask for ``count`` chunks and read them all."""
    read = count_chunks if options.one_by_one else count_batches
    async with bus.stream(METHODS[options.chunks], {"count": count}) as stream:
        text_bytes = await read(stream)
        result = await stream.result()
    if text_bytes != count or result["count"] != count:
        raise AssertionError(f"{count} chunks were asked for, {text_bytes} came")


async def read_streams(bus: Bus, options: Options, count: int) -> None:
    """Ask for ``count`` chunks in as many streams as shall be open at once."""
    async with anyio.create_task_group() as tg:
        for number in range(options.streams):
            share = (count + number) // options.streams
            tg.start_soon(read_stream, bus, options, share)


async def main(options: Options) -> Figures:
    """Measure streams."""
    async with open_echo(options, chunks=options.chunks, in_flight=options.streams) as bus:
        for count in (0, 1, WARM_UP_COUNT):
            await read_streams(bus, options, count)
        meter = Meter(seconds=options.seconds, count=options.count)
        while count := meter.take(options.count or STREAM_CHUNKS):
            await read_streams(bus, options, count)
        return meter.figures()


if __name__ == "__main__":
    parsed = parse_options("streams", "one-by-one", "chunks")
    refuse_requests(parsed)
    run_in_loop(f"stream[{parsed.backend}]", parsed, main)
