"""The wire of a plugin process, line by line: what is answered, what is dropped, what it survives."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.plugins.nexo.kit import Plugin, event, invoke, plugin, result, run
from tests.worker.kit import line, notification, request

ADD = invoke(7, "demo_add", {"a": 1, "b": 1})


# -- requests and answers --------------------------------------------------------------------------


def test_initialize_returns_manifest_version_and_tools_in_order(shared: Plugin) -> None:
    answer = shared.ask(request(1, "initialize", {"nexo_version": "0.9.9"}))

    assert set(answer) == {"jsonrpc", "id", "result"}
    manifest = answer["result"]["manifest"]
    assert manifest["plugin"]["id"] == "demo"
    assert manifest["plugin"]["extends"]["tools"] == ["demo_run", "demo_add", "demo_block"]
    assert answer["result"]["server_version"] == "demo-2.0.1"
    tools = answer["result"]["tools"]
    assert [tool["name"] for tool in tools] == ["demo_run", "demo_add", "demo_block"]
    assert tools[1] == {
        "name": "demo_add",
        "description": "Add two numbers.",
        "input_schema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "default": 2}},
            "required": ["a"],
            "additionalProperties": False,
        },
    }


@pytest.mark.parametrize("key", [1, 0, 2**64 - 1, -3, "a\\b\u2028", 1.5, 10**30, ""])
def test_an_id_comes_back_as_it_was(shared: Plugin, key: Any) -> None:
    answer = shared.ask(invoke(key, "demo_add", {"a": 1}))

    assert answer == result(key, 3)
    assert type(answer["id"]) is type(key)


def test_requests_with_the_same_id_are_answered_each(shared: Plugin) -> None:
    shared.write(invoke(2, "demo_add", {"a": 1}), invoke(2, "demo_add", {"a": 1}))

    assert [shared.read(), shared.read()] == [result(2, 3)] * 2


def test_an_unknown_method_is_answered_with_its_name(shared: Plugin) -> None:
    error = shared.ask(request(5, "no.such", {}))["error"]

    assert error == {"code": -32601, "message": "method not found: no.such"}


@pytest.mark.parametrize("params", [None, {}, {"a": [1]}])
def test_an_authors_method_gets_its_params(shared: Plugin, params: Any) -> None:
    answer = shared.ask(request(5, "custom.asked", params))

    assert answer["result"] == {"params": params, "id": 5, "method": "custom.asked"}


def test_a_frame_without_jsonrpc_is_served(shared: Plugin) -> None:
    message = {name: value for name, value in ADD.items() if name != "jsonrpc"}

    assert shared.ask(message) == result(7, 2)


def test_blank_lines_and_white_space_around_a_frame_are_ignored(shared: Plugin) -> None:
    shared.write(b"\n  \t\r\n", b" \t" + line(ADD).rstrip() + b" \r\n")

    assert shared.read() == result(7, 2)


def test_a_line_in_many_pieces_is_one_frame(shared: Plugin) -> None:
    data = line(ADD)
    for at in range(len(data)):
        shared.write(data[at : at + 1])

    assert shared.read() == result(7, 2)


def test_text_comes_back_whole(shared: Plugin) -> None:
    text = 'line\nand\u2028\u0000\x7f "quoted" \U0001f642'

    shared.write(event("echo", text))

    assert shared.published()["event"]["payload"] == text


@pytest.mark.parametrize(
    ("shape", "more"), [("host", {"id", "timestamp", "session_id"}), ("minimal", set())]
)
def test_published_events_have_the_members_of_their_shape(
    loop: str, shape: str, more: set[str]
) -> None:
    with plugin(loop, options={"event_shape": shape}) as process:
        process.write(event("echo", [1], session_id="7b0c6c0e-9a8e-4d52-9c1e-2f1f6f5f3a10"))
        published = process.published()

        assert set(published) == {"topic", "event"}
        assert set(published["event"]) == {"topic", "source", "payload"} | more
        assert published["event"]["source"] == "demo"
        assert process.end() == 0


# -- what a plugin asks, and what it serves besides tools -------------------------------------------


def test_calls_to_the_host_have_the_params_of_the_contract(shared: Plugin) -> None:
    code = """
        ask = {"provider": "p", "model": "m", "messages": [{"role": "user", "content": "2+2?"}]}
        found = await broker.memory_recall(agent_id="a", query="q")
        whole = await broker.llm_complete(**ask, temperature=0, system_prompt="s")
        pieces = broker.llm_complete_stream(**ask)
        text = "".join([piece async for piece in pieces])
        end = await pieces.final_result()
        try:
            await broker.request("no.such", {})
        except RpcServerError as exc:
            error = str(exc)
        return [found[0].id, whole.content, text, end.usage.prompt_tokens, error]
    """
    messages = [{"role": "user", "content": "2+2?"}]
    asked = {"provider": "p", "model": "m", "messages": messages, "max_tokens": 4096}
    usage = {"prompt_tokens": 6, "completion_tokens": 1}
    shared.write(run(5, code))

    recall = shared.read()
    assert recall["params"] == {"agent_id": "a", "query": "q", "limit": 10}
    entry = {"id": "m", "agent_id": "a", "content": "c"}
    whole = shared.ask(result(recall["id"], {"entries": [entry]}))
    assert whole["params"] == {**asked, "temperature": 0, "system_prompt": "s"}
    stream = shared.ask(result(whole["id"], {"content": "four", "usage": usage}))
    assert stream["params"] == {**asked, "temperature": 0.7, "stream": True}
    for chunk in ("f", "our"):
        params = {"request_id": stream["id"], "chunk": chunk}
        shared.write(notification("llm.complete.delta", params))
    other = shared.ask(result(stream["id"], {"finish_reason": "stop", "usage": usage}))
    shared.write({"jsonrpc": "2.0", "id": other["id"], "error": {"code": -32601, "message": "no"}})

    assert shared.read() == result(5, ["m", "four", "four", 6, "rpc error -32601: no"])
    assert [m["method"] for m in (recall, whole, stream)] == ["memory.recall"] + [
        "llm.complete"
    ] * 2
    assert whole["id"] < stream["id"] < other["id"]


def test_calls_fail_at_their_limit_and_streams_where_the_host_fails_them(shared: Plugin) -> None:
    code = """
        try:
            await broker.memory_recall(agent_id="a", query="q", timeout=0.05)
        except RpcTimeoutError:
            pieces = broker.llm_complete_stream(provider="p", model="m", messages=[])
        got = []
        try:
            async for piece in pieces:
                got.append(piece)
        except RpcServerError as exc:
            return [got, exc.code, str(exc)]
    """
    shared.write(run(5, code))

    late, stream = shared.read(), shared.read()
    shared.write(result(late["id"], {"entries": []}))  # nobody waits for it any more
    params = {"request_id": stream["id"], "chunk": "half"}
    shared.write(notification("llm.complete.delta", params))
    error = {"code": -32000, "message": "no more"}
    shared.write({"jsonrpc": "2.0", "id": stream["id"], "error": error})
    assert shared.read() == result(5, [["half"], -32000, "rpc error -32000: no more"])


def test_a_plugin_can_be_a_language_model(shared: Plugin) -> None:
    params = {"provider": "p", "model": "m", "stream": True, "request": {"messages": []}}
    delta = shared.ask(request(2**40, "llm.chat", params))

    chunk = {"type": "text_delta", "text": "m"}
    assert delta == notification("llm.chat.delta", {"request_id": 2**40, "chunk": chunk})
    assert shared.read()["result"]["content"] == {"type": "text", "text": "m"}
    assert shared.ask(request(6, "llm.chat", {}))["error"]["code"] == -32602


# -- what is not answered (5.1: the existing SDK answers with "id": null) --------------------------


@pytest.mark.parametrize(
    "message",
    [
        notification("no.such"),
        notification("initialize"),
        {**invoke(None, "demo_add", {"a": 1})},
        notification("tool.invoke", {"tool_name": "demo_add", "args": {"a": 1}}),
        {"jsonrpc": "2.0", "id": None, "method": "no.such"},
        notification("llm.complete.delta", {"request_id": 99, "chunk": "x"}),
        {"jsonrpc": "2.0", "id": 99, "result": {}},
        {"jsonrpc": "2.0", "id": 99, "error": {"code": 1, "message": "x"}},
        {"jsonrpc": "2.0", "id": "x", "result": {}},
        event("nobody", None),
    ],
)
def test_what_has_no_id_or_answers_nothing_is_not_answered(shared: Plugin, message: Any) -> None:
    shared.write(message)

    assert shared.alive()


# 5.2: each of these ends the existing SDK, or is taken for something else.
BAD_LINES: list[bytes] = [
    b"nonsense\n",
    b'{"id":1\n',
    b"[]\n",
    b'[{"jsonrpc":"2.0","id":1,"method":"initialize"}]\n',
    b"42\n",
    b'"text"\n',
    b"null\n",
    b"{}\n",
    b'{"jsonrpc":"2.0","id":1}\n',
    b'{"jsonrpc":"2.0","id":1,"method":5}\n',
    b'{"jsonrpc":"2.0","id":[1],"result":{}}\n',
    b'{"jsonrpc":"2.0","id":{"a":1},"result":{}}\n',
    b'{"jsonrpc":"2.0","id":true,"result":{}}\n',
    b'{"jsonrpc":"2.0","id":1,"error":"text"}\n',
    b'{"jsonrpc":"2.0","id":1,"error":[]}\n',
    b'{"jsonrpc":"2.0","id":1,"error":{"code":"x","message":"m"}}\n',
    b'{"jsonrpc":"2.0","method":"llm.complete.delta","params":[1]}\n',
    b'{"jsonrpc":"2.0","method":"llm.complete.delta","params":{"request_id":{},"chunk":"x"}}\n',
    b'{"jsonrpc":"2.0","method":"llm.complete.delta","params":{"request_id":1,"chunk":5}}\n',
    b'{"jsonrpc":"2.0","method":"broker.event"}\n',
    b'{"jsonrpc":"2.0","method":"broker.event","params":[]}\n',
    b'{"jsonrpc":"2.0","method":"broker.event","params":{"topic":"echo"}}\n',
    b'{"jsonrpc":"2.0","method":"broker.event","params":{"topic":"echo","event":5}}\n',
    b'{"jsonrpc":"2.0","method":"broker.event","params":{"topic":5,"event":{"topic":"t"}}}\n',
    b'{"jsonrpc":"2.0","method":"broker.event","params":{"topic":"echo","event":{"payload":1}}}\n',
    b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n",
    b"[" * 200_000 + b"\n",
    b'{"a":' * 50_000 + b"\n",
    b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"initialize"}\n',
    b'{"jsonrpc":"2.0","method":"broker.event","params":{"topic":"echo","event":{"topic":"t",'
    b'"source":"s","payload":' + b"9" * 5000 + b"}}}\n",
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":"\xff\xfe"}\n',
    b'{"jsonrpc":"2.0","method":"broker.event","params":{"topic":"echo","event":{"topic":"t",'
    b'"source":"s","payload":"\xff"}}}\n',
    b'{"jsonrpc":"2.0","method":"broker.event","params":{"topic":"echo","event":{"topic":"t",'
    b'"source":"s","payload":"\\ud800"}}}\n',
    b'{"jsonrpc":"2.0","method":"broker.event","params":{"topic":"echo","event":{"topic":"t",'
    b'"source":"s","payload":NaN}}}\n',
    b'{"jsonrpc":"2.0","id":1,"method":"no.such"}{"jsonrpc":"2.0","id":2,"method":"no.such"}\n',
]


def test_a_bad_line_is_logged_and_costs_only_itself(fresh: Plugin) -> None:
    for bad in BAD_LINES:
        fresh.write(bad)
        assert fresh.alive(), bad[:100]

    said, errors = fresh.finish()

    assert said == []
    lines = errors.splitlines()
    assert len(lines) == len(BAD_LINES)
    assert all("malformed" in text or "unknown/expired" in text for text in lines)


def test_bad_lines_in_one_block_with_good_ones_cost_only_themselves(shared: Plugin) -> None:
    shared.write(b"".join(bad + line(ADD) for bad in BAD_LINES[:12]))

    assert [shared.read() for _ in range(12)] == [result(7, 2)] * 12


def test_endless_bad_lines_write_a_bounded_log(fresh: Plugin) -> None:
    fresh.write(b"nonsense\n" * 5000)

    assert fresh.alive()
    _, errors = fresh.finish()
    assert 0 < len(errors.splitlines()) <= 110


# -- the cap (5.3) ---------------------------------------------------------------------------------


def padded(size: int) -> bytes:
    """Make a call of a tool that is so many bytes long, without its LF."""
    message = invoke(7, "demo_run", {"code": "return 5"})
    message["pad"] = ""
    message["pad"] = "x" * (size - len(line(message)) + 1)
    data = line(message)
    assert len(data) == size + 1
    return data


def test_a_line_of_exactly_the_cap_is_served_and_one_more_byte_is_not(fresh: Plugin) -> None:
    fresh.write(padded(1_048_577), padded(1_048_576))

    assert fresh.read() == result(7, 5)
    assert fresh.alive()
    _, errors = fresh.finish()
    assert errors.count("exceeds max_frame_bytes") == 1


@pytest.mark.parametrize("blocks", [17, 18, 19, 48])
def test_the_tail_of_an_over_long_line_is_never_a_frame(shared: Plugin, blocks: int) -> None:
    smuggled = line(run(666, "return 'smuggled'"))

    shared.write(b"x" * (blocks * 65536) + smuggled)

    assert shared.alive()


def test_a_carriage_return_is_white_space_and_ends_no_line(shared: Plugin) -> None:
    spaced = line(ADD).rstrip()[:-1] + b"\r}\n"

    shared.write(b"\xff\r" + line(run(666, "return 'smuggled'")) + spaced)

    assert shared.read() == result(7, 2)


def test_an_over_long_line_is_logged_once(fresh: Plugin) -> None:
    fresh.write(b'{"id":1,"pad":"' + b"x" * 3 * 1024 * 1024 + b'"}\n')

    assert fresh.alive()
    _, errors = fresh.finish()
    assert "exceeds max_frame_bytes" in errors
    assert len(errors.splitlines()) == 1


def test_the_cap_can_be_set(loop: str) -> None:
    with plugin(loop, options={"max_frame_bytes": 300}) as process:
        process.write(padded(301), padded(300))

        assert process.read() == result(7, 5)
        error = process.run("return 'x' * 300")
        assert error["code"] == -33403
        assert "exceeds max_frame_bytes=300" in error["message"]


def test_a_frame_that_is_too_large_to_send_is_an_error_of_its_own(shared: Plugin) -> None:
    code = """
        try:
            await broker.publish("t", Event("t", "", "x" * 1_048_577))
        except WireError as exc:
            return str(exc)
    """
    assert "exceeds max_frame_bytes=1048576" in shared.run(code)
    assert shared.alive()


def test_an_unterminated_last_line_is_dropped(fresh: Plugin) -> None:
    said, _ = fresh.finish(json.dumps(ADD).encode())

    assert said == []
    assert fresh.process.returncode == 0
