"""Write nexo plugins: programs that a nexo host starts and talks JSON-RPC lines to.

::

    from pathlib import Path

    from anyio_bus.plugins.nexo import Event, BrokerSender, PluginAdapter

    async def on_event(topic: str, event: Event, broker: BrokerSender) -> None:
        await broker.publish("plugin.inbound.echo", event.reply(event.payload))

    adapter = PluginAdapter(manifest_toml=Path("nexo-plugin.toml").read_text(), on_event=on_event)

    if __name__ == "__main__":
        adapter.run_forever()
"""

from __future__ import annotations

from anyio_bus import __version__
from anyio_bus.plugins.nexo._definition import RequestContext
from anyio_bus.plugins.nexo.adapter import EventHandler, PluginAdapter, ShutdownHandler
from anyio_bus.plugins.nexo.broker import BrokerSender, LlmStream
from anyio_bus.plugins.nexo.errors import (
    ManifestError,
    MethodError,
    PluginError,
    RpcDecodeError,
    RpcError,
    RpcServerError,
    RpcTimeoutError,
    RpcTransportError,
    ToolArgumentInvalid,
    ToolDenied,
    ToolExecutionFailed,
    ToolInvocationError,
    ToolNotFound,
    ToolUnavailable,
    WireError,
)
from anyio_bus.plugins.nexo.manifest import lint_manifest, read_manifest
from anyio_bus.plugins.nexo.stdout_guard import (
    STDOUT_GUARD_MARKER,
    install_stdout_guard,
    is_stdout_guard_installed,
    uninstall_stdout_guard,
)
from anyio_bus.plugins.nexo.types import (
    Event,
    LlmCompleteResult,
    MemoryEntry,
    Message,
    TokenCount,
    ToolContext,
    ToolDef,
    ToolHandler,
    ToolHandlerWithContext,
    ToolInvocation,
    text_result,
)
from anyio_bus.plugins.nexo.wire import (
    DEFAULT_RPC_TIMEOUT,
    JSONRPC_VERSION,
    MAX_FRAME_BYTES,
    build_error_response,
    build_notification,
    build_response,
    serialize_frame,
)

__all__ = (
    "DEFAULT_RPC_TIMEOUT",
    "JSONRPC_VERSION",
    "MAX_FRAME_BYTES",
    "STDOUT_GUARD_MARKER",
    "BrokerSender",
    "Event",
    "EventHandler",
    "LlmCompleteResult",
    "LlmStream",
    "ManifestError",
    "MemoryEntry",
    "Message",
    "MethodError",
    "PluginAdapter",
    "PluginError",
    "RequestContext",
    "RpcDecodeError",
    "RpcError",
    "RpcServerError",
    "RpcTimeoutError",
    "RpcTransportError",
    "ShutdownHandler",
    "TokenCount",
    "ToolArgumentInvalid",
    "ToolContext",
    "ToolDef",
    "ToolDenied",
    "ToolExecutionFailed",
    "ToolHandler",
    "ToolHandlerWithContext",
    "ToolInvocation",
    "ToolInvocationError",
    "ToolNotFound",
    "ToolUnavailable",
    "WireError",
    "__version__",
    "build_error_response",
    "build_notification",
    "build_response",
    "install_stdout_guard",
    "is_stdout_guard_installed",
    "lint_manifest",
    "read_manifest",
    "serialize_frame",
    "text_result",
    "uninstall_stdout_guard",
)
