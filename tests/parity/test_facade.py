"""The transcripts by calls of ``anyio_bus.stdiobus``, on asyncio and on trio."""

from __future__ import annotations

import pytest

from anyio_bus import stdiobus
from tests.parity.callers import perform_by_calls
from tests.parity.script import SCRIPTS, Script
from tests.parity.stage import Workers

BY_CALLS = [s for s in SCRIPTS if s.clients() == ["a"] and not s.about.wire_only]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("script", BY_CALLS, ids=[script.name for script in BY_CALLS])
def test_our_client_says_the_same(script: Script, workers: Workers, loop: str) -> None:
    perform_by_calls(script, workers, stdiobus, loop)
