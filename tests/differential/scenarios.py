"""Random scenarios for two kernels: pools, limits, and steps that are played to both.

A step picks what it needs by number among what is there, so that each scenario makes sense and
shrinks well. What would be decided by who is quicker is left out: a worker dies by a request only
where nothing waits for it, and what comes at once is held where several workers could be given more.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

from anyio_bus import Handshake, Limits, Pool
from anyio_bus._config import BusConfig
from anyio_bus._sansio.events import WorkerInfo
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.messages import RequestId
from anyio_bus._sansio.routing import Route
from tests.differential.kit import Pair, Side, typed

PUPPET = Path(__file__).parent / "workers" / "puppet.py"
SESSIONS = ["s", "t", "ü"]
LONG_S = 1000.0
STOP_S = 8.0
BIG = 300_000  # more than a pipe takes
MOST_OUT = 100_000

GARBAGE = [
    b"",
    b" ",
    b"not json",
    b"[]",
    b"1",
    b"null",
    b'"x"',
    b"{}",
    b"[1,{}]",
    b'{"id":1}',
    b'{"id":$ID}',
    b'{"method":5}',
    b'{"method":null}',
    b'{"method":""}',
    b'{"method":"m","id":$ID}',
    b'{"method":"m","id":{}}',
    b'{"method":"m","result":1,"id":$ID}',
    b'{"method":"m","params":5}',
    b'{"method":"m","params":"\xff"}',
    b'{"method":"\xff"}',
    b'{"method":"m","\xff":1}',
    b'{"method":"\\ud800"}',
    b'{"method":"\\ud83d\\ude00"}',
    b'{"method":"m\\u0000"}',
    b'{"method":"a\x01b"}',
    b'{"method":"m","sessionId":5}',
    b'{"method":"m","sessionId":"s\\u0074"}',
    b'{"method":"m","sessionId":null}',
    b'{"method":"m"}\r',
    b'\xef\xbb\xbf{"method":"m"}',
    b'  {"method" : "m" }\t',
    b'\x00{"method":"m"}',
    b'{"method":"m"}{"method":"n"}',
    b'{"method":"m"} x',
    b'{"method":"m",}',
    b'{"method":"m","method":"n"}',
    b'{"method":"m","params":' + b"[" * 100 + b"]" * 100 + b"}",
    b'{"method":"m","params":{"_meta":{"requestId":$ID}}}',
    b'{"method":"m","params":01}',
    b'{"method":"m","params":NaN}',
    b'{"method":"m","params":1e999}',
    b'{"method":"m","params":[1,2}',
    b'{"id":null,"result":1}',
    b'{"id":null,"error":{"code":1,"message":"x"}}',
    b'{"id":true,"result":1}',
    b'{"id":[$ID],"result":1}',
    b'{"id":1e400,"result":1}',
    b'{"id":-0,"result":1}',
    b'{"id":123456789012345678901234567890,"result":1}',
    b'{"id":9223372036854775808,"result":1}',
    b'{"id":1.0e0,"result":"one"}',
    b'{"id":2.0,"result":"two"}',
    b'{"id":30e-1,"result":"three"}',
    b'{"id":"1","result":"text"}',
    b'{"id":"\\u006b2","result":"k2"}',
    b'{"\\u0069d":$ID,"result":"escaped name"}',
    b'{"id":$ID,"id":"zz","result":1}',
    b'{"id":"zz","id":$ID,"result":2}',
    b'{"id":$ID,"result":1,"result":2}',
    b'{"id":$ID,"result":1,"error":null}',
    b'{"id":$ID,"error":null}',
    b'{"id":$ID,"result":null}',
    b'{"id":$ID,"result":null,"error":{"code":1}}',
    b'{"id":$ID,"error":5}',
    b'{"id":$ID,"error":{"code":"x"}}',
    b'{"id":$ID,"result":',
    b'{"id":$ID,"result":1} x',
    b'{"id":$ID,"result":1e999}',
    b'{"id":$ID,"result":-}',
    b'{"id":$ID,"result":"\xc3\x28"}',
    b'{"id":$ID,"result":"\\ud800"}',
    b'{"id":$ID,"result":"\\x"}',
    b'{"id":$ID,"result":tru}',
    b'{"id":$ID,"result":{"sessionId":"s"}}',
    b'{"id":$ID,"result":{"sessionId":""}}',
    b'{"id":"anyio-bus/handshake","result":1}',
    b"x" * 300,
    b'{"id":$ID,"result":"' + b"y" * 3000 + b'"}',
    b'{"id":$ID,"method":"' + b"y" * 3000 + b'"}',
    b'{"result":[{"id":5}],"x":"' + b"y" * 9000 + b'","id":$ID}',
    b'{"x":{"id":5},"id":$ID,"result":"' + b"y" * 9000 + b'"}',
    b"z" * 9000,
]

# -- what workers are told to do ------------------------------------------------------------------

lines = st.one_of(
    st.sampled_from(GARBAGE),
    st.sampled_from(GARBAGE),
    st.binary(max_size=12).filter(lambda data: b"fence" not in data),
)
talk = st.one_of(
    st.just("n1"),
    st.just("c2"),
    st.just("f"),
    st.just("soops"),
    lines.map(lambda line: f"w{line.hex()}"),
    lines.map(lambda line: f"u{line.hex()}"),
)
ends = st.sampled_from(
    ["a", "a", "a", "e", "h", "h", "", "b5000", "B5000", "p", "ys", "yt", "r", "R"]
)
manners = st.builds(
    lambda before, end, after: " ".join([*before, end, *after]).strip() or "f",
    st.lists(talk, max_size=2),
    ends,
    st.lists(talk, max_size=1),
)
tellings = st.builds(
    " ".join,
    st.lists(st.one_of(talk, st.sampled_from("rR")), min_size=1, max_size=3),
)
deaths = st.builds(
    lambda before, end: " ".join([*before, end]),
    st.lists(st.one_of(talk, st.just("a"), lines.map(lambda line: f"v{line.hex()}")), max_size=2),
    st.sampled_from(["x0", "x3", "k9", "k9", "k15", "k11", "o"]),
)


# -- the scenario ---------------------------------------------------------------------------------

HELLO = Handshake("hello", {"a": "ü"}, timeout_s=LONG_S)
HELLO_AGAIN = Handshake("hello", then_notify="thanks", timeout_s=LONG_S)
pool_options = st.fixed_dictionaries(
    {
        "instances": st.sampled_from([1, 1, 2, 3]),
        "max_in_flight": st.sampled_from([0, 0, 1, 2]),
        "session": st.sampled_from(["top", "top", "acp", "params.s"]),
        "cancel": st.sampled_from(["lsp", "mcp", "acp", "none"]),
        "ready": st.sampled_from(["spawn", "spawn", HELLO, HELLO_AGAIN]),
        "balance": st.sampled_from(["least_busy", "round_robin"]),
        "envelope": st.sampled_from(["strip", "keep"]),
        "max_requests": st.sampled_from([0, 0, 2]),
        "idle_timeout_s": st.sampled_from([0.0, 0.0, LONG_S]),
        "mode": st.sampled_from(["ok"] * 12 + ["crash", "refuse", "missing"]),
    }
)
limits = st.builds(
    Limits,
    max_frame_bytes=st.sampled_from([4000, 2**20, 2**20]),
    max_output_bytes=st.sampled_from([MOST_OUT, 2**26]),
    max_queued=st.sampled_from([2, 100]),
    max_sessions=st.sampled_from([1, 2, 100, 100]),
    max_restarts=st.sampled_from([0, 2, 100, 100]),
    start_attempts=st.sampled_from([1, 2]),
    restart_delay_s=st.just(0.001),
    restart_delay_max_s=st.just(0.01),
    restart_window_s=st.just(LONG_S),
    cancel_grace_s=st.just(LONG_S),
    park_retry_s=st.just(LONG_S),
    start_window_s=st.just(LONG_S),
)


def make_pool(number: int, options: dict[str, Any]) -> Pool:
    options = dict(options)
    mode = options.pop("mode")
    argv = [sys.executable, "-I", "-S", str(PUPPET), mode]
    if mode == "missing":
        argv = ["/nowhere/to/be/found"]
    if mode == "refuse" and options["ready"] == "spawn":
        options["ready"] = HELLO
    if mode != "ok":
        options["instances"] = 1
    return Pool("pqr"[number], argv, **options)


class Ask(NamedTuple):
    """Requests, or one notification."""

    pool: int
    to: str
    who: int
    ops: tuple[str, ...]
    ids: str = "int"
    rebind: bool = False
    is_request: bool = True
    together: bool = False
    method: str = "do"
    big: bool = False


class Act(NamedTuple):
    """Anything else: its name, and what it picks by."""

    name: str
    who: int = 0
    other: int = 0
    flag: bool = False
    ops: str = "f"


numbers = st.integers(0, 5)
targets = st.sampled_from(["any", "any", "any", "session", "session", "worker", "frame", "frame"])
asks = st.builds(
    Ask,
    pool=numbers,
    to=targets,
    who=numbers,
    ops=st.one_of(
        st.tuples(manners),
        st.lists(manners, min_size=2, max_size=4).map(tuple),
        st.just(("h",) * 3),
    ),
    ids=st.sampled_from(["int", "int", "text", "float", "huge", "odd", "again"]),
    rebind=st.sampled_from([False, False, True]),
    is_request=st.just(True),
    together=st.booleans(),
    method=st.sampled_from(["do", "do", "session/new", "session/load"]),
    big=st.sampled_from([False] * 9 + [True]),
)
tells = st.builds(
    Ask,
    pool=numbers,
    to=targets,
    who=numbers,
    ops=st.tuples(tellings),
    ids=st.just("int"),
    rebind=st.just(False),
    is_request=st.just(False),
    together=st.just(False),
    method=st.just("do"),
    big=st.just(False),
)


nothing = st.just("f")


def act(name: str, ops: st.SearchStrategy[str] = nothing) -> st.SearchStrategy[Act]:
    return st.builds(Act, st.just(name), who=numbers, other=numbers, flag=st.booleans(), ops=ops)


OTHERS = [
    "withdraw", "withdraw", "drain", "resize", "hold", "release", "lease", "end_session", "spawn",
    "kill", "rest", "kill_from_outside", "stall", "wake", "unknown_worker",
    "too_large",
]  # fmt: skip
steps = st.one_of(
    asks,
    asks,
    tells,
    act("die", deaths),
    act("pause", manners),
    st.sampled_from(OTHERS).flatmap(act),
    st.sampled_from(OTHERS).flatmap(act),
)


class Scenario(NamedTuple):
    """Pools, limits, whether there is a tap, and what happens."""

    config: BusConfig
    taps: bool
    steps: Sequence[Ask | Act]


scenarios = st.builds(
    lambda pools, limits, taps, steps: Scenario(
        BusConfig(tuple(make_pool(*one) for one in enumerate(pools)), limits), taps, steps
    ),
    st.lists(pool_options, min_size=1, max_size=3),
    limits,
    st.booleans(),
    st.lists(steps, min_size=1, max_size=14),
)


# -- playing it -----------------------------------------------------------------------------------


async def play(scenario: Scenario) -> None:
    """Play a scenario to both kernels, and compare after each step."""
    # Whether a handshake reaches who dies at once is chance.
    chance = any(pool.argv[-1] == "crash" for pool in scenario.config.pools)
    pair = Pair(scenario.config, taps=scenario.taps and not chance)
    for side in pair.sides:
        side.tore = chance
    async with pair.run():
        player = Player(pair)
        await pair.settle()
        for step in scenario.steps:
            if isinstance(step, Ask):
                player.ask(step)
            else:
                await getattr(player, f"do_{step.name}")(step)
            await pair.settle()
            player.look_at_sessions()
        await player.finish()


class Player:
    """Turns steps into calls of both kernels."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.config = pair.config
        self.next_key = 1

    # -- what is there --

    def infos(self) -> list[WorkerInfo]:
        return sorted(self.pair.python.kernel.workers(), key=lambda info: info.worker)

    def worker(self, step: Act) -> WorkerInfo | None:
        infos = self.infos()
        return infos[step.who % len(infos)] if infos else None

    def pool(self, number: int) -> Pool:
        return self.config.pools[number % len(self.config.pools)]

    def pool_of(self, info: WorkerInfo) -> Pool:
        return next(pool for pool in self.config.pools if pool.id == info.pool)

    def listens(self, info: WorkerInfo | None) -> bool:
        """Tell whether a worker will do at once what it is asked now."""
        if info is None or info.state is not State.READY or info.queued or info.paused:
            return False
        most = self.pool_of(info).max_in_flight
        return info.worker not in self.pair.python.stalled and (not most or info.in_flight < most)

    def new_key(self, kind: str) -> RequestId:
        live = sorted(self.pair.python.live, key=typed)
        if kind == "again" and live:
            return live[0]
        number, self.next_key = self.next_key, self.next_key + 1
        match kind:
            case "text":
                return f"k{number}"
            case "float":
                return number + 0.5
            case "huge":
                return 2**62 + number
            case "odd":
                return f'é"\\\n{number}\x7f'
        return number

    # -- requests and notifications --

    def ask(self, step: Ask) -> None:
        pool = self.pool(step.pool)
        states = (State.READY, State.VACANT)
        ready = [i for i in self.infos() if i.pool == pool.id and i.state in states]
        ops = step.ops
        if step.is_request and len(ops) > 1 and pool.max_in_flight and len(ready) > 1:
            ops = ("h",) * len(ops)  # else who answers first gets what waits
        route = self.route(step, pool)
        keys: list[RequestId] = []
        frames = []
        for one in ops if step.is_request else ops[:1]:
            key = self.new_key(step.ids) if step.is_request else None
            frames.append(self.frame(step, pool, key, one))
            keys.append(key)
        what = f"ask {step} {keys}"
        if step.together and len(keys) > 1 and len(set(keys)) == len(keys):
            self.pair.both(what, lambda side: side.submit_many(frames, route, keys))
            return
        for frame, key in zip(frames, keys, strict=True):
            self.submit(what, frame, route, key)

    def submit(self, what: str, frame: bytes, route: Route, key: RequestId) -> Any:
        return self.pair.both(what, lambda side: side.submit(frame, route, key))

    def route(self, step: Ask, pool: Pool) -> Route:
        session = SESSIONS[step.who % len(SESSIONS)]
        if step.to == "session":
            return Route(pool.id, session=session, rebind=step.rebind)
        if step.to == "worker":
            mine = [info.worker for info in self.infos() if info.pool == pool.id]
            if mine:
                return Route(pool.id, worker=mine[step.who % len(mine)])
        return Route(pool.id)

    @staticmethod
    def frame(step: Ask, pool: Pool, key: RequestId, ops: str) -> bytes:
        session = SESSIONS[step.who % len(SESSIONS)]
        params: dict[str, Any] = {"do": ops}
        if step.to == "frame" and step.method != "session/new":
            params["sessionId" if pool.session == "acp" else "s"] = session
        if step.big and len(step.ops) == 1:
            params["big"] = "x" * BIG
        message: dict[str, Any] = {"method": step.method, "params": params}
        if key is not None:
            message = {"jsonrpc": "2.0", "id": key, **message}
        if pool.envelope == "keep" and step.to == "session":
            message |= {"sessionId": session, "pool": pool.id}
        return msgspec.json.encode(message) + b"\n"

    def simple(self, info: WorkerInfo, ops: str, what: str) -> Any:
        """Send a request with these ops to a worker."""
        key = self.new_key("int")
        params = msgspec.json.encode({"do": ops})
        frame = b'{"id":%b,"method":"do","params":%b}\n' % (msgspec.json.encode(key), params)
        return self.submit(what, frame, Route(info.pool, worker=info.worker), key)

    async def do_die(self, step: Act) -> None:
        info = self.worker(step)
        if info is None or not self.listens(info):
            return
        if self.simple(info, step.ops, f"die {info.worker}: {step.ops}") is None:
            self.expect_death(info)

    def expect_death(self, info: WorkerInfo) -> None:
        for side in self.pair.sides:
            side.dying[info.worker] = info.generation

    def hurry(self, info: WorkerInfo) -> None:
        for side in self.pair.sides:
            side.hurried.add(info.worker)

    async def do_stall(self, step: Act) -> None:
        info = self.worker(step)
        if info is not None and self.listens(info):
            self.simple(info, "z h" if step.flag else "z a", f"stall {info.worker}")

    async def do_wake(self, step: Act) -> None:
        for worker in sorted(self.pair.python.stalled):
            self.pair.both(f"wake {worker}", lambda side: wake(side, worker))  # noqa: B023

    async def do_pause(self, step: Act) -> None:
        """Nothing comes from a paused worker, until it is resumed or its end."""
        info = self.worker(step)
        if info is None or not self.listens(info):
            return
        worker = info.worker
        self.primitive("pause", worker)
        words = info.stderr_bytes + 5 + 5 * step.ops.split().count("soops")
        if self.simple(info, f"{step.ops} sdone", f"while paused: {step.ops}") is None:
            for side in self.pair.sides:  # its stderr tells, where its stdout may not
                await side.until(lambda: has_said(side, worker, words))  # noqa: B023
        await self.pair.settle()
        if step.other < 4:
            self.primitive("resume", worker)
        elif step.flag:
            self.primitive("kill", worker)
            self.expect_death(info)
        else:
            self.primitive("hold", worker)
            self.primitive("resume", worker)

    async def do_withdraw(self, step: Act) -> None:
        live = sorted(self.pair.python.live, key=typed)
        if live:
            key = live[step.who % len(live)]
            reason = "why ü" if step.flag else ""
            self.pair.both(f"withdraw {key!r}", lambda side: side.withdraw(key, reason))
        else:
            self.pair.both("withdraw nothing", lambda side: side.withdraw(10**6, ""))

    # -- primitives --

    def primitive(self, method: str, *args: Any, **options: Any) -> Any:
        what = f"{method} {args} {options}"
        return self.pair.both(what, lambda side: side.attempt(method, *args, **options))

    async def do_drain(self, step: Act) -> None:
        info = self.worker(step)
        if info is not None:
            drain_s = LONG_S if step.flag else 0.0
            if not drain_s and info.state in (State.READY, State.DRAINING):
                self.hurry(info)
            self.primitive("drain", info.worker, drain_s, retire=step.other == 0)

    async def do_resize(self, step: Act) -> None:
        pool = self.pool(step.who)
        mine = [i for i in self.infos() if i.pool == pool.id and not i.own]
        instances = max(1, min(step.other, 3, len(mine) + 1))  # one more at a time: who is first?
        drain_s = LONG_S if step.flag or any(i.state is State.DRAINING for i in mine) else 0.0
        for info in mine[instances:] if not drain_s else []:
            self.hurry(info)
        self.primitive("resize", pool.id, instances, drain_s)

    async def do_hold(self, step: Act) -> None:
        self.with_worker("hold", step)

    async def do_release(self, step: Act) -> None:
        self.with_worker("release", step)

    async def do_rest(self, step: Act) -> None:
        self.with_worker("rest", step)

    async def do_kill(self, step: Act) -> None:
        self.with_worker("kill", step, *(["was ill"] if step.flag else []))

    async def do_lease(self, step: Act) -> None:
        session = SESSIONS[step.other % len(SESSIONS)]
        self.with_worker("lease", step, session, rebind=step.flag)

    def with_worker(self, method: str, step: Act, *args: Any, **options: Any) -> None:
        info = self.worker(step)
        if info is not None:
            self.primitive(method, info.worker, *args, **options)

    async def do_end_session(self, step: Act) -> None:
        self.primitive("end_session", SESSIONS[step.who % len(SESSIONS)])

    async def do_spawn(self, step: Act) -> None:
        if len(self.infos()) > 6:
            return
        options: dict[str, Any] = {"env": {"PLACE": "here"}, "cwd": "/"} if step.flag else {}
        if step.other:
            session = SESSIONS[step.other % len(SESSIONS)]
            options |= {"session": session, "rebind": step.other > 2}
        self.primitive("spawn", self.pool(step.who).id, **options)

    async def do_kill_from_outside(self, step: Act) -> None:
        info = self.worker(step)
        if info is None or info.state not in (State.READY, State.DRAINING):
            return
        sign = signal.SIGKILL if step.flag else signal.SIGSEGV
        what = f"kill {info.worker} from outside by {sign}"
        self.pair.both(what, lambda side: send_signal(side, info.worker, sign))
        self.expect_death(info)

    async def do_unknown_worker(self, step: Act) -> None:
        frame = b'{"id":0,"method":"do"}\n'
        self.submit("ask nobody", frame, Route(self.pool(step.who).id, worker=99), 0)
        self.primitive(("kill", "hold", "release", "pause", "resume", "rest")[step.other], 99)

    async def do_too_large(self, step: Act) -> None:
        frame = b'{"id":0,"method":"do","params":"%b"}\n' % (b"x" * 2**20)
        self.submit("ask too much", frame, Route(self.pool(step.who).id), 0)

    # -- the end --

    def look_at_sessions(self) -> None:
        for session in SESSIONS:
            self.pair.compare(*(side.find_session(session) for side in self.pair.sides))

    async def finish(self) -> None:
        await self.do_wake(Act("wake"))
        await self.pair.settle()
        while self.pair.python.live:  # as a bus does
            await self.do_withdraw(Act("withdraw"))
        await self.pair.settle()
        for side in self.pair.sides:
            await side.kernel.stop(STOP_S)
        self.pair.history.append("stop")
        python, native = self.pair.seen()
        del python["pools"], native["pools"]  # a bus that stops asks its kernel nothing more
        self.pair.compare(python, native)


def has_said(side: Side, worker: int, count: int) -> bool:
    """Tell whether so many bytes of a worker's stderr have come."""
    info = side.info(worker)
    return info is not None and info.stderr_bytes >= count


def wake(side: Side, worker: int) -> None:
    side.stalled.discard(worker)
    send_signal(side, worker, signal.SIGUSR1)


def send_signal(side: Side, worker: int, sign: int) -> None:
    info = side.info(worker)
    assert info is not None
    assert info.pid is not None
    os.kill(info.pid, sign)
