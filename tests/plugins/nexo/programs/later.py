"""A plugin that serves each of the later methods, and says what it was asked.

Arguments: the loop, and the options of the adapter as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from anyio_bus.plugins.nexo import PluginAdapter, methods

RETURNED: dict[type, Any] = {
    methods.ChannelStart: None,
    methods.ChannelStop: "whatever",
    methods.ChannelSendOutbound: methods.SentMessage("m", 5),
    methods.LlmChat: methods.chat_text("hi", prompt_tokens=1),
    methods.OnHook: None,
    methods.VectorUpsert: 1,
    methods.VectorSearch: [methods.VectorMatch("i", "c", 0.5)],
    methods.VectorDelete: {"count": 2},
    methods.Configure: "set",
    methods.CredentialsList: {"accounts": ["a"], "warnings": []},
    methods.CredentialsIssue: None,
    methods.CredentialsResolveBytes: b"secret",
    methods.CredentialsReload: None,
    methods.OutboundToolInvoke: [1],
}

options = json.loads(sys.argv[2])
adapter = PluginAdapter(manifest_toml='[plugin]\nid = "later"\nversion = "1"\n', **options)
seen: dict[str, Any] = {}


def serve(kind: type) -> None:
    """Answer one method with its value."""
    method, _ = methods.METHODS[kind]

    @adapter.on(kind)
    async def handler(asked: Any) -> Any:
        assert type(asked) is kind
        seen[method] = asked
        return RETURNED[kind]


for kind in RETURNED:
    serve(kind)


adapter.on_request("demo.seen", lambda _: seen)

if __name__ == "__main__":
    adapter.run_forever(sys.argv[1])
