"""One ``bus.stream`` after the other, by the command line of ``floor/loop_chunks.py``.

The reader takes the chunks in batches, as the hand-written loop does.
"""

import anyio
from floor._common import WARM_UP_COUNT, Figures, Meter, Options, parse_options, run_in_loop

from anyio_bus import Bus, Pool, open_bus

STREAM_CHUNKS = 100_000


async def read_stream(bus: Bus, count: int) -> None:
    """Ask for ``count`` chunks and read them all."""
    text_bytes = 0
    async with bus.stream("stream", {"count": count}) as stream:
        try:
            while True:
                for chunk in await stream.receive_batch():
                    text_bytes += len(chunk.text)
        except anyio.EndOfStream:
            result = await stream.result()
    if text_bytes != count or result["count"] != count:
        raise AssertionError(f"{count} chunks were asked for, {text_bytes} came")


async def main(options: Options) -> Figures:
    """Measure streams, one after the other."""
    async with open_bus(Pool("echo", options.argv), backend=options.backend) as bus:
        for count in (0, 1, WARM_UP_COUNT):
            await read_stream(bus, count)
        meter = Meter(seconds=options.seconds, count=options.count)
        while count := meter.take(options.count or STREAM_CHUNKS):
            await read_stream(bus, count)
        return meter.figures()


if __name__ == "__main__":
    parsed = parse_options(one_stream=True)
    run_in_loop(f"stream[{parsed.backend}]", parsed, main)
