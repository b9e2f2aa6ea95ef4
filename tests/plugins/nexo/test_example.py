"""The example of the docs does what it says, with a host and real notes."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from anyio_bus.plugins.nexo import lint_manifest
from anyio_bus.testing.nexo import NexoHost, PluginFailure, open_host

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "nexo_notes"
SESSION = "7b0c6c0e-9a8e-4d52-9c1e-2f1f6f5f3a10"
NOTES = {
    "garden.md": "# Garden\nprune the apple tree\nan apple a day\n",
    "sub/shop.md": "buy an Apple\n",
    "secret.txt": "no apple",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "sub").mkdir(parents=True)
    for name, text in NOTES.items():
        (folder / name).write_text(text)
    (tmp_path / "outside.md").write_text("outside")
    return folder


def start(folder: Path) -> AbstractAsyncContextManager[NexoHost]:
    env = {**os.environ, "NOTES_FOLDER": str(folder)}
    command = [sys.executable, str(EXAMPLE / "plugin.py")]
    return open_host(command, env=env, plugin_id="notes", allowed=["plugin.inbound.notes"])


def test_the_host_takes_its_manifest() -> None:
    assert lint_manifest((EXAMPLE / "nexo-plugin.toml").read_text()) == []


async def test_notes_are_found_read_and_nothing_else_is(folder: Path) -> None:
    async with start(folder) as host:
        assert await host.invoke("notes_search", {"query": "APPLE"}) == [
            {"score": 2, "name": "garden.md", "line": "prune the apple tree"},
            {"score": 1, "name": "sub/shop.md", "line": "buy an Apple"},
        ]
        assert await host.invoke("notes_search", {"query": "apple day", "limit": 0}) == []
        assert await host.invoke("notes_read", {"name": "sub/shop.md"}) == "buy an Apple\n"
        for name in ("../outside.md", "secret.txt"):
            with pytest.raises(PluginFailure, match="no note"):
                await host.invoke("notes_read", {"name": name})


async def test_what_is_written_on_the_channel_is_answered_in_its_conversation(folder: Path) -> None:
    async with start(folder) as host:
        for asked, answered in (
            ("day apple", "garden.md: an apple a day"),
            ("pears", "nothing found"),
            (" ", "invalid argument: the query has no words"),
        ):
            await host.event("plugin.outbound.notes", {"text": asked}, session_id=SESSION)
            published = await host.next_published()
            assert published.topic == "plugin.inbound.notes"
            assert published.event["payload"] == {"text": answered}
            assert published.event["session_id"] == SESSION


async def test_a_folder_that_is_not_there_is_said_with_when_to_ask_again(tmp_path: Path) -> None:
    async with start(tmp_path / "none") as host:
        with pytest.raises(PluginFailure) as caught:
            await host.invoke("notes_search", {"query": "apple"})
        assert (caught.value.code, caught.value.data) == (-33404, {"retry_after_ms": 60_000})
