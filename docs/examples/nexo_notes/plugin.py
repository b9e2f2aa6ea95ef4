#!/usr/bin/env python3
"""Searches a folder of notes: as tools of agents, and as a channel that people write to."""

import heapq
import os
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread
import msgspec

from anyio_bus.plugins.nexo import (
    BrokerSender,
    Event,
    PluginAdapter,
    ToolArgumentInvalid,
    ToolUnavailable,
)

MANIFEST = Path(__file__).with_name("nexo-plugin.toml").read_text(encoding="utf-8")
FOLDER = Path(os.environ.get("NOTES_FOLDER", "notes")).resolve()
NOTE_BYTES = 1_000_000  # a longer file is no note


class Hit(msgspec.Struct):
    """A note that was found."""

    score: int
    name: str
    line: str


def notes() -> Iterator[tuple[str, str]]:
    """Return name and text of each note."""
    if not FOLDER.is_dir():
        raise ToolUnavailable("the folder of notes is not there", retry_after_ms=60_000)
    for path in sorted(FOLDER.rglob("*.md")):
        if path.is_file() and path.stat().st_size <= NOTE_BYTES:
            name = path.relative_to(FOLDER).as_posix()
            yield name, path.read_text(encoding="utf-8", errors="replace")


def search(query: str, limit: int) -> list[Hit]:
    """Return the notes that have all words, those first that have them most often."""
    words = query.lower().split()
    if not words:
        raise ToolArgumentInvalid("the query has no words")
    hits = []
    for name, text in notes():
        counts = [text.lower().count(word) for word in words]
        if all(counts):
            line = next(line for line in text.splitlines() if words[0] in line.lower())
            hits.append(Hit(sum(counts), name, line.strip()))
    return heapq.nsmallest(limit, hits, key=lambda hit: (-hit.score, hit.name))


async def on_event(topic: str, event: Event, broker: BrokerSender) -> None:
    """Search for what somebody wrote, and answer in the same conversation."""
    try:
        hits = await anyio.to_thread.run_sync(search, event.payload["text"], 3)
        text = "\n".join(f"{hit.name}: {hit.line}" for hit in hits) or "nothing found"
    except (ToolArgumentInvalid, ToolUnavailable) as exc:
        text = str(exc)
    answer = event.reply({"text": text})
    await broker.publish(answer.topic, answer)


adapter = PluginAdapter(manifest_toml=MANIFEST, on_event=on_event)


@adapter.tool()
def notes_search(query: str, limit: int = 10) -> list[Hit]:
    """Find the notes that have all words of a query."""
    return search(query, limit)


@adapter.tool()
def notes_read(name: str) -> str:
    """Return the text of a note, by the name that a search gave."""
    for found, text in notes():  # a name is never a path: it may lead anywhere
        if found == name:
            return text
    raise ToolArgumentInvalid(f"there is no note {name!r}")


if __name__ == "__main__":
    adapter.run_forever()
