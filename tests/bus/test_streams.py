"""Streams: chunks come in order to the one they belong to, and a slow reader stalls itself alone."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from anyio_bus import (
    Bus,
    Chunk,
    InvalidArgumentError,
    Limits,
    Pool,
    RemoteError,
    RequestTimeoutError,
    ScopeCancelledError,
    StreamOverflowError,
    open_bus,
)
from tests.bus.support import (
    DONE,
    QUIET_LOOPS,
    WAIT_S,
    begin,
    log,
    methods,
    one_worker,
    scripted,
    until,
)

STREAMING = Path(__file__).parent / "workers" / "streaming.py"
BARE = '{"method":"chunk","params":{"text":"%s"}}'  # a chunk that names no request
NAMED = '{"method":"chunk","params":{"text":"%s","_meta":{"requestId":$ID}}}'


def streaming(**options: Any) -> Pool:
    return Pool("s", [sys.executable, str(STREAMING)], **options)


def said(*texts: str, line: str = NAMED) -> dict[str, Any]:
    return {"lines": [*(line % text for text in texts), DONE]}


async def test_chunks_come_one_by_one_and_then_the_result() -> None:
    async with one_worker() as bus, bus.stream("say", said("a", "b", "c")) as stream:
        assert [chunk.text async for chunk in stream] == ["a", "b", "c"]
        assert await stream.result() == "done"
        assert await stream.result() == "done"
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_chunks_and_the_result_are_one_sequence_of_events() -> None:
    async with one_worker() as bus, bus.stream("say", said("a", "b")) as stream:
        events = [(e.type, e.text, e.result) async for e in stream.events()]
    assert events == [("chunk", "a", None), ("chunk", "b", None), ("result", "", "done")]


async def test_chunks_that_have_come_are_received_as_a_batch() -> None:
    async with one_worker() as bus, bus.stream("say", said(*"abcdef")) as stream:
        found: list[Chunk] = []
        with pytest.raises(anyio.EndOfStream):
            while True:
                found += await stream.receive_batch()
    assert "".join(chunk.text for chunk in found) == "abcdef"


async def test_a_chunk_has_its_params_as_they_were() -> None:
    class Progress(msgspec.Struct):
        done: int

    line = '{"method":"chunk","params":{"done":3,"text":7,"_meta":{"requestId":$ID}}}'
    async with one_worker() as bus, bus.stream("say", {"lines": [line, DONE]}) as stream:
        chunk = await stream.receive()
        key = chunk.params["_meta"]["requestId"]
        assert chunk.params == {"done": 3, "text": 7, "_meta": {"requestId": key}}
        assert chunk.text == ""  # it is no text
        assert chunk.method == "chunk"
        assert chunk.decode(Progress) == Progress(3)


async def test_errors_of_the_request_come_after_the_chunks() -> None:
    error = '{"id":$ID,"error":{"code":7,"message":"no"}}'
    lines = [NAMED % "a", error]
    async with one_worker() as bus, bus.stream("say", {"lines": lines}) as stream:
        assert (await stream.receive()).text == "a"
        with pytest.raises(RemoteError, match="no"):
            await stream.receive()
        with pytest.raises(RemoteError, match="no"):
            await stream.result()


@pytest.mark.parametrize("line", [BARE, '{"method":"note","params":{"text":"%s"}}'])
async def test_what_names_no_request_is_the_only_ones_in_flight(line: str) -> None:
    async with one_worker() as bus, bus.stream("say", said("a", line=line)) as stream:
        found = [chunk.text async for chunk in stream]
        assert found == (["a"] if "chunk" in line else [])  # a note is no chunk
    assert bus.statistics().unhandled == (0 if "chunk" in line else 1)


async def test_what_may_be_of_several_is_nobodys_and_is_counted() -> None:
    async with one_worker() as bus, bus.stream("hold") as held:
        async with bus.stream("say", said("a", "b", line=BARE)) as stream:
            assert [chunk.text async for chunk in stream] == []
        assert bus.statistics().unattributed == 2
        await bus.request("release")
        assert [chunk.text async for chunk in held] == []


async def test_a_chunk_of_a_session_is_its_only_streams() -> None:
    line = '{"method":"session/update","params":{"sessionId":"%s","update":%s}}'
    update = '{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"%s"}}'
    thought = '{"sessionUpdate":"plan","entries":[]}'
    lines = [line % ("one", update % "1"), line % ("two", update % "2"), line % ("one", thought)]
    async with (
        one_worker(chunks="acp") as bus,
        bus.stream("hold", {"sessionId": "one"}) as one,
        bus.stream("hold", {"sessionId": "two"}) as two,
    ):
        await bus.request("say", {"lines": [*lines, DONE]})
        await bus.request("release")
        assert [chunk.text async for chunk in one] == ["1", ""]
        assert [chunk.text async for chunk in two] == ["2"]


@pytest.mark.parametrize("serial", [True, False])
async def test_a_chunk_of_a_session_is_its_oldest_streams_where_workers_are_serial(
    serial: bool,
) -> None:
    line = '{"method":"chunk","sessionId":"one","params":{"text":"%s"}}'
    async with (
        one_worker(serial=serial) as bus,
        bus.stream("hold", session="one") as first,
        bus.stream("hold", session="one") as second,
    ):
        await bus.request("say", said("1", "2", line=line), session="one")
        await bus.request("release")
        assert [chunk.text async for chunk in first] == (["1", "2"] if serial else [])
        assert [chunk.text async for chunk in second] == []
        assert bus.statistics().unattributed == (0 if serial else 2)


async def test_progress_of_mcp_belongs_to_its_token() -> None:
    line = '{"method":"notifications/progress","params":{"progressToken":$ID,"progress":1%s}}'
    lines = [line % "", line % ',"message":"half"', DONE]
    async with one_worker(chunks="mcp-progress") as bus, bus.stream("hold"):
        async with bus.stream("say", {"lines": lines}) as stream:
            assert [chunk.text async for chunk in stream] == ["", "half"]
        sent = (await log(bus))[-1]
    assert sent["params"]["_meta"] == {"progressToken": sent["id"]}


async def test_a_function_can_tell_what_is_a_chunk() -> None:
    def delta(method: str, params: Any) -> str | None:
        return str(params["delta"]) if method == "delta" else None

    lines = ['{"method":"delta","params":{"delta":5}}', '{"method":"delta"}', DONE]
    async with one_worker(chunks=delta) as bus:
        async with bus.stream("say", {"lines": lines}) as stream:
            assert [chunk.text async for chunk in stream] == ["5"]


@pytest.mark.parametrize("heard", [True, False])
async def test_another_worker_cannot_send_chunks_into_a_stream(heard: bool) -> None:
    async with open_bus(scripted("a"), scripted("b"), grace_s=2) as bus, AsyncExitStack() as stack:
        if heard:
            await stack.enter_async_context(bus.stream("hold", pool="b"))
        async with bus.stream("hold", pool="a") as stream:
            key = (await log(bus, pool="a"))[-1]["id"]
            line = NAMED.replace("$ID", str(key)) % "forged"
            await bus.request("say", {"lines": [line, DONE]}, pool="b")
            await bus.request("release", pool="a")
            assert [chunk.text async for chunk in stream] == []
        assert bus.statistics().unhandled == (3 if heard else 2)  # "hold" says that it came
        assert bus.statistics().unattributed == heard


# -- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["call", "pool"])
async def test_text_is_collected_into_the_result_of_a_request_and_of_a_stream(of: str) -> None:
    options = {"collect": "text"} if of == "pool" else {}
    asked = {} if of == "pool" else {"collect": "text"}
    say = {"lines": [NAMED % "a", NAMED % "b", '{"id":$ID,"result":{"stop":"end"}}']}
    async with one_worker(**options) as bus:
        result = await bus.request("say", say, **asked)
        assert result == {"stop": "end", "text": "ab"}
        async with bus.stream("say", say, **asked) as stream:
            assert await stream.result() == result
        async with bus.stream("say", say, **asked) as stream:
            assert len([chunk async for chunk in stream]) == 2
            assert await stream.result() == result


@pytest.mark.parametrize("result", ['{"text":"own"}', "[1]", "null"])
async def test_a_result_that_has_text_or_is_no_object_stays_as_it_is(result: str) -> None:
    say = {"lines": [NAMED % "a", '{"id":$ID,"result":%s}' % result]}
    async with one_worker() as bus:
        expected = msgspec.json.decode(result)
        assert await bus.request("say", say, collect="text") == expected
        assert await bus.request("say", say) == expected


# -- leaving, cancelling, deadlines ---------------------------------------------------------------


async def test_leaving_a_stream_early_cancels_its_request() -> None:
    async with one_worker() as bus:
        async with bus.stream("hold") as stream:
            pass
        assert methods(await log(bus))[-1] == "$/cancelRequest"
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()


async def test_whatever_reads_a_stream_that_was_left_early_is_told_so() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        async with bus.stream("hold") as stream:
            waiting = begin(tasks, stream.result)
            await anyio.wait_all_tasks_blocked()
        readers: list[Any] = [
            waiting.wait,
            stream.result,
            stream.receive,
            stream.receive_batch,
            stream.__anext__,
            stream.events().__anext__,
        ]
        for read in readers:
            with anyio.fail_after(WAIT_S), pytest.raises(anyio.ClosedResourceError):
                await read()


async def test_the_result_of_a_stream_that_was_left_after_its_end_is_still_there() -> None:
    async with one_worker() as bus:
        async with bus.stream("echo", [1]) as stream:
            await stream.result()
        assert await stream.result() == [1]


async def test_a_scope_ends_its_streams() -> None:
    async with one_worker() as bus, bus.open_scope() as scope:
        async with bus.stream("hold", scope=scope) as stream:
            scope.cancel("enough")
            with pytest.raises(ScopeCancelledError, match="enough"):
                await stream.receive()


async def test_a_stream_without_an_answer_ends_with_its_timeout() -> None:
    async with one_worker() as bus, bus.stream("mute", timeout=0.05) as stream:
        with pytest.raises(RequestTimeoutError):
            await stream.result()


@pytest.mark.parametrize("renews", [True, False])
async def test_progress_renews_the_timeout_if_it_is_to(renews: bool) -> None:
    async with one_worker() as bus:
        async with bus.stream("hold", timeout=30, progress_renews=renews) as stream:
            key = (await log(bus))[-1]["id"]
            deadlines = [bus._calls.peer.next_deadline()]  # the others' are at 60 s
            for _ in range(3):
                now = anyio.current_time()
                while anyio.current_time() <= now:  # noqa: ASYNC110  # uvloop counts milliseconds
                    await anyio.lowlevel.checkpoint()
                chunk = said("a")["lines"][0].replace("$ID", str(key))
                await bus.request("say", {"lines": [chunk, DONE]})
                deadlines.append(bus._calls.peer.next_deadline())
            assert len(set(deadlines)) == (4 if renews else 1)
            assert deadlines == sorted(deadlines)  # type: ignore[type-var]
            await bus.request("release")
            assert len([chunk async for chunk in stream]) == 3


async def test_one_task_reads_a_stream_at_a_time() -> None:
    async with (
        one_worker() as bus,
        bus.stream("hold") as stream,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(stream.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await stream.receive()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("options", "field"),
    [({"max_buffer_bytes": 0}, "max_buffer_bytes"), ({"collect": "all"}, "collect")],
)
async def test_wrong_options_are_refused(options: dict[str, Any], field: str) -> None:
    async with one_worker() as bus:
        with pytest.raises(InvalidArgumentError, match=field):
            async with bus.stream("echo", **options):
                pytest.fail("it opened")


# -- slow readers ---------------------------------------------------------------------------------


async def count(bus: Bus, tag: str, chunks: int, **options: Any) -> None:
    """Read a stream to its end, and prove that it is whole and nobody else's."""
    async with bus.stream("count", {"chunks": chunks, "tag": tag}, **options) as stream:
        number = 0
        while True:
            try:
                batch = await stream.receive_batch()
            except anyio.EndOfStream:
                break
            for chunk in batch:
                assert (chunk.params["n"], chunk.params["tag"]) == (number, tag)
                number += 1
        assert number == chunks
        assert await stream.result() == {"chunks": chunks}


@pytest.mark.timeout(120)  # tens of thousands of chunks, measured for coverage too
@pytest.mark.parametrize("anyio_backend", QUIET_LOOPS)
async def test_eight_streams_of_ten_thousand_chunks_do_not_mix() -> None:
    async with open_bus(streaming(instances=2)) as bus, anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(count, bus, str(number), 10_000)


@pytest.mark.timeout(120)  # tens of thousands of chunks, measured for coverage too
@pytest.mark.parametrize("anyio_backend", QUIET_LOOPS)
async def test_eight_streams_in_a_session_each_on_one_worker_do_not_mix() -> None:
    async with open_bus(streaming()) as bus, anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(partial(count, bus, str(number), 10_000, session=f"s{number}"))


@pytest.mark.timeout(120)  # tens of thousands of chunks, measured for coverage too
@pytest.mark.parametrize("anyio_backend", QUIET_LOOPS)
async def test_a_reader_that_never_reads_stalls_its_own_handler_alone() -> None:
    async with open_bus(streaming()) as bus:
        async with bus.stream("endless", max_buffer_bytes=20_000) as stalled:
            async with anyio.create_task_group() as tasks:
                for number in range(7):
                    tasks.start_soon(count, bus, str(number), 2_000)
            assert stalled._charge + stalled._charge_read <= 20_000
            assert [(await stalled.receive()).params["n"] for _ in range(3)] == [0, 1, 2]
        with anyio.fail_after(5):  # its handler ends a moment after it was told
            while await bus.request("cancelled") != ["endless"]:
                pass


async def test_a_plain_workers_reader_that_never_reads_fails_alone() -> None:
    many = {"lines": [NAMED % ("x" * 100)] * 50}  # and no answer
    async with one_worker() as bus, bus.stream("hold") as other:
        async with bus.stream("say", many, max_buffer_bytes=1000) as stream:
            await bus.request("echo")  # its answer comes after all of the chunks
            await bus.request("release")
            assert "_meta" in await other.result()
            held = 0
            with pytest.raises(StreamOverflowError) as info:
                async for chunk in stream:
                    held += len(chunk.raw)
            assert info.value.buffered_bytes == held
            assert held >= 1000


async def test_a_plain_worker_alone_is_paused_until_its_reader_has_read() -> None:
    limits = Limits(backpressure_timeout_s=0)
    async with open_bus(streaming(chunks="mcp-progress"), limits=limits) as bus:
        params = {"chunks": 40_000, "size": 100}
        async with bus.stream("count", params, max_buffer_bytes=100_000) as stream:
            await stream.receive()
            await until(lambda: bus._calls.brakes.held)
            bound = 100_000 + 2 * 1024 * 1024  # and what had been read when it was paused
            assert stream._size + stream._reading < bound
            assert 1 + len([chunk async for chunk in stream]) == 40_000
            assert not bus._calls.brakes.held


async def test_a_reader_may_make_requests_in_its_loop_though_its_worker_is_paused() -> None:
    limits = Limits(backpressure_timeout_s=0)
    async with open_bus(streaming(chunks="mcp-progress"), limits=limits) as bus:
        params = {"chunks": 40_000, "size": 100}
        async with bus.stream("count", params, max_buffer_bytes=100_000) as stream:
            await stream.receive()
            await until(lambda: bus._calls.brakes.held)
            with anyio.fail_after(5):
                assert await bus.request("echo", {"params": 1}) == {"params": 1}
            with pytest.raises(StreamOverflowError):
                async for _ in stream:
                    pass


async def test_a_pause_ends_after_its_time() -> None:
    limits = Limits(backpressure_timeout_s=0.1)
    async with open_bus(streaming(chunks="mcp-progress"), limits=limits) as bus:
        params = {"chunks": 40_000, "size": 100}
        async with bus.stream("count", params, max_buffer_bytes=100_000) as stream:
            with pytest.raises(StreamOverflowError), anyio.fail_after(5):
                await stream.receive()
                await until(lambda: stream._overflowed)
                async for _ in stream:
                    pass


async def test_a_result_can_be_awaited_without_reading_the_chunks() -> None:
    async with open_bus(streaming()) as bus:
        params = {"chunks": 5_000, "size": 100}
        async with bus.stream("count", params, max_buffer_bytes=10_000) as stream:
            assert await stream.result() == {"chunks": 5_000}
        async with bus.stream("count", params, max_buffer_bytes=10_000) as stream:
            async for _ in stream:
                break
            assert await stream.result() == {"chunks": 5_000}


async def test_another_task_can_await_the_result_while_one_reads() -> None:
    async with open_bus(streaming()) as bus:
        params = {"chunks": 5_000, "size": 100}
        async with bus.stream("count", params, max_buffer_bytes=10_000) as stream:
            found: list[object] = []

            async def wait() -> None:
                found.append(await stream.result())

            first = await stream.receive()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                rest = [chunk async for chunk in stream]
            assert first.params["n"] == 0
            assert len(rest) == 4_999
            assert found == [{"chunks": 5_000}]


# -- in a nursery ---------------------------------------------------------------------------------


async def test_a_stream_is_pumped_from_the_users_own_task_group() -> None:
    async with one_worker() as bus:
        send, receive = anyio.create_memory_object_stream[Chunk](2)
        async with anyio.create_task_group() as tasks, receive:
            await tasks.start(bus.pump, "say", said(*"abcdef"), send)
            assert "".join([chunk.text async for chunk in receive]) == "abcdef"


async def test_a_siblings_failure_cancels_the_streams_and_the_bus_lives_on() -> None:
    async with one_worker() as bus:
        send, receive = anyio.create_memory_object_stream[Chunk](1)
        with pytest.RaisesGroup(ValueError):
            async with anyio.create_task_group() as tasks, receive:
                await tasks.start(bus.pump, "hold", None, send)
                await tasks.start(bus.pump, "hold", None, send.clone())
                raise ValueError("a sibling")
        assert methods(await log(bus))[-2:] == ["$/cancelRequest"] * 2


async def test_sessions_of_two_pools_may_have_the_same_name() -> None:
    line = '{"method":"session/update","params":{"sessionId":"1"}}'
    params = {"sessionId": "1", "lines": [line, DONE]}
    async with open_bus(scripted("a", chunks="acp"), scripted("b", chunks="acp")) as bus:
        async with bus.stream("say", params, pool="a") as one:
            async with bus.stream("say", params, pool="b") as other:
                assert len([chunk async for chunk in one]) == 1
                assert len([chunk async for chunk in other]) == 1


async def test_a_progress_token_that_was_passed_on_makes_no_chunk_another_streams() -> None:
    async with one_worker(chunks="mcp-progress") as bus, bus.stream("hold") as one:
        passed_on = {"_meta": {"progressToken": one._call.key, "trace": "x"}, "lines": [DONE]}
        async with bus.stream("say", passed_on) as other:
            await other.result()
        sent = (await log(bus))[-1]
        assert sent["params"]["_meta"] == {"progressToken": sent["id"], "trace": "x"}


async def test_a_credit_that_was_passed_on_does_not_count() -> None:
    async with open_bus(streaming()) as bus:
        meta = {"_meta": {"anyio-bus/credit": 10_000_000}}
        async with bus.stream("endless", meta, max_buffer_bytes=1000) as stream:
            await stream.receive()
            for _ in range(20):
                await bus.request("echo", {"params": 1})
            assert stream._charge + stream._charge_read <= 1000


async def test_a_result_event_that_was_cancelled_comes_later() -> None:
    async with one_worker() as bus, bus.stream("say", said()) as stream:
        await until(lambda: stream._outcome is not None)
        events = stream.events()
        receive = stream.receive
        with anyio.CancelScope() as scope:

            async def receive_and_cancel() -> Chunk:
                try:
                    return await receive()
                finally:
                    scope.cancel()

            stream.receive = receive_and_cancel  # type: ignore[method-assign]
            await anext(events)
        stream.receive = receive  # type: ignore[method-assign]
        assert [event.type async for event in events] == ["result"]


async def test_a_pause_does_not_mind_what_waits_in_another_pool() -> None:
    limits = Limits(backpressure_timeout_s=0)
    pools = scripted("a"), scripted("b", max_in_flight=1)
    async with open_bus(*pools, limits=limits) as bus, anyio.create_task_group() as tasks:
        for method in ("hold", "echo", "echo"):
            tasks.start_soon(partial(bus.request, method, pool="b"))
            await anyio.wait_all_tasks_blocked()
        lines = {"lines": [BARE % "x"] * 100}
        async with bus.stream("say", lines, pool="a", max_buffer_bytes=100) as stream:
            await until(lambda: bus._calls.brakes.held)
            tasks.start_soon(partial(bus.request, "echo", pool="b"))
            await anyio.wait_all_tasks_blocked()
            assert stream._outcome is None
            assert bus._calls.brakes.held
        await bus.notify("release", pool="b")


async def test_there_is_no_pause_while_a_request_waits_in_the_queue() -> None:
    limits = Limits(backpressure_timeout_s=0)
    async with one_worker(limits, max_in_flight=1) as bus, anyio.create_task_group() as tasks:
        async with bus.stream("hold", max_buffer_bytes=100) as stream:
            tasks.start_soon(bus.request, "echo")
            await until(lambda: bus.workers()[0].queued == 1)
            await bus.notify("say", {"lines": [BARE % "x"] * 100})
            await until(lambda: stream._outcome is not None)
            assert not bus._calls.brakes.held
            await bus.notify("release")


@pytest.mark.parametrize("credit", [1, 1050])
async def test_a_worker_that_sends_more_than_its_credit_is_paused(credit: int) -> None:
    text = "x" * 1000
    meta = '{"requestId":$ID,"anyio-bus/credit":%d}' % credit
    line = '{"method":"chunk","params":{"text":"%s","_meta":%s}}' % (text, meta)
    limits = Limits(backpressure_timeout_s=0)
    async with one_worker(limits) as bus:
        params = {"lines": [line] * 2000}
        async with bus.stream("say", params, max_buffer_bytes=10_000) as stream:
            await until(lambda: bus._calls.brakes.held)
            for _ in range(2000):
                assert (await stream.receive()).text == text
        assert not bus._calls.brakes.held
