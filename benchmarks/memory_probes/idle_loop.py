"""The program without a bus: a loop run through AnyIO, ``subprocess`` and ``logging`` imported."""

import logging  # noqa: F401  (part of what is measured)
import subprocess  # noqa: F401  (part of what is measured)

import anyio
from _probe import SETTLE_S, print_memory, run_probe


async def main() -> None:
    """Idle, then say how large the process is."""
    await anyio.sleep(SETTLE_S)
    print_memory()


if __name__ == "__main__":
    run_probe(main)
