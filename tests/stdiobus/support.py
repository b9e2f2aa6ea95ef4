"""What the tests of the stdiobus names share: configurations of the agent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from anyio_bus.stdiobus import AsyncStdioBus, BusConfig, PoolConfig

AGENT = Path(__file__).parent / "workers" / "agent.py"
ARGS = ["-I", "-S", str(AGENT)]


def pool(id_: str = "agent", instances: int = 1) -> PoolConfig:
    """Make a pool of agents."""
    return PoolConfig(id=id_, command=sys.executable, args=ARGS, instances=instances)


def config(*ids: str, instances: int = 1) -> BusConfig:
    """Make a configuration with these pools."""
    return BusConfig(pools=[pool(id_, instances) for id_ in ids or ("agent",)])


def client(*ids: str, **options: Any) -> AsyncStdioBus:
    """Make a client with these pools."""
    return AsyncStdioBus(config(*ids), **options)
