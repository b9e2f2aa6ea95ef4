"""``bus.map`` with as many requests in flight as shall be, by the loops' command line.

What ``floor/loop_pipelined.py`` does, with the library in its place: one task, no task a request.
"""

from collections.abc import Iterator

from _echo import open_echo
from floor._common import (
    Figures,
    Meter,
    Options,
    check_echo,
    parse_options,
    run_in_loop,
)

from anyio_bus import Bus


def endless(params: object, meter: Meter) -> Iterator[object]:
    """Give the same params until the meter says stop."""
    while burst := meter.take():
        for _ in range(burst):
            yield params


async def run(bus: Bus, options: Options, meter: Meter) -> None:
    """Map the echo over the params, and count that each has its result."""
    params, count = options.params, 0
    async with bus.map(
        options.method, endless(params, meter), in_flight=options.in_flight
    ) as results:
        async for _result in results:
            count += 1
    if count != meter.figures().count:
        raise AssertionError(f"{count} results of {meter.figures().count} requests")


async def main(options: Options) -> Figures:
    """Measure a map through one bus with one worker."""
    async with open_echo(options) as bus:
        await check_echo(bus.request)
        await run(bus, options, Meter(count=options.warm_up))
        meter = Meter(seconds=options.seconds, count=options.count)
        await run(bus, options, meter)
        return meter.figures()


if __name__ == "__main__":
    parsed = parse_options()
    run_in_loop(f"map[{parsed.backend}]", parsed, main)
