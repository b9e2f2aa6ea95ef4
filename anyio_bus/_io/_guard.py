"""Watchdog, run as ``python -I -S _guard.py``: kills process groups when its stdin ends.

A line ``+PGID`` adds a group, ``-PGID`` takes it out. An orderly owner has taken all of them out
before it closes the pipe; one that was killed has not.
"""

import os
import sys

assert sys.platform != "win32"  # also tells the type checkers

SIGKILL = 9


def main() -> None:
    """Follow the list until the end of stdin, then kill what is on it."""
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        pgid = int(line[1:])
        if line[:1] == b"+":
            groups.add(pgid)
        else:
            groups.discard(pgid)
    for pgid in groups:
        try:
            os.killpg(pgid, SIGKILL)
        except OSError:
            continue


main()
