"""What the probes share. It imports as little as it can: its imports are in every figure."""

import gc
import sys
from collections.abc import Awaitable, Callable

import anyio

FILL = 2_000  # wait before the first reading, and take what start-up has freed
PENDING = 10_000
MORE_WORKERS = 16
SETTLE_S = 0.3
TIME_LIMIT_S = 60


def read_memory() -> dict[str, int]:
    """Return the bytes of this process that are resident, and those it shares with none."""
    gc.collect()
    kib: dict[str, int] = {}
    with open("/proc/self/smaps_rollup", encoding="ascii") as rollup:
        for line in rollup.readlines()[1:]:
            name, value, _ = line.split()
            kib[name] = int(value)
    private = kib["Private_Clean:"] + kib["Private_Dirty:"]
    return {"rss": kib["Rss:"] * 1024, "private": private * 1024}


def print_memory(since: dict[str, int] | None = None) -> None:
    """Print what is in use, or what has been added since an earlier reading."""
    now = read_memory()
    for name, value in now.items():
        print(name, value - since[name] if since else value)


def run_probe(main: Callable[[], Awaitable[None]]) -> None:
    """Run the probe in the loop that the first argument names, for a bounded time."""

    async def bounded() -> None:
        with anyio.fail_after(TIME_LIMIT_S):
            await main()

    loop = sys.argv[1]
    anyio.run(
        bounded,
        backend="trio" if loop == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if loop == "uvloop" else {},
    )
