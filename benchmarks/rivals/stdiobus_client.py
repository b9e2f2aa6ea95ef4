"""``request`` of ``stdiobus``; ``--backend subprocess`` takes its daemon, which ``STDIO_BUS`` names.

``--stream`` measures the chunks of one ``stream_request`` after the other, ``--start`` what
``start.py`` does.
"""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

from stdiobus import (
    AsyncStdioBus,
    BusConfig,
    LimitsConfig,
    PoolConfig,
    SubprocessOptions,
)

from benchmarks._busd import children_of
from benchmarks.floor._common import (
    WARM_UP_COUNT,
    Figures,
    Meter,
    Options,
    Requester,
    measure,
    measure_starts,
    parse_options,
    refuse_requests,
    run_in_loop,
)

STREAM_CHUNKS = 10_000
TIMEOUT_MS = 60_000
LONGEST_LINE = 500_000  # that its limits allow without being told
CHECK: dict[str, Any] = {
    "only_objects": True,
    "longest": 30_000,
}  # a line that a full pipe refuses is lost


def make_bus(options: Options) -> AsyncStdioBus:
    """Return its bus, with one worker."""
    command, *arguments = options.argv
    longest = 2 * (options.payload + options.reply)
    longer = longest > LONGEST_LINE
    return AsyncStdioBus(
        BusConfig(
            pools=[PoolConfig(id="echo", command=command, args=arguments, instances=1)],
            limits=LimitsConfig(max_input_buffer=longest) if longer else None,
        ),
        backend="subprocess" if options.backend == "subprocess" else "native",
        subprocess=SubprocessOptions(binary_path=os.environ.get("STDIO_BUS", "")),
        timeout_ms=TIMEOUT_MS,
    )


@contextlib.asynccontextmanager
async def open_bus(options: Options) -> AsyncIterator[AsyncStdioBus]:
    """Open its bus; its daemon is told to end, which it does not do at the end of its stdin."""
    async with make_bus(options) as bus:
        try:
            yield bus
        finally:
            if options.backend == "subprocess":
                for pid in children_of(os.getpid()):
                    os.kill(pid, signal.SIGTERM)


async def read_stream(bus: AsyncStdioBus, count: int) -> None:
    """Ask for so many chunks and read them all."""
    text_bytes, result = 0, None
    async for event in bus.stream_request("prompt", {"count": count}):
        if event.type == "chunk":
            text_bytes += len(event.text)
        else:
            result = event.result
    if text_bytes != count or result is None or result["count"] != count:
        raise AssertionError(f"{count} chunks were asked for, {text_bytes} came: {result!r:.80}")


async def measure_streams(options: Options, bus: AsyncStdioBus) -> Figures:
    """Time streams, one after the other."""
    for count in (0, 1, WARM_UP_COUNT):
        await read_stream(bus, count)
    meter = Meter(seconds=options.seconds, count=options.count)
    while count := meter.take(options.count or STREAM_CHUNKS):
        await read_stream(bus, count)
    return meter.figures()


async def main(options: Options) -> Figures:
    """Measure its bus."""

    @contextlib.asynccontextmanager
    async def start() -> AsyncIterator[Requester]:
        async with open_bus(options) as bus:

            async def request(method: str, params: Any) -> object:
                return await bus.request(method, params)

            yield request

    if options.start:
        return await measure_starts(options, start, **CHECK)
    if options.stream:
        async with open_bus(options) as bus:
            return await measure_streams(options, bus)
    async with start() as request:
        return await measure(options, request, **CHECK)


if __name__ == "__main__":
    parsed = parse_options("start", "stream", loops=("asyncio", "uvloop"))
    if parsed.stream:
        refuse_requests(parsed)
    run_in_loop(f"stdiobus[{parsed.backend}]", parsed, main)
