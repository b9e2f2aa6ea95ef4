"""What the hand-written loops share: command line, spawn, pipes, lines, the meter, the report.

Nothing here wakes a task or decides who writes when: that is what the loops differ in.
"""

import argparse
import contextlib
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import msgspec

READ_BYTES = 65536  # the capacity of a Linux pipe as it is made
BURST = 8  # a client task times one request of so many, and asks for more after so many
WARM_UP_COUNT = 2000
WARM_UP_BYTES = 64_000_000  # long lines are warmed up by fewer, longer ones by the check alone
TIME_LIMIT_S = 300  # beyond the time asked for; a lost answer must not hang a benchmark
STOP_LIMIT_S = 5
LOOPS = ("asyncio", "uvloop", "trio")

# A process that keeps what it has compiled, as an installed program does, whatever ours was told.
KEEPING_BYTECODE = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

Requester = Callable[[str, object], Awaitable[object]]
Starter = Callable[[], AbstractAsyncContextManager[Requester]]

# Options that only some programs read: the others refuse them.
EXTRAS: dict[str, dict[str, Any]] = {
    "workers": {"type": int, "default": 1, "help": "in the pool"},
    "held": {
        "type": int,
        "default": 0,
        "help": "further requests, of a map, that are never answered",
    },
    "sessions": {"type": int, "default": 0, "help": "sessions to cycle through; 0: without any"},
    "busy-poll": {"type": float, "help": "seconds that the native backend looks for an answer"},
    "streams": {"type": int, "default": 1, "help": "at once"},
    "one-by-one": {"action": "store_true", "help": "take chunks one by one, not in batches"},
    "chunks": {"choices": ("anyio-bus", "acp"), "default": "anyio-bus", "help": "in these words"},
    "subscribers": {"type": int, "default": 1, "help": "of every notification"},
    "beside": {"default": "", "help": "a misbehaving worker of anyio_bus.testing.workers"},
    "by-hand": {"action": "store_true", "help": "without the library"},
    "stream": {"action": "store_true", "help": "measure chunks"},
    "start": {"action": "store_true", "help": "measure starts"},
}


class Options(msgspec.Struct, frozen=True):
    """The command line."""

    loop: str
    in_flight: int
    seconds: float | None
    count: int | None
    payload: int
    argv: list[str]
    reply: int = 0
    burst: int = BURST
    backend: str = "auto"
    busy_poll: float | None = None
    workers: int = 1
    held: int = 0
    sessions: int = 0
    streams: int = 1
    one_by_one: bool = False
    chunks: str = "anyio-bus"
    subscribers: int = 1
    beside: str = ""
    by_hand: bool = False
    stream: bool = False
    start: bool = False

    @property
    def method(self) -> str:
        """The method of every request that is timed."""
        return "text" if self.reply else "echo"

    @property
    def params(self) -> dict[str, Any]:
        """The params of every request that is timed."""
        return {"bytes": self.reply} if self.reply else {"text": "x" * self.payload}

    @property
    def warm_up(self) -> int:
        """How many requests are sent before the clock runs."""
        longest = max(self.payload, self.reply, 1)
        return min(WARM_UP_COUNT, self.count or WARM_UP_COUNT, WARM_UP_BYTES // longest)


class Request(msgspec.Struct, gc=False):
    """The envelope on the way out."""

    id: int
    method: str
    params: object
    jsonrpc: str = "2.0"


class Answer(msgspec.Struct, gc=False):
    """The envelope on the way in; the client decodes the result."""

    id: int
    result: msgspec.Raw


class Figures(msgspec.Struct, frozen=True):
    """What one run measured; ``cpu_us`` is this process's own processor time for each request."""

    rate: float
    p50_us: float | None
    p99_us: float | None
    count: int
    cpu_us: float


class StartFigures(Figures, frozen=True):
    """Of starts: latencies are from the beginning to the first answer, ``stop_us`` is the median."""

    stop_us: float


class Pipes(msgspec.Struct, frozen=True):
    """Our ends of a worker's pipes, both nonblocking."""

    to_worker: int
    from_worker: int


class Meter:
    """Says how much more may be sent, and keeps the time.

    Args:
        seconds: Let requests start for so long; or
        count: let exactly so many start.
    """

    def __init__(self, *, seconds: float | None = None, count: int | None = None) -> None:
        self.samples_ns: list[int] = []
        self._seconds = seconds or 0
        self._left = count
        self._taken = 0
        self.begin()

    def begin(self) -> None:
        """Start the clock anew: what was prepared until now is not part of the run."""
        self._began_cpu_ns = time.process_time_ns()
        self._began_ns = time.perf_counter_ns()
        self._ends_ns = self._began_ns + int(self._seconds * 1e9)

    def take(self, most: int = BURST) -> int:
        """Return how many requests the caller shall send now, 0 when the run is over."""
        if self._left is not None:
            most = min(most, self._left)
            self._left -= most
        elif time.perf_counter_ns() >= self._ends_ns:
            return 0
        self._taken += most
        return most

    def figures(self) -> Figures:
        """Close the run, every request taken having been answered by now."""
        took_s = (time.perf_counter_ns() - self._began_ns) / 1e9
        cpu_us = (time.process_time_ns() - self._began_cpu_ns) / 1000 / max(self._taken, 1)
        p50, p99 = (nearest_rank_us(self.samples_ns, percent) for percent in (50, 99))
        return Figures(round(self._taken / took_s, 1), p50, p99, self._taken, round(cpu_us, 3))


def nearest_rank_us(samples_ns: Sequence[int], percent: int) -> float | None:
    """Return a percentile of samples in microseconds, None without any."""
    if not samples_ns:
        return None
    return round(sorted(samples_ns)[-(-len(samples_ns) * percent // 100) - 1] / 1000, 2)


class LineReader:
    """Whole lines from a nonblocking pipe, one read of 64 KiB at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._unfinished: list[bytes] = []

    async def receive(self) -> bytes:
        """Return the lines that have come, at least one, each with its newline."""
        while True:
            await anyio.wait_readable(self._fd)
            data = os.read(self._fd, READ_BYTES)
            if not data:
                raise EOFError("the worker closed its stdout")
            end = data.rfind(b"\n") + 1
            if not end:
                self._unfinished.append(data)
                continue
            lines = b"".join([*self._unfinished, data[:end]])
            self._unfinished = [data[end:]] if end < len(data) else []
            return lines


async def write_all(fd: int, data: bytearray) -> None:
    """Write to a nonblocking pipe, waiting only when it is full."""
    with memoryview(data) as view:
        written = 0
        while written < len(data):
            try:
                written += os.write(fd, view[written:])
            except BlockingIOError:
                await anyio.wait_writable(fd)


@contextlib.contextmanager
def open_worker(argv: Sequence[str]) -> Iterator[Pipes]:
    """Spawn a worker on two pipes of our own, and end it by closing them."""
    child_stdin, to_worker = os.pipe()  # close-on-exec, as all descriptors Python makes
    from_worker, child_stdout = os.pipe()
    try:
        process = subprocess.Popen(argv, stdin=child_stdin, stdout=child_stdout)
    finally:
        os.close(child_stdin)
        os.close(child_stdout)
    os.set_blocking(to_worker, False)
    os.set_blocking(from_worker, False)
    try:
        yield Pipes(to_worker, from_worker)
    finally:
        os.close(to_worker)
        os.close(from_worker)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def check_echo(
    request: Requester, *, only_objects: bool = False, longest: int = 300_000
) -> None:
    """Prove that answers are right before any of them is timed.

    Args:
        request: Sends one request.
        only_objects: It takes no other params.
        longest: Bytes of the longest text, which a pipe does not hold; a rival may not do that.
    """
    samples: list[object] = [
        {"text": 'quotes " and \\, newline \n, é, \U0001f600', "id": 7, "result": None},
        [1, -2.5, True, None, {"deep": [[], {}]}],
        {"text": "x" * longest},
    ]
    for params in samples:
        if only_objects and not isinstance(params, dict):
            params = {"list": params}  # noqa: PLW2901
        answer = await request("echo", params)
        if answer != params:
            raise AssertionError(f"the echo of {params!r:.80} is {answer!r:.80}")
    await _check_text(request, 9)


async def _check_text(request: Requester, length: int) -> None:
    answer = await request("text", {"bytes": length})
    if answer != {"text": "x" * length}:
        raise AssertionError(f"a text of {length} bytes was asked for, not {answer!r:.80}")


async def measure(options: Options, request: Requester, **check: Any) -> Figures:
    """Time ``request`` from as many tasks as requests shall be in flight.

    Args:
        options: The command line.
        request: Sends one request.
        **check: What ``check_echo`` is told.
    """
    await check_echo(request, **check)
    if options.reply:
        await _check_text(request, options.reply)
    few = min(options.in_flight, options.warm_up)
    await _run_clients(few, options, request, Meter(count=options.warm_up))
    meter = Meter(seconds=options.seconds, count=options.count)
    await _run_clients(options.in_flight, options, request, meter)
    return meter.figures()


async def _run_clients(clients: int, options: Options, request: Requester, meter: Meter) -> None:
    method, params, ready = options.method, options.params, anyio.Event()

    async def client() -> None:
        await ready.wait()
        await _client(request, method, params, meter, options.burst)

    async with anyio.create_task_group() as tg:
        for _ in range(clients):
            tg.start_soon(client)
        await anyio.wait_all_tasks_blocked()
        meter.begin()
        ready.set()


async def _client(request: Requester, method: str, params: object, meter: Meter, most: int) -> None:
    while burst := meter.take(most):
        began_ns = time.perf_counter_ns()
        await request(method, params)
        meter.samples_ns.append(time.perf_counter_ns() - began_ns)
        for _ in range(burst - 1):
            await request(method, params)


async def measure_starts(options: Options, start: Starter, **check: Any) -> StartFigures:
    """Time ``start`` until its first answer, and its end, one after the other.

    Args:
        options: The command line.
        start: Opens what is measured; the first time, which is not counted, its answers are checked.
        **check: What ``check_echo`` is told.
    """
    async with start() as request:
        await check_echo(request, **check)
    meter = Meter(seconds=options.seconds, count=options.count)
    stops_ns: list[int] = []
    while meter.take(1):
        began_ns = time.perf_counter_ns()
        async with start() as request:
            await request("echo", options.params)
            answered_ns = time.perf_counter_ns()
        stops_ns.append(time.perf_counter_ns() - answered_ns)
        meter.samples_ns.append(answered_ns - began_ns)
    figures = msgspec.structs.asdict(meter.figures())
    return StartFigures(**figures, stop_us=nearest_rank_us(stops_ns, 50) or 0)


def parse_options(*extras: str, loops: Sequence[str] = LOOPS) -> Options:
    """Read the command line that all the Python programs share.

    Args:
        *extras: Names in ``EXTRAS`` that this program reads too.
        loops: Those it runs in.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=loops, default="asyncio")
    parser.add_argument("--in-flight", type=int, default=1)
    until = parser.add_mutually_exclusive_group()
    until.add_argument("--seconds", type=float, help="default: 2")
    until.add_argument("--count", type=int)
    parser.add_argument("--payload", type=int, default=0, help="bytes of text in the params")
    parser.add_argument("--reply", type=int, default=0, help="bytes of text to ask for; no echo")
    parser.add_argument("--burst", type=int, default=BURST, help="time one request of so many")
    parser.add_argument("--backend", default="auto", help="of the library's programs")
    for name in extras:
        parser.add_argument(f"--{name}", **EXTRAS[name])
    parser.add_argument("argv", nargs="+", metavar="WORKER", help="after --")
    options = msgspec.convert(vars(parser.parse_args()), Options)
    if options.seconds is None and options.count is None:
        options = msgspec.structs.replace(options, seconds=2.0)
    if min(options.in_flight, options.burst, options.streams, options.workers) < 1:
        parser.error("--in-flight, --burst, --streams and --workers must be positive")
    if min(options.payload, options.reply, options.held, options.sessions) < 0:
        parser.error("no number may be negative")
    return options


def refuse_requests(options: Options) -> None:
    """Refuse what makes no sense for a program that reads streams."""
    if options.in_flight > 1 or options.payload or options.reply:
        raise SystemExit("streams are read: --in-flight, --payload and --reply have to be left out")


def run_in_loop(
    program: str, options: Options, body: Callable[..., Awaitable[Figures]], *args: object
) -> None:
    """Run ``body(options, *args)`` in the loop that was asked for and print its figures."""

    async def bounded() -> Figures:
        with anyio.fail_after((options.seconds or 0) + TIME_LIMIT_S):
            return await body(options, *args)

    backend = "trio" if options.loop == "trio" else "asyncio"
    backend_options = {"use_uvloop": True} if options.loop == "uvloop" else {}
    figures = anyio.run(bounded, backend=backend, backend_options=backend_options)
    settings = {
        "program": program,
        "loop": options.loop,
        "in_flight": options.in_flight,
        "payload": options.payload,
        "reply": options.reply,
    }
    print(msgspec.json.encode(settings | msgspec.structs.asdict(figures)).decode())


def run_with_worker(
    program: str,
    body: Callable[[Options, Pipes], Awaitable[Figures]],
    *,
    streams: bool = False,
) -> None:
    """Read the command line, spawn the worker, measure, print: what a loop's main does."""
    options = parse_options()
    if streams:
        refuse_requests(options)
    with open_worker(options.argv) as pipes:
        run_in_loop(program, options, body, pipes)
