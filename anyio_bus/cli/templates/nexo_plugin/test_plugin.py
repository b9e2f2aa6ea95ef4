"""The plugin as its host sees it: started, asked, and told to end."""

import sys
from pathlib import Path

import anyio
import pytest

from anyio_bus.plugins.nexo import lint_manifest
from anyio_bus.testing.nexo import PluginFailure, open_host

HERE = Path(__file__).parent
COMMAND = [sys.executable, str(HERE / "plugin.py")]
ALLOWED = ["plugin.inbound.my_plugin"]


def test_manifest_breaks_no_rule_of_the_host() -> None:
    assert lint_manifest((HERE / "nexo-plugin.toml").read_text(encoding="utf-8")) == []


def test_event_is_answered_on_the_channel() -> None:
    async def main() -> None:
        async with open_host(COMMAND, plugin_id="my_plugin", allowed=ALLOWED) as host:
            await host.event("plugin.outbound.my_plugin", {"text": "hello"})
            published = await host.next_published()
            assert published.topic == "plugin.inbound.my_plugin"
            assert published.event["payload"] == {"text": "you said: hello"}
            assert host.dropped == []

    anyio.run(main)


def test_tool_counts_words_and_refuses_an_empty_text() -> None:
    async def main() -> None:
        async with open_host(COMMAND) as host:
            assert await host.invoke("my_plugin_count", {"text": "two words"}) == 2
            with pytest.raises(PluginFailure, match="the text is empty"):
                await host.invoke("my_plugin_count", {"text": " "})

    anyio.run(main)
