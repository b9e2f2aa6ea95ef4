#!/usr/bin/env python3
"""A nexo plugin: the host starts it and speaks to it on stdin and stdout."""

from pathlib import Path

from anyio_bus.plugins.nexo import BrokerSender, Event, PluginAdapter, ToolArgumentInvalid

MANIFEST = Path(__file__).with_name("nexo-plugin.toml").read_text(encoding="utf-8")


async def on_event(topic: str, event: Event, broker: BrokerSender) -> None:
    """Answer what people write on the channel, in the same conversation."""
    answer = event.reply({"text": f"you said: {event.payload['text']}"})
    await broker.publish(answer.topic, answer)


adapter = PluginAdapter(manifest_toml=MANIFEST, on_event=on_event)


@adapter.tool()
def my_plugin_count(text: str) -> int:
    """Count the words of a text."""
    if not text.strip():
        raise ToolArgumentInvalid("the text is empty")
    return len(text.split())


if __name__ == "__main__":
    adapter.run_forever()
