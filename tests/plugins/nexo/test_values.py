"""Frames by hand, values and errors, under the names that authors know."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import msgspec
import pytest

from anyio_bus.plugins import nexo
from anyio_bus.plugins.nexo import (
    Event,
    LlmCompleteResult,
    MemoryEntry,
    Message,
    PluginAdapter,
    PluginError,
    TokenCount,
    ToolContext,
    ToolDef,
    ToolInvocation,
    methods,
)

MANIFEST = '[plugin]\nid = "demo"\nversion = "1"\n[plugin.extends]\ntools = ["t"]\n'

# Section 3.1 of the existing SDK: what authors import.
KNOWN = """
BrokerSender DEFAULT_RPC_TIMEOUT Event EventHandler JSONRPC_VERSION LlmCompleteResult LlmStream
MAX_FRAME_BYTES ManifestError MemoryEntry Message PluginAdapter PluginError RpcDecodeError RpcError
RpcServerError RpcTimeoutError RpcTransportError STDOUT_GUARD_MARKER ShutdownHandler TokenCount
ToolArgumentInvalid ToolContext ToolDef ToolDenied ToolExecutionFailed ToolHandler
ToolHandlerWithContext ToolInvocation ToolInvocationError ToolNotFound ToolUnavailable WireError
__version__ build_error_response build_notification build_response install_stdout_guard
is_stdout_guard_installed read_manifest serialize_frame text_result uninstall_stdout_guard
"""


def test_every_name_that_authors_know_is_there() -> None:
    assert set(KNOWN.split()) <= set(nexo.__all__)
    assert all(getattr(nexo, name) is not None for name in nexo.__all__)
    assert (nexo.JSONRPC_VERSION, nexo.MAX_FRAME_BYTES, nexo.DEFAULT_RPC_TIMEOUT) == (
        "2.0",
        1 << 20,
        30.0,
    )
    with pytest.raises(AttributeError, match="no_such"):
        nexo.no_such  # noqa: B018


def test_frames_by_hand() -> None:
    assert nexo.build_response(1, None) == {"jsonrpc": "2.0", "id": 1, "result": None}
    error = {"code": -1, "message": "m"}
    assert nexo.build_error_response("a", -1, "m") == {"jsonrpc": "2.0", "id": "a", "error": error}
    notification = nexo.build_notification("m", {"a": "é\n"})
    assert notification == {"jsonrpc": "2.0", "method": "m", "params": {"a": "é\n"}}
    text = nexo.serialize_frame(notification)
    assert text == '{"jsonrpc": "2.0", "method": "m", "params": {"a": "\\u00e9\\n"}}\n'


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_a_frame_by_hand_is_json_or_an_error(value: object) -> None:
    with pytest.raises(nexo.WireError, match="not JSON-serializable"):
        nexo.serialize_frame({"x": value})


def test_a_cycle_is_no_frame() -> None:
    frame: dict[str, Any] = {}
    frame["x"] = frame
    with pytest.raises(nexo.WireError, match="not JSON-serializable"):
        nexo.serialize_frame(frame)


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        (
            Event,
            {"topic": "t", "source": "s", "payload": None},
            {
                "topic": "t",
                "source": "s",
                "payload": [1],
                "correlation_id": "c",
                "metadata": {"k": 1},
                "id": "i",
                "timestamp": "x",
                "session_id": "y",
            },
        ),
        (
            MemoryEntry,
            {"id": "i", "agent_id": "a", "content": "c"},
            {
                "id": "i",
                "agent_id": "a",
                "content": "c",
                "tags": ["t"],
                "concept_tags": ["u"],
                "created_at": "x",
                "memory_type": "m",
            },
        ),
        (Message, {"role": "user", "content": "c"}, {"role": "user", "content": [{"type": "x"}]}),
        (TokenCount, {}, {"prompt_tokens": 1, "completion_tokens": 2}),
        (
            LlmCompleteResult,
            {},
            {
                "content": "c",
                "finish_reason": "stop",
                "usage": {"prompt_tokens": 1, "completion_tokens": 2},
            },
        ),
    ],
)
def test_values_go_to_json_and_back(kind: Any, least: dict[str, Any], most: dict[str, Any]) -> None:
    assert kind.from_json({**most, "unknown": 1}).to_json() == most
    again = kind.from_json(least)
    assert kind.from_json(again.to_json()) == again
    json.dumps(again.to_json())
    for name in least.keys() - {"payload"}:
        with pytest.raises(KeyError):
            kind.from_json({key: value for key, value in least.items() if key != name})


def test_events_know_their_replies() -> None:
    event = Event.new("plugin.outbound.mail.x", "host", 1)
    event.session_id, event.correlation_id = "s", "c"

    answer = event.reply(2)

    assert (answer.topic, answer.payload) == ("plugin.inbound.mail.x", 2)
    assert (answer.session_id, answer.correlation_id) == ("s", "c")
    assert event.reply(2, topic="other").topic == "other"
    assert Event("t").reply(2).topic == "t"
    assert event.metadata is not Event("t").metadata


def test_tools_are_values() -> None:
    tool = ToolDef("t", "d")
    assert tool.to_json() == {"name": "t", "description": "d", "input_schema": {}}
    for value in (tool, ToolInvocation("p", "t"), ToolContext(None, "p")):  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            value.plugin_id = "x"  # type: ignore[union-attr,misc]
    assert ToolInvocation("p", "t") == ToolInvocation("p", "t", None, None)


def pickled(error: Exception) -> Any:
    return pickle.loads(pickle.dumps(error))


ERRORS: list[tuple[Exception, str, int | None]] = [
    (nexo.PluginError("m"), "m", None),
    (nexo.ManifestError("m"), "m", None),
    (nexo.WireError("m"), "m", None),
    (nexo.RpcServerError(-5, "m", [1]), "rpc error -5: m", -5),
    (nexo.RpcTimeoutError(1.5), "no answer from the host within 1.5 s", None),
    (nexo.RpcTransportError("m"), "m", None),
    (nexo.RpcDecodeError("m"), "m", None),
    (nexo.MethodError(-5, "m", [1]), "m", -5),
    (nexo.ToolNotFound("t"), "tool not found: t", -33401),
    (nexo.ToolArgumentInvalid("m", details=1), "invalid argument: m", -33402),
    (nexo.ToolExecutionFailed("m"), "execution failed: m", -33403),
    (nexo.ToolUnavailable("m", retry_after_ms=1), "unavailable: m", -33404),
    (nexo.ToolDenied("m"), "denied: m", -33405),
    (methods.ChannelConnectionError("m"), "m", -33001),
    (methods.ChannelAuthenticationError("m"), "m", -33002),
    (methods.ChannelRecipientError("m", recipient="r", reason="x"), "m", -33003),
    (methods.ChannelRateLimitedError("m", retry_after_secs=1), "m", -33004),
    (methods.ChannelUnsupportedError("m", feature="f"), "m", -33005),
    (methods.LlmConnectionError("m"), "m", -33101),
    (methods.LlmAuthenticationError("m"), "m", -33102),
    (methods.LlmRateLimitedError("m", retry_after_secs=1), "m", -33103),
    (methods.ModelNotFoundError("m"), "m", -33104),
    (methods.ContextOverflowError("m"), "m", -33105),
    (methods.VectorCollectionNotFoundError("m", collection="c"), "m", -33301),
    (methods.VectorDimensionError("m", expected=1, got=2), "m", -33302),
    (methods.VectorRateLimitedError("m"), "m", -33303),
    (methods.VectorWriteError("m"), "m", -33304),
]


@pytest.mark.parametrize(
    ("error", "text", "code"), ERRORS, ids=[type(error).__name__ for error, *_ in ERRORS]
)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_errors_say_what_they_know_and_survive_pickling(
    error: Exception, text: str, code: int | None, again: Any
) -> None:
    restored = again(error)

    assert type(restored) is type(error)
    assert str(restored) == text
    assert getattr(restored, "code", None) == code
    for name in ("data", "details", "retry_after_ms", "seconds"):
        assert getattr(restored, name, None) == getattr(error, name, None)


def test_the_tree_of_errors_is_the_known_one() -> None:
    for error in (nexo.ManifestError, nexo.WireError, nexo.RpcError):
        assert issubclass(error, PluginError)
    for error in (
        nexo.RpcServerError,
        nexo.RpcTimeoutError,
        nexo.RpcTransportError,
        nexo.RpcDecodeError,
    ):
        assert issubclass(error, nexo.RpcError)
    assert not issubclass(nexo.ToolInvocationError, PluginError)
    assert nexo.ToolInvocationError().error_data() is None
    assert nexo.ToolInvocationError.code == -33403


# -- what cannot be an adapter ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"event_shape": "other"},
        {"max_frame_bytes": 0},
        {"max_frame_bytes": True},
        {"max_outbound_frame_bytes": 0},
        {"max_concurrency": 0},
        {"max_queued": 1.5},
        {"drain_s": 0},
        {"request_timeout_s": float("inf")},
        {"request_timeout_s": "5"},
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(PluginError, match=f"PluginAdapter.{next(iter(options))}"):
        PluginAdapter(manifest_toml=MANIFEST, **options)


def test_what_cannot_be_served_is_refused() -> None:
    adapter = PluginAdapter(manifest_toml=MANIFEST)
    with pytest.raises(PluginError, match="the adapter's own"):
        adapter.on_request("shutdown", print)
    with pytest.raises(PluginError, match="not callable"):
        adapter.on_request("x", 5)  # type: ignore[arg-type]
    assert adapter.on_request("x", print) is adapter
    with pytest.raises(PluginError, match="a handler already"):
        adapter.on_request("x", print)
    with pytest.raises(PluginError, match="no method of the host"):
        adapter.on(int)

    def bad(*args: int) -> None: ...

    with pytest.raises(PluginError, match="cannot be"):
        adapter.tool("t")(bad)
    with pytest.raises(PluginError, match="tool 't': result is not JSON"):
        adapter.tool("t", input_schema={"default": float("nan")})(lambda: None)
    assert not adapter._tools.served


class Place(msgspec.Struct):
    city: str


class Tree(msgspec.Struct):
    trees: list[Tree]


def test_each_bound_tool_shows_a_schema_of_an_object() -> None:
    def one(place: Place, ctx: ToolContext, tags: list[str] = []) -> None: ...  # noqa: B006

    def whole(params: Place) -> None:
        """Take all of it."""

    def nested(params: Tree) -> None: ...

    def anything(params: Any) -> None: ...

    def rest(a: int, **more: Any) -> None: ...

    def shown(function: Any, **options: Any) -> ToolDef:
        adapter = PluginAdapter(manifest_toml=MANIFEST)
        assert adapter.tool("t", **options)(function) is function
        return adapter._tools.catalog[0]

    for function in (one, whole, nested, anything, rest):
        assert shown(function).input_schema["type"] == "object"
    items = shown(nested).input_schema["properties"]["trees"]["items"]
    assert items == {"$ref": "#/$defs/Tree"}
    assert shown(nested).input_schema["$defs"]["Tree"]["properties"]["trees"]["items"] == items
    assert shown(one).input_schema["required"] == ["place"]
    assert shown(whole).description == "Take all of it."
    assert shown(one, description="d", input_schema={"type": "object", "x": 1}) == ToolDef(
        "t", "d", {"type": "object", "x": 1}
    )


def test_a_decorator_without_parentheses_is_refused() -> None:
    """Else nothing would be registered, and nobody would say so."""

    def add(a: int) -> int:
        return a

    adapter: Any = PluginAdapter(manifest_toml=MANIFEST)
    with pytest.raises(PluginError, match=r"needs parentheses: @adapter.tool\(\)"):
        adapter.tool(add)
    with pytest.raises(PluginError, match=r"no method of the host; .* @adapter.on\(LlmChat\)"):
        adapter.on(add)
