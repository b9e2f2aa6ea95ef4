"""The asynchronous client: its life, its calls, and what workers see of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyio_bus import open_bus
from anyio_bus import stdiobus as s
from anyio_bus.stdiobus.types import ExtensionInfo
from anyio_bus.testing import cancel_sweep
from tests.bus.support import Outcome, begin, scripted, until
from tests.stdiobus.support import client, config, pool

pytestmark = pytest.mark.usefixtures("kernel")


async def seen(bus: s.AsyncStdioBus, **options: Any) -> list[Any]:
    """Return what the worker was sent."""
    return [json.loads(line) for line in await bus.request("log", **options)]


# -- its life ------------------------------------------------------------------------------------


async def test_a_block_starts_and_stops_it() -> None:
    bus = client()
    assert (bus.get_state(), bus.is_running(), bus.get_worker_count()) == (0, False, 0)
    async with bus as same:
        assert same is bus
        assert (bus.get_state(), bus.is_running(), bus.get_worker_count()) == (2, True, 1)
        answer = await bus.request("echo", {"message": "hello"})
        assert answer["params"] == {"message": "hello"}
        await until(lambda: bus.get_stats().messages_in)  # a report, where that is elsewhere
        stats = bus.get_stats()
        assert (stats.messages_in, stats.messages_out, stats.client_connects) == (1, 1, 0)
        assert stats.bytes_in > stats.bytes_out > 0
    assert (bus.get_state(), bus.get_worker_count()) == (s.BusState.STOPPED, 0)
    assert bus.get_stats().messages_out == 1


async def test_one_task_may_start_it_and_another_one_stop_it() -> None:
    bus = client()
    async with anyio.create_task_group() as tasks:  # noqa: ASYNC112  # a task that is not this one
        tasks.start_soon(bus.start)
    assert (await bus.request("echo"))["method"] == "echo"
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(bus.stop, 2.0)
    assert bus.get_state() is s.BusState.STOPPED
    await bus.stop()  # again: nothing
    bus.destroy()


async def test_a_bus_is_started_once_and_used_in_between() -> None:
    bus = client()
    with pytest.raises(s.InvalidStateError, match="Bus not running"):
        await bus.request("echo")
    with pytest.raises(s.InvalidStateError):
        await bus.notify("note")
    with pytest.raises(s.InvalidStateError):
        await anext(bus.stream_request("prompt"))
    assert bus.send("{}") is False
    async with bus:
        with pytest.raises(s.InvalidStateError):
            await bus.start()
    for use in (bus.start, bus.hello, lambda: bus.request("echo")):
        with pytest.raises(s.InvalidStateError):
            await use()
    assert bus.send('{"method":"x"}') is False

    never = client()
    await never.stop()
    assert never.get_state() is s.BusState.STOPPED


async def test_a_stop_fails_what_is_in_flight_first() -> None:
    bus = client()
    await bus.start()
    hung = bus.subscribe_notifications()
    async with anyio.create_task_group() as tasks:
        call = begin(tasks, lambda: bus.request("hang"))
        stream = begin(tasks, lambda: anext(bus.stream_request("hang")))
        for _ in range(2):
            assert (await anext(hung))["method"] == "hanging"
        with anyio.fail_after(5):
            await bus.stop(timeout_sec=2)
    for failed in (call, stream):
        assert isinstance(failed.error, s.TransportError)
        assert str(failed.error) == "[TRANSPORT_ERROR] Bus is shutting down"
    with pytest.raises(StopAsyncIteration):
        await anext(hung)


async def test_destroy_ends_it_without_a_wait() -> None:
    bus = client()
    await bus.start()
    async with anyio.create_task_group() as tasks:
        call = begin(tasks, lambda: bus.request("hang"))
        await anext(bus.subscribe_notifications())
        bus.destroy()
        assert bus.get_state() is s.BusState.STOPPED
    assert isinstance(call.error, s.TransportError)
    with anyio.fail_after(5):
        await bus.stop()  # nothing is left afterwards
    assert bus.get_worker_count() == 0


async def test_a_cancelled_block_ends_its_workers() -> None:
    bus = client()

    async def block() -> None:
        async with bus:
            await bus.request("hang")

    hung = bus.subscribe_notifications()
    async with anyio.create_task_group() as tasks:
        cancelled = begin(tasks, block)
        await anext(hung)
        cancelled.scope.cancel()
    assert cancelled.error is None
    assert (bus.get_state(), bus.get_worker_count()) == (s.BusState.STOPPED, 0)


async def test_a_cancelled_start_leaves_nothing() -> None:
    bus = client()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await bus.start()
    assert bus.get_state() is s.BusState.STOPPED
    with anyio.fail_after(5):
        await bus.stop()


def test_nothing_outlives_the_loop_where_nobody_stops_it(anyio_backend: Any) -> None:
    bus = client()

    async def program() -> int:
        await bus.start()
        return int(await bus.request("pid"))

    name, options = anyio_backend
    anyio.run(program, backend=name, backend_options=options)
    assert bus.get_state() is s.BusState.STOPPED
    assert bus.get_worker_count() == 0  # and the net under each test looks for the process


async def test_a_stop_ends_a_start_as_well() -> None:
    bus = client()
    async with anyio.create_task_group() as tasks:
        started = begin(tasks, bus.start)
        while bus.get_state() is s.BusState.CREATED:  # noqa: ASYNC110
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(5):
            await bus.stop(2)
    assert isinstance(started.error, s.InvalidStateError)
    assert (bus.get_state(), bus.get_worker_count()) == (s.BusState.STOPPED, 0)


# Each step is a life of real processes, and uvloop's are asyncio's.
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"debug": True}), ("trio", {})])
async def test_a_life_cancelled_at_any_step_leaves_nothing() -> None:
    async def life() -> None:
        async with client():
            pass

    assert await cancel_sweep(life) > 2


async def test_calls_cancelled_at_any_step_leave_nothing_in_flight() -> None:
    async with client() as bus:

        async def calls() -> None:
            await bus.hello()
            await bus.notify("note")
            stream = bus.stream_request("prompt", {"texts": ["a"], "result": {}})
            assert [event.data async for event in stream] == ["a", {"text": "a"}]

        async def check() -> None:
            assert (await bus.request("echo"))["method"] == "echo"
            assert bus._keeper is not None
            assert bus._keeper.buses["agent"].statistics().pending == 0

        assert await cancel_sweep(calls, check=check) > 5


async def test_the_body_s_error_comes_out_bare() -> None:
    with pytest.raises(ZeroDivisionError):
        async with client():
            raise ZeroDivisionError


# -- what it is made with ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "config"),
        ({"config": config(), "config_path": "bus.json"}, "config_path"),
        ({"config": config(), "backend": "steam"}, "backend"),
        ({"config": config(), "timeout_ms": 0}, "timeout_ms"),
        ({"config": config(), "timeout_ms": "1"}, "timeout_ms"),
        ({"config": config("a", "a")}, "a"),
        ({"config": config(), "docker": s.DockerOptions(pull_policy="maybe")}, "pull_policy"),
        ({"config": config(), "native": s.NativeOptions("tcp")}, "tcp_port"),
        ({"config": s.BusConfig([pool()], s.LimitsConfig(max_restarts=-1))}, "max_restarts"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(s.InvalidArgumentError, match=field):
        s.AsyncStdioBus(**arguments)


async def test_a_configuration_file_is_read(tmp_path: Any) -> None:
    path = tmp_path / "bus.json"
    with pytest.raises(s.TransportError, match=r"Config file not found: .*bus.json"):
        s.AsyncStdioBus(config_path=path)
    path.write_text(config(instances=2).to_json())
    async with s.AsyncStdioBus(config_path=str(path)) as bus:
        assert bus.get_worker_count() == 2
        assert (await bus.request("echo"))["sessionId"] == bus.client_session_id


async def test_variables_of_the_subprocess_options_reach_the_workers() -> None:
    options = s.SubprocessOptions(env={"TOKEN_OF_TEST": "x"}, start_timeout_sec=1)
    async with client(subprocess=options) as bus:
        assert await bus.request("env", {"name": "TOKEN_OF_TEST"}) == "x"


async def test_auto_is_a_kernel_of_this_process_and_says_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ANYIO_BUS_BACKEND")
    async with open_bus(scripted()) as ours:
        best = ours.backend
    for backend, name in (("auto", best), (s.BackendMode.AUTO, best), ("python", "python")):
        bus = client(backend=backend, native=s.NativeOptions(poll_interval_ms=50))
        assert bus.get_backend_type() == backend
        async with bus:
            assert bus.get_backend_type() == name
        assert bus.get_backend_type() == name
        assert bus.get_listen_mode() is s.ListenMode.NONE
        assert bus.get_client_count() == 0


async def test_each_backend_is_the_one_that_is_asked_for(kernel: str) -> None:
    async with client(backend=kernel) as bus:
        assert bus.get_backend_type() == kernel
        assert (await bus.request("echo", {"x": 1}))["params"] == {"x": 1}


async def test_a_daemon_that_is_not_there_says_so_at_the_start(tmp_path: Path) -> None:
    options = s.SubprocessOptions(binary_path=str(tmp_path / "daemon"))
    bus = client(backend="subprocess", subprocess=options)
    assert bus.get_backend_type() == "subprocess"
    with pytest.raises(s.TransportError, match="cannot be started"):
        await bus.start()
    assert bus.get_state() is s.BusState.STOPPED


async def test_a_kernel_in_c_that_is_not_there_says_so_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anyio_bus._backends.native.lib", None)
    for options in ({"backend": "native"}, {"native": s.NativeOptions("tcp", tcp_port=9000)}):
        bus = client(**options)
        with pytest.raises(s.NotSupportedError, match="native"):
            await bus.start()
        assert bus.get_state() is s.BusState.STOPPED


async def test_a_container_needs_an_engine(tmp_path: Path) -> None:
    options = s.DockerOptions(image="any", engine_path=str(tmp_path / "engine"))
    bus = client(backend="docker", docker=options)
    assert bus.get_backend_type() == "docker"
    with pytest.raises(s.NotSupportedError, match="engine is no program"):
        await bus.start()
    assert bus.get_state() is s.BusState.STOPPED
    with pytest.raises(s.InvalidArgumentError, match="image"):
        client(backend="docker", docker=s.DockerOptions(image=""))


def test_what_cannot_listen_is_refused_at_once(kernel: str) -> None:
    listen = s.NativeOptions("tcp", tcp_port=9000)
    for backend in ("subprocess", "docker", "python"):
        with pytest.raises(s.InvalidArgumentError, match="listen_mode"):
            client(backend=backend, native=listen)
    with pytest.raises(s.InvalidArgumentError, match="several pools"):
        client("a", "b", native=listen)
    with pytest.raises(s.InvalidArgumentError, match="beyond this machine"):
        client(native=s.NativeOptions("tcp", tcp_host="0.0.0.0", tcp_port=9000))
    for host in ("127.0.0.1", "::1", "localhost"):
        bus = client(native=s.NativeOptions("tcp", tcp_host=host, tcp_port=9000))
        assert (bus.get_backend_type(), bus.get_listen_mode()) == ("native", "tcp")


# -- requests ------------------------------------------------------------------------------------


async def test_the_wire_is_that_of_the_client() -> None:
    options = s.RequestOptions(
        agent_id="agent-42",
        identity=s.Identity("user-123", "operator"),
        audit=s.AuditEvent("evt-1", "session/update"),
    )
    async with client() as bus:
        own = bus.client_session_id
        assert re.fullmatch(r"client-\d{13}-[a-z0-9]{6}", own)
        await bus.request("echo", {"x": 1})
        await bus.request("echo", {}, session_id="s", options=s.RequestOptions(session_id="t"))
        await bus.request("echo", options=options)
        await bus.notify("note", {"y": 2})
        await bus.notify("note", options=s.RequestOptions(session_id="t", agent_id="a"))
        messages = await seen(bus)

    ids = [message.pop("id") for message in messages[:3]]
    assert len(set(ids)) == 3
    assert all(isinstance(id_, str) and id_ for id_ in ids)
    base = {"jsonrpc": "2.0"}
    ext = {
        "identity": {"subjectId": "user-123", "role": "operator", "assertedBy": "self"},
        "audit": {"eventId": "evt-1", "action": "session/update"},
    }
    assert messages == [
        {**base, "method": "echo", "params": {"x": 1}, "sessionId": own},
        {**base, "method": "echo", "sessionId": "s"},
        {**base, "method": "echo", "sessionId": own, "agentId": "agent-42", "_ext": ext},
        {**base, "method": "note", "params": {"y": 2}, "sessionId": own},
        {**base, "method": "note", "sessionId": "t", "agentId": "a"},
    ]


async def test_the_client_s_own_session_keeps_its_calls_on_one_worker() -> None:
    async with s.AsyncStdioBus(config(instances=2)) as bus:
        pids = {await bus.request("pid") for _ in range(6)}
        assert len(pids) == 1
        others = {await bus.request("pid", session_id=f"s{n}") for n in range(2)}
        assert len(pids | others) == 2


async def test_a_hello_names_the_worker_s_session() -> None:
    bus = client()
    asked = s.HelloParams(extensions={"identity": ExtensionInfo("1", required=True)})
    try:
        result = await bus.connect(asked)
        assert result == s.HelloResult(
            "0.1.0", "agent-session", {"identity": ExtensionInfo("1", active=True)}
        )
        assert bus.agent_session_id == "agent-session"
        assert (await bus.hello()).extensions == {}
        assert (await seen(bus))[0]["method"] == "stdio_bus/hello"
    finally:
        await bus.stop()  # noqa: ASYNC102

    async with client() as plain:
        assert plain.agent_session_id is None


async def test_connect_without_params_only_starts() -> None:
    bus = client()
    assert await bus.connect() is None
    assert await seen(bus) == []
    await bus.stop()


async def test_a_worker_s_error_is_raised_by_its_number() -> None:
    async with client() as bus:
        for error, cls in [
            ({"code": 7, "message": "no", "data": {"why": "so"}}, s.PolicyDeniedError),
            ({"code": 6, "message": "no"}, s.NegotiationFailedError),
            ({"code": -32601, "message": "no", "data": [1]}, s.InternalError),
        ]:
            with pytest.raises(s.StdioBusError) as caught:
                await bus.request("fail", error)
            assert type(caught.value) is cls
            assert (caught.value.message, caught.value.details) == ("no", error.get("data"))


async def test_an_answer_that_is_late_is_a_timeout_and_the_worker_hears_nothing_of_it() -> None:
    async with client(timeout_ms=50) as bus:
        for options in ({}, {"timeout_ms": 20}, {"options": s.RequestOptions(timeout_ms=20)}):
            with pytest.raises(s.TimeoutError) as caught:
                await bus.request("hang", **options)
            assert str(caught.value) == "[TIMEOUT] Request timeout: hang"
        log = await seen(bus, timeout_ms=5000)
        assert [message["method"] for message in log] == ["hang"] * 3


async def test_a_dead_worker_fails_its_requests_and_the_session_goes_on_with_the_next() -> None:
    async with client() as bus:
        pid = await bus.request("pid")
        with anyio.fail_after(5):
            with pytest.raises(s.TransportError) as caught:
                await bus.request("die")
            assert caught.value.details["exit_code"] == 3
            assert "told to die" in caught.value.details["stderr_tail"]
            assert await bus.request("pid") != pid
        await until(lambda: bus.get_stats().worker_restarts == 1)


async def test_a_session_of_a_dead_worker_is_told_once_and_begins_anew() -> None:
    async with client() as bus:
        for session in ("lost", bus.client_session_id):
            assert await bus.request("pid", session_id=session)
        with anyio.fail_after(5):
            with pytest.raises(s.TransportError):
                await bus.request("die")
            with pytest.raises(s.TransportError, match="lost") as caught:
                await bus.request("pid", session_id="lost")
            assert caught.value.details["session"] == "lost"
            assert await bus.request("pid", session_id="lost") == await bus.request("pid")


async def test_a_worker_that_cannot_start_is_unavailable_with_the_reason() -> None:
    missing = s.BusConfig([s.PoolConfig("agent", "no-such-program-of-ours")])
    async with s.AsyncStdioBus(missing) as bus:
        with anyio.fail_after(5), pytest.raises(s.UnavailableError, match="no-such-program"):
            await bus.request("echo")


async def test_what_cannot_be_sent_is_refused() -> None:
    async with client() as bus:
        for call in (
            lambda: bus.request("echo", {"x": object()}),
            lambda: bus.request("echo", timeout_ms=-1),
            lambda: bus.notify("note", {"x": {1, object()}}),
            lambda: bus.stop("soon"),  # type: ignore[arg-type]
        ):
            with pytest.raises(s.InvalidArgumentError):
                await call()
        assert await seen(bus) == []


async def test_one_of_several_pools_is_named_by_the_call_or_by_its_agent() -> None:
    async with client("a", "b") as bus:
        assert bus.get_worker_count() == 2
        a, b = [await bus.request("pid", pool_id=id_) for id_ in "ab"]
        assert a != b
        assert await bus.request("pid", options=s.RequestOptions(agent_id="b")) == b
        assert (await bus.hello(pool_id="a")).session_id == "agent-session"
        with pytest.raises(s.InvalidArgumentError, match=r"pool_id.*'a', 'b'"):
            await bus.request("pid")
        with pytest.raises(s.InvalidArgumentError, match="'c'"):
            await bus.request("pid", pool_id="c")


async def test_a_cancelled_request_is_withdrawn() -> None:
    async with client() as bus, anyio.create_task_group() as tasks:
        call: Outcome = begin(tasks, lambda: bus.request("hang"))
        await anext(bus.subscribe_notifications())
        call.scope.cancel()
        assert (await bus.request("echo"))["method"] == "echo"


# -- chunks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"stop": "end"}, {"stop": "end", "text": "to be or not"}),
        ({"text": "old"}, {"text": "to be or not"}),
        (None, None),
        (["list"], ["list"]),
    ],
)
async def test_the_text_of_the_chunks_replaces_the_result_s(result: Any, expected: Any) -> None:
    params = {"texts": ["to be", " or ", "not"], "result": result}
    async with client() as bus:
        assert await bus.request("prompt", params) == expected
        events = [event async for event in bus.stream_request("prompt", params)]

    assert [event.type for event in events] == ["chunk", "chunk", "chunk", "result"]
    assert [event.text for event in events] == ["to be", " or ", "not", None]
    assert events[-1].result == expected


async def test_a_result_keeps_its_text_where_no_chunk_came() -> None:
    async with client() as bus:
        params: dict[str, Any] = {"texts": [], "result": {"text": "own"}}
        assert await bus.request("prompt", params) == {"text": "own"}
        [event] = [event async for event in bus.stream_request("prompt", params)]
        assert event.data == {"text": "own"}


async def test_joined_text_is_bounded_as_frames_are() -> None:
    limits = s.LimitsConfig(max_input_buffer=1000)
    params = {"texts": ["x" * 400], "times": 3}
    async with s.AsyncStdioBus(s.BusConfig([pool()], limits)) as bus:
        with pytest.raises(s.ResourceExhaustedError, match="max_input_buffer"):
            await bus.request("prompt", params)
        with pytest.raises(s.ResourceExhaustedError, match="max_input_buffer"):
            [event async for event in bus.stream_request("prompt", params)]


async def test_any_number_of_streams_run_at_once() -> None:
    texts: dict[int, str] = {}

    async def follow(bus: s.AsyncStdioBus, number: int) -> None:
        params = {"texts": [f"{number}."] * 50, "result": {}}
        async for event in bus.stream_request("prompt", params, session_id=f"s{number}"):
            if event.type == s.StreamEventType.RESULT:
                texts[number] = event.result["text"]

    async with s.AsyncStdioBus(config(instances=2)) as bus:
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(follow, bus, number)
    assert texts == {number: f"{number}." * 50 for number in range(8)}


async def test_calls_of_one_session_at_once_get_each_its_own_text() -> None:
    answers: dict[int, Any] = {}

    async def ask(bus: s.AsyncStdioBus, number: int) -> None:
        params = {"texts": [f"{number}."] * 50, "result": {}}
        answers[number] = await bus.request("prompt", params)

    async with client() as bus:
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(ask, bus, number)
    assert answers == {number: {"text": f"{number}." * 50} for number in range(8)}


async def test_a_first_argument_may_name_the_pool_of_a_stream() -> None:
    params = {"texts": ["x"], "result": {}}
    async with client("a", "b") as bus:
        events = [event async for event in bus.stream_request("b", "prompt", params)]
        assert events[-1].result == {"text": "x"}
        assert [message["method"] for message in await seen(bus, pool_id="b")] == ["prompt"]
        with pytest.raises(s.InvalidArgumentError):
            bus.stream_request("prompt", params, "more")


@pytest.mark.parametrize("end", ["drop", "aclose"])
async def test_a_stream_that_is_left_is_over(end: str) -> None:
    async with client() as bus:
        stream = bus.stream_request("half")
        async for event in stream:
            assert event.text == "half"
            break
        if end == "drop":
            del stream
        else:
            await stream.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        await bus.request("echo")
        ours = bus._keeper.buses["agent"]  # type: ignore[union-attr]
        await ours.refresh()
        counted = ours.statistics()
        assert (counted.pending, counted.kernel.withdrawn) == (0, 1)


async def test_a_reader_that_is_cancelled_cancels_its_stream() -> None:
    async with client() as bus:
        stream = bus.stream_request("half")
        assert (await anext(stream)).text == "half"
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert bus._keeper is not None
        assert bus._keeper.buses["agent"].statistics().pending == 0


async def test_a_stream_ends_with_the_worker_s_error_or_its_timeout() -> None:
    async with client() as bus:
        with pytest.raises(s.PolicyDeniedError):
            await anext(bus.stream_request("fail", {"code": 7, "message": "no"}))
        stream = bus.stream_request("half", timeout_ms=50)
        assert (await anext(stream)).text == "half"
        with pytest.raises(s.TimeoutError, match="Request timeout: half"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
