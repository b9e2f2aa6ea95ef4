"""The blocking bus keeps the promises of the bus, in any thread, and leaves nothing behind."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import anyio_bus
from anyio_bus import (
    BusState,
    BusStoppedError,
    ClientChanged,
    Connect,
    HandlerContext,
    InvalidArgumentError,
    InvalidStateError,
    Limits,
    Native,
    Pool,
    RemoteError,
    RequestTimeoutError,
    Retry,
    ScopeCancelledError,
    UnknownPoolError,
    WorkerLostError,
    WorkerStartError,
    open_bus,
    sync,
)
from anyio_bus.sync import SyncBus, SyncHandlerContext, open_bus_sync
from tests.bus.support import scripted

WAIT_S = 10  # for what happens in milliseconds; the machine may be busy
STREAMING = Path(__file__).parent / "bus" / "workers" / "streaming.py"
ECHO = Pool("echo", [sys.executable, "-m", "anyio_bus.testing.workers.echo"])
LOOPS = ["asyncio", "uvloop", "trio"]
every_loop = pytest.mark.parametrize("loop", LOOPS)


def streaming() -> Pool:
    return Pool("s", [sys.executable, str(STREAMING)])


@contextmanager
def one_worker(loop: str = "asyncio", **options: Any) -> Iterator[SyncBus]:
    """Open a bus with one scripted worker that is known to answer."""
    with open_bus_sync(scripted(), loop=loop, grace_s=2, **options) as bus:  # type: ignore[arg-type]
        bus.request("echo")
        yield bus


class Thread:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as exc:  # noqa: ASYNC103  # the test looks at it
            self._error = exc

    def result(self) -> Any:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._value


def our_threads() -> list[threading.Thread]:
    """Return the threads of buses; trio keeps idle ones of handlers for a while."""
    return [each for each in threading.enumerate() if each.name.startswith("anyio-bus")]


def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells us."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def held(bus: SyncBus, count: int) -> None:
    """Wait until workers have received so many "hold" requests in all."""
    until(lambda: bus.statistics().unhandled >= count)


def logged(bus: SyncBus, method: str) -> list[str]:
    return [line for line in bus.request("log", reply=list[str]) if f'"{method}"' in line]


# --- the same bus -----------------------------------------------------------------------------

PAIRS = [
    (anyio_bus.Bus, sync.SyncBus),
    (anyio_bus.Session, sync.SyncSession),
    (anyio_bus.Stream, sync.SyncStream),
    (anyio_bus.Subscription, sync.SyncSubscription),
    (anyio_bus.FrameStream, sync.SyncFrameStream),
    (anyio_bus.Scope, sync.SyncScope),
    (anyio_bus.MessageHook, sync.SyncMessageHook),
    (anyio_bus.Recording, sync.SyncRecording),
    (anyio_bus.HandlerContext, sync.SyncHandlerContext),
    (anyio_bus.Bus, anyio_bus.FromThread),
]
# Sinks of the bus itself, what is for event loops only, and what has another name in threads.
INTERNAL = {"params", "take", "overflow", "finish", "offer", "end"}
ABSENT = {"pump", "from_thread", "aclose", "events", *INTERNAL}
FROM_THREAD = {"request", "request_raw", "notify", "stop"}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in found]


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_names_and_arguments_are_those_of_the_bus(theirs: type, ours: type) -> None:
    for name, member in vars(theirs).items():
        if name.startswith("_") or name in ABSENT:
            continue
        if ours is anyio_bus.FromThread and name not in FROM_THREAD:
            continue
        if inspect.isfunction(member):
            wanted, found = parameters(member), parameters(getattr(ours, name))
            assert found[: len(wanted)] == wanted, name  # a timeout may come besides
            assert {each[0] for each in found[len(wanted) :]} <= {"timeout"}, name
        elif isinstance(member, property):
            assert hasattr(ours, name) or ours is anyio_bus.FromThread, name


def test_open_bus_sync_takes_what_open_bus_takes() -> None:
    wanted = dict.fromkeys(p[0] for p in parameters(open_bus))
    found = {p[0]: p for p in parameters(open_bus_sync)}

    assert set(found) - set(wanted) == {"loop"}
    assert [found[p[0]] for p in parameters(open_bus)] == parameters(open_bus)


@every_loop
def test_each_kind_of_call_works(loop: str, tmp_path: Path) -> None:
    raw = b'{"jsonrpc":"2.0","id":"x","method":"echo","params":[2]}'
    with open_bus_sync(scripted(), loop=loop) as bus:  # type: ignore[arg-type]
        bus.wait_ready(timeout=WAIT_S)
        with bus.record_tap(tmp_path / "tap") as recording, bus.tap() as frames:
            assert bus.request("echo", [1], reply=list[int]) == [1]
            assert frames.receive(WAIT_S).method == "echo"
        lines: list[str] = []
        with bus.on_message(lines.append):
            assert b'"id":"x"' in bus.request_raw(raw)
        bus.notify("note", {"n": 1})
        bus.send('{"jsonrpc":"2.0","method":"note"}')
        with bus.session(id="s") as session:
            assert session.request("echo", ["in"]) == ["in"]
            assert (session.worker, session.lost, session.pool) == (0, False, "w")
        with bus.open_scope(name="mine", deadline=time.monotonic() + 100) as scope:
            assert bus.request("echo", [3], scope=scope) == [3]
        assert len(logged(bus, "note")) == 2
        bus.resize("w", 2)
        bus.restart_worker(0)
        bus.wait_ready(timeout=WAIT_S)
        assert len(bus.workers()) == 2
        assert recording.frames == 2
        assert len(lines) == 1
        bus.stop()
        assert bus.state is BusState.STOPPED
    assert our_threads() == []


@every_loop
def test_a_stream_is_a_plain_iterator(loop: str) -> None:
    with open_bus_sync(streaming(), loop=loop) as bus:  # type: ignore[arg-type]
        with bus.stream("count", {"chunks": 5000, "tag": "a"}) as stream:
            texts = [chunk.params for chunk in stream]
            assert stream.result() == {"chunks": 5000}
        assert [params["n"] for params in texts] == list(range(5000))

        with bus.stream("count", {"chunks": 3}) as stream:
            kinds = [event.type for event in stream.events()]
        assert kinds == ["chunk", "chunk", "chunk", "result"]

        with bus.stream("count", {"chunks": 2000, "size": 100}, max_buffer_bytes=10_000) as stream:
            next(stream)
            assert stream.result() == {"chunks": 2000}  # what is unread holds nothing up

        with bus.stream("endless") as stream:
            assert stream.receive_batch()
        until(lambda: bus.request("cancelled") == ["endless"])


@every_loop
def test_it_listens_as_the_bus_does(loop: str) -> None:
    pytest.importorskip("anyio_bus._native")
    native = Native(listen="tcp://127.0.0.1:0")
    with open_bus_sync(scripted(), backend=native, loop=loop) as bus:  # type: ignore[arg-type]
        seen: list[ClientChanged] = []
        remove = bus.on_client(seen.append)
        with open_bus_sync(backend=Connect(bus.listeners[0]), loop=loop) as other:  # type: ignore[arg-type]
            assert other.request("echo", [1]) == [1]
            assert bus.statistics().clients == 1
        until(lambda: [event.state for event in seen] == ["connected", "gone"])
        remove()
    assert our_threads() == []


def test_the_result_of_a_stream_takes_no_chunk_from_the_thread_that_reads() -> None:
    with (
        open_bus_sync(streaming()) as bus,
        bus.stream("count", {"chunks": 3000}, max_buffer_bytes=10_000) as stream,
    ):
        next(stream)
        result = Thread(stream.result)

        assert len(list(stream)) == 2999
        assert result.result() == {"chunks": 3000}


@every_loop
def test_a_subscription_loses_nothing_when_a_wait_ends_early(loop: str) -> None:
    with one_worker(loop) as bus, bus.subscribe("holding") as notifications:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                notifications.receive(timeout=0.001)
            bus.notify("hold")
            assert notifications.receive(timeout=WAIT_S).method == "holding"

        for _ in range(5):
            bus.notify("hold")
        bus.request("echo")
        reader = Thread(lambda: len(list(notifications)))
        bus.stop()
        assert reader.result() == 5  # what it held is read, then it ends
        assert notifications.dropped == 0


def test_what_a_subscription_holds_is_read_after_the_block_was_left() -> None:
    with one_worker() as bus:
        notifications = bus.subscribe("holding").__enter__()
        for _ in range(5):
            bus.notify("hold")
        bus.request("echo")
    assert len(list(notifications)) == 5


@every_loop
def test_map_keeps_its_order_and_its_bound_and_raises_what_its_params_raise(loop: str) -> None:
    seen: list[int] = []

    def params(count: int) -> Iterator[dict[str, int]]:
        for n in range(count):
            seen.append(n)
            bus.request("echo", [n])  # they are read in this thread, which may use the bus
            yield {"n": n}
        raise ValueError("no more")

    with one_worker(loop) as bus:
        with bus.map("echo", params(50), in_flight=8) as results:
            assert next(results) == {"n": 0}
            assert len(seen) <= 9
            assert [result["n"] for result in [next(results) for _ in range(49)]] == [*range(1, 50)]
            assert results.index == 49
            with pytest.raises(ValueError, match="no more"):
                next(results)
        with bus.map("echo", [[n] for n in range(1000)], ordered=False) as results:
            assert sorted(results) == [[n] for n in range(1000)]
        with bus.map("echo", []) as results:
            assert list(results) == []


def test_an_error_of_map_is_raised_after_the_results_before_it() -> None:
    error = '{"jsonrpc":"2.0","id":$ID,"error":{"code":7,"message":"no"}}'
    fine = '{"jsonrpc":"2.0","id":$ID,"result":1}'
    params = [{"lines": [line]} for line in (fine, fine, error, fine)]
    with one_worker() as bus:
        with bus.map("say", params) as results:
            assert [next(results), next(results)] == [1, 1]
            with pytest.raises(RemoteError, match="no"):
                next(results)
        with bus.map("say", params, return_errors=True) as results:
            assert [type(each) for each in results] == [int, int, RemoteError, int]


def test_errors_are_those_of_the_bus() -> None:
    missing = Pool("gone", ["/no/such/program"])
    with one_worker() as bus:
        with pytest.raises(RequestTimeoutError):
            bus.request("mute", timeout=0.01)
        with pytest.raises(UnknownPoolError):
            bus.request("echo", pool="nowhere")
        with pytest.raises(InvalidArgumentError, match="max_queue"):
            bus.subscribe(max_queue=0).__enter__()
        with bus.open_scope() as scope, pytest.raises(ScopeCancelledError, match="enough"):
            waiting = Thread(lambda: bus.request("hold", scope=scope, timeout=None))
            held(bus, 1)
            scope.cancel("enough")
            waiting.result()
        with pytest.raises(InvalidArgumentError, match="scope"):
            bus.request("echo", scope=scope._scope)  # type: ignore[call-overload]
        with pytest.raises(InvalidArgumentError, match=r'@bus.handler\("held"\)'):
            bus.handler(held)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="retry must be a Retry or None, not 3"):
            bus.request("echo", retry=3)  # type: ignore[call-overload]
    with pytest.raises(WorkerStartError), open_bus_sync(missing) as bus:
        bus.wait_ready()


def test_a_timeout_bounds_all_attempts_of_a_request_and_their_pauses() -> None:
    slow = Retry(attempts=2, backoff_s=60, backoff_max_s=60, idempotent=True)
    with one_worker() as bus, pytest.raises(WorkerLostError):
        Thread(lambda: bus.request("die", timeout=30, retry=slow)).result()


def test_bad_arguments_are_refused_before_a_thread_starts() -> None:
    for options, field in [
        ({"loop": "curio"}, "loop"),
        ({"timeout": -1}, "timeout"),
        ({"grace_s": "soon"}, "grace_s"),
        ({"limits": Limits(), "config": 3}, "config"),
    ]:
        pools = [] if "config" in options else [scripted()]
        with pytest.raises(InvalidArgumentError, match=field), open_bus_sync(*pools, **options):  # type: ignore[arg-type]
            pytest.fail("it opened")
        assert our_threads() == []


# --- threads ----------------------------------------------------------------------------------


@every_loop
def test_a_call_in_one_thread_waits_for_no_other(loop: str) -> None:
    with one_worker(loop) as bus, bus.subscribe("never") as nothing:
        slow = [Thread(lambda: bus.request("hold", timeout=None)) for _ in range(8)]
        idle = Thread(lambda: list(nothing))
        held(bus, 8)

        several = [
            Thread(lambda n=n: [bus.request("echo", [n, i]) for i in range(50)]) for n in range(4)
        ]
        for n, thread in enumerate(several):
            assert thread.result() == [[n, i] for i in range(50)]

        bus.request("release")
        for thread in slow:
            thread.result()
        bus.stop()
        assert idle.result() == []


def test_stop_in_one_thread_ends_the_waits_of_the_others() -> None:
    with one_worker() as bus, bus.stream("mute", timeout=None) as stream:
        request = Thread(lambda: bus.request("hold", timeout=None))
        reader = Thread(lambda: list(stream))
        held(bus, 1)

        bus.stop()

        for thread in (request, reader):
            with pytest.raises(BusStoppedError):
                thread.result()
    with pytest.raises(BusStoppedError):
        bus.request("echo")
    with pytest.raises(BusStoppedError):
        bus.stream("echo").__enter__()
    with pytest.raises(BusStoppedError):
        bus.statistics()


async def test_it_is_refused_where_an_event_loop_runs() -> None:
    with pytest.raises(InvalidStateError, match="open_bus"), open_bus_sync(scripted()):
        pytest.fail("it opened")

    def use() -> SyncBus:
        with one_worker() as bus:

            async def inside() -> None:
                for call in (
                    lambda: bus.request("echo"),
                    bus.workers,
                    lambda: next(stream),
                    lambda: bus.subscribe().__enter__(),
                ):
                    with pytest.raises(InvalidStateError, match="would block"):
                        call()

            with bus.stream("mute") as stream:
                anyio.run(inside)
        return bus

    await anyio.to_thread.run_sync(use)


# --- handlers ---------------------------------------------------------------------------------


@every_loop
def test_plain_handlers_may_block_and_use_the_bus(loop: str) -> None:
    gate = threading.Event()

    def wait(name: str) -> str:
        assert gate.wait(WAIT_S)
        return name

    with open_bus_sync(ECHO, loop=loop, handlers={"wait": wait}) as bus:  # type: ignore[arg-type]

        @bus.handler("count")
        def count(context: SyncHandlerContext, depth: int) -> list[Any]:
            context.notify("counting", {"depth": depth})
            assert context.bus is bus
            if depth == 0:
                return [context.worker, context.scope.name]
            return [depth, *ask("count", {"depth": depth - 1})]

        @bus.handler("async")
        async def in_the_loop(context: HandlerContext) -> str:
            await anyio.lowlevel.checkpoint()
            return context.method

        def ask(method: str, params: object = None) -> Any:
            return bus.request("ask", {"method": method, "params": params})

        waiting = Thread(lambda: ask("wait", {"name": "me"}))
        assert ask("count", {"depth": 3}) == [3, 2, 1, 0, "bus"]
        assert ask("async") == "async"
        with pytest.raises(RemoteError) as caught:
            ask("count", {"depth": "deep"})
        assert caught.value.code == -32602
        gate.set()
        assert waiting.result() == "me"


def test_a_handler_that_blocks_holds_up_no_end() -> None:
    gate = threading.Event()
    entered = threading.Event()

    def block() -> None:
        entered.set()
        gate.wait(WAIT_S)

    with open_bus_sync(ECHO, handlers={"block": block}) as bus:
        asking = Thread(lambda: bus.request("ask", {"method": "block"}))
        assert entered.wait(WAIT_S)
    with pytest.raises(BusStoppedError):
        asking.result()
    gate.set()


def test_callbacks_run_in_the_buss_thread_which_they_cannot_block() -> None:
    errors: list[Exception] = []
    names: list[str] = []

    def callback(_notification: object) -> None:
        names.append(threading.current_thread().name)
        try:
            bus.request("echo")
        except InvalidStateError as exc:
            errors.append(exc)
        remove()

    with one_worker() as bus:
        remove = bus.on_notification(callback, "holding")
        bus.notify("hold")
        bus.notify("hold")
        bus.request("echo")
        assert len(errors) == 1
        assert names == ["anyio-bus-asyncio"]


# --- Ctrl-C, exits, forks ---------------------------------------------------------------------

INTERRUPTED = """
import os, sys, threading, time
from anyio_bus import Pool
from anyio_bus.sync import open_bus_sync
from tests.bus.support import scripted

def ready(*_):
    print("ready", flush=True)

def ready_when_stopping(bus):
    while bus.state == "running": time.sleep(0.001)
    ready()

helpers = []

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def block_in(where, bus):
    if where == "request":
        bus.request("hold", timeout=None)
    elif where == "stream":
        with bus.stream("hold", timeout=None) as stream:
            list(stream)
    elif where == "subscription":
        with bus.subscribe("never") as notifications:
            bus.notify("hold")
            list(notifications)
    elif where == "map":
        with bus.map("hold", [[1]] * 3, timeout=None) as results:
            list(results)
    else:
        helpers.append(threading.Thread(target=ready_when_stopping, args=[bus]))
        helpers[0].start()

def main(where, loop):
    pool, options = scripted(), {}
    if where == "exit":
        pool = Pool("w", [sys.executable, "-m", "anyio_bus.testing.workers.ignore_term"])
        options["grace_s"] = 1000
    before = descriptors()
    told = 0
    try:
        with open_bus_sync(pool, loop=loop, **options) as bus:
            bus.request("echo")
            remove = bus.on_notification(lambda _: (ready(), remove()), "holding")
            try:
                block_in(where, bus)
            except KeyboardInterrupt:
                told = sum("$/cancelRequest" in line for line in bus.request("log"))
                raise
    except KeyboardInterrupt:
        for helper in helpers: helper.join()
        children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
        print(where, told, threading.active_count(), descriptors() - before, children, flush=True)

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.new_event_loop().close()  # what libuv opens once per process
for where in sys.argv[2:]:
    main(where, sys.argv[1])
"""
SETTLE_S = 0.3
TOLD = {"request": 1, "stream": 1, "subscription": 0, "map": 3, "exit": 0}


@every_loop
def test_ctrl_c_cancels_what_is_waited_for_and_leaves_nothing(loop: str) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, loop, *TOLD],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert program.stdout is not None
        for where, told in TOLD.items():
            assert program.stdout.readline() == "ready\n"
            time.sleep(SETTLE_S)  # until its main thread waits, too: nobody but it could tell
            program.send_signal(signal.SIGINT)
            assert program.stdout.readline() == f"{where} {told} 1 0 []\n"
    finally:
        program.kill()
        program.communicate()


def test_a_program_that_ends_inside_the_block_leaves_nothing() -> None:
    code = (
        "import sys\n"
        "from anyio_bus.sync import open_bus_sync\n"
        "from tests.bus.support import scripted\n"
        "bus = open_bus_sync(scripted()).__enter__()\n"
        "print(bus.request('pid'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=WAIT_S
    )

    assert done.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


@every_loop
def test_a_forked_child_is_refused_and_leaves_the_block_at_once(loop: str) -> None:
    with one_worker(loop) as bus:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with pytest.raises(InvalidStateError, match="fork"):
                    bus.request("echo")
                with pytest.raises(InvalidStateError, match="fork"):
                    bus.stream("echo").__enter__()
                bus._runner.end()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert bus.request("echo", ["here"]) == ["here"]


def test_a_blocking_bus_that_was_not_entered_says_how_it_is_used() -> None:
    bus: Any = open_bus_sync(scripted())

    with pytest.raises(
        AttributeError, match=r"use `with open_bus_sync\(\.\.\.\) as bus:`.*'request'"
    ):
        bus.request("echo")
