"""Each request gets exactly one answer, whatever its handler does."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.from_thread
import msgspec
import pytest

from anyio_bus import RemoteError
from anyio_bus.worker import Context, Worker
from tests.worker.kit import Client, notification, request, serving


class Odd(BaseException):
    """Neither an Exception nor known to anybody."""


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


async def in_a_group(*errors: BaseException) -> None:
    async def fail(error: BaseException) -> None:
        raise error

    async with anyio.create_task_group() as tasks:
        for error in errors:
            tasks.start_soon(fail, error)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("x is wrong"), "ValueError: x is wrong"),
        (SystemExit(3), "SystemExit: 3"),
        (GeneratorExit(), "GeneratorExit: "),
        (Odd("?"), "Odd: ?"),
        (Mute(), "Mute: (no text)"),
        (TimeoutError("late"), "TimeoutError: late"),
        (ExceptionGroup("two", [ValueError(), TypeError()]), "ExceptionGroup: two"),
        (ValueError("\ud800"), "ValueError: \\ud800"),
        (RemoteError("1", "m"), "RemoteError: m (code 1)"),  # type: ignore[arg-type]
    ],
)
@pytest.mark.parametrize("kind", ["async", "thread", "inline"])
async def test_a_handler_that_raises_is_one_internal_error_and_the_worker_goes_on(
    kind: str, error: BaseException, message: str
) -> None:
    worker = Worker()

    async def fail_async() -> None:
        raise error

    def fail() -> None:
        raise error

    worker.method("fail", inline=kind == "inline")(fail_async if kind == "async" else fail)
    async with serving(worker) as client:
        answer = await client.call("fail")
        assert answer["error"]["code"] == -32603
        assert answer["error"]["message"].startswith(message)
        assert (await client.call("fail"))["error"]["code"] == -32603


async def test_stop_iteration_is_an_error_like_any_other() -> None:
    worker = Worker()

    @worker.method("fail")
    def fail() -> None:
        raise StopIteration

    async with serving(worker) as client:
        assert (await client.call("fail"))["error"]["code"] == -32603


async def test_the_traceback_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()

    @worker.method("fail")
    async def fail() -> None:
        raise ValueError("where am I")

    async with serving(worker) as client:
        await client.call("fail")
    assert "Traceback" in caplog.text
    assert "where am I" in caplog.text


async def test_a_remote_error_keeps_code_message_and_data() -> None:
    worker = Worker()

    @worker.method("fail")
    async def fail(data: Any = None) -> None:
        raise RemoteError(-32000, "not today", data)

    async with serving(worker) as client:
        answer = await client.call("fail", {"data": {"why": [1]}})
        assert answer["error"] == {"code": -32000, "message": "not today", "data": {"why": [1]}}
        assert (await client.call("fail"))["error"] == {"code": -32000, "message": "not today"}


async def test_a_remote_error_is_found_in_the_group_of_a_task_group() -> None:
    worker = Worker()

    @worker.method("fail")
    async def fail() -> None:
        await in_a_group(RemoteError(5, "inner"))

    async with serving(worker) as client:
        assert (await client.call("fail"))["error"] == {"code": 5, "message": "inner"}


async def test_data_that_cannot_be_encoded_still_makes_one_answer() -> None:
    worker = Worker()

    @worker.method("fail")
    async def fail() -> None:
        raise RemoteError(5, "with data", object())

    async with serving(worker) as client:
        error = (await client.call("fail"))["error"]
        assert (error["code"], error["message"]) == (-32603, "RemoteError: with data (code 5)")


@pytest.mark.parametrize("inline", [False, True])
async def test_a_result_that_cannot_be_encoded_is_an_internal_error(inline: bool) -> None:
    worker = Worker()

    @worker.method("odd", inline=inline)
    def odd() -> object:
        return {"deep": [object()]}

    async with serving(worker) as client:
        error = (await client.call("odd"))["error"]
        assert error["code"] == -32603
        assert "the result of 'odd' cannot be encoded as JSON" in error["message"]


async def test_an_answer_over_the_limit_is_an_error() -> None:
    worker = Worker(max_frame_bytes=1000)

    @worker.method("big")
    async def big() -> str:
        return "x" * 1000

    async with serving(worker) as client:
        error = (await client.call("big"))["error"]
        assert error["code"] == -32054
        assert "max_frame_bytes=1000" in error["message"]


async def test_an_exception_with_a_long_text_is_cut() -> None:
    worker = Worker()

    @worker.method("fail")
    async def fail() -> None:
        raise ValueError("x" * 100_000)

    async with serving(worker) as client:
        assert len((await client.call("fail"))["error"]["message"]) < 5000


async def test_a_stray_cancellation_does_not_take_the_worker_down(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("on trio nobody can raise Cancelled by hand")
    worker = Worker()

    @worker.method("fail")
    async def fail() -> None:
        raise anyio.get_cancelled_exc_class()

    async with serving(worker) as client:
        error = (await client.call("fail"))["error"]
        assert (error["code"], error["message"]) == (-32603, "CancelledError: ")
        assert (await client.call("fail"))["error"]["code"] == -32603


@pytest.mark.parametrize("in_group", [False, True])
async def test_ctrl_c_in_a_handler_is_answered_and_ends_the_worker(in_group: bool) -> None:
    worker = Worker()
    finished = []

    @worker.method("interrupt")
    async def interrupt() -> None:
        if in_group:
            raise BaseExceptionGroup("as of a task group", [KeyboardInterrupt()])
        raise KeyboardInterrupt

    @worker.method("slow")
    async def slow() -> None:
        await anyio.wait_all_tasks_blocked()
        finished.append(True)

    client = Client()
    client.write(request(1, "slow"), request(2, "interrupt"))
    with anyio.fail_after(5), pytest.raises(KeyboardInterrupt):
        await client.serve(worker)
    answers = {m["id"]: m for m in await client.take(2)}
    assert answers[1]["result"] is None
    assert answers[2]["error"] == {"code": -32603, "message": "KeyboardInterrupt: "}
    assert finished
    client.close()


async def test_an_unknown_method_is_refused() -> None:
    async with serving(Worker()) as client:
        error = (await client.call("nope"))["error"]
        assert error == {"code": -32601, "message": "method not found: nope"}


async def test_params_that_do_not_fit_are_refused_with_their_path() -> None:
    worker = Worker()

    @worker.method("add")
    async def add(a: int, b: int) -> int:
        return a + b

    async with serving(worker) as client:
        error = (await client.call("add", {"a": 1, "b": "2"}))["error"]
        text = "invalid params: Expected `int`, got `str` - at `$.b`"
        assert error == {"code": -32602, "message": text}


@pytest.mark.parametrize("key", [0, -5, 2**53, 1.5, "text", "", "ünï", None])
async def test_an_id_comes_back_as_it_was(key: Any) -> None:
    worker = Worker()

    @worker.method("echo", inline=True)
    def echo(params: Any) -> Any:
        return params

    async with serving(worker) as client:
        client.write(request(key, "echo", [1]))
        answer = await client.next()
        assert answer == {"jsonrpc": "2.0", "id": key, "result": [1]}
        assert type(answer["id"]) is type(key)


async def test_an_id_that_is_in_use_twice_gets_two_answers() -> None:
    worker = Worker()
    gate = anyio.Event()

    @worker.method("wait")
    async def wait(value: int) -> int:
        await gate.wait()
        return value

    async with serving(worker) as client:
        client.write(request(1, "wait", [1]), request(1, "wait", [2]))
        await anyio.wait_all_tasks_blocked()
        gate.set()
        answers = await client.take(2)
        assert sorted(m["result"] for m in answers) == [1, 2]


async def test_results_are_encoded_with_msgspec() -> None:
    worker = Worker()

    class Point(msgspec.Struct):
        x: int

    @worker.method("point")
    async def point() -> Point:
        return Point(1)

    async with serving(worker) as client:
        assert (await client.call("point"))["result"] == {"x": 1}


async def test_a_plain_function_runs_in_a_thread_and_holds_up_nobody() -> None:
    worker = Worker()
    released = anyio.Event()

    @worker.method("block")
    def block() -> str:
        anyio.from_thread.run(released.wait)
        return "done"

    @worker.method("release")
    async def release() -> None:
        released.set()

    async with serving(worker) as client:
        client.write(request(1, "block"), request(2, "release"))
        assert {m["id"]: m["result"] for m in await client.take(2)} == {1: "done", 2: None}


async def test_a_plain_function_may_return_an_awaitable() -> None:
    worker = Worker()

    async def answer() -> int:
        return 42

    @worker.method("ask")
    def ask() -> Any:
        return answer()

    async with serving(worker) as client:
        assert (await client.call("ask"))["result"] == 42


async def test_inline_functions_are_called_in_the_order_of_reading() -> None:
    worker = Worker()
    calls: list[int] = []

    @worker.method("note", inline=True)
    def note(number: int) -> None:
        calls.append(number)

    worker.notification("note", inline=True)(note)
    async with serving(worker) as client:
        client.write(
            *(request(n, "note", [n]) if n % 2 else notification("note", [n]) for n in range(10))
        )
        await client.take(5)
        assert calls == list(range(10))


# -- notifications -----------------------------------------------------------------------------------


async def test_notifications_are_handled_one_after_another_in_their_order() -> None:
    worker = Worker()
    seen: list[Any] = []

    @worker.notification("note")
    async def note(number: int) -> None:
        seen.append(number)
        await anyio.lowlevel.checkpoint()
        seen.append(number)

    async with serving(worker) as client:
        client.write(*(notification("note", [n]) for n in range(5)))
    assert seen == [n for n in range(5) for _ in range(2)]


@pytest.mark.parametrize("inline", [False, True])
async def test_nothing_answers_a_notification_and_its_errors_are_logged(
    inline: bool, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker()
    seen: list[int] = []

    @worker.notification("note", inline=inline)
    def note(number: int) -> None:
        if number == 0:
            raise ValueError("zero")
        seen.append(number)

    async with serving(worker) as client:
        client.write(
            notification("note", [0]),
            notification("note", ["one"]),
            notification("unknown", [0]),
            notification("note", [2]),
        )
    assert seen == [2]
    assert "ValueError: zero" in caplog.text
    assert "invalid params: Expected `int`, got `str` - at `$[0]`" in caplog.text


async def test_notifications_beyond_the_queue_are_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = Worker(max_queued=2)
    seen: list[int] = []
    gate = anyio.Event()

    @worker.notification("note")
    async def note(number: int) -> None:
        seen.append(number)
        await gate.wait()

    async with serving(worker) as client:
        client.write(notification("note", [0]))
        await anyio.wait_all_tasks_blocked()
        client.write(*(notification("note", [n]) for n in range(1, 5)))
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert seen == [0, 1, 2]
    assert caplog.text.count("'note' is dropped") == 2


async def test_a_notification_has_no_id_and_takes_no_chunks() -> None:
    worker = Worker()
    seen: list[Any] = []

    @worker.notification("note")
    async def note(context: Context) -> None:
        seen.append(context.request_id)
        try:
            await context.send_chunk("text")
        except Exception as exc:
            seen.append(str(exc))

    async with serving(worker) as client:
        client.write(notification("note"))
    assert seen[0] is None
    assert "is a notification" in seen[1]
