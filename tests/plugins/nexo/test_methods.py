"""The later methods of the host, and tools, mostly served by an adapter in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from anyio_bus.plugins.nexo import (
    MethodError,
    PluginAdapter,
    RequestContext,
    ToolContext,
    ToolDef,
    ToolInvocation,
    ToolNotFound,
    methods,
)
from anyio_bus.testing.nexo import PluginFailure, open_host
from tests.plugins.nexo.kit import plugin, result
from tests.worker.kit import request

MANIFEST = '[plugin]\nid = "demo"\nversion = "1"\n[plugin.extends]\ntools = ["demo_a", "demo_b"]\n'

ASKED = {
    "channel.start": {"kind": "k", "instance": None},
    "channel.stop": {"kind": "k"},
    "channel.send_outbound": {"kind": "k", "msg": {"kind": "text", "to": "t", "body": "b"}},
    "llm.chat": {"provider": "p", "model": "m", "stream": False, "request": {"messages": []}},
    "hook.on_hook": {"plugin_id": "demo", "hook_name": "h", "event": {"a": 1}},
    "memory.vector_upsert": {
        "backend": "b",
        "collection": "c",
        "records": [{"id": "i", "content": "c", "embedding": [0.5, 1], "metadata": {}}],
    },
    "memory.vector_search": {
        "backend": "b",
        "collection": "c",
        "query": {"embedding": [1.0], "limit": 3, "filter": None},
    },
    "memory.vector_delete": {"backend": "b", "collection": "c", "ids": ["i"]},
    "plugin.configure": {"value": {"a": 1}},
    "plugin.credentials.list": {},
    "plugin.credentials.issue": {"account_id": "a", "agent_id": "b"},
    "plugin.credentials.resolve_bytes": {"account_id": "a", "agent_id": "b", "fingerprint": "f"},
    "plugin.credentials.reload": {},
    "outbound_tool.invoke": {"tool_name": "t", "args": {"a": 1}},
}

ANSWERS = {
    "channel.start": {"ok": True},
    "channel.stop": {"ok": True},
    "channel.send_outbound": {"message_id": "m", "sent_at_unix": 5},
    "llm.chat": {
        "content": {"type": "text", "text": "hi"},
        "usage": {"prompt_tokens": 1, "completion_tokens": 0},
        "finish_reason": {"kind": "stop"},
    },
    "hook.on_hook": {},
    "memory.vector_upsert": {"count": 1},
    "memory.vector_search": {
        "matches": [{"id": "i", "content": "c", "score": 0.5, "metadata": None}]
    },
    "memory.vector_delete": {"count": 2},
    "plugin.configure": "set",
    "plugin.credentials.list": {"accounts": ["a"], "warnings": []},
    "plugin.credentials.issue": {"ok": True},
    "plugin.credentials.resolve_bytes": {"bytes_b64": "c2VjcmV0"},
    "plugin.credentials.reload": {"ok": True},
    "outbound_tool.invoke": [1],
}


def make(**options: Any) -> PluginAdapter:
    return PluginAdapter(manifest_toml=MANIFEST, **options)


def test_each_later_method_is_served_with_typed_params_and_its_answer(loop: str) -> None:
    assert {method for method, _ in methods.METHODS.values()} == ASKED.keys() == ANSWERS.keys()
    with plugin(loop, "later") as process:
        for method, params in ASKED.items():
            answer = process.ask(request(method, method, params))
            assert answer == result(method, ANSWERS[method])
        seen = process.ask(request(1, "demo.seen"))["result"]
        assert process.end() == 0

    assert seen["memory.vector_upsert"]["records"][0]["embedding"] == [0.5, 1.0]
    assert seen["outbound_tool.invoke"]["args"] == {"a": 1}


async def test_a_handler_may_be_plain_and_asked_under_another_name() -> None:
    adapter = make()

    @adapter.on(methods.OutboundToolInvoke, method="demo.call")
    def handler(asked: methods.OutboundToolInvoke, context: RequestContext) -> Any:
        return [asked.tool_name, context.method, context.request_id, context.plugin_id]

    @adapter.on(methods.CredentialsList)
    def accounts(asked: methods.CredentialsList) -> Any:
        return {"accounts": [], "warnings": []}

    async with open_host(adapter) as host:
        answer = await host.request("demo.call", {"tool_name": "t"}, key=77)
        assert answer == ["t", "demo.call", 77, "demo"]
        assert await host.request("plugin.credentials.list") == {"accounts": [], "warnings": []}


async def test_a_chat_streams_its_pieces_before_its_answer() -> None:
    adapter = make()
    calls = [{"id": "c", "name": "n", "arguments": {}}]

    @adapter.on(methods.LlmChat)
    async def chat(asked: methods.LlmChat, context: RequestContext) -> Any:
        for text in ("fou", "r"):
            await context.send_delta({"type": "text_delta", "text": text})
        return methods.chat_tool_calls(calls)

    async with open_host(adapter) as host:
        answer = await host.request("llm.chat", ASKED["llm.chat"], key=9)
        deltas = [await host.next_notification() for _ in range(2)]

    assert answer["content"] == {"type": "tool_calls", "tool_calls": calls}
    assert answer["finish_reason"] == {"kind": "tool_use"}
    assert [delta["method"] for delta in deltas] == ["llm.chat.delta"] * 2
    chunk = {"type": "text_delta", "text": "fou"}
    assert deltas[0]["params"] == {"request_id": 9, "chunk": chunk}


async def test_a_hook_decides_only_what_it_says() -> None:
    adapter = make()

    @adapter.on(methods.OnHook)
    async def hook(asked: methods.OnHook) -> methods.HookDecision:
        return methods.HookDecision(decision="block", reason="no")

    async with open_host(adapter) as host:
        answer = await host.request("hook.on_hook", ASKED["hook.on_hook"])
    assert answer == {"decision": "block", "reason": "no"}


@pytest.mark.parametrize(
    ("error", "code", "message", "data"),
    [
        (
            methods.ChannelRecipientError("gone", recipient="r", reason="x"),
            -33003,
            "gone",
            {"recipient": "r", "reason": "x"},
        ),
        (
            methods.LlmRateLimitedError("slow", retry_after_secs=5),
            -33103,
            "slow",
            {"retry_after_secs": 5},
        ),
        (
            methods.VectorDimensionError("no", expected=3, got=2),
            -33302,
            "no",
            {"expected": 3, "got": 2},
        ),
        (MethodError(-32000, "not_permitted: x"), -32000, "not_permitted: x", None),
        (KeyError("x"), -32603, "'x'", None),
        (MethodError("odd", "x"), -32603, "x", None),  # type: ignore[arg-type]
    ],
)
async def test_what_a_handler_raises_is_the_error(
    error: Exception, code: int, message: str, data: Any
) -> None:
    adapter = make()

    @adapter.on(methods.Configure)
    async def configure(asked: methods.Configure) -> None:
        raise error

    async with open_host(adapter) as host:
        with pytest.raises(PluginFailure) as caught:
            await host.request("plugin.configure", {"value": 1})
    assert (caught.value.code, caught.value.message, caught.value.data) == (code, message, data)


@pytest.mark.parametrize("params", [{}, {"kind": 5}, [], "x", None])
async def test_params_that_do_not_fit_are_invalid(params: Any) -> None:
    adapter = make()
    adapter.on(methods.ChannelStop)(lambda asked: None)
    async with open_host(adapter) as host:
        with pytest.raises(PluginFailure) as caught:
            await host.request("channel.stop", params)
    assert caught.value.code == -32602
    assert caught.value.message.startswith("channel.stop: invalid params: ")


async def test_a_result_that_is_no_json_is_an_internal_error() -> None:
    adapter = make()
    adapter.on_request("custom", lambda params: float("nan"))
    async with open_host(adapter) as host:
        with pytest.raises(PluginFailure, match="not JSON-serializable") as caught:
            await host.request("custom")
    assert caught.value.code == -32603


# -- tools under the old names ---------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
async def test_one_handler_serves_all_tools(is_async: bool) -> None:
    seen: list[ToolInvocation] = []

    def plain(invocation: ToolInvocation) -> Any:
        seen.append(invocation)
        if invocation.tool_name == "demo_c":
            raise ToolNotFound("demo_c")
        return invocation.args

    async def slow(invocation: ToolInvocation) -> Any:
        await anyio.lowlevel.checkpoint()
        return plain(invocation)

    handler: Callable[..., Any] = slow if is_async else plain
    adapter = make(tools=[ToolDef("demo_a", "A")], on_tool=handler)
    async with open_host(adapter) as host:
        assert await host.invoke("demo_a", {"x": 1}, agent_id="ana") == {"x": 1}
        assert await host.invoke("demo_b") is None
        with pytest.raises(PluginFailure, match="tool not found: demo_c"):
            await host.invoke("demo_c")
    assert seen[0] == ToolInvocation("demo", "demo_a", {"x": 1}, "ana")


async def test_the_handler_with_context_wins() -> None:
    async def with_context(invocation: ToolInvocation, context: ToolContext) -> str:
        assert context.broker is adapter.broker
        return context.plugin_id

    def without(invocation: ToolInvocation) -> str:
        return "without"

    adapter = make(on_tool=without, on_tool_with_context=with_context)
    async with open_host(adapter) as host:
        assert await host.invoke("demo_a") == "demo"
    second = make().on_tool_with_context(with_context).on_tool(without)
    assert second._tools._any is with_context


async def test_a_tool_of_its_own_goes_before_the_common_handler() -> None:
    adapter = make(on_tool=lambda invocation: "common")

    @adapter.tool("demo_a")
    async def own(n: int = 5) -> int:
        return n

    async with open_host(adapter) as host:
        assert await host.invoke("demo_a") == 5
        assert await host.invoke("demo_b", {"n": 1}) == "common"


async def test_an_odd_plugin_id_is_replaced_by_the_manifests() -> None:
    adapter = make(on_tool=lambda invocation: invocation.plugin_id)
    async with open_host(adapter) as host:
        for odd in (None, "", 5, []):
            params = {"tool_name": "x", "plugin_id": odd, "agent_id": odd}
            assert await host.request("tool.invoke", params) == "demo"
        params = {"tool_name": "x", "plugin_id": "demo.two"}
        assert await host.request("tool.invoke", params) == "demo.two"
