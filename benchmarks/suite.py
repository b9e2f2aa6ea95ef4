"""Every comparison that speed is judged by, as one table, and what runs it.

    python benchmarks/suite.py [--full] [--list] [--only NAME] [--pairs N] [--json FILE] [--one-core]

The programs of a comparison are run in turn, A B A B, as ``paired.py`` does it; each checks that its
answers are right before it times them. A claim compares programs within each round: its value is the
median over the rounds. The quick set takes five minutes, ``--full`` 24 minutes with
``--pairs 3``, 37 with ``--pairs 5``. Files go to ``results/suite-quick.*`` or ``results/suite.*``: the
readings as JSON, the table as markdown, plots.

``STDIO_BUS`` names the daemon of ``stdiobus``, ``ANYIO_BUSD`` ours. A rival that is not there is left
out, and said to be. Exits with 1 when a program failed; a target that is not met is in the table.
"""

import argparse
import os
from pathlib import Path

import paired
from _report import report
from _suite import Claim, Comparison, Listing, Program, run

RESULTS = Path(__file__).parent / "results"
LOOPS = ("asyncio", "trio")
THREE_LOOPS = ("asyncio", "uvloop", "trio")
BACKENDS = ("native", "python", "subprocess")
MOST_BYTES = 64_000_000  # in flight at a time: more would measure the memory of the machine


# --- the programs ----------------------------------------------------------------------------------


def ours(script: str, loop: str, options: str = "", label: str = "") -> Program:
    """Return a script of the library."""
    command = f"python benchmarks/{script}.py --loop {loop} {options} {{time}} -- {{worker}}"
    return Program(label or f"{script}, {loop}", command)


def floor(script: str, loop: str, options: str = "", label: str = "") -> Program:
    """Return a hand-written loop."""
    return ours(f"floor/{script}", loop, options, label or f"{script}, {loop}")


def rival(label: str, script: str, options: str = "", needs: str = "") -> Program:
    """Return a script of a rival."""
    command = f"python -m benchmarks.rivals.{script} {options} {{time}} -- {{worker}}"
    return Program(label, command, needs)


def rivals(options: str) -> list[Program]:
    """Return the rivals that serve requests."""
    native, daemon = f"--backend native {options}", f"--backend subprocess {options}"
    return [
        rival("stdiobus native", "stdiobus_client", native, "stdiobus"),
        rival("stdiobus subprocess", "stdiobus_client", daemon, "stdiobus STDIO_BUS"),
        rival("mcp", "mcp_client", options, "mcp"),
        rival("acp", "acp_client", options, "agent-client-protocol"),
        rival("plain asyncio", "plain_asyncio", options),
    ]


# --- the table -------------------------------------------------------------------------------------


# How much faster each loop shall be with 64 and with 1 in flight.
TO_RIVALS: dict[str, tuple[float | None, float | None]] = {
    "stdiobus native": (4, 1.1),
    "stdiobus subprocess": (12, 3),
    "mcp": (20, None),
    "acp": (3.5, None),
    "plain asyncio": (None, None),
}


def to_rivals(in_flight: int, those: list[Program]) -> list[Claim]:
    """Claim how much faster both loops are than these rivals."""
    return [
        Claim(
            f"{loop}: rate to {one.label}",
            "rate",
            (f"request, {loop}", one.label),
            at_least=TO_RIVALS[one.label][in_flight == 1],
        )
        for one in those
        for loop in LOOPS
    ]


def native(in_flight: int) -> list[Program]:
    """Return ``request`` of both loops."""
    return [ours("request", loop, f"--backend native --in-flight {in_flight}") for loop in LOOPS]


def requests(in_flight: int, share: float, *, of: slice = slice(None)) -> Comparison:
    """Compare ``request`` with the hand-written loop, the physical limit, and some rivals."""
    options = f"--in-flight {in_flight}"
    some = rivals(options)[of]
    driver = f"{{driver}} --n {30_000 if in_flight == 1 else 300_000} {options} -- {{worker}}"
    tail = 3 if in_flight == 1 else None
    waiters = [floor("loop_waiter", loop, options) for loop in LOOPS if in_flight > 1]
    return Comparison(
        f"request-{in_flight}",
        f"`request`, {in_flight} in flight",
        [
            *(floor("loop_event", loop, options) for loop in LOOPS),
            *native(in_flight),
            *some,
            *waiters,
            Program("C driver", driver),
        ],
        [
            *to_rivals(in_flight, some),
            *(
                Claim(
                    f"{loop}: rate to the hand-written loop",
                    "rate",
                    (f"request, {loop}", f"loop_event, {loop}"),
                    at_least=share,
                )
                for loop in LOOPS
            ),
            *(
                Claim(f"{loop}: p99 to p50", "tail", (f"request, {loop}",), at_most=tail)
                for loop in LOOPS
            ),
            Claim("asyncio: rate to a C client on pipes", "rate", ("request, asyncio", "C driver")),
            *(
                Claim(
                    f"{one.label}, by hand with the cheapest wait there is: rate to acp",
                    "rate",
                    (one.label, "acp"),
                )
                for one in waiters
            ),
        ],
    )


def requests_more(in_flight: int, *, of: slice) -> Comparison:
    """Compare ``request`` with the rivals that nothing was promised against."""
    some = rivals(f"--in-flight {in_flight}")[of]
    return Comparison(
        f"rivals-{in_flight}",
        f"`request`, {in_flight} in flight",
        [*native(in_flight), *some],
        to_rivals(in_flight, some),
        quick=False,
    )


def busy_poll(loop: str, in_flight: int) -> Comparison:
    """Compare requests with what they are where nobody looks for the answers."""
    with_it, without = f"request, {loop}", f"request, {loop}, asleep"
    options = f"--backend native --in-flight {in_flight}"
    return Comparison(
        f"busy-poll-{in_flight}-{loop}",
        f"`request`, {in_flight} in flight, where answers are looked for for 30 us",
        [
            ours("request", loop, options),
            ours("request", loop, f"{options} --busy-poll 0", without),
        ],
        [
            Claim(f"{loop}: rate to that of a loop that sleeps", "rate", (with_it, without)),
            Claim(f"{loop}: processor time to that", "cpu", (with_it, without)),
        ],
        quick=False,
    )


def pending(loop: str, in_flight: int, at_most: float | None, *, quick: bool) -> Comparison:
    """Compare what a request costs with few and with many pending."""
    few = "--in-flight 64 --burst 1 --count 100000"
    many = f"--in-flight {in_flight} --burst 1 --count {max(3 * in_flight // 2, 100_000)}"
    return Comparison(
        f"pending-{in_flight}-{loop}",
        f"cost per request, from 64 to {in_flight:,} pending",
        [
            floor("loop_event", loop, few, "loop_event, few"),
            floor("loop_event", loop, many, "loop_event, many"),
            ours("request", loop, few, "request, few"),
            ours("request", loop, many, "request, many"),
        ],
        [
            Claim(
                f"{loop}: slowdown, to that of the hand-written loop",
                "step",
                ("request, many", "request, few", "loop_event, many", "loop_event, few"),
                at_most=at_most,
            ),
            Claim(f"{loop}: slowdown", "slowdown", ("request, many", "request, few")),
        ],
        quick=quick,
        pairs=3,
        quick_pairs=1,
        warm_up=False,
    )


def held(loop: str) -> Comparison:
    """Compare requests alone with requests beside many that stay pending."""
    options = "--in-flight 64"
    return Comparison(
        f"held-{loop}",
        "cost per request with 100,000 that stay pending in `map`, 64 in flight",
        [
            ours("request", loop, options, "alone"),
            ours("request", loop, f"{options} --held 100000", "beside 100,000"),
        ],
        [Claim(f"{loop}: slowdown", "slowdown", ("beside 100,000", "alone"), at_most=1.2)],
        quick_pairs=2,
    )


def long_line(loop: str) -> Comparison:
    """Compare reading one line of 64 MiB."""
    options = f"--reply {64 * 2**20} --burst 1 --count 2"
    return Comparison(
        f"line-64-MiB-{loop}",
        "one line of 64 MiB",
        [floor("loop_event", loop, options, "by hand"), ours("request", loop, options, "request")],
        [
            Claim(
                f"{loop}: time to a linear reader's", "slowdown", ("request", "by hand"), at_most=2
            )
        ],
    )


def step_by(
    name: str, question: str, script: str, numbers: tuple[int, ...], *, more: str = ""
) -> list[Comparison]:
    """Compare a program with few and with many of what ``name`` is, on each loop."""
    return [
        Comparison(
            f"{name}-{loop}",
            question,
            [ours(script, loop, f"{more} --{name} {n}", f"{n:,}") for n in numbers],
            [
                Claim(
                    f"{loop}: rate with {n:,} to that with {first:,}",
                    "rate",
                    (f"{n:,}", f"{first:,}"),
                )
                for first in numbers[:1]
                for n in numbers[1:]
            ],
            quick=False,
        )
        for loop in LOOPS
    ]


def round_trips(loop: str, in_flight: int, payload: int) -> Comparison:
    """Compare the backends with each other and with the hand-written loop."""
    options = f"--in-flight {in_flight} --payload {payload} --burst 1"
    return Comparison(
        f"round-trip-{loop}-{in_flight}-{payload}",
        f"round trip, {in_flight} in flight, {payload} B",
        [
            floor("loop_event", loop, options, "loop_event"),
            *(ours("request", loop, f"--backend {name} {options}", name) for name in BACKENDS),
        ],
        [
            Claim(f"{loop}: {name}, rate to the hand-written loop", "rate", (name, "loop_event"))
            for name in BACKENDS
        ],
        quick=False,
        pairs=3,
    )


def maps() -> Comparison:
    """Compare ``map`` with the hand-written loop, and with what a rival has in its place."""
    options = "--in-flight 64"
    their = rival("stdiobus native", "stdiobus_client", options, "stdiobus")
    return Comparison(
        "map-64",
        "`map`, 64 in flight",
        [
            *(floor("loop_pipelined", loop, options) for loop in LOOPS),
            *(ours("map", loop, options) for loop in LOOPS),
            their,
        ],
        [
            *(
                Claim(
                    f"{loop}: rate to stdiobus native `request`",
                    "rate",
                    (f"map, {loop}", their.label),
                    at_least=10,
                )
                for loop in LOOPS
            ),
            *(
                Claim(
                    f"{loop}: rate to the hand-written pipelined loop",
                    "rate",
                    (f"map, {loop}", f"loop_pipelined, {loop}"),
                    at_least=0.55,
                )
                for loop in LOOPS
            ),
        ],
    )


def streams_and_rival() -> Comparison:
    """Compare one stream of ACP's chunks, which a rival reads too."""
    options = "--one-by-one --chunks acp"
    their = rival("stdiobus native", "stdiobus_client", "--stream", "stdiobus")
    return Comparison(
        "stream",
        "chunks of one stream, iterated one by one",
        [their, *(ours("stream", loop, options) for loop in LOOPS)],
        [
            Claim(
                f"{loop}: rate to stdiobus native",
                "rate",
                (f"stream, {loop}", their.label),
                at_least=12,
            )
            for loop in LOOPS
        ],
    )


def streams_and_floor(loop: str, how: str, options: str) -> Comparison:
    """Compare one stream with a loop that decodes chunks and does nothing with them."""
    return Comparison(
        f"chunks-{how.replace(' ', '-')}-{loop}",
        f"chunks of one stream, {how}",
        [floor("loop_chunks", loop), ours("stream", loop, options)],
        [
            Claim(
                f"{loop}: rate to the hand-written loop",
                "rate",
                (f"stream, {loop}", f"loop_chunks, {loop}"),
            )
        ],
        quick=False,
    )


def starts() -> Comparison:
    """Compare the way to the first answer."""
    daemon = "--start --backend subprocess"
    return Comparison(
        "start",
        "start to first answer, and stop",
        [
            *(ours("start", loop, "--by-hand", f"by hand, {loop}") for loop in LOOPS),
            *(ours("start", loop) for loop in LOOPS),
            rival("stdiobus native", "stdiobus_client", "--start", "stdiobus"),
            rival("stdiobus subprocess", "stdiobus_client", daemon, "stdiobus STDIO_BUS"),
        ],
        [
            *(
                Claim(
                    f"{loop}: more than by hand, ms",
                    "more ms",
                    (f"start, {loop}", f"by hand, {loop}"),
                    at_most=5,
                )
                for loop in LOOPS
            ),
            *(Claim(f"{loop}: stop, ms", "stop ms", (f"start, {loop}",)) for loop in LOOPS),
            *(
                Claim(f"{name}: start, ms", "ms", (name,))
                for name in ("stdiobus native", "stdiobus subprocess")
            ),
        ],
        quick_pairs=2,
    )


def long_line_rivals() -> Comparison:
    """Tell how long rivals take for one line of 64 MiB; one of them is quadratic."""
    options = f"--reply {64 * 2**20} --burst 1 --count 1"
    few = [one for one in rivals(options) if "stdiobus" not in one.label]
    programs = [floor("loop_event", "asyncio", options, "by hand"), *few]
    return Comparison(
        "line-64-MiB-rivals",
        "one line of 64 MiB",
        programs,
        [Claim(f"{one.label}, ms", "ms", (one.label,)) for one in programs],
        quick=False,
        pairs=1,
        warm_up=False,
        timeout_s=300,
    )


def mixed(loop: str) -> Comparison:
    """Compare a mixed load alone and beside workers that misbehave."""
    bad = ("deaf", "flood", "garbage")
    return Comparison(
        f"mixed-{loop}",
        "mixed load beside one misbehaving worker",
        [ours("mixed", loop, "", "alone"), *(ours("mixed", loop, f"--beside {b}", b) for b in bad)],
        [Claim(f"{loop}: rate beside `{one}` to alone", "rate", (one, "alone")) for one in bad],
        quick=loop == "asyncio",
        pairs=3,
        quick_pairs=1,
        warm_up=False,
    )


def daemon_alone() -> Comparison:
    """Compare the daemon with what only copies bytes; ``daemon.py`` has all its promises."""
    client = "{driver} --n 500000 --in-flight 64"
    served = "{daemon} --config {config} --stdio --log-level error"
    return Comparison(
        "daemon",
        "the daemon alone over stdio, C client",
        [
            Program("relay", f"{client} -- {{relay}} -- {{worker}}"),
            Program("daemon", f"{client} -- {served}"),
        ],
        [Claim("64 in flight: rate to a relay's", "rate", ("daemon", "relay"))],
    )


def nexo_plugins(what: str, question: str, count: int) -> Comparison:
    """Compare a nexo plugin with the same one by ``nexoai``."""
    options = f"{what} --count {count} --in-flight 64"
    command = f"python benchmarks/nexo.py {options}"
    their = Program("nexoai", f"{command} --sdk nexoai", "nexoai")
    least = {"events": 2.0, "calls": 2.0}.get(what)
    return Comparison(
        f"nexo-{what}",
        f"nexo plugin: {question}",
        [their, *(Program(loop, f"{command} --loop {loop}") for loop in LOOPS)],
        [
            Claim(f"{loop}: rate to nexoai's", "rate", (loop, their.label), at_least=least)
            for loop in LOOPS
        ],
        quick_pairs=1,
    )


def nexo_calls_one_by_one(*, one_core: bool) -> Comparison:
    """Compare calls whose time is mostly that of waking the other side; on one core it is not."""
    command = "python benchmarks/nexo.py calls --in-flight 1 --count 5000"
    where = "two cores"
    if one_core:
        command, where = f"{command} --one-core", "one core"
    their = Program("nexoai", f"{command} --sdk nexoai", "nexoai")
    hand = Program("by hand", f"{command} --sdk by-hand")
    return Comparison(
        f"nexo-calls-1-{where.replace(' ', '-')}",
        f"nexo plugin: `memory_recall`, one at a time, on {where}",
        [their, *(Program(loop, f"{command} --loop {loop}") for loop in LOOPS), hand],
        [
            *(
                Claim(f"{loop}: rate to nexoai's", "rate", (loop, their.label), at_least=2)
                for loop in LOOPS
            ),
            Claim(
                "a write and a read, without a loop: rate to nexoai's",
                "rate",
                ("by hand", "nexoai"),
            ),
        ],
    )


def nexo_starts() -> Comparison:
    """Compare the start of a nexo plugin with a Python that has the same libraries."""
    command = "python benchmarks/nexo.py starts --count 5"
    bare = Program("bare", f"{command} --sdk bare")
    their = Program("nexoai", f"{command} --sdk nexoai", "nexoai")
    ours = Program("anyio-bus", command)
    return Comparison(
        "nexo-start",
        "nexo plugin: start to the answer to `initialize`, asyncio",
        [bare, their, ours],
        [
            Claim(
                "more than Python, anyio, msgspec and a loop, ms",
                "more ms",
                ("anyio-bus", "bare"),
                at_most=40.0,
            ),
            Claim("nexoai, which loads neither: start, ms", "ms", ("nexoai",)),
            Claim("start, ms", "ms", ("anyio-bus",)),
        ],
        quick_pairs=1,
    )


SUITE: list[Comparison | Listing] = [
    requests(64, 1.0),
    requests(1, 0.85, of=slice(2)),
    requests_more(1, of=slice(2, None)),
    *(busy_poll(loop, in_flight) for in_flight in (1, 64) for loop in LOOPS),
    maps(),
    streams_and_rival(),
    starts(),
    *(pending(loop, 100_000, 1.3, quick=True) for loop in LOOPS),
    *(pending(loop, count, None, quick=False) for count in (1000, 10_000) for loop in LOOPS),
    *(held(loop) for loop in LOOPS),
    *(long_line(loop) for loop in LOOPS),
    long_line_rivals(),
    *(
        streams_and_floor(loop, how, options)
        for how, options in (("in batches", ""), ("one by one", "--one-by-one"))
        for loop in LOOPS
    ),
    *step_by("streams", "chunks of many streams at once", "stream", (1, 32)),
    *step_by("subscribers", "fan-out: deliveries", "fanout", (1, 10, 100)),
    *step_by(
        "sessions",
        "requests of many sessions, 64 in flight",
        "request",
        (1, 1000, 100_000),
        more="--in-flight 64",
    ),
    *(mixed(loop) for loop in LOOPS),
    daemon_alone(),
    nexo_plugins("events", "events to an empty handler", 20_000),
    nexo_plugins("publishes", "events that are answered, 64 in flight", 10_000),
    nexo_plugins("tools", "calls of a tool, 64 in flight", 10_000),
    nexo_plugins("calls", "`memory_recall`, 64 in flight", 10_000),
    nexo_calls_one_by_one(one_core=False),
    nexo_calls_one_by_one(one_core=True),
    nexo_starts(),
    Listing("memory", "memory", "memory.py --runs {runs} --", "bytes", runs=5, quick_runs=1),
    Listing(
        "cold",
        "a new process",
        "cold.py --quiet -p {runs} -l 1 -w 0 -n 1",
        "ms",
        runs=15,
        quick_runs=3,
        needs="pyperf",
    ),
    *(
        round_trips(loop, in_flight, payload)
        for loop in THREE_LOOPS
        for in_flight in (1, 8, 64, 512, 4096)
        for payload in (100, 10_000, 1_000_000)
        if in_flight * payload <= MOST_BYTES
    ),
]


# --- the command line ------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure the library and its rivals.")
    parser.add_argument("--full", action="store_true", help="all, in about an hour")
    parser.add_argument("--list", action="store_true", help="name the comparisons, run none")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="those whose names begin with this"
    )
    parser.add_argument("--pairs", type=int, help="rounds; default: up to 3, with --full up to 7")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="what else is written goes beside"
    )
    parser.add_argument("--one-core", action="store_true", help="pin everything to one core")
    options = parser.parse_args()
    if options.pairs is not None and options.pairs < 1:
        parser.error("--pairs must be positive")
    return options


def choose(options: argparse.Namespace) -> list[Comparison | Listing]:
    """Return what the command line asks for; a name reaches beyond the quick set."""
    if options.only:
        chosen = [one for one in SUITE if one.name.startswith(tuple(options.only))]
    else:
        chosen = [one for one in SUITE if options.full or one.quick]
    # What says that it is of two cores would be of one.
    return [one for one in chosen if not (options.one_core and one.name.endswith("-two-cores"))]


def main() -> None:
    """Run the suite."""
    options = parse()
    chosen = choose(options)
    if options.list:
        for one in chosen:
            print(f"{one.name:32} {'quick' if one.quick else 'full ':6} {one.question}")
        return
    if not chosen:
        how = ", and can be run on one core" if options.one_core else ""
        raise SystemExit(f"no comparison begins with {' or '.join(options.only)}{how}; see --list")
    os.chdir(paired.ROOT)
    if options.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    target = options.json or RESULTS / ("suite.json" if options.full else "suite-quick.json")
    load = os.getloadavg()[0]
    rows, readings = run(chosen, options.pairs, full=options.full)
    settings = {"full": options.full, "pairs": options.pairs, "load": round(load, 2)}
    report(target, rows, readings, settings)
    if any(row.why_not.startswith("FAILED") for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
