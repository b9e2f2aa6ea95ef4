"""What the C kernel is told of a configuration whose numbers are larger than its own."""

from __future__ import annotations

import math

from anyio_bus import Limits, Pool, open_bus
from tests.bus.support import scripted

HUGE = 2**70


async def test_limits_without_an_end_are_as_large_as_they_can_be() -> None:
    limits = Limits(
        max_frame_bytes=HUGE,
        max_output_bytes=HUGE,
        max_queued=HUGE,
        max_sessions=HUGE,
        max_restarts=HUGE,
        stderr_tail_bytes=2**40,
        park_retry_s=math.inf,
        cancel_grace_s=math.inf,
        backpressure_timeout_s=math.inf,
    )
    pool = Pool(
        "w", scripted().argv, max_in_flight=HUGE, max_requests=HUGE, idle_timeout_s=math.inf
    )
    async with open_bus(pool, limits=limits) as bus:
        assert await bus.request("echo", [1]) == [1]
