"""The bus that the library's programs are measured with: one pool of echo workers."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from floor._common import Options

from anyio_bus import Bus, Limits, Native, Pool, open_bus

DEFAULTS = Limits()
SPARE = 64  # of requests, for what is no client of the measure
ENVELOPE_BYTES = 4096


@contextlib.asynccontextmanager
async def open_echo(
    options: Options, *others: Pool, in_flight: int | None = None, **more: Any
) -> AsyncIterator[Bus]:
    """Open a bus with a pool of echo workers, and with limits that what is asked for fits in.

    Args:
        options: The command line.
        *others: Further pools.
        in_flight: Most requests at once; default: what the options say.
        **more: Further options of the echo pool.
    """
    pending = (options.in_flight if in_flight is None else in_flight) + options.held + SPARE
    longest = max(options.payload, options.reply) + ENVELOPE_BYTES
    limits = Limits(
        max_frame_bytes=max(DEFAULTS.max_frame_bytes, longest),
        max_pending=max(DEFAULTS.max_pending, pending),
        max_queued=max(DEFAULTS.max_queued, pending),
        max_sessions=max(DEFAULTS.max_sessions, options.sessions + SPARE),
    )
    most = max(Pool("default", "worker").max_in_flight, pending)
    echo = Pool("echo", options.argv, instances=options.workers, max_in_flight=most, **more)
    poll_s = options.busy_poll
    backend = options.backend if poll_s is None else Native(busy_poll_s=poll_s)
    async with open_bus(echo, *others, backend=backend, limits=limits) as bus:
        await bus.wait_ready()
        yield bus
