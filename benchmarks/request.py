"""``bus.request`` from as many tasks as requests shall be in flight, by the loops' command line.

The same client tasks, the same worker and the same meter as ``floor/loop_event.py``: what differs
is the library between them. ``--backend`` names the backend to take. With ``--held N`` a ``bus.map``
of N requests that are never answered is there all the time; with ``--sessions N`` the requests cycle
through N sessions, each of which has been used before.
"""

import itertools

import anyio
from _echo import open_echo
from floor._common import Figures, Options, Requester, measure, parse_options, run_in_loop

from anyio_bus import Bus

HELD = {"text": ""}
BEGINNING = 64  # sessions that begin at a time


async def settle(bus: Bus) -> None:
    """Return when the worker has read what was sent so far: its answers come after that."""
    await bus.request("echo", HELD)


async def in_sessions(bus: Bus, count: int) -> Requester:
    """Begin so many sessions; return what sends each request in the next of them."""
    names = [f"session-{number}" for number in range(count)]
    beginning = iter(names)

    async def begin() -> None:
        for name in beginning:
            await bus.request("echo", HELD, session=name)

    async with anyio.create_task_group() as tg:
        for _ in range(BEGINNING):
            tg.start_soon(begin)
    following = itertools.cycle(names)

    async def request(method: str, params: object) -> object:
        return await bus.request(method, params, session=next(following))

    return request


async def main(options: Options) -> Figures:
    """Measure requests through one bus."""
    async with open_echo(options) as bus:
        if not options.held:
            request = await in_sessions(bus, options.sessions) if options.sessions else bus.request
            return await measure(options, request)
        held = itertools.repeat(HELD, options.held)
        async with bus.map("hold", held, in_flight=options.held):
            await settle(bus)
            return await measure(options, bus.request)


if __name__ == "__main__":
    parsed = parse_options("workers", "held", "sessions", "busy-poll")
    run_in_loop(f"request[{parsed.backend}]", parsed, main)
