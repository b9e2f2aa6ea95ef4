"""What the hand-written loops share: command line, spawn, pipes, lines, the meter, the report.

Nothing here wakes a task or decides who writes when: that is what the loops differ in.
"""

import argparse
import contextlib
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import anyio
import msgspec

READ_BYTES = 65536  # the capacity of a Linux pipe as it is made
BURST = 8  # a client task times one request of so many, and asks for more after so many
WARM_UP_COUNT = 2000
TIME_LIMIT_S = 120  # beyond the time asked for; a lost answer must not hang a benchmark
STOP_LIMIT_S = 5

Requester = Callable[[str, object], Awaitable[object]]


class Options(msgspec.Struct, frozen=True):
    """The command line."""

    loop: str
    in_flight: int
    seconds: float | None
    count: int | None
    payload: int
    argv: list[str]
    backend: str = "auto"
    workers: int = 1

    @property
    def params(self) -> dict[str, str]:
        """The params of every request that is timed."""
        return {"text": "x" * self.payload}


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
        self._left = count
        self._taken = 0
        self._began_cpu_ns = time.process_time_ns()
        self._began_ns = time.perf_counter_ns()
        self._ends_ns = self._began_ns + int((seconds or 0) * 1e9)

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
        samples = sorted(self.samples_ns)
        p50, p99 = (_nearest_rank_us(samples, percent) for percent in (50, 99))
        return Figures(round(self._taken / took_s, 1), p50, p99, self._taken, round(cpu_us, 3))


def _nearest_rank_us(samples_ns: Sequence[int], percent: int) -> float | None:
    if not samples_ns:
        return None
    return round(samples_ns[-(-len(samples_ns) * percent // 100) - 1] / 1000, 2)


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


async def check_echo(request: Requester) -> None:
    """Prove that answers are right before any of them is timed."""
    samples: list[object] = [
        {"text": 'quotes " and \\, newline \n, é, \U0001f600', "id": 7, "result": None},
        [1, -2.5, True, None, {"deep": [[], {}]}],
        {"text": "x" * 300_000},
    ]
    for params in samples:
        answer = await request("echo", params)
        if answer != params:
            raise AssertionError(f"the echo of {params!r:.80} is {answer!r:.80}")


async def measure(options: Options, request: Requester) -> Figures:
    """Time ``request`` from as many tasks as requests shall be in flight."""
    await check_echo(request)
    await _run_clients(options, request, Meter(count=WARM_UP_COUNT))
    meter = Meter(seconds=options.seconds, count=options.count)
    await _run_clients(options, request, meter)
    return meter.figures()


async def _run_clients(options: Options, request: Requester, meter: Meter) -> None:
    async with anyio.create_task_group() as tg:
        for _ in range(options.in_flight):
            tg.start_soon(_client, request, options.params, meter)


async def _client(request: Requester, params: object, meter: Meter) -> None:
    while burst := meter.take():
        began_ns = time.perf_counter_ns()
        await request("echo", params)
        meter.samples_ns.append(time.perf_counter_ns() - began_ns)
        for _ in range(burst - 1):
            await request("echo", params)


def parse_options(*, one_stream: bool = False) -> Options:
    """Read the command line that all the Python programs share.

    Args:
        one_stream: Refuse what makes no sense for a program that reads one stream.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "trio"), default="asyncio")
    parser.add_argument("--in-flight", type=int, default=1)
    until = parser.add_mutually_exclusive_group()
    until.add_argument("--seconds", type=float, help="default: 2")
    until.add_argument("--count", type=int)
    parser.add_argument("--payload", type=int, default=0, help="bytes of text in the params")
    parser.add_argument("--backend", default="auto", help="of the library's programs")
    parser.add_argument("--workers", type=int, default=1, help="read by request.py alone")
    parser.add_argument("argv", nargs="+", metavar="WORKER", help="after --")
    options = msgspec.convert(vars(parser.parse_args()), Options)
    if options.seconds is None and options.count is None:
        options = msgspec.structs.replace(options, seconds=2.0)
    if options.in_flight < 1 or options.payload < 0:
        parser.error("--in-flight must be positive, --payload not negative")
    if one_stream and (options.in_flight > 1 or options.payload):
        parser.error("one stream is read: --in-flight and --payload have to be left out")
    return options


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
    }
    print(msgspec.json.encode(settings | msgspec.structs.asdict(figures)).decode())


def run_with_worker(
    program: str,
    body: Callable[[Options, Pipes], Awaitable[Figures]],
    *,
    one_stream: bool = False,
) -> None:
    """Read the command line, spawn the worker, measure, print: what a loop's main does."""
    options = parse_options(one_stream=one_stream)
    with open_worker(options.argv) as pipes:
        run_in_loop(program, options, body, pipes)
