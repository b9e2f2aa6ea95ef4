"""Two kernels side by side: the same calls to both, and what each of them told its client.

A :class:`Side` is one kernel without a bus. All that it delivers is kept by worker, in its order, in a
form that can be compared: without pids, times and what the fences cost. A **fence** is how a test
knows that nothing is under way: a notification to each worker, which its worker sends back. Where
a round of fences brought nothing but itself, everything before it has been done.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import msgspec
from msgspec import UNSET

from anyio_bus._backends.native import open_native
from anyio_bus._backends.python import open_python
from anyio_bus._config import BusConfig
from anyio_bus._errors import Failure
from anyio_bus._sansio.events import (
    Failed,
    KernelEvent,
    LineBad,
    Lines,
    Results,
    WorkerChanged,
    WorkerInfo,
)
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.messages import Message, RequestId
from anyio_bus._sansio.routing import Refused, Route
from anyio_bus._sansio.tapping import TapFrame

NET_S = float(
    os.environ.get("NET_S", "15")
)  # for what happens in milliseconds; the machine may be busy
POLL_S = 0.002  # for what no event tells: bytes written, a tombstone that is gone
UNFENCED_S = 0.05  # for a worker of a parked pool, which takes nothing: there is no other way
FENCE = b'{"method":"fence","params":"%08d"}\n'
FENCE_OUT = len(FENCE % 0)
FENCE_IN = FENCE_OUT + 1  # it comes back as "fenced"
SETTLED = {State.READY, State.DRAINING, State.PARKED, State.VACANT}  # one that stopped is to go
WITHOUT_PROCESS = {State.BACKOFF, State.PARKED, State.VACANT, State.STOPPED}
OPENERS: dict[str, Callable[..., Any]] = {"python": open_python, "native": open_native}

Seen = dict[str, Any]


class Side:
    """One kernel, and what it said."""

    def __init__(self, name: str, config: BusConfig, *, taps: bool = False) -> None:
        self.name = name
        self.config = config
        self.lost_fences = 0  # that may have been written to a worker that never sent them back
        self.tore = False  # how much a pipe took that nobody read is the pipe's affair
        self.live: set[RequestId] = set()
        self.stalled: set[int] = set()
        self.dying: dict[int, int] = {}  # worker -> its generation, where the end is sure to come
        self.hurried: set[int] = set()  # were drained, and have no time for it
        self.generation: dict[int, int] = {}
        self._state: dict[int, tuple[State, int]] = {}
        self.came_up: list[tuple[str, int]] = []  # in this step
        self.kernel = OPENERS[name](config, self._deliver)
        self._stream: dict[str, list[Any]] = defaultdict(list)
        self._activity = 0
        self._bell = anyio.Event()
        self._fences_out = self._fences_refused = 0
        self._awaited: dict[int, str] = {}  # worker -> the fence that it was sent last
        self._fenced: Counter[tuple[int, int]] = Counter()  # (worker, generation) -> came back
        if taps:
            self.kernel.tap(self._tapped)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run the kernel; what is left of it at the end is killed."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.kernel.run)
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await self.kernel.stop(0.2)
                    self.kernel.kill_now(1.0)

    # -- what it says -------------------------------------------------------------------------

    def _deliver(self, events: list[KernelEvent]) -> None:
        for event in events:
            match event:
                case Lines():
                    self._take_lines(event)
                case Results(pool, worker, _, _):
                    answers = [Message(id=one.id, result=one.result) for one in event.answers()]
                    self._take_lines(Lines(pool, worker, answers, None, "answers"))
                case LineBad(pool, worker, line):
                    self._note(f"worker {worker}", ("bad", pool, as_bad_line(line)))
                case Failed(key, failure):
                    self.live.discard(key)
                    where = pool_or_worker(failure)
                    self._note(where, ("failed", typed(key), as_failure(failure)))
                case WorkerChanged():
                    self._take_change(event)
        self._bell.set()
        self._bell = anyio.Event()

    def _note(self, where: str, what: Any) -> None:
        self._activity += 1
        self._stream[where].append(what)

    def _take_lines(self, event: Lines) -> None:
        answers = [message for message in event.messages if message.method is UNSET]
        if event.only is not None:
            calls = len(event.messages) - len(answers)
            assert not (calls if event.only == "answers" else answers), event
        for message in event.messages:
            if message.method == "fenced":
                self._fenced[event.worker, self.generation[event.worker]] += 1
                if self._awaited.get(event.worker) == bytes(as_raw(message.params)).decode():
                    del self._awaited[event.worker]
                continue
            if message.method is UNSET:
                self.live.discard(message.id)
            elif message.method == "stalling":
                self.stalled.add(event.worker)
            elif message.method == "going on":
                self.stalled.discard(event.worker)
            sole = event.sole if message.method is not UNSET else None
            said = ("said", event.pool, as_message(message), self._sole(event.pool, sole))
            self._note(f"worker {event.worker}", said)

    def _sole(self, pool_id: str, sole: RequestId) -> Any:
        """Leave out who was alone where it depends on which lines came in one read."""
        pool = next(pool for pool in self.config.pools if pool.id == pool_id)
        return typed(sole) if pool.max_in_flight == 0 else None

    def _take_change(self, event: WorkerChanged) -> None:
        worker = event.worker
        if event.state is State.READY and self.generation.get(worker) != event.generation:
            self.came_up.append((event.pool, worker))
            self.generation[worker] = event.generation
        if event.state in WITHOUT_PROCESS:
            self.stalled.discard(worker)
            self.hurried.discard(worker)
        failure = None if event.failure is None else without_frame(event.failure)
        change = (event.state.value, event.generation, event.pid is not None, failure)
        # That nothing is in flight is told after what was read with the last answer, or before it.
        again = self._state.get(worker) == (event.state, event.generation)
        self._state[worker] = (event.state, event.generation)
        self._note(f"{'still' if again else 'worker'} {worker}", ("changed", event.pool, *change))

    def _tapped(self, frames: list[TapFrame]) -> None:
        for frame in frames:
            if b'"method":"fence' in frame.frame:
                continue
            self._stream[f"tap {frame.worker} {frame.direction}"].append(
                {
                    "generation": frame.generation,
                    "kind": frame.kind,
                    "id": typed(frame.id),
                    "method": frame.method,
                    "request": typed(frame.request),
                    "size": frame.size,
                    "frame": bytes(frame.frame),
                }
            )

    def seen(self) -> Seen:
        """Return what has been delivered since the last call, and how everything stands."""
        streams = dict(sorted(self._stream.items()))
        self._stream = defaultdict(list)
        self.came_up = []
        infos = sorted(self.kernel.workers(), key=lambda info: info.worker)
        return {
            **streams,
            "statistics": self._statistics(),
            "workers": {info.worker: self._info(info) for info in infos},
            "live": sorted(map(typed, self.live)),
            "pools": {pool.id: self.attempt("check_pool", pool.id) for pool in self.config.pools},
        }

    def _statistics(self) -> dict[str, int]:
        stats = msgspec.structs.asdict(self.kernel.statistics())
        back = sum(self._fenced.values())
        stats["messages_in"] -= back
        stats["bytes_in"] -= back * FENCE_IN
        stats["messages_out"] -= self._fences_out
        stats["routing_errors"] -= self._fences_refused
        stats["bytes_out"] -= back * FENCE_OUT
        return stats

    def _info(self, info: WorkerInfo) -> dict[str, Any]:
        fields = msgspec.structs.asdict(info)
        for name in ("uptime_s", "rss_bytes", "worker"):
            del fields[name]
        fields["pid"] = info.pid is not None
        fields["reason"] = without_pid(info.reason)
        fields["state"] = info.state.value
        if info.worker in self.stalled:
            fields["queued_bytes"] = info.queued_bytes > 0
        if info.pid is not None:
            fields["bytes_in"] -= self._fenced[info.worker, info.generation] * FENCE_IN
        return fields

    # -- what it is asked ---------------------------------------------------------------------

    def attempt(self, method: str, *args: Any, **options: Any) -> Any:
        """Call a primitive; return what came of it."""
        try:
            result = getattr(self.kernel, method)(*args, **options)
        except Refused as refused:
            return ("refused", as_failure(refused.failure))
        return result

    def submit(self, frame: bytes, route: Route, key: RequestId) -> Any:
        """Submit a frame, and keep in mind that it lives."""
        known = key in self.live
        if key is not None:
            self.live.add(key)  # before it is submitted: its end may be told within
        said = self.attempt("submit", frame, route, key)
        if said is not None and key is not None and not known:
            self.live.discard(key)
        return said

    def submit_many(self, frames: list[bytes], route: Route, keys: list[RequestId]) -> Any:
        """Submit several, as a client does: together, else one by one."""
        self.live.update(keys)
        messages = [msgspec.json.decode(frame, type=dict[str, msgspec.Raw]) for frame in frames]
        methods = {msgspec.json.decode(message["method"]) for message in messages}
        items = [message.get("params") for message in messages]
        plain = all(message.keys() == {"jsonrpc", "id", "method", "params"} for message in messages)
        in_a_row = (
            keys == list(range(keys[0], keys[0] + len(keys))) if type(keys[0]) is int else True
        )
        if len(methods) == 1 and plain and in_a_row:
            size = self.attempt("submit_many", methods.pop(), items, route, keys, 1 << 30)
            if type(size) is int and size > 0:
                return [None] * len(keys)
        self.live.difference_update(keys)
        return [self.submit(*one) for one in zip(frames, [route] * len(keys), keys, strict=True)]

    def withdraw(self, key: RequestId, reason: str) -> Any:
        """Withdraw a request."""
        self.live.discard(key)
        return self.attempt("withdraw", key, reason).value

    def find_session(self, session: str) -> Any:
        """Report a session."""
        info = self.kernel.find_session(session)
        if info is None:
            return None
        failure = None if info.failure is None else without_frame(info.failure)
        return (info.pool, info.worker, info.in_flight, failure)

    def info(self, worker: int) -> WorkerInfo | None:
        """Report a worker."""
        return next((info for info in self.kernel.workers() if info.worker == worker), None)

    # -- when it is done ----------------------------------------------------------------------

    async def settle(self) -> None:
        """Wait until nothing is under way."""
        with anyio.move_on_after(NET_S) as net:
            while True:
                await self.until(self._calm)
                before = self._done_so_far()
                if not self._fence():
                    await anyio.sleep(UNFENCED_S)
                await self.until(self._fences_are_back)
                if before == self._done_so_far() and self._calm():
                    return
        assert not net.cancelled_caught, f"{self.name} does not settle: {self._unrest()}"

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what an event tells, or nothing."""
        while not condition():
            with anyio.move_on_after(POLL_S):
                await self._bell.wait()

    def _calm(self) -> bool:
        infos = {info.worker: info for info in self.kernel.workers()}
        for worker, generation in list(self.dying.items()):
            info = infos.get(worker)
            if info and info.generation == generation and info.state not in WITHOUT_PROCESS:
                return False
            del self.dying[worker]
        return all(map(self._is_calm, infos.values()))

    def _is_calm(self, info: WorkerInfo) -> bool:
        if info.state not in SETTLED:
            return False
        if info.state is State.DRAINING:
            hurried = info.worker in self.hurried or (info.own and info.lease is None)
            if hurried or not info.in_flight:
                return False
        if info.generation == 0:  # its task did not begin yet
            return False
        return info.worker in self.stalled or not info.queued_bytes

    def _done_so_far(self) -> tuple[int, ...]:
        stats = self.kernel.statistics()
        back = sum(self._fenced.values())
        return (self._activity, stats.messages_in - back, stats.bytes_out - back * FENCE_OUT)

    def _fence(self) -> bool:
        """Send a fence to each worker; False if one of them cannot be asked."""
        self._awaited.clear()
        refused = self._fences_refused
        for info in self.kernel.workers():
            has_ears = info.state in (State.READY, State.DRAINING) and info.pid is not None
            if not has_ears or info.paused or info.worker in self.stalled:
                continue
            frame = FENCE % self._fences_out
            self._awaited[info.worker] = '"%08d"' % self._fences_out
            self._fences_out += 1
            try:
                self.kernel.submit(frame, Route(info.pool, worker=info.worker), None)
            except Refused:
                self._fences_out -= 1
                self._fences_refused += 1
                del self._awaited[info.worker]
        return refused == self._fences_refused

    def _fences_are_back(self) -> bool:
        if self._awaited:
            infos = {info.worker: info for info in self.kernel.workers()}
            for worker in list(self._awaited):
                info = infos.get(worker)
                gone = info is None or info.state not in (State.READY, State.DRAINING)
                if gone or worker in self.stalled:
                    del self._awaited[worker]
                    self.lost_fences += 1
        return not self._awaited

    def _unrest(self) -> str:
        return f"awaited {self._awaited}, dying {self.dying}, {self.kernel.workers()}"


# -- values that can be compared ------------------------------------------------------------------


def typed(key: Any) -> str:
    """Tell ``1`` from ``"1"``, but not from ``1.0``, which is the same id."""
    if isinstance(key, float) and key.is_integer():
        key = int(key)
    return repr(key)


def as_raw(value: Any) -> Any:
    return b"" if value is UNSET else value


def as_message(message: Message) -> dict[str, Any]:
    raw = ("params", "result", "error")
    fields: dict[str, Any] = {name: bytes(as_raw(getattr(message, name))) for name in raw}
    fields["id"] = typed(message.id)
    fields["method"], fields["session"] = message.method, message.session
    return {name: value for name, value in fields.items() if value not in (b"", UNSET)}


def as_bad_line(line: Any) -> dict[str, Any]:
    """Leave out the words of a decoder for what it did not like."""
    own = line.reason.startswith(("line of", "unterminated"))
    return {"prefix": line.prefix, "size": line.size, "reason": line.reason if own else ""}


def as_failure(failure: Failure) -> dict[str, Any]:
    fields = {
        name: value for name, value in msgspec.structs.asdict(failure).items() if value is not None
    }
    if "pid" in fields:
        fields["pid"] = "PID"
    fields["message"] = without_pid(failure.message)
    if failure.phase == "handshake" or " and was ended" in failure.message:
        for name in ("exit_code", "signal"):  # it has 0.2 s to end by itself
            fields.pop(name, None)
    if failure.reason == "duplicate_id":  # each spells the id in its way
        del fields["message"]
    fields["reason"] = without_pid(failure.reason)
    return fields


def without_frame(failure: Failure) -> dict[str, Any]:
    """Leave out ``sent`` where the failure is a worker's: no frame is meant."""
    fields = as_failure(failure)
    del fields["sent"]
    return fields


def without_pid(text: str) -> str:
    return re.sub(r"\(pid \d+\)", "(pid N)", text)


def pool_or_worker(failure: Failure) -> str:
    return f"pool {failure.pool}" if failure.worker is None else f"worker {failure.worker}"


def differences(one: Any, other: Any, path: str = "") -> Iterable[str]:
    """Say where two values differ, a line for each place."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one | other:
            yield from differences(one.get(key), other.get(key), f"{path}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{path}/{number}")
    elif one != other:
        yield f"{path}:\n    python: {one!r}\n    native: {other!r}"


class Pair:
    """Both kernels, with one configuration."""

    def __init__(self, config: BusConfig, *, taps: bool = False) -> None:
        self.config = config
        self.python = Side("python", config, taps=taps)
        self.native = Side("native", config, taps=taps)
        self.sides = (self.python, self.native)
        self.history: list[str] = []

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run both."""
        async with self.python.run(), self.native.run():
            yield

    def both(self, what: str, action: Callable[[Side], Any]) -> Any:
        """Do the same to both; they are to say the same."""
        self.history.append(what)
        python, native = action(self.python), action(self.native)
        self.compare(python, native)
        return python

    def compare(self, python: Any, native: Any) -> None:
        found = list(differences(python, native))
        if found:
            told = "\n  ".join(self.history)
            raise AssertionError(f"the kernels differ after\n  {told}\n" + "\n".join(found))

    async def settle(self) -> None:
        """Wait until nothing is under way in either, and compare all that they said."""
        for side in self.sides:
            await side.settle()
        while await self._put_in_order():
            pass
        self.compare(*self.seen())

    def seen(self) -> tuple[Seen, Seen]:
        """Return what both have said, without what they need not agree on."""
        python, native = self.python.seen(), self.native.seen()
        for side in self.sides:
            side.tore = side.tore or bool(side.stalled)
        for seen in (python, native):
            if any(side.tore for side in self.sides):
                del seen["statistics"]["bytes_out"]
            elif any(side.lost_fences for side in self.sides):
                seen["statistics"]["bytes_out"] %= FENCE_OUT
        return python, native

    async def _put_in_order(self) -> bool:
        """Let workers of a pool that came up together, in an order that is free, stand in turn."""
        up = Counter(pool for pool, _ in self.python.came_up)
        workers = sorted({w for pool, w in self.python.came_up if up[pool] > 1})
        for side in self.sides:
            side.came_up = []
        for worker in workers:
            info = self.python.info(worker)
            if info is None or info.held or info.own or info.state is not State.READY:
                continue
            for side in self.sides:
                with suppress(Refused):
                    side.kernel.hold(worker)
                    side.kernel.release(worker)
        for side in self.sides if workers else ():
            await side.settle()
        return bool(workers)
