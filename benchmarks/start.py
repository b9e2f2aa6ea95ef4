"""From nothing to the first answer, and from there to the end, one bus after the other.

``--by-hand`` does what there is no way around: it spawns the worker, writes one line and reads one.
Latencies are those to the first answer; ``stop_us`` is the median of the end. The process has run a
while: what importing costs is ``cold.py``'s question.
"""

import contextlib
from collections.abc import AsyncIterator

import msgspec
from _echo import open_echo
from floor._common import (
    LineReader,
    Options,
    Request,
    Requester,
    StartFigures,
    measure_starts,
    open_worker,
    parse_options,
    run_in_loop,
    write_all,
)


async def main(options: Options) -> StartFigures:
    """Measure starts."""

    @contextlib.asynccontextmanager
    async def by_hand() -> AsyncIterator[Requester]:
        with open_worker(options.argv) as pipes:
            reader = LineReader(pipes.from_worker)

            async def request(method: str, params: object) -> object:
                frame = msgspec.json.encode(Request(1, method, params)) + b"\n"
                await write_all(pipes.to_worker, bytearray(frame))
                return msgspec.json.decode(await reader.receive())["result"]

            yield request

    @contextlib.asynccontextmanager
    async def by_bus() -> AsyncIterator[Requester]:
        async with open_echo(options) as bus:
            yield bus.request

    return await measure_starts(options, by_hand if options.by_hand else by_bus)


if __name__ == "__main__":
    parsed = parse_options("by-hand")
    name = "by hand" if parsed.by_hand else parsed.backend
    run_in_loop(f"start[{name}]", parsed, main)
