"""Break what a daemon depends on, under load, and count what it promised.

    python benchmarks/faults.py kills   [--count 10000] [--rate 300]
    python benchmarks/faults.py clients [--seconds 60] [--count 100]
    python benchmarks/faults.py bad     [--seconds 5] [--only NAME]
    python benchmarks/faults.py soak    [--minutes 10 | --seconds S]

``kills`` sends SIGKILL to workers at random moments. Each request has to be answered exactly once, no
worker may see one twice, a failure has to name a process that was killed, and must not say ``sent:
false`` of a request that a worker has read: the workers keep a record of what they read. Then the
daemon's fds, children, memory and counters are compared with those before.

``clients`` connects and vanishes in all the ways there are: closed, reset, in the middle of a line,
half-closed, with answers unread. ``bad`` measures one steady client alone, and beside each misbehaviour
in turn. ``soak`` runs at full load over stdio and sockets; the memory of the daemon has to stay flat.

Each prints one JSON line, and what was broken before it; exits with 1 if something was.
``--seed`` repeats the choices, not the moments.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

from _busd import (
    Client,
    Daemon,
    Message,
    Reading,
    attach,
    connect,
    find_floor,
    line_of,
    make_config,
    pool,
    serving,
)

import anyio_bus

WORKERS = Path(anyio_bus.__file__).parent / "testing" / "workers"
MIB = 2**20
SETTLE_S = 11  # the daemon looks each 5 s what it did not need since, and gives that back
QUIET_LIMIT_S = 30
SESSIONS = 16  # of each client and pool
LOST, OVERLOADED, TOO_LARGE, SESSION_LOST, CANCELLED = -32050, -32053, -32054, -32056, -32800

Report = dict[str, Any]


class Verdicts:
    """What was broken: a few examples of each, and how often."""

    EXAMPLES = 5

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: list[str] = []

    def broken(self, what: str, example: object = "") -> None:
        """Take note of a broken promise."""
        self.counts[what] += 1
        if self.counts[what] <= self.EXAMPLES:
            self.examples.append(f"{what}: {str(example)[:500]}")

    def check(self, kept: bool, what: str, example: object = "") -> None:
        """Take note if a promise was not kept."""
        if not kept:
            self.broken(what, example)


# --- what is left at the end -----------------------------------------------------------------------


async def quiet(watcher: Client, workers: int, *, clients: int = 1) -> Message:
    """Wait until nothing is in flight and every worker is ready; return the status."""
    ends_at = time.monotonic() + QUIET_LIMIT_S
    while True:
        status = await watcher.status()
        every = [worker for each in status["pools"] for worker in each["workers"]]
        ready = sum(worker["state"] == "ready" for worker in every)
        busy = sum(worker["in_flight"] + worker["queued_bytes"] for worker in every)
        counts = status["statistics"]
        left = counts["live_requests"] + counts["queued_requests"] + counts["sessions"] + busy
        settled = (ready, counts["clients"], left) == (workers, clients, 0)
        if settled or time.monotonic() > ends_at:
            return status
        await asyncio.sleep(0.05)


def compare_status(verdicts: Verdicts, before: Message, after: Message) -> None:
    """Gauges return to where they were."""
    gauges = ("workers", "live_requests", "queued_requests", "sessions", "clients")
    for gauge in gauges:
        old, new = before["statistics"][gauge], after["statistics"][gauge]
        verdicts.check(old == new, f"{gauge} did not return", f"{old} before, {new} after")
    for each in after["pools"]:
        for worker in each["workers"]:
            at_rest = worker["state"] == "ready" and worker["in_flight"] == 0
            verdicts.check(at_rest, "a worker is not at rest", worker)


def compare_readings(
    verdicts: Verdicts, before: Reading, warm: Reading | None, after: Reading
) -> None:
    """No fd and no process more than before, no more memory than once it was warm."""
    verdicts.check(before.fds == after.fds, "fds", f"{before.fds} before, {after.fds} after")
    same = before.children == after.children
    verdicts.check(same, "children", f"{before.children} before, {after.children} after")
    if warm is None:
        return
    flat = after.rss <= warm.rss + MIB
    verdicts.check(flat, "memory", f"{warm.rss / MIB:.2f} MiB warm, {after.rss / MIB:.2f} after")


def in_mib(*readings: Reading) -> list[float]:
    """Return their resident memory."""
    return [round(reading.rss / MIB, 3) for reading in readings]


# --- a load that knows what it asked ---------------------------------------------------------------


class Asker:
    """A closed loop on one connection: keeps so many requests in flight, and accounts for each.

    Args:
        name: It, which stands in every request.
        verdicts: What was broken goes there.
        pools: They are asked in turn.
        in_flight: How many requests.
        holds: Ask some that are never answered, so that there are some in every worker that dies.
    """

    def __init__(
        self,
        name: str,
        verdicts: Verdicts,
        *,
        pools: list[str],
        in_flight: int,
        holds: bool = False,
    ) -> None:
        self.name = name
        self.pending: dict[int, str] = {}
        self.answered = 0
        self.failed: list[tuple[str, Message]] = []
        self.unsent: set[str] = set()
        self.stopping = False
        self.client: Client | None = None
        self._verdicts = verdicts
        self._pools = pools
        self._in_flight = in_flight
        self._holds = holds
        self._over = asyncio.Event()
        self._next = 1
        self._random = random.Random(name)
        self._out: list[bytes] = []
        self._scheduled = False

    def start(self, client: Client) -> None:
        """Begin on a connection that hands its messages to ``take``."""
        self.client = client
        for _ in range(self._in_flight):
            self._make()

    def _make(self) -> None:
        ident, self._next = self._next, self._next + 1
        top: dict[str, object] = {"id": ident, "pool": self._pools[ident % len(self._pools)]}
        if ident % 4 == 1:
            # A session belongs to one pool, so its name says which.
            top["sessionId"] = f"{self.name}-{top['pool']}-{ident % SESSIONS}"
        params: Message = {"token": f"{self.name}-{ident}"}
        if ident % 200 == 0:
            params["text"] = "x" * self._random.randrange(70_000, 150_000)  # more than a pipe takes
        hold = self._holds and ident % 10 == 0  # it waits in the worker until that dies
        self.pending[ident] = "session" if "sessionId" in top else "hold" if hold else ""
        self._out.append(line_of("hold" if hold else "echo", params, **top))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        assert self.client is not None
        if self._out:
            self.client.write(b"".join(self._out))
        self._out.clear()

    def take(self, message: Message) -> None:
        """Take an answer."""
        ident = message.get("id")
        if ident not in self.pending:
            self._verdicts.broken("an answer to nothing, or a second one", message)
            return
        kind = self.pending.pop(ident)
        token = f"{self.name}-{ident}"
        if "error" in message:
            self._take_failure(token, kind, message["error"])
        else:
            right = message["result"]["token"] == token
            self._verdicts.check(right, "a wrong result", message)
            self.answered += 1
        if not self.stopping:
            self._make()
        elif not self.pending:
            self._over.set()

    def _take_failure(self, token: str, kind: str, error: Message) -> None:
        allowed = {LOST, SESSION_LOST if kind == "session" else LOST}
        allowed |= {CANCELLED} if kind == "hold" and self.stopping else set()
        if error["code"] not in allowed or error["data"].get("source") != "anyio-bus":
            self._verdicts.broken("a failure that nothing explains", error)
        self.failed.append((token, error))
        if error["data"].get("sent") is False:
            self.unsent.add(token)

    async def stop(self) -> None:
        """Ask no more, cancel what is never answered, wait for every answer, end the sessions."""
        assert self.client is not None
        self.stopping = True
        self._flush()  # a request goes before its cancel
        for ident, kind in self.pending.items():
            if kind == "hold":
                self.client.send("$/cancelRequest", {"id": ident})
        if self.pending:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), QUIET_LIMIT_S)
        for ident in self.pending:
            self._verdicts.broken("a request without an answer", f"{self.name}-{ident}")
        for name in self._pools:
            for number in range(SESSIONS):
                await self.client.ask("bus/session_end", {"id": f"{self.name}-{name}-{number}"})


# --- kills -----------------------------------------------------------------------------------------


class Killer:
    """Knows the ready workers of a daemon, and kills them one at a time."""

    def __init__(self, daemon_pid: int, seed: int) -> None:
        self.ready: dict[int, int] = {}
        self.killed: list[int] = []
        self._daemon_pid = daemon_pid
        self._random = random.Random(seed)

    def take(self, message: Message) -> None:
        """Take an event of ``bus/watch``."""
        params = message.get("params", {})
        if params.get("event") != "worker_changed":
            return
        if params["state"] == "ready":
            self.ready[params["worker"]] = params["pid"]
        else:
            self.ready.pop(params["worker"], None)

    def kill_one(self) -> None:
        """Kill a worker; only a child of the daemon, whatever its pid says by now."""
        if not self.ready:
            return
        worker = self._random.choice(list(self.ready))
        pid = self.ready.pop(worker)
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            handle = os.pidfd_open(pid)
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
                if int(stat.rpartition(")")[2].split()[1]) == self._daemon_pid:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    self.killed.append(pid)
            finally:
                os.close(handle)

    async def run(self, count: int, rate: float) -> None:
        """Kill until it were so many, at so many a second on the average."""
        next_at = time.monotonic()
        while len(self.killed) < count:
            next_at += self._random.expovariate(rate)
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))
            next_at = max(next_at, time.monotonic() - 0.05)  # what was missed is not made up for
            self.kill_one()


async def killer(*, socket: str, pid: int, count: int, rate: float, seed: int) -> None:
    """Be the process that kills: what the one that asks is busy with does not choose its moments.

    Prints a line when half of the workers are killed, and one with the pids of all in the end.
    """
    one = Killer(pid, seed)
    loop = asyncio.get_running_loop()
    _, watcher = await loop.create_unix_connection(lambda: Client(one.take), socket)
    await watcher.ask("bus/watch", {"events": ["worker_changed"]})
    for each in (await watcher.status())["pools"]:
        for worker in each["workers"]:
            if worker["state"] == "ready":
                one.ready[worker["worker"]] = worker["pid"]
    await one.run(count // 2, rate)
    print("half", flush=True)
    await one.run(count, rate)
    print(json.dumps(one.killed), flush=True)
    watcher.close()


@contextlib.asynccontextmanager
async def killing(
    daemon: Daemon, *, count: int, rate: float, seed: int
) -> AsyncIterator[asyncio.StreamReader]:
    """Run the process that kills; yields what it prints."""
    words = ["--socket", daemon.socket, "--pid", str(daemon.pid), "--seed", str(seed)]
    words += ["--count", str(count), "--rate", str(rate)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "killer", *words),
        stdout=asyncio.subprocess.PIPE,
        limit=16 * MIB,
    )
    try:
        assert process.stdout is not None
        yield process.stdout
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()  # noqa: ASYNC102


def kills_config(witness: str, instances: int, payload_limit: int = 8 * MIB) -> Message:
    """Two pools whose workers may die as often as they like."""
    worker = (find_floor("echo_worker"), "--witness", witness)
    return make_config(
        [pool(name, *worker, instances=instances) for name in ("left", "right")],
        {
            "max_restarts": 1_000_000,
            "restart_delay_s": 0.001,
            "restart_delay_max_s": 0.002,
            "cancel_grace_s": 0.5,
            "max_input_buffer": payload_limit,
        },
    )


def look_at_failures(
    verdicts: Verdicts, failed: list[tuple[str, Message]], killed: set[int]
) -> None:
    """A lost worker was one that was killed, and the failure says so."""
    for _, error in failed:
        data = error["data"]
        if error["code"] == LOST:
            right = data.get("pid") in killed and data.get("signal") == signal.SIGKILL
            verdicts.check(right, "a failure names a worker that was not killed", error)
            verdicts.check(isinstance(data.get("sent"), bool), "a failure without sent", error)


def look_at_witness(verdicts: Verdicts, folder: Path, unsent: set[str]) -> int:
    """Count the requests that workers have read: none of them twice, none that was not sent."""
    seen: Counter[str] = Counter()
    for path in folder.iterdir():
        for found in re.finditer(rb'"token":"([^"]+)"', path.read_bytes()):
            seen[found[1].decode()] += 1
    for token, count in seen.items():
        verdicts.check(count == 1, "a request reached workers more than once", token)
    for token in unsent & seen.keys():
        verdicts.broken("sent is false, but a worker has read it", token)
    return len(seen)


async def _start_askers(
    daemon: Daemon, verdicts: Verdicts, sockets: int, in_flight: int
) -> list[Asker]:
    askers = []
    for number in range(sockets + 1):
        asker = Asker(
            f"c{number}", verdicts, pools=["left", "right"], in_flight=in_flight, holds=True
        )
        opening = connect if number else attach  # the first one over stdio
        asker.start(await opening(daemon, asker.take))
        askers.append(asker)
    return askers


async def _kill_under_load(
    verdicts: Verdicts,
    *,
    count: int,
    rate: float,
    instances: int,
    sockets: int,
    seed: int,
    settle_s: float,
) -> Report:
    with (
        tempfile.TemporaryDirectory(prefix="anyio-busd-") as witness,
        serving(kills_config(witness, instances), stdio=True) as daemon,
    ):
        watcher = await connect(daemon)
        before = await quiet(
            watcher, 2 * instances, clients=2
        )  # that on stdio is one from the start
        first = daemon.read()
        askers = await _start_askers(daemon, verdicts, sockets, in_flight=32)
        began = time.monotonic()
        async with killing(daemon, count=count, rate=rate, seed=seed) as said:
            assert await said.readline() == b"half\n"
            warm = daemon.read()
            killed = json.loads(await said.readline())
        took_s = time.monotonic() - began
        await asyncio.gather(*(asker.stop() for asker in askers))
        for asker in askers[1:]:
            assert asker.client is not None
            asker.client.close()
        after = await quiet(watcher, 2 * instances, clients=2)
        await asyncio.sleep(settle_s)
        last = daemon.read()
        compare_status(verdicts, before, after)
        compare_readings(verdicts, first, warm if settle_s else None, last)
        failed = [failure for asker in askers for failure in asker.failed]
        unsent = set().union(*(asker.unsent for asker in askers))
        look_at_failures(verdicts, failed, set(killed))
        codes = Counter(error["code"] for _, error in failed)
        restarts = after["statistics"]["worker_restarts"]
        verdicts.check(restarts == len(killed), "restarts", f"{restarts} of {len(killed)}")
        report = {
            "kills": len(killed),
            "seconds": round(took_s, 1),
            "answered": sum(asker.answered for asker in askers),
            "failed": {str(code): number for code, number in codes.items()},
            "lost_unsent": sum(error["code"] == LOST for token, error in failed if token in unsent),
            "read_by_workers": look_at_witness(verdicts, Path(witness), unsent),
            "rss_mib": in_mib(first, warm, last),
        }
        for asker in askers:
            assert asker.client is not None
            asker.client.close()
        watcher.close()
    return report


async def kills(
    *,
    count: int,
    rate: float,
    instances: int = 4,
    sockets: int = 2,
    seed: int = 1,
    settle_s: float = SETTLE_S,
) -> tuple[Report, Verdicts]:
    """Kill so many workers under load.

    Args:
        count: How many.
        rate: How many a second, on the average.
        instances: Workers of each of the two pools.
        sockets: Clients beside the one on stdio.
        seed: Of what is chosen.
        settle_s: How long to wait before memory is compared; 0 compares none.
    """
    verdicts = Verdicts()
    report = await _kill_under_load(
        verdicts,
        count=count,
        rate=rate,
        instances=instances,
        sockets=sockets,
        seed=seed,
        settle_s=settle_s,
    )
    return report, verdicts


# --- the steady client -----------------------------------------------------------------------------


async def steady(
    daemon: Daemon,
    seconds: int,
    *,
    clients: int = 4,
    in_flight: int = 4,
    more: tuple[str, ...] = (),
) -> Report:
    """Run ``load`` for a while; its figures, or what it died of."""
    words = ["--unix", daemon.socket, "--clients", str(clients), "--in-flight", str(in_flight)]
    words += ["--seconds", str(seconds), "--pool", "echo", "--timeout", str(seconds + 60), *more]
    process = await asyncio.create_subprocess_exec(
        find_floor("load"), *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()  # noqa: ASYNC102
        raise
    if process.returncode != 0:
        return {"failed": err.decode(errors="replace").strip() or process.returncode}
    figures: Report = json.loads(out)
    return {name: figures[name] for name in ("rate", "p50_us", "p99_us", "max_us", "n")}


def beside(
    verdicts: Verdicts, alone: Report, together: Report, least: float, most_us: float
) -> Report:
    """Compare a steady client's figures with those when it was alone."""
    for figures in (alone, together):
        if "failed" in figures:
            verdicts.broken("the steady client failed", figures["failed"])
            return {}
    ratio = together["rate"] / alone["rate"]
    verdicts.check(ratio >= least, "the steady client's rate", f"{ratio:.2f}, not {least}")
    bound = max(most_us, 10 * alone["p99_us"])
    p99 = together["p99_us"]
    verdicts.check(p99 <= bound, "the steady client's p99", f"{p99:.0f} us, not {bound:.0f}")
    return {
        "rate_ratio": round(ratio, 3),
        "p99_ratio": round(p99 / alone["p99_us"], 2),
        "alone": alone,
        "beside": together,
    }


# --- clients ---------------------------------------------------------------------------------------


class Visitor:
    """A client that connects, asks, and vanishes, again and again."""

    def __init__(self, daemon: Daemon, verdicts: Verdicts, seed: int) -> None:
        self.visits: Counter[str] = Counter()
        self._daemon = daemon
        self._verdicts = verdicts
        self._random = random.Random(seed)
        self._loop = asyncio.get_running_loop()
        self._never = "hold"
        self._ways: list[Callable[[socket.socket], Any]] = [
            self._close,
            self._reset,
            self._torn,
            self._half_closed,
            self._half_closed_in_a_line,
            self._unread,
            self._cancelled,
        ]

    async def run(self, ends_at: float) -> None:
        """Visit until the time is up."""
        while time.monotonic() < ends_at:
            way = self._random.choice(self._ways)
            with await self._open() as one:
                # On TCP a client that is gone looks like one that has ended its input, until it is
                # written to: of its own accord it shall not wait for ever.
                forever = one.family == socket.AF_UNIX or way in {self._reset, self._cancelled}
                self._never = "hold" if forever else "echo"
                try:
                    async with asyncio.timeout(20):
                        await way(one)
                except TimeoutError:
                    self._verdicts.broken("a visitor waits in vain", way.__name__)
            self.visits[way.__name__] += 1
            await asyncio.sleep(self._random.random() * 0.05)

    async def _open(self) -> socket.socket:
        if self._random.random() < 0.4:
            one = socket.socket()
            one.setblocking(False)
            await self._loop.sock_connect(one, ("127.0.0.1", self._daemon.port))
            return one
        one = socket.socket(socket.AF_UNIX)
        one.setblocking(False)
        while True:
            try:
                one.connect(self._daemon.socket)
                return one
            except BlockingIOError:  # its backlog is full
                await asyncio.sleep(0.01)

    def _requests(self, *, hold: bool) -> tuple[bytes, int]:
        count = self._random.randrange(1, 30)
        lines = []
        for ident in range(count):
            method = self._never if hold and self._random.random() < 0.1 else "echo"
            if hold and self._random.random() < 0.1:
                lines.append(line_of("stream", {"count": 50}, id=ident, pool="echo"))
                continue
            top: dict[str, object] = {"id": ident, "pool": "echo"}
            if self._random.random() < 0.2:
                top["sessionId"] = f"{id(self)}-{self._random.randrange(100)}"
            lines.append(line_of(method, {"n": ident, "who": id(self)}, **top))
        return b"".join(lines), count

    async def _ask(self, one: socket.socket) -> None:
        lines, _ = self._requests(hold=True)
        await self._loop.sock_sendall(one, lines)
        await asyncio.sleep(self._random.random() * 0.02)

    async def _close(self, one: socket.socket) -> None:
        await self._ask(one)

    async def _reset(self, one: socket.socket) -> None:
        await self._ask(one)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _torn(self, one: socket.socket) -> None:
        lines, _ = self._requests(hold=True)
        await self._loop.sock_sendall(one, lines[: self._random.randrange(len(lines))])
        await asyncio.sleep(self._random.random() * 0.02)

    async def _cancelled(self, one: socket.socket) -> None:
        await self._ask(one)
        cancels = [line_of("$/cancelRequest", {"id": ident}) for ident in range(30)]
        with contextlib.suppress(ConnectionError):
            await self._loop.sock_sendall(one, b"".join(cancels))

    async def _unread(self, one: socket.socket) -> None:
        line = line_of("echo", {"text": "x" * 20_000}, id=1, pool="echo")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                for ident in range(50):
                    one_more = line.replace(b'"id":1', b'"id":%d' % ident)
                    await self._loop.sock_sendall(one, one_more)

    async def _half_closed(self, one: socket.socket) -> None:
        lines, count = self._requests(hold=False)
        await self._loop.sock_sendall(one, lines)
        await self._hear_all(one, count)

    async def _half_closed_in_a_line(self, one: socket.socket) -> None:
        lines, count = self._requests(hold=False)
        half = line_of("echo", {"half": True}, id="never", pool="echo")
        await self._loop.sock_sendall(one, lines + half[: len(half) // 2])
        await self._hear_all(one, count)

    async def _hear_all(self, one: socket.socket, count: int) -> None:
        one.shutdown(socket.SHUT_WR)
        heard = b""
        while got := await self._loop.sock_recv(one, 65536):
            heard += got
        said = [json.loads(line) for line in heard.splitlines()]
        answers = [
            message for message in said if "method" not in message
        ]  # it may be the sole client
        right = sorted(answer["id"] for answer in answers) == list(range(count))
        for answer in answers:
            params = {"n": answer["id"], "who": id(self)}
            right = right and answer.get("result") == params
        self._verdicts.check(right, "a half-closed client did not get its answers", answers)


async def clients(
    *, seconds: int, count: int, seed: int = 1, timed: bool = True, settle_s: float = SETTLE_S
) -> tuple[Report, Verdicts]:
    """Let so many clients come and go beside a steady one.

    Args:
        seconds: For how long.
        count: How many there are at a time.
        seed: Of what they choose.
        timed: Whether the steady client's rate and p99 are promises.
        settle_s: How long to wait before memory is compared; 0 compares none.
    """
    verdicts = Verdicts()
    config = make_config(
        [pool("echo", find_floor("echo_worker"), instances=2, max_in_flight=0)],
        {"cancel_grace_s": 0.5},
    )
    with serving(config, tcp=True) as daemon:
        watcher = await connect(daemon)
        before = await quiet(watcher, 2)
        first = daemon.read()
        alone = await steady(daemon, max(1, min(5, seconds // 2)))
        visitors = [Visitor(daemon, verdicts, seed + number) for number in range(count)]

        async def visit_for(duration: float) -> None:
            ends_at = time.monotonic() + duration
            await asyncio.gather(*(visitor.run(ends_at) for visitor in visitors))

        await visit_for(max(1, seconds / 10))
        warm = daemon.read()
        together, _ = await asyncio.gather(steady(daemon, seconds), visit_for(seconds))
        after = await quiet(watcher, 2)
        await asyncio.sleep(settle_s)
        last = daemon.read()
        compare_status(verdicts, before, after)
        compare_readings(verdicts, first, warm if settle_s else None, last)
        counts = after["statistics"]
        same = counts["client_connects"] - counts["client_disconnects"] == 1
        verdicts.check(same, "client_connects and client_disconnects", counts)
        visits: Counter[str] = Counter()
        for visitor in visitors:
            visits += visitor.visits
        watcher.close()
    report = {"visits": {name.strip("_"): visits[name] for name in sorted(visits)}}
    report |= {name: counts[name] for name in ("withdrawn", "cancelled", "late_answers")}
    least, most_us = (0.1, 100_000) if timed else (0.0, float("inf"))
    report |= beside(verdicts, alone, together, least, most_us)
    return report | {"rss_mib": in_mib(first, warm, last)}, verdicts


# --- bad -------------------------------------------------------------------------------------------


class Trouble(NamedTuple):
    """A misbehaviour, and what the steady client may feel of it: of its rate this share is left at
    least. Two of them use a processor of their own, which it then has not."""

    run: Callable[[Daemon, Verdicts, int], Any]
    other: Callable[[], list[Message]]
    least: float


class Talk:
    """A blocking conversation in a thread of its own, for lines of any length."""

    def __init__(self, daemon: Daemon) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(daemon.socket)
        self._socket.settimeout(60)
        self._rest = b""

    def write(self, line: bytes) -> None:
        self._socket.sendall(line)

    def read(self) -> Message:
        """Read one line."""
        parts = [self._rest]
        while b"\n" not in parts[-1]:
            got = self._socket.recv(MIB)
            if not got:
                raise ConnectionError("the daemon closed the connection")
            parts.append(got)
        line, _, self._rest = b"".join(parts).partition(b"\n")
        message: Message = json.loads(line)
        return message

    def close(self) -> None:
        self._socket.close()


@contextlib.asynccontextmanager
async def _in_a_thread(
    daemon: Daemon, verdicts: Verdicts, turn: Callable[[Talk], None]
) -> AsyncIterator[list[int]]:
    """Take turns in a thread until the body is left; yields how many there were."""
    turns = [0]
    stopping = False

    def run() -> None:
        talk = Talk(daemon)
        try:
            while not stopping:
                turn(talk)
                turns[0] += 1
        except (OSError, ValueError, KeyError, AssertionError) as exc:
            verdicts.broken("the misbehaving client was not served", repr(exc))
        finally:
            talk.close()

    running = asyncio.get_running_loop().run_in_executor(None, run)
    try:
        yield turns
    finally:
        stopping = True
        await running  # noqa: ASYNC102


def _echo(**top: object) -> bytes:
    return line_of("echo", {"n": 1}, pool="echo", **top)


@contextlib.asynccontextmanager
async def stalled_client(daemon: Daemon, verdicts: Verdicts, limit: int) -> AsyncIterator[Report]:
    """A client that asks as long as it is read from, and reads nothing."""
    loop = asyncio.get_running_loop()
    line = line_of("echo", {"text": "x" * 10_000}, id=1, pool="echo")
    sent = [0]

    async def ask() -> None:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(daemon.socket)
            one.setblocking(False)
            while True:
                await loop.sock_sendall(one, line.replace(b'"id":1', b'"id":%d' % sent[0]))
                sent[0] += 1

    asking = asyncio.create_task(ask())
    report: Report = {}
    try:
        yield report
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)  # noqa: ASYNC102
        report["asked"] = sent[0]
        bounded = sent[0] * len(line) < 8 * limit
        verdicts.check(bounded, "the stalled client is read from without bound", sent[0])


@contextlib.asynccontextmanager
async def stalled_worker(daemon: Daemon, verdicts: Verdicts, limit: int) -> AsyncIterator[Report]:
    """A worker that is stopped, and a client that asks it until it is refused."""
    answers: Counter[str] = Counter()
    sent = 5000
    everything = asyncio.Event()

    def take(message: Message) -> None:
        error = message.get("error")
        answers["answered" if error is None else str(error["code"])] += 1
        if sum(answers.values()) == sent:
            everything.set()

    client = await connect(daemon, take)
    status = await client.status()
    pid = next(one["workers"][0]["pid"] for one in status["pools"] if one["id"] == "other")
    os.kill(pid, signal.SIGSTOP)
    report: Report = {}
    try:
        for ident in range(sent):
            client.send("echo", {"text": "x" * 1000}, id=ident, pool="other")
        yield report
    finally:
        os.kill(pid, signal.SIGCONT)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(everything.wait(), 20)  # noqa: ASYNC102
        report |= answers
        right = everything.is_set() and set(answers) == {"answered", str(OVERLOADED)}
        verdicts.check(right, "what the stopped worker was asked", dict(answers))
        client.close()


@contextlib.asynccontextmanager
async def flooding_worker(daemon: Daemon, verdicts: Verdicts, limit: int) -> AsyncIterator[Report]:
    """A worker that writes notifications that are nobody's."""
    report: Report = {}
    client = await connect(daemon)
    before = (await client.status())["statistics"]["dropped_notifications"]
    try:
        yield report
    finally:
        after = (await client.status())["statistics"]["dropped_notifications"]  # noqa: ASYNC102
        report["dropped"] = after - before
        verdicts.check(after > before, "the flood is dropped", report)
        client.close()


@contextlib.asynccontextmanager
async def flooded_client(daemon: Daemon, verdicts: Verdicts, limit: int) -> AsyncIterator[Report]:
    """The same, but they are for a client, which does not read them."""
    report: Report = {}
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(daemon.socket)
        one.sendall(line_of("echo", id=1, pool="other"))
        yield report
        watcher = await connect(daemon)
        counts = (await watcher.status())["statistics"]
        report["messages"] = counts["messages_in"]
        watcher.close()


@contextlib.asynccontextmanager
async def long_line(daemon: Daemon, verdicts: Verdicts, limit: int) -> AsyncIterator[Report]:
    """A client whose lines are as long as they may be."""
    text = "x" * (limit - 1000)
    line = line_of("echo", text, id=1, pool="echo")

    def turn(talk: Talk) -> None:
        talk.write(line)
        right = talk.read().get("result") == text
        verdicts.check(right, "the long line did not come back")

    async with _in_a_thread(daemon, verdicts, turn) as turns:
        report: Report = {"limit": limit}
        yield report
    report["lines"] = turns[0]
    verdicts.check(turns[0] > 0, "no long line came back")


@contextlib.asynccontextmanager
async def line_over_the_limit(
    daemon: Daemon, verdicts: Verdicts, limit: int
) -> AsyncIterator[Report]:
    """A client, and a worker, whose lines are too long."""
    line = line_of("echo", "x" * (limit + 1000), id=1, pool="echo")
    big = line_of("big", {"bytes": limit + 1000}, id=2, pool="other")

    def turn(talk: Talk) -> None:
        for asked, code in ((line, TOO_LARGE), (big, TOO_LARGE), (_echo(id=3), None)):
            talk.write(asked)
            answer = talk.read()
            right = answer.get("error", {}).get("code") == code
            verdicts.check(right, "what a line over the limit is answered with", answer)

    async with _in_a_thread(daemon, verdicts, turn) as turns:
        report: Report = {"limit": limit}
        yield report
    report["lines"] = 2 * turns[0]
    verdicts.check(turns[0] > 0, "no line over the limit was answered")


@contextlib.asynccontextmanager
async def bad_lines(daemon: Daemon, verdicts: Verdicts, limit: int) -> AsyncIterator[Report]:
    """A client with a bad line each second, and a worker that writes some with each answer."""
    bad = ((b'{"id":1,\n', -32700), (b"[]\n", -32700), (b'{"id":1}\n', -32600))
    good = line_of("echo", {"n": 1}, id=1, pool="other")

    def turn(talk: Talk) -> None:
        for line, code in bad:
            talk.write(line)
            answer = talk.read()
            right = answer.get("error", {}).get("code") == code
            verdicts.check(right, "what a bad line is answered with", (line, answer))
        talk.write(good)
        verdicts.check(talk.read().get("result") == {"n": 1}, "a good line after a bad one")
        time.sleep(1)

    async with _in_a_thread(daemon, verdicts, turn) as turns:
        report: Report = {}
        yield report
    report["lines"] = len(bad) * turns[0]
    verdicts.check(turns[0] > 0, "no bad line was answered")


def _nothing_else() -> list[Message]:
    return []


def _other_echo() -> list[Message]:
    return [pool("other", find_floor("echo_worker"), max_in_flight=1000)]


def _testing_worker(name: str) -> list[Message]:
    return [pool("other", sys.executable, str(WORKERS / f"{name}.py"))]


TROUBLES = {
    "stalled_client": Trouble(stalled_client, _nothing_else, 0.5),
    "stalled_worker": Trouble(stalled_worker, _other_echo, 0.5),
    "flooding_worker": Trouble(flooding_worker, lambda: _testing_worker("flood"), 0.5),
    "flooded_client": Trouble(flooded_client, lambda: _testing_worker("flood"), 0.5),
    "long_line": Trouble(long_line, _nothing_else, 0.05),
    "line_over_the_limit": Trouble(line_over_the_limit, lambda: _testing_worker("oversize"), 0.1),
    "bad_lines": Trouble(bad_lines, lambda: _testing_worker("garbage"), 0.5),
}


async def bad(
    *, seconds: int, only: str = "", limit: int = 64 * MIB, timed: bool = True
) -> tuple[Report, Verdicts]:
    """Measure a steady client alone and beside each misbehaviour.

    Args:
        seconds: How long each of both.
        only: The misbehaviours whose names begin with this.
        limit: The longest line.
        timed: Whether its rate and p99 are promises.
    """
    verdicts = Verdicts()
    report: Report = {}
    for name, trouble in TROUBLES.items():
        if not name.startswith(only):
            continue
        found = Verdicts()
        limits = {"max_input_buffer": limit, "max_queued": 2000}
        if name in {"stalled_client", "flooded_client"}:
            limits["max_output_queue"] = min(limit, 4 * MIB)
        echo = pool("echo", find_floor("echo_worker"), instances=2)
        with serving(make_config([echo], limits)) as daemon:
            alone = await steady(daemon, seconds)
        with serving(make_config([echo, *trouble.other()], limits)) as daemon:
            watcher = await connect(daemon)  # a sole client would get what is nobody's
            async with trouble.run(daemon, found, limits.get("max_output_queue", limit)) as said:
                await asyncio.sleep(0.3)
                together = await steady(daemon, seconds)
            again = await steady(daemon, 1)
            least, most_us = (trouble.least, 50_000) if timed else (0.0, float("inf"))
            report[name] = said | beside(found, alone, together, least, most_us)
            beside(found, alone, again, 0.0, float("inf"))  # it works still
            watcher.close()
        for what, count in found.counts.items():
            verdicts.counts[f"{name}: {what}"] += count
        verdicts.examples += [f"{name}: {example}" for example in found.examples]
        print(f"{name}: {json.dumps(report[name])}", flush=True)
    return report, verdicts


# --- soak ------------------------------------------------------------------------------------------


async def _load_sockets(daemon: Daemon, verdicts: Verdicts, ends_at: float) -> int:
    """Run ``load`` again and again, so that clients come and go as well."""
    done = 0
    while (left := ends_at - time.monotonic()) > 1:
        more = ("--sessions", "1000", "--payload", "200")
        figures = await steady(daemon, int(min(left, 15)), clients=8, in_flight=16, more=more)
        if "failed" in figures:
            verdicts.broken("the clients on sockets failed", figures["failed"])
            return done
        done += figures["n"]
    return done


async def soak(*, seconds: float) -> tuple[Report, Verdicts]:
    """Run at full load, and sample the memory of the daemon each half second."""
    verdicts = Verdicts()
    samples: list[int] = []
    config = make_config([pool("echo", find_floor("echo_worker"), instances=2)])
    with serving(config, stdio=True) as daemon:
        watcher = await connect(daemon)
        before = await quiet(watcher, 2, clients=2)
        first = daemon.read()
        asker = Asker("stdio", verdicts, pools=["echo"], in_flight=64)
        asker.start(await attach(daemon, asker.take))
        ends_at = time.monotonic() + seconds
        loading = asyncio.create_task(_load_sockets(daemon, verdicts, ends_at))
        while not loading.done():
            await asyncio.wait({loading}, timeout=0.5)
            samples.append(daemon.read().rss)
        await asker.stop()
        after = await quiet(watcher, 2, clients=2)
        await asyncio.sleep(SETTLE_S)
        last = daemon.read()
        compare_status(verdicts, before, after)
        verdicts.check(first.fds == last.fds, "fds", f"{first.fds} before, {last.fds} after")
        assert asker.client is not None
        asker.client.close()
        watcher.close()
    minute = max(1, min(120, len(samples) // 4))  # samples of a minute, of a short run its quarter
    start, end = statistics.median(samples[:minute]), statistics.median(samples[-minute:])
    flat = end <= start * 1.02 + MIB / 4
    verdicts.check(flat, "memory grows", f"{start / MIB:.2f} MiB, then {end / MIB:.2f}")
    answered = asker.answered + loading.result()
    report = {"seconds": seconds, "answered": answered, "over_stdio": asker.answered}
    rss = [start, end, max(samples), last.rss]
    return report | {"rss_mib": [round(value / MIB, 3) for value in rss]}, verdicts


# --- the program -----------------------------------------------------------------------------------


def main() -> None:
    """Break one thing."""
    parser = argparse.ArgumentParser(description="Break what a daemon depends on, and count.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("kills")
    one.add_argument("--count", type=int, default=10_000)
    one.add_argument("--rate", type=float, default=300, help="kills a second")
    one = commands.add_parser("clients")
    one.add_argument("--seconds", type=int, default=60)
    one.add_argument("--count", type=int, default=100, help="clients that come and go")
    one = commands.add_parser("bad")
    one.add_argument("--seconds", type=int, default=5, help="for each measurement")
    one.add_argument("--only", default="", metavar="NAME", help=", ".join(TROUBLES))
    one = commands.add_parser("soak")
    one.add_argument("--minutes", type=float, default=10)
    one.add_argument("--seconds", type=float, help="instead of minutes")
    one = commands.add_parser("killer", description="a part of kills")
    for flag, kind in (("socket", str), ("pid", int), ("count", int), ("rate", float)):
        one.add_argument(f"--{flag}", type=kind, required=True)
    one.add_argument("--seed", type=int, required=True)
    for one in commands.choices.values():
        if one.prog.split()[-1] in {"kills", "clients"}:
            one.add_argument("--seed", type=int, default=1)
    options = vars(parser.parse_args())
    name = options.pop("command")
    if name == "killer":
        asyncio.run(killer(**options))
        return
    if name == "soak":
        minutes, seconds = options.pop("minutes"), options["seconds"]
        options["seconds"] = minutes * 60 if seconds is None else seconds
    run = {"kills": kills, "clients": clients, "bad": bad, "soak": soak}[name]
    report, verdicts = asyncio.run(run(**options))
    for example in verdicts.examples:
        print(f"BROKEN: {example}")
    print(json.dumps({"program": f"faults {name}"} | report | {"broken": dict(verdicts.counts)}))
    if verdicts.counts:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
