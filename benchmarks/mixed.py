"""Small and large requests and streams at once, beside a worker that misbehaves.

48 clients send small requests, 8 send 100 kB, 8 read streams of 100 chunks, all to one echo worker.
``--beside NAME`` adds a pool of one worker of ``anyio_bus.testing.workers`` (``flood``, ``deaf``,
``garbage``, ...) that 16 clients keep asking. The rate counts what the good worker did, a stream as one;
latencies are of small requests. ``--in-flight`` multiplies the clients of the good one.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Awaitable, Callable

import anyio
from _echo import open_echo
from floor._common import (
    Figures,
    Meter,
    Options,
    check_echo,
    parse_options,
    run_in_loop,
)

from anyio_bus import Bus, BusError, Pool

CLIENTS = {"small": 48, "large": 8, "stream": 8}
ASKING = 16  # clients of the worker that misbehaves
SMALL = {"text": ""}
LARGE = {"text": "x" * 100_000}
CHUNKS = 100
BAD_TIMEOUT_S = 0.5  # what a worker that never answers is given
RETRY_S = 0.001  # an error at once must not become a busy loop


async def read_stream(bus: Bus) -> None:
    """Read one stream of the good worker."""
    count = 0
    async with bus.stream("stream", {"count": CHUNKS}, pool="echo") as stream:
        async for _chunk in stream:
            count += 1
    if count != CHUNKS:
        raise AssertionError(f"{CHUNKS} chunks were asked for, {count} came")


async def do_work(work: Callable[[], Awaitable[object]], meter: Meter, samples: list[int]) -> None:
    """Do one thing again and again until the meter says stop."""
    while meter.take(1):
        began_ns = time.perf_counter_ns()
        await work()
        samples.append(time.perf_counter_ns() - began_ns)


async def run_clients(bus: Bus, options: Options, meter: Meter) -> None:
    """Be all clients of the good worker until the meter says stop."""
    works: dict[str, Callable[[], Awaitable[object]]] = {
        "small": lambda: bus.request("echo", SMALL, pool="echo"),
        "large": lambda: bus.request("echo", LARGE, pool="echo"),
        "stream": lambda: read_stream(bus),
    }
    async with anyio.create_task_group() as tg:
        for kind, work in works.items():
            samples = meter.samples_ns if kind == "small" else []
            for _ in range(CLIENTS[kind] * options.in_flight):
                tg.start_soon(do_work, work, meter, samples)


async def ask_bad_worker(bus: Bus) -> None:
    """Keep asking what answers wrongly or never."""
    while True:
        with contextlib.suppress(BusError):
            await bus.request("echo", SMALL, pool="bad", timeout=BAD_TIMEOUT_S)
        await anyio.sleep(RETRY_S)


async def main(options: Options) -> Figures:
    """Measure the good worker."""
    bad = []
    if options.beside:
        logging.getLogger("anyio_bus").setLevel(logging.CRITICAL)  # it would tell of every bad line
        module = f"anyio_bus.testing.workers.{options.beside}"
        bad = [Pool("bad", [sys.executable, "-m", module])]
    clients = sum(CLIENTS.values()) * options.in_flight + ASKING
    async with (
        open_echo(options, *bad, in_flight=clients) as bus,
        anyio.create_task_group() as tg,
    ):
        await check_echo(lambda method, params: bus.request(method, params, pool="echo"))
        for _ in range(ASKING if bad else 0):
            tg.start_soon(ask_bad_worker, bus)
        await run_clients(bus, options, Meter(count=options.warm_up))
        meter = Meter(seconds=options.seconds, count=options.count)
        await run_clients(bus, options, meter)
        figures = meter.figures()
        tg.cancel_scope.cancel()
    return figures


if __name__ == "__main__":
    parsed = parse_options("beside")
    run_in_loop(f"mixed[{parsed.backend}]", parsed, main)
