"""Fifty programs share one daemon, and are killed at random."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.daemon import kit
from tests.daemon.kit import Client, Daemon

ASKER = Path(__file__).parent / "programs" / "asker.py"
PROGRAMS = 50
IN_FLIGHT = 20
SPARED = 10  # of each fifty: they see that others' ends do them no harm
BETWEEN = 400  # answers between two kills, at most
GROWTH = 1024 * 1024  # bytes that the allocator of the C library may keep

GAUGES = ("workers", "live_requests", "queued_requests", "sessions", "clients")


@contextlib.contextmanager
def programs(path: str, said: IO[bytes]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start fifty of them; none is left in the end."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(PROGRAMS):
            command = [sys.executable, "-I", "-S", str(ASKER), path, f"p{number}", str(IN_FLIGHT)]
            running.append(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
                )
            )
        yield running
    finally:
        for program in running:
            program.kill()
            program.communicate()


def at_rest(admin: Client) -> dict[str, int]:
    """Wait until nothing is in flight and nobody else is there; return what the gauges say."""
    status = admin.until(
        lambda s: (
            s["statistics"]["clients"] == 1
            and not s["statistics"]["live_requests"]
            and not any(w["in_flight"] or w["queued"] for p in s["pools"] for w in p["workers"])
        ),
        "rest",
    )
    return {gauge: status["statistics"][gauge] for gauge in GAUGES}


def holds(daemon: Daemon) -> tuple[int, int]:
    """Return how many descriptors the daemon has, and how many bytes are resident."""
    rss = next(
        line
        for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
        if "VmRSS" in line
    )
    return len(os.listdir(f"/proc/{daemon.pid}/fd")), 1024 * int(rss.split()[1])


def kill_most(daemon: Daemon, admin: Client, said: IO[bytes], choose: random.Random) -> None:
    """Run fifty programs, kill forty of them one by one, and let the others come to their ends."""

    def answers() -> int:
        found: int = admin.statistics()["messages_in"]
        return found

    with programs(daemon.unix_path, said) as running:
        admin.until(lambda s: s["statistics"]["clients"] == PROGRAMS + 1, "fifty programs")
        order = choose.sample(running, PROGRAMS)
        for program in order[SPARED:]:
            enough = answers() + choose.randrange(BETWEEN)
            deadline = kit.Deadline()
            while answers() < enough:
                deadline.left("answers to those that are left")
            program.kill()
        for program in order[:SPARED]:
            counted, _ = program.communicate(timeout=kit.PATIENCE_S)
            assert program.returncode == 0, counted
            assert int(counted) >= IN_FLIGHT
        assert all(program.wait(kit.PATIENCE_S) == -9 for program in order[SPARED:])


@pytest.mark.timeout(60)
def test_nothing_crosses_between_fifty_programs_and_their_ends_leave_nothing(
    tmp_path: Path,
) -> None:
    choose = random.Random(50)
    pools = kit.config(kit.pool(instances=2))
    log = tmp_path / "stderr"
    with Daemon(pools, unix=True, admin=True) as daemon, daemon.connect_admin() as admin:
        admin.until_workers("ready", 2)
        gauges, (fds, _) = at_rest(admin), holds(daemon)
        with log.open("wb") as said:
            kill_most(daemon, admin, said, choose)
            assert at_rest(admin) == gauges
            _, warm = holds(daemon)
            kill_most(daemon, admin, said, choose)
        assert log.read_text() == ""
        assert at_rest(admin) == gauges
        after = holds(daemon)
        assert after[0] == fds
        assert after[1] <= warm + GROWTH
        counts = admin.statistics()
        assert counts["client_disconnects"] == 2 * PROGRAMS
        assert counts["cancelled"] > 0, "nobody was killed with a request in flight"
        assert counts["late_answers"] > 0
        assert counts["stray_answers"] == counts["worker_restarts"] == counts["bad_lines"] == 0
        assert daemon.stop() == 0
