"""Notifications to many subscribers: deliveries a second.

A worker sends 2,000 notifications, then its answer; each of ``--subscribers`` reads all of them.
"""

import contextlib

import anyio
from _echo import open_echo
from floor._common import Figures, Meter, Options, parse_options, refuse_requests, run_in_loop

from anyio_bus import Bus, Subscription

NOTES = 2_000


async def drain(notes: Subscription, count: int) -> None:
    """Read so many notifications."""
    while count:
        count -= len(await notes.receive_batch())


async def deliver(bus: Bus, subscriptions: list[Subscription], count: int) -> None:
    """Have so many notifications sent, and read by each of the subscribers."""
    async with anyio.create_task_group() as tg:
        for notes in subscriptions:
            tg.start_soon(drain, notes, count)
        result = await bus.request("stream", {"count": count})
    if result != {"count": count} or any(notes.dropped for notes in subscriptions):
        raise AssertionError("a notification was dropped, or the answer is wrong")


async def main(options: Options) -> Figures:
    """Measure deliveries."""
    async with open_echo(options) as bus, contextlib.AsyncExitStack() as stack:
        subscriptions = [
            await stack.enter_async_context(bus.subscribe("chunk", max_queue=NOTES))
            for _ in range(options.subscribers)
        ]
        for count in (1, NOTES):
            await deliver(bus, subscriptions, count)
        meter = Meter(seconds=options.seconds, count=options.count)
        while due := meter.take(NOTES * options.subscribers):
            await deliver(bus, subscriptions, max(1, due // options.subscribers))
        return meter.figures()


if __name__ == "__main__":
    parsed = parse_options("subscribers")
    refuse_requests(parsed)
    run_in_loop(f"fanout[{parsed.backend}]", parsed, main)
