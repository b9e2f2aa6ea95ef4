"""Tools of a plugin process: exactly one well-formed answer, whatever the handler does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plugins.nexo.kit import Plugin, event, invoke, plugin, result, run
from tests.worker.kit import request

RAISES: list[tuple[str, int, str, Any]] = [
    ("raise ToolNotFound('x')", -33401, "tool not found: x", None),
    ("raise ToolArgumentInvalid('no')", -33402, "invalid argument: no", None),
    (
        "raise ToolArgumentInvalid('no', details=[1])",
        -33402,
        "invalid argument: no",
        {"details": [1]},
    ),
    ("raise ToolExecutionFailed('oh')", -33403, "execution failed: oh", None),
    ("raise ToolUnavailable('later')", -33404, "unavailable: later", None),
    (
        "raise ToolUnavailable('later', retry_after_ms=5)",
        -33404,
        "unavailable: later",
        {"retry_after_ms": 5},
    ),
    ("raise ToolDenied('no')", -33405, "denied: no", None),
    ("raise KeyError('missing')", -33403, "execution failed: 'missing'", None),
    ("raise RuntimeError", -33403, "execution failed: RuntimeError", None),
    ("raise MethodError(-5, 'own', {'a': 1})", -5, "own", {"a": 1}),
    ("sys.exit(3)", -33403, "execution failed: 3", None),
    (
        "import asyncio\nraise asyncio.CancelledError",  # 5.4: no answer at all
        -33403,
        "execution failed: CancelledError",
        None,
    ),
    ("raise ToolArgumentInvalid('no', details=float('nan'))", -33402, "invalid argument: no", None),
    ("raise ToolArgumentInvalid('no', details=object())", -33402, "invalid argument: no", None),
    ("raise ExceptionGroup('g', [ToolDenied('in a group')])", -33405, "denied: in a group", None),
    ("raise ValueError('\\udc80')", -33403, "execution failed: \\udc80", None),
    ("raise MethodError(10**5000, 'code')", -33403, "code", None),
    (
        "class E(ToolDenied):\n    def error_data(self): sys.exit(3)\nraise E('exits')",
        -33405,
        "denied: exits",
        None,
    ),
    (
        "class E(ToolDenied):\n    code = property(lambda self: 1 / 0)\nraise E('divides')",
        -33403,
        "denied: divides",
        None,
    ),
    (
        "class E(Exception):\n    __notes__ = property(lambda self: 1 / 0)\nraise E('notes')",
        -33403,
        "execution failed: notes",
        None,
    ),
    (
        "class E(Exception):\n    def __str__(self): sys.exit(3)\nraise E",
        -33403,
        "execution failed: E",
        None,
    ),
]


@pytest.mark.parametrize(("code", "number", "message", "data"), RAISES)
def test_what_a_tool_raises_is_its_answer(
    shared: Plugin, code: str, number: int, message: str, data: Any
) -> None:
    expected = {"code": number, "message": message}

    assert shared.run(code) == (expected if data is None else {**expected, "data": data})


# 5.4 and section 1.2: what JSON cannot hold
UNENCODABLE = [
    "return float('nan')",
    "return {'a': [float('-inf')]}",
    "return object()",
    "return {'a': {1, object()}}",
    "return '\\ud800'",
    "a = []\na.append(a)\nreturn a",
    "a = {}\na['a'] = a\nreturn a",
    "a = []\nfor _ in range(100000): a = [a]\nreturn a",
    "return msgspec.Raw(b'nonsense')",
    'return msgspec.Raw(b\'1}\\n{"id":7,"result":1\')',
]


@pytest.mark.parametrize("code", UNENCODABLE)
def test_a_result_that_is_no_json_is_an_error(shared: Plugin, code: str) -> None:
    error = shared.run(code)

    assert error["code"] == -33403
    assert "not JSON-serializable" in error["message"]


@pytest.mark.parametrize("value", [None, True, 0, "", [], {}, {"a": [1, None, "\u00e9"]}, 1e300])
def test_a_result_is_passed_on_as_it_is(shared: Plugin, value: Any) -> None:
    assert shared.ask(run(5, f"return {value!r}")) == result(5, value)


def test_text_result_has_the_shape_of_the_contract(shared: Plugin) -> None:
    expected = {"content": [{"type": "text", "text": "hi"}], "is_error": True}

    assert shared.run("return text_result('hi', is_error=True)") == expected


# -- params ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [None, [], 5, "x", {}, {"tool_name": ""}, {"tool_name": 5}, {"tool_name": None, "args": {}}],
)
def test_params_without_a_tools_name_are_invalid(shared: Plugin, params: Any) -> None:
    assert shared.ask(request(5, "tool.invoke", params))["error"]["code"] == -32602


def test_a_tool_that_nobody_serves_is_not_found(shared: Plugin) -> None:
    error = shared.ask(invoke(5, "demo_other", {}))["error"]

    assert error == {"code": -33401, "message": "tool not found: demo_other"}


@pytest.mark.parametrize("args", [{"a": "x"}, {}, {"a": 1, "c": 2}, [1, 2, 3], "text", None])
def test_arguments_are_checked_by_the_signature(shared: Plugin, args: Any) -> None:
    error = shared.ask(invoke(5, "demo_add", args))["error"]

    assert error["code"] == -33402
    assert error["message"].startswith("invalid argument: ")


@pytest.mark.parametrize("members", [{"agent_id": None}, {"agent_id": 5}, {"plugin_id": 5}])
def test_odd_ids_of_agent_and_plugin_are_made_up_for(
    shared: Plugin, members: dict[str, Any]
) -> None:
    assert shared.ask(invoke(5, "demo_add", {"a": 1}, **members)) == result(5, 3)


# -- many at once ----------------------------------------------------------------------------------


def test_a_fast_tool_overtakes_a_slow_one(shared: Plugin) -> None:
    slow = "shared['gate'] = anyio.Event()\nawait shared['gate'].wait()\nreturn 'slow'"
    shared.write(run(1, slow), run(2, "return 'fast'"))

    assert shared.read() == result(2, "fast")
    shared.write(run(3, "shared['gate'].set()"))
    assert sorted(shared.read()["id"] for _ in range(2)) == [1, 3]


def test_handlers_start_in_the_order_of_their_frames(shared: Plugin) -> None:
    shared.run("shared['log'] = []")
    code = "shared['log'].append({}); await anyio.sleep(0)"
    shared.write(*[run(i, code.format(i)) for i in range(200)])

    for _ in range(200):
        shared.read()
    assert shared.run("return shared['log']") == list(range(200))


def test_what_is_published_before_a_tool_returns_comes_before_its_answer(shared: Plugin) -> None:
    code = """
        for number in range(100):
            await broker.publish("t", Event("t", "", number))
    """
    shared.write(run(5, code))

    assert [shared.published()["event"]["payload"] for _ in range(100)] == list(range(100))
    assert shared.read() == result(5, None)


def test_a_blocking_tool_holds_up_nobody(shared: Plugin) -> None:  # 5.6
    shared.write(invoke(1, "demo_block", {"seconds": 0.3}), invoke(2, "demo_add", {"a": 1}))

    assert shared.read() == result(2, 3)
    assert shared.read() == result(1, "awake")


def test_no_more_than_the_limit_runs_at_once_and_what_is_too_much_is_refused(loop: str) -> None:
    options = {"max_concurrency": 2, "max_queued": 3}
    with plugin(loop, options=options) as process:
        hold = "await broker.publish('runs', Event('runs'))\n"
        hold += "await shared.setdefault('gate', anyio.Event()).wait()"
        process.write(*[run(key, hold) for key in (1, 2)])
        assert [process.published()["topic"] for _ in range(2)] == ["runs"] * 2
        process.write(*[run(key, "return 'late'") for key in (3, 4, 5, 6)])

        refused = process.read()
        assert refused["id"] == 6
        assert refused["error"]["code"] == -33404
        process.write(event("code", "shared['gate'].set()"))
        assert sorted(process.read()["id"] for _ in range(5)) == [1, 2, 3, 4, 5]


def test_a_tool_that_takes_for_ever_is_answered_in_time(loop: str) -> None:
    options = {"request_timeout_s": 0.2, "max_concurrency": 1, "drain_s": 0.1}
    with plugin(loop, options=options) as process:
        error = {"code": -33403, "message": "execution failed: no result within 0.2 s"}
        assert process.run("await anyio.sleep_forever()") == error
        assert process.run("return 5") == 5
        swallows = "try: await anyio.sleep_forever()\nexcept BaseException: return 'late'"
        assert process.run(swallows) == "late"
        assert process.run("await anyio.sleep(0)\nreturn 5") == 5  # is not cancelled with it

        shielded = "with anyio.CancelScope(shield=True): await anyio.sleep_forever()"
        process.write(run(6, shielded), run(7, "return 7"))  # which waits behind it
        assert sorted((process.read() for _ in range(2)), key=lambda answer: answer["id"]) == [
            {"jsonrpc": "2.0", "id": key, "error": error} for key in (6, 7)
        ]
        assert process.ask(request(2, "shutdown")) == result(2, {"ok": True})
        assert process.end() == 0


def test_a_handler_that_cancels_its_task_when_it_is_cancelled_ends_nobody_else() -> None:
    """That is not the cancellation that AnyIO waits for; trio has no such thing."""
    code = """
        import asyncio
        try:
            await anyio.sleep_forever()
        finally:
            asyncio.current_task().cancel()
            await asyncio.sleep(60)
    """
    with plugin("asyncio", options={"request_timeout_s": 0.1, "drain_s": 0.04}) as process:
        assert process.run(code)["message"] == "execution failed: no result within 0.1 s"
        assert process.run("return 5") == 5

        process.write(run(6, code), request(2, "shutdown"))
        assert process.read()["id"] == 6
        assert process.read() == result(2, {"ok": True})
        assert process.end() == 0


def test_a_handler_that_cancels_the_task_it_runs_on_ends_nobody_else(shared: Plugin) -> None:
    code = """
        import asyncio
        try:
            asyncio.current_task().cancel()
        except RuntimeError:  # trio has no such thing
            pass
        return 5
    """
    assert shared.run(code) == 5
    assert shared.alive()


@pytest.mark.parametrize("lanes", [1, 2])
def test_context_variables_of_one_handler_are_not_seen_by_the_next(loop: str, lanes: int) -> None:
    code = """
        import contextvars
        variable = shared.setdefault("variable", contextvars.ContextVar("variable", default=0))
        seen = variable.get()
        variable.set(seen + 1)
        return seen
    """
    odd = """
        class Odd:
            def __eq__(self, other): raise ValueError("as arrays do")
        shared["variable"].set(Odd())
    """
    with plugin(loop, options={"max_concurrency": lanes}) as process:
        process.write(*[run(key, code) for key in (1, 2, 3)])
        assert [process.read()["result"] for _ in range(3)] == [0, 0, 0]
        process.write(run(4, odd), run(5, odd), run(6, code))
        assert [process.read()["result"] for _ in range(3)] == [None, None, 0]
        assert process.end() == 0


def test_a_plugin_without_tools_knows_no_tool_method(loop: str) -> None:
    with plugin(loop, "bare") as process:
        for params in ({"tool_name": "x"}, None):
            error = process.ask(request(5, "tool.invoke", params))["error"]
            assert error == {"code": -32601, "message": "method not found: tool.invoke"}
        assert "tools" not in process.ask(request(1, "initialize", {}))["result"]
        assert process.end() == 0
