"""Requests of workers are answered once each, whatever their handlers do and however they end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from anyio_bus import (
    Bus,
    HandlerContext,
    Handshake,
    InvalidArgumentError,
    Limits,
    Memory,
    Notification,
    Pool,
    RemoteError,
    UnknownPoolError,
    WorkerLostError,
    open_bus,
)
from anyio_bus.testing import cancel_sweep
from anyio_bus.testing.workers.echo import worker as echo_worker
from tests.bus.support import DONE, begin, fifo, log, one_worker, until

ECHO = Pool("echo", [sys.executable, "-m", "anyio_bus.testing.workers.echo"])
MEMORY = Pool("echo", ["memory"])
IN_MEMORY = Memory({"echo": echo_worker})


class Note(msgspec.Struct):
    path: str
    lines: int = 1


async def ask(bus: Bus, method: str, params: object = None, **options: Any) -> Any:
    """Have an echo worker call a method here, and return what it was answered."""
    return await bus.request("ask", {"method": method, "params": params}, **options)


async def refusal(bus: Bus, method: str, params: object = None, **options: Any) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        await ask(bus, method, params, **options)
    return caught.value


async def say(bus: Bus, *lines: str, **options: Any) -> None:
    """Have a scripted worker write lines."""
    assert await bus.request("say", {"lines": [*lines, DONE]}, **options) == "done"


async def answers(bus: Bus, count: int) -> dict[Any, Any]:
    """Wait until a scripted worker has so many answers; return them by id."""
    found: dict[Any, Any] = {}
    with anyio.fail_after(5):
        while len(found) < count:
            lines = [line for line in await log(bus) if "method" not in line]
            found = {line["id"]: line.get("error", line.get("result")) for line in lines}
            assert len(found) == len(lines), "a request was answered twice"
    return found


async def test_handler_answers_a_worker_with_typed_params() -> None:
    async with open_bus(ECHO, grace_s=2) as bus:

        @bus.handler("fs/read")
        async def read(params: Note, context: HandlerContext) -> dict[str, Any]:
            await anyio.lowlevel.checkpoint()
            return {"text": params.path * params.lines, "pool": context.pool}

        @bus.handler("add")
        def add(a: int, b: int = 10) -> int:
            return a + b

        assert await ask(bus, "fs/read", {"path": "x", "lines": 2}) == {
            "text": "xx",
            "pool": "echo",
        }
        assert await ask(bus, "add", {"a": 1}) == 11
        assert await ask(bus, "add", [1, 2]) == 3
        error = await refusal(bus, "fs/read", {"path": 5})
        assert error.code == -32602
        assert "`$.path`" in error.message
        assert bus.statistics().unhandled == 0
        assert bus.statistics().handling == 0


async def test_context_tells_who_asked_what_and_notifies_that_worker() -> None:
    seen: list[Any] = []

    async def handle(context: HandlerContext, **_rest: Any) -> None:
        assert not context.cancelled
        seen.append((context.pool, context.worker, context.method, context.request_id))
        seen.append((context.session, context.meta, context.scope.name))
        await context.notify("progress", {"at": 1})

    async with one_worker() as bus:
        bus.add_handler("ask", handle)
        await say(bus, '{"id":"q","method":"ask","params":{"sessionId":"s","_meta":{"a":1},"b":2}}')
        assert await answers(bus, 1) == {"q": None}
        await say(bus, '{"id":8,"method":"ask","sessionId":"top","params":[]}')
        await answers(bus, 2)
        messages = [m for m in await log(bus) if m.get("method") == "progress"]

    assert seen[:2] == [("w", 0, "ask", "q"), ("s", {"a": 1}, "bus")]
    assert seen[3] == ("top", {}, "bus")
    assert messages[0] == {"jsonrpc": "2.0", "method": "progress", "params": {"at": 1}}


async def test_a_name_wins_over_patterns_and_a_long_pattern_over_a_short_one() -> None:
    patterns = ["*", "fs/*", "fs/read_*", "fs/read_text"]

    def named(answer: str) -> Callable[[], str]:
        return lambda: answer

    handlers = {pattern: named(pattern) for pattern in patterns}
    backend = Memory({"echo": echo_worker, "other": echo_worker})
    async with open_bus(
        MEMORY, Pool("other", ["memory"]), backend=backend, handlers=handlers
    ) as bus:
        called = ["x", "fs/x", "fs/read_x", "fs/read_text"]
        assert [await ask(bus, method, pool="echo") for method in called] == patterns

        remove = bus.add_handler("fs/*", named("for one pool"), pool="other")
        assert await ask(bus, "fs/x", pool="other") == "for one pool"
        assert await ask(bus, "fs/x", pool="echo") == "fs/*"
        remove()
        remove()
        assert await ask(bus, "fs/x", pool="other") == "fs/*"


def broken() -> Any:
    raise ValueError("broken here")


def chosen() -> Any:
    raise RemoteError(404, "no such file", {"path": "x"})


def unencodable() -> Any:
    return object()


def too_large() -> Any:
    return "x" * 5000


def odd() -> Any:
    raise GeneratorExit


async def grouped() -> Any:
    async with anyio.create_task_group():
        chosen()


def awaited() -> Awaitable[int]:
    async def later() -> int:
        await anyio.lowlevel.checkpoint()
        return 5

    return later()


def as_async(function: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def call() -> Any:
        await anyio.lowlevel.checkpoint()
        return function()

    return call


async def test_a_handler_that_fails_costs_that_one_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    functions = [broken, chosen, unencodable, too_large, odd]
    async with one_worker(Limits(max_frame_bytes=4096)) as bus:
        for function in functions:
            bus.add_handler(function.__name__, function)
            bus.add_handler(f"{function.__name__}/async", as_async(function))
        bus.add_handler("grouped", grouped)
        bus.add_handler("awaited", awaited)
        methods = [f.__name__ + kind for f in functions for kind in ("", "/async")]
        methods += ["grouped", "awaited", "nobody"]
        await say(bus, *('{"id":"%s","method":"%s"}' % (m, m) for m in methods))
        got = await answers(bus, len(methods))

    for kind in ("", "/async"):
        assert got["broken" + kind] == {"code": -32603, "message": "ValueError: broken here"}
        assert got["chosen" + kind]["code"] == 404
        assert got["chosen" + kind]["data"] == {"path": "x"}
        assert got["unencodable" + kind]["code"] == -32603
        assert got["too_large" + kind]["code"] == -32054
        assert got["odd" + kind]["code"] == -32603
    assert got["grouped"]["code"] == 404
    assert got["awaited"] == 5
    assert got["nobody"]["code"] == -32601
    [told, _] = [r for r in caplog.records if "'broken" in r.getMessage()]
    assert told.exc_info is not None
    assert "w/0" in told.getMessage()


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_ctrl_c_and_exits_in_a_handler_are_answered_and_end_the_block(
    kind: str, error: type[BaseException]
) -> None:
    heard: list[Any] = []

    def leave() -> None:
        raise error

    # On asyncio a task that raises one of these leaves the loop at once; ours must not.
    with pytest.raises(error):
        async with open_bus(MEMORY, backend=Memory({"echo": asking(heard, 1)}), grace_s=2) as bus:
            bus.add_handler("ask", leave if kind == "plain" else as_async(leave))
            await bus.notify("begin")
            await anyio.sleep_forever()
    assert [message["error"]["code"] for message in heard] == [-32603]


def asking(
    heard: list[Any], count: int, method: str = "ask"
) -> Callable[
    [Callable[[], Awaitable[bytes]], Callable[[bytes], Awaitable[None]]], Awaitable[None]
]:
    """Make a worker that asks so many things at its first input, and keeps every answer."""

    async def serve(
        receive: Callable[[], Awaitable[bytes]], send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        await receive()
        for number in range(count):
            await send(b'{"id":%d,"method":"%s"}\n' % (number, method.encode()))
        while data := await receive():
            heard.extend(msgspec.json.Decoder().decode_lines(data))

    return serve


class Gate:
    """A handler that waits until it is opened; it counts what is in it, and what was cancelled."""

    def __init__(self) -> None:
        self.opened = anyio.Event()
        self.inside = 0
        self.cancelled = 0

    async def __call__(self, context: HandlerContext) -> str:
        self.inside += 1
        try:
            await self.opened.wait()
        except anyio.get_cancelled_exc_class():
            assert context.cancelled
            self.cancelled += 1
            raise
        finally:
            self.inside -= 1
        return "through"


async def test_more_requests_than_the_limit_are_refused_at_once() -> None:
    async with one_worker(Limits(max_handlers=3)) as bus:
        gate = Gate()
        bus.add_handler("ask", gate)
        await say(bus, *('{"id":%d,"method":"ask"}' % i for i in range(100)))
        refused = await answers(bus, 97)
        assert {error["code"] for error in refused.values()} == {-32053}
        assert all("max_handlers=3" in error["message"] for error in refused.values())
        assert gate.inside == bus.statistics().handling == 3

        gate.opened.set()
        assert list((await answers(bus, 100)).values()).count("through") == 3
        await say(bus, '{"id":"next","method":"ask"}')
        assert (await answers(bus, 101))["next"] == "through"


@pytest.mark.parametrize(
    ("notice", "answer"),
    [
        ('{"method":"$/cancelRequest","params":{"id":7}}', -32800),
        ('{"method":"$/cancel_request","params":{"requestId":7}}', -32800),
        ('{"method":"notifications/cancelled","params":{"requestId":7}}', None),
    ],
)
async def test_worker_cancels_its_request_in_any_profile(notice: str, answer: int | None) -> None:
    async with one_worker() as bus:
        gate = Gate()
        bus.add_handler("ask", gate)
        await say(bus, '{"id":7,"method":"ask"}', '{"id":"7","method":"ask"}')
        await until(lambda: gate.inside == 2)
        await say(bus, notice)
        await until(lambda: gate.cancelled == 1)
        gate.opened.set()
        if answer is None:
            assert await answers(bus, 1) == {"7": "through"}
        else:
            got = await answers(bus, 2)
            assert got[7]["code"] == answer
            assert got["7"] == "through"
        assert bus.statistics().unhandled == 0
        await say(bus, notice, notice.replace("7", "[7]"), notice.replace('"params"', '"x"'))
        assert bus.statistics().unhandled == 3  # nothing of that kind runs any more


async def test_a_handler_can_follow_what_its_worker_says_next() -> None:
    async with one_worker() as bus:
        heard: list[Notification] = []

        @bus.handler("ask")
        def follow() -> None:
            bus.on_notification(heard.append, "news")

        await say(bus, '{"method":"news"}', '{"id":1,"method":"ask"}', '{"method":"news"}')
        await until(lambda: bus.statistics().handling == 0)
        assert len(heard) == 1
        assert bus.statistics().unhandled == 1


async def test_worker_cancels_its_request_whose_id_is_null() -> None:
    async with one_worker() as bus:
        gate = Gate()
        bus.add_handler("ask", gate)
        await say(bus, '{"id":null,"method":"ask"}')
        await until(lambda: gate.inside == 1)
        await say(bus, '{"method":"$/cancelRequest","params":{"id":null}}')
        await until(lambda: gate.cancelled == 1)
        assert bus.statistics().unhandled == 0


async def test_cancelled_handler_that_takes_its_time_is_answered_at_once_and_once() -> None:
    async with one_worker() as bus, bus.open_scope(name="turn") as scope:
        begun, ended = anyio.Event(), anyio.Event()

        @bus.handler("ask", scope=scope)
        async def stubborn() -> str:
            begun.set()
            with anyio.CancelScope(shield=True):
                await ended.wait()
            return "too late"

        await say(bus, '{"id":1,"method":"ask"}')
        await until(begun.is_set)
        scope.cancel("no more")
        got = await answers(bus, 1)
        assert got[1] == {"code": -32800, "message": "cancelled: no more"}
        assert bus.statistics().handling == 1
        ended.set()
        await until(lambda: bus.statistics().handling == 0)
        assert len(await answers(bus, 1)) == 1


async def test_handler_ends_with_the_scope_that_it_was_registered_in() -> None:
    async with one_worker() as bus:
        gate = Gate()
        bus.add_handler("*", lambda: "another")
        async with bus.open_scope() as scope:
            bus.add_handler("ask", gate, scope=scope)
            await say(bus, '{"id":1,"method":"ask"}', '{"id":2,"method":"other"}')
            await until(lambda: gate.inside == 1)
        await until(lambda: gate.cancelled == 1)
        await say(bus, '{"id":3,"method":"ask"}')
        got = await answers(bus, 3)
        assert got[1]["message"] == "cancelled: scope closed"
        assert got[2] == got[3] == "another"

        bus.scope.cancel("all of it")
        with pytest.raises(Exception, match="all of it"):
            await bus.request("echo")


async def test_handler_is_cancelled_when_its_worker_dies_and_no_successor_is_answered() -> None:
    async with one_worker() as bus:
        context: list[HandlerContext] = []
        ended = anyio.Event()
        go_on = anyio.Event()

        @bus.handler("ask")
        async def handle(own: HandlerContext) -> str:
            context.append(own)
            with anyio.CancelScope(shield=True):  # it does not heed that it is cancelled
                await go_on.wait()
                with pytest.raises(WorkerLostError, match="gone"):
                    await own.notify("too late")
            ended.set()
            return "never"

        await say(bus, '{"id":1,"method":"ask"}')
        await until(lambda: context)
        await bus.notify("die")
        await until(lambda: context[0].cancelled)
        assert await bus.request("echo", [1]) == [1]
        assert bus.workers()[0].generation == 2
        go_on.set()
        with anyio.fail_after(5):
            await ended.wait()
        await until(lambda: bus.statistics().handling == 0)
        assert [line for line in await log(bus) if "id" in line and "method" not in line] == []


async def test_stop_tells_workers_before_it_closes_their_input() -> None:
    heard: list[Any] = []
    gate = Gate()
    async with open_bus(MEMORY, backend=Memory({"echo": asking(heard, 2)}), grace_s=2) as bus:
        bus.add_handler("ask", gate)
        await bus.notify("begin")
        await until(lambda: gate.inside == 2)
    assert [message["error"]["code"] for message in heard] == [-32055, -32055]
    assert gate.cancelled == 2


async def test_stop_that_drains_lets_handlers_finish() -> None:
    heard: list[Any] = []
    gate = Gate()
    async with (
        open_bus(MEMORY, backend=Memory({"echo": asking(heard, 2)}), grace_s=2) as bus,
        anyio.create_task_group() as tasks,
    ):
        bus.add_handler("ask", gate)
        await bus.notify("begin")
        await until(lambda: gate.inside == 2)
        tasks.start_soon(lambda: bus.stop(drain_s=10, grace_s=2))
        await until(lambda: bus.state == "stopping")
        gate.opened.set()
    assert [message["result"] for message in heard] == ["through"] * 2


async def test_handler_that_does_not_end_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyio_bus._bus.lifetime.HANDLERS_S", 0.01)
    begun, may_end = anyio.Event(), anyio.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "did not end: ask" in record.getMessage():
                may_end.set()

    listener = Listener()
    logging.getLogger("anyio_bus").addHandler(listener)
    try:
        async with open_bus(MEMORY, backend=Memory({"echo": asking([], 1)}), grace_s=2) as bus:

            @bus.handler("ask")
            async def stuck() -> None:
                begun.set()
                with anyio.CancelScope(shield=True):
                    await may_end.wait()

            await bus.notify("begin")
            await until(begun.is_set)
    finally:
        logging.getLogger("anyio_bus").removeHandler(listener)
    assert may_end.is_set()


async def test_chain_through_handlers_deeper_than_the_limit_is_refused_not_stuck() -> None:
    async with open_bus(MEMORY, backend=IN_MEMORY, limits=Limits(max_handlers=8), grace_s=2) as bus:

        @bus.handler("down")
        async def down(depth: int) -> int:
            if depth == 0:
                return 0
            params = {"method": "down", "params": {"depth": depth - 1}}
            return 1 + await bus.request("ask", params, reply=int)

        with anyio.fail_after(5):
            assert await ask(bus, "down", {"depth": 7}) == 7
            assert (await refusal(bus, "down", {"depth": 8})).code == -32053
            assert await ask(bus, "down", {"depth": 7}) == 7


async def test_annotations_may_name_classes_of_the_surrounding_function() -> None:
    class Local(msgspec.Struct):
        a: int

    async def twice(params: Local, context: HandlerContext) -> Any:
        return await context.bus.request("echo", {"twice": 2 * params.a})

    async with open_bus(MEMORY, backend=IN_MEMORY) as bus:
        bus.add_handler("called", twice)
        bus.handler("decorated")(twice)
        for method in ("called", "decorated"):
            assert await ask(bus, method, {"a": 2}) == {"twice": 4}


async def test_handler_asks_the_worker_that_asked_even_if_all_its_slots_are_taken_but_one() -> None:
    pool = msgspec.structs.replace(ECHO, max_in_flight=2)
    async with open_bus(pool, grace_s=2) as bus:

        @bus.handler("nested")
        async def nested(text: str) -> str:
            return await bus.request("echo", {"text": text}, reply=dict[str, str])  # type: ignore[return-value]

        with anyio.fail_after(5):
            assert await ask(bus, "nested", {"text": "hi"}) == {"text": "hi"}


async def test_answers_that_a_worker_does_not_read_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(max_output_bytes=4096)
    async with one_worker(limits, max_in_flight=0) as bus, anyio.create_task_group() as tasks:
        gate = Gate()

        @bus.handler("ask")
        async def big(context: HandlerContext) -> str:
            await gate(context)
            return "x" * 400_000

        await say(bus, *('{"id":%d,"method":"ask"}' % i for i in range(10)))
        with fifo(tmp_path / "gate") as go_on:
            params = {"fifo": str(tmp_path / "gate")}
            stalled = begin(tasks, lambda: bus.request("stall", params))
            await until(lambda: bus.statistics().kernel.live_requests == 1)  # before any answer
            gate.opened.set()
            await until(lambda: bus.statistics().dropped_answers > 0)
            await until(lambda: bus.statistics().handling == 0)
            go_on()
            assert await stalled.wait() == "stalled"
        dropped = bus.statistics().dropped_answers
        assert 0 < dropped < 10
        await until(lambda: bus.statistics().kernel.queued_requests == 0)
        assert await bus.request("echo", [1]) == [1]
        assert len(await answers(bus, 10 - dropped)) == 10 - dropped
    assert sum("is dropped" in record.getMessage() for record in caplog.records) == dropped


async def test_wrong_registrations_are_refused_by_name() -> None:
    async def fine() -> None: ...

    def unfit(*args: int) -> None: ...

    async with (
        open_bus(MEMORY, backend=IN_MEMORY) as bus,
        open_bus(MEMORY, backend=IN_MEMORY) as other,
    ):
        bus.add_handler("a", fine)
        wrong: list[tuple[Any, Any, dict[str, Any], str]] = [
            ("a", fine, {}, "has a function already"),
            ("", fine, {}, "pattern must be"),
            (5, fine, {}, "pattern must be"),
            ("b", 5, {}, "not callable"),
            ("b", unfit, {}, "'args'"),
            ("b", fine, {"scope": other.scope}, "another bus"),
            ("b", fine, {"scope": "x"}, "scope"),
        ]
        for pattern, function, options, words in wrong:
            with pytest.raises(InvalidArgumentError, match=words):
                bus.add_handler(pattern, function, **options)
        with pytest.raises(UnknownPoolError, match="'nowhere'"):
            bus.handler("b", pool="nowhere")(fine)
        with pytest.raises(InvalidArgumentError, match=r'@bus.handler\("fine"\)'):
            bus.handler(fine)  # type: ignore[arg-type]

    for handlers in ({"a": 5}, [fine]):
        with pytest.raises(InvalidArgumentError):
            async with open_bus(MEMORY, backend=IN_MEMORY, handlers=handlers):  # type: ignore[arg-type]
                pytest.fail("opened")
    with pytest.raises(TypeError, match="made by the bus"):
        HandlerContext()


async def test_cancelled_anywhere_a_bus_with_handlers_leaves_nothing() -> None:
    async def converse() -> None:
        async with open_bus(MEMORY, backend=IN_MEMORY, grace_s=0.1) as bus:

            @bus.handler("up")
            async def up(n: int) -> int:
                return await bus.request("echo", [n + 1], reply=list[int])  # type: ignore[return-value]

            assert await ask(bus, "up", {"n": 1}) == [2]

    assert await cancel_sweep(converse) > 10


async def test_request_that_is_cancelled_with_the_same_write_never_begins(
    request: pytest.FixtureRequest,
) -> None:
    begun: list[int] = []
    finished: list[int] = []

    async def handle() -> None:
        begun.append(1)
        await anyio.lowlevel.checkpoint()
        finished.append(1)

    def made() -> Awaitable[None]:
        begun.append(1)
        return handle()

    async with one_worker() as bus:
        bus.add_handler("ask", handle)
        bus.add_handler("made", made)
        cancel = '{"method":"$/cancelRequest","params":{"id":%d}}'
        asked = ['{"id":1,"method":"ask"}', '{"id":2,"method":"made"}']
        await say(bus, *asked, cancel % 1, cancel % 2)
        got = await answers(bus, 2)
        assert {error["code"] for error in got.values()} == {-32800}
        await until(lambda: bus.statistics().handling == 0)
    assert finished == []
    if "eager" not in request.node.name:  # a task that is eager begins before anything else is read
        assert len(begun) == 2  # the plain function, and what it made


async def test_handler_may_stop_the_bus() -> None:
    async with one_worker() as bus:
        ended = anyio.Event()

        @bus.handler("enough")
        async def enough(context: HandlerContext) -> None:
            try:
                await context.bus.stop(grace_s=2)
            finally:
                ended.set()

        await bus.notify("say", {"lines": ['{"id":1,"method":"enough"}']})
        with anyio.fail_after(5):
            await ended.wait()
            await bus.stop()
        assert bus.state == "stopped"


async def test_worker_that_asks_before_it_answers_its_handshake_is_answered() -> None:
    async def serve(
        receive: Callable[[], Awaitable[bytes]], send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        hello = msgspec.json.decode(await receive())
        await send(b'{"id":1,"method":"roots/list"}\n')
        roots = msgspec.json.decode(await receive())["result"]
        await send(msgspec.json.encode({"id": hello["id"], "result": {}}) + b"\n")
        call = msgspec.json.decode(await receive())
        await send(msgspec.json.encode({"id": call["id"], "result": roots}) + b"\n")
        await receive()

    pool = Pool("echo", ["memory"], ready=Handshake("initialize", timeout_s=5))
    handlers = {"roots/list": lambda: ["/home"]}
    async with open_bus(pool, backend=Memory({"echo": serve}), handlers=handlers) as bus:
        assert await bus.request("roots") == ["/home"]
