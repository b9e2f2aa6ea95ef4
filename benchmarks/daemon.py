"""What the daemon costs: every promise about its speed and memory, in one run, on one core.

    python benchmarks/daemon.py [--quick] [--pairs 7] [--only QUESTION] [--json DIR] [--all-cores]

Each question is a number of programs that are run in turn, A B A B, as ``paired.py`` does it, with
the C programs of ``floor/`` as clients and worker; those check every answer. A daemon is started for
each run. The answer to a question is the median of the pairs. ``--quick`` takes about a minute: three
pairs of short runs, and writes no files; without it they go to ``results/daemon-QUESTION.json``.
``STDIO_BUS`` names the existing daemon, to be compared with; without it that question is left out.
Exits with 1 when a bound is not met.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import socket
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import paired
from _busd import (
    Client,
    Daemon,
    connect,
    find_daemon,
    find_floor,
    make_config,
    memory_of,
    pool,
    serving,
)

RESULTS = Path(__file__).parent / "results"
TIMEOUT_S = 120
CLIENTS = 1000
SETTLE_S = 1  # what an idle daemon gives back after 5 to 10 s is still there then

Result = dict[str, Any]
Round = list[Result]


class Run(NamedTuple):
    """A command, and whether it needs a daemon: ``{socket}`` is its socket then."""

    command: str
    daemon: str = ""


class Bound(NamedTuple):
    """A promise: what is compared in each pair, and the limit of the median."""

    text: str
    value: Callable[[Round], float]
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        """Whether the promise is kept."""
        low = self.at_least is None or value >= self.at_least
        return low and (self.at_most is None or value <= self.at_most)


class Question(NamedTuple):
    """Programs that are run in turn, and what is asked of them."""

    name: str
    runs: list[Run]
    bounds: list[Bound]


class Answer(NamedTuple):
    """One row of the table."""

    question: str
    text: str
    values: list[float]
    met: bool | None  # None: nothing was promised

    @property
    def median(self) -> float:
        return statistics.median(self.values)


# --- the questions ---------------------------------------------------------------------------------


def ratio(index: int = 1) -> Callable[[Round], float]:
    """Return what compares the rate of a program of a round with that of the first."""
    return lambda results: results[index]["rate"] / results[0]["rate"]


def more_us(results: Round) -> float:
    """Return how much longer the second program's median round trip is."""
    return float(results[1]["p50_us"] - results[0]["p50_us"])


class Commands:
    """The command lines.

    Args:
        config: Where the configuration of a daemon over stdio is.
        share: How much shorter than usual the runs are.
    """

    def __init__(self, config: Path, share: float) -> None:
        self.worker = find_floor("echo_worker")
        self.config = config
        self.share = share

    def driver(self, n: int, in_flight: int, payload: int, *through: str) -> str:
        """Return the client over pipes."""
        head = [find_floor("driver"), "--n", str(int(n * self.share)), "--in-flight"]
        return shlex.join([*head, str(in_flight), "--payload", str(payload), "--", *through])

    def relay(self, n: int, in_flight: int, payload: int = 0) -> Run:
        """Return the blind relay."""
        return Run(self.driver(n, in_flight, payload, find_floor("relay"), "--", self.worker))

    def stdio(self, n: int, in_flight: int, payload: int = 0) -> Run:
        """Return the daemon in its place."""
        daemon = [find_daemon(), "--config", str(self.config), "--stdio", "--log-level", "error"]
        return Run(self.driver(n, in_flight, payload, *daemon))

    def load(self, n: int, clients: int, in_flight: int, *more: str, daemon: str = "ours") -> Run:
        """Return clients on a socket; in_flight is of each."""
        head = [find_floor("load"), "--n", str(int(n * self.share)), "--clients", str(clients)]
        words = shlex.join([*head, "--in-flight", str(in_flight), *more])
        return Run(words + " --unix {socket}", daemon)


def questions(make: Commands, existing: str) -> list[Question]:
    """Return all that is asked about rates."""
    aim = Bound("rate to relay's; the aim is 0.80", ratio(), at_least=0.65)
    asked = [
        Question(
            "stdio-1-in-flight",
            [make.relay(60_000, 1), make.stdio(60_000, 1)],
            [Bound("p50 above relay's, us", more_us, at_most=1.5)],
        ),
        Question(
            "stdio-64-in-flight", [make.relay(1_000_000, 64), make.stdio(1_000_000, 64)], [aim]
        ),
        Question(
            "stdio-64-in-flight-1-kB",
            [make.relay(300_000, 64, 1000), make.stdio(300_000, 64, 1000)],
            [Bound("rate to relay's", ratio(), at_least=0.60)],
        ),
        Question(
            "sockets",
            [
                make.stdio(1_000_000, 64),
                make.load(800_000, 1, 64),
                make.load(800_000, 8, 64),
                make.load(800_000, 64, 64),
                make.load(800_000, 64, 16),
                make.load(400_000, 8, 8),
                make.load(200_000, 64, 1),
            ],
            [
                Bound("1 client, 64 in flight: rate to stdio's", ratio(1), at_least=0.60),
                Bound("8 clients, 64 each", ratio(2), at_least=0.60),
                Bound("64 clients, 64 each", ratio(3), at_least=0.60),
                Bound("64 clients, 16 each: no queue before the worker", ratio(4)),
                Bound("8 clients, 64 in total", ratio(5)),
                Bound("64 clients, 64 in total", ratio(6)),
            ],
        ),
        Question(
            "sessions",
            [
                make.load(400_000, 8, 8, "--sessions", "1", "--warm-up", "100000"),
                make.load(400_000, 8, 8, "--sessions", "100000", "--warm-up", "100000"),
            ],
            [Bound("rate with 100,000 to that with one", ratio(), at_least=0.80)],
        ),
    ]
    if existing:
        asked.append(
            Question(
                "existing-daemon",
                [
                    make.load(200_000, 1, 64, daemon=existing),
                    make.load(200_000, 1, 64),
                    make.load(50_000, 1, 1, daemon=existing),
                    make.load(50_000, 1, 1),
                ],
                [
                    Bound("64 in flight: rate to the existing daemon's", ratio(), at_least=2.5),
                    Bound(
                        "1 in flight: rate to the existing daemon's",
                        lambda results: results[3]["rate"] / results[2]["rate"],
                    ),
                ],
            )
        )
    return asked


# --- taking turns ----------------------------------------------------------------------------------


def configuration() -> Result:
    """Return the configuration of every daemon that is measured."""
    return make_config([pool("echo", find_floor("echo_worker"))], {"max_sessions": 200_000})


@contextlib.contextmanager
def daemon_for(run: Run) -> Iterator[str]:
    """Start the daemon that a run needs, and yield its command."""
    if not run.daemon:
        yield run.command
        return
    if run.daemon == "ours":
        with serving(configuration()) as daemon:
            yield run.command.format(socket=daemon.socket)
        return
    plain = make_config([pool("echo", find_floor("echo_worker"))])
    with serving(plain, program=run.daemon, ours=False) as daemon:
        yield run.command.format(socket=daemon.socket)


def take_round(runs: list[Run]) -> Round:
    """Run the programs of a question once each."""
    results: Round = []
    for run in runs:
        with daemon_for(run) as command:
            results.append(paired.run_once(command, TIMEOUT_S))
    return results


def ask(question: Question, pairs: int, folder: Path | None) -> list[Answer]:
    """Take the pairs of one question; the first one warms up and is not counted."""
    print(f"{question.name}:", flush=True)
    rounds = [take_round(question.runs) for _ in range(pairs + 1)][1:]
    for number, results in enumerate(rounds, 1):
        print(f"  pair {number}: {paired.describe_round(results)}", flush=True)
    rows = paired.summarize(
        [paired.without_paths(run.command.format(socket="SOCKET")) for run in question.runs], rounds
    )
    paired.print_summary(rows)
    answers = []
    for bound in question.bounds:
        values = [bound.value(results) for results in rounds]
        promised = (bound.at_least, bound.at_most) != (None, None)
        met = bound.met(statistics.median(values)) if promised else None
        answers.append(Answer(question.name, describe_bound(bound), values, met))
    write(folder, question.name, answers, {"programs": rows, "rounds": rounds})
    return answers


def describe_bound(bound: Bound) -> str:
    """Return what is promised."""
    if bound.at_least is not None:
        return f"{bound.text} (at least {bound.at_least:.2f})"
    return bound.text if bound.at_most is None else f"{bound.text} (at most {bound.at_most:g})"


def write(folder: Path | None, name: str, answers: list[Answer], more: Result) -> None:
    """Write what was found about one question."""
    if folder is None:
        return
    found = [
        {"text": answer.text, "median": answer.median, "each": answer.values, "met": answer.met}
        for answer in answers
    ]
    written = {"machine": paired.describe_machine(), "answers": found} | more
    (folder / f"daemon-{name}.json").write_text(json.dumps(written, indent=1) + "\n")


# --- memory ----------------------------------------------------------------------------------------


async def open_clients(daemon: Daemon, *, use: bool) -> list[socket.socket]:
    """Connect many clients; with ``use`` each of them asks once and gets its answer."""
    loop = asyncio.get_running_loop()
    opened = []
    for _ in range(CLIENTS):
        one = socket.socket(socket.AF_UNIX)
        one.connect(
            daemon.socket
        )  # waits while its backlog is full; without blocking it would fail
        one.setblocking(False)
        opened.append(one)
        if use:
            await loop.sock_sendall(one, b'{"jsonrpc":"2.0","id":1,"method":"echo","params":[1]}\n')
            assert json.loads(await loop.sock_recv(one, 4096))["result"] == [1]
    return opened


async def wait_for_clients(watcher: Client, count: int) -> None:
    """Wait until the daemon has so many."""
    async with asyncio.timeout(10):
        while True:
            if (await watcher.status())["statistics"]["clients"] == count:
                return
            await asyncio.sleep(0.01)


async def measure_memory(*, use: bool) -> dict[str, float]:
    """Measure a daemon: idle, and with idle clients; in MiB, and in KiB a client."""
    with serving(configuration()) as daemon:
        watcher = await connect(daemon)
        await watcher.status()
        await asyncio.sleep(SETTLE_S)
        idle = memory_of(daemon.pid)
        opened = await open_clients(daemon, use=use)
        await wait_for_clients(watcher, CLIENTS + 1)
        await asyncio.sleep(SETTLE_S)
        each = (memory_of(daemon.pid).rss - idle.rss) / CLIENTS / 1024
        for one in opened:
            one.close()
        await wait_for_clients(watcher, 1)
        await asyncio.sleep(SETTLE_S)
        left = (memory_of(daemon.pid).rss - idle.rss) / 1024
        watcher.close()
    name = "used" if use else "silent"
    figures = {f"idle_{field}": value / 2**20 for field, value in idle._asdict().items()}
    return figures | {name: each, f"left_{name}": left}


def ask_memory(pairs: int, folder: Path | None) -> list[Answer]:
    """Measure memory a few times; every figure but two is of resident memory."""
    readings = [
        asyncio.run(measure_memory(use=False)) | asyncio.run(measure_memory(use=True))
        for _ in range(pairs)
    ]
    bounds = [
        ("idle_rss", "idle, MiB of RSS", 3.0),
        ("idle_pss", "idle, MiB of PSS", None),
        ("idle_private", "idle, MiB of private memory", None),
        ("silent", "an idle client that never asked, KiB", 16.0),
        ("used", "an idle client that asked once, KiB", 16.0),
        ("left_silent", "left when 1,000 such are gone, KiB", None),
        ("left_used", "left when 1,000 of the others are gone, KiB", None),
    ]
    answers = []
    for name, text, most in bounds:
        values = [reading[name] for reading in readings]
        met = None if most is None else statistics.median(values) < most
        said = text if most is None else f"{text} (under {most:g})"
        answers.append(Answer("memory", said, values, met))
    write(folder, "memory", answers, {"readings": readings})
    return answers


# --- the program -----------------------------------------------------------------------------------


def print_table(answers: list[Answer]) -> None:
    """Print what was found."""
    print(f"\n{'question':24} {'median':>9} {'min':>9} {'max':>9}        what")
    for answer in answers:
        verdict = {None: "", True: "met", False: "NOT MET"}[answer.met]
        low, high = min(answer.values), max(answer.values)
        figures = f"{answer.median:9.3f} {low:9.3f} {high:9.3f}"
        print(f"{answer.question:24} {figures} {verdict:7} {answer.text}")


def main() -> None:
    """Ask all questions."""
    parser = argparse.ArgumentParser(description="Measure the daemon against what it promises.")
    parser.add_argument("--quick", action="store_true", help="about a minute; writes no files")
    parser.add_argument("--pairs", type=int, help="default: 7, with --quick 3")
    parser.add_argument("--only", metavar="QUESTION", help="those whose names begin with this")
    parser.add_argument("--json", type=Path, metavar="DIR", help="where files go")
    parser.add_argument("--all-cores", action="store_true", help="do not pin to one core")
    options = parser.parse_args()
    if not options.all_cores:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pairs = options.pairs or (3 if options.quick else 7)
    folder = options.json or (None if options.quick else RESULTS)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    existing = os.environ.get("STDIO_BUS", "")
    answers: list[Answer] = []
    with tempfile.TemporaryDirectory(prefix="anyio-busd-") as name:
        config = Path(name) / "config.json"
        config.write_text(json.dumps(configuration()))
        for question in questions(Commands(config, 0.3 if options.quick else 1.0), existing):
            if question.name.startswith(options.only or ""):
                answers += ask(question, pairs, folder)
    if "memory".startswith(options.only or ""):
        answers += ask_memory(min(pairs, 3), folder)
    print_table(answers)
    if not existing:
        print("existing-daemon          left out: STDIO_BUS does not name it")
    if any(answer.met is False for answer in answers):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
