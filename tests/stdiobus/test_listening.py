"""A client whose kernel listens shares its workers with other programs, and keeps what is its own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyio_bus import Connect, open_bus
from anyio_bus import stdiobus as s
from anyio_bus._backends.native import lib
from tests.bus.support import begin, until
from tests.stdiobus.support import client, config

pytestmark = pytest.mark.skipif(lib is None, reason="no extension")


@pytest.fixture
def path() -> Iterator[Path]:
    """Return a path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="bus-") as name:
        yield Path(name) / "s"


def listening(path: Path) -> s.AsyncStdioBus:
    return client(native=s.NativeOptions("unix", unix_path=str(path)))


async def test_other_programs_come_and_are_counted(path: Path) -> None:
    bus = listening(path)
    assert (bus.get_listen_mode(), bus.get_backend_type()) == (s.ListenMode.UNIX, "native")
    async with bus:
        assert bus.get_client_count() == 0
        async with open_bus(backend=Connect(f"unix://{path}")) as other:
            answer = await other.request("echo", {"x": 1}, session="theirs")
            assert (answer["params"], answer["sessionId"]) == ({"x": 1}, "theirs")
            assert (await bus.request("echo"))["sessionId"] == bus.client_session_id
            assert bus.get_client_count() == 1
        await until(lambda: bus.get_client_count() == 0)
        stats = bus.get_stats()
        assert (stats.client_connects, stats.client_disconnects) == (1, 1)
    assert not path.exists()
    assert bus.get_listen_mode() is s.ListenMode.UNIX


async def test_streams_of_both_keep_their_chunks(path: Path) -> None:
    prompt = {"texts": ["a", "b", "c"], "result": {}}
    async with listening(path) as bus, open_bus(backend=Connect(f"unix://{path}")) as other:
        for _ in range(5):
            async with anyio.create_task_group() as tasks:
                ours = begin(tasks, lambda: bus.request("prompt", prompt))
                theirs = begin(tasks, lambda: other.request("prompt", prompt, session="theirs"))
            assert await ours.wait() == {"text": "abc"}
            assert await theirs.wait() == {}  # it does not collect them


async def test_a_request_of_a_worker_is_answered_by_text_under_the_id_that_is_shown(
    path: Path,
) -> None:
    bus = listening(path)

    def answer(line: str) -> None:
        message = json.loads(line)
        if message.get("method") == "session/request_permission":
            asked.append(message)
            assert bus.send(json.dumps({"id": message["id"], "result": {"outcome": "yes"}}))

    asked: list[Any] = []
    bus.on_message(answer)
    async with bus, open_bus(backend=Connect(f"unix://{path}")) as other:
        with anyio.fail_after(5):
            assert (await bus.request("ask", {"id": 1}))["result"] == {"outcome": "yes"}
            assert (await bus.request("ask", {"id": "1"}))["result"] == {"outcome": "yes"}
            theirs = await other.request("ask", {"id": 1}, session="theirs")
        assert theirs["error"]["code"] == -32601  # the other program has no handler for it
        assert [message["sessionId"] for message in asked] == [bus.client_session_id] * 2
        assert len({message["id"] for message in asked}) == 2


async def test_a_taken_address_is_told_at_the_start(path: Path) -> None:
    path.write_text("mine")
    bus = listening(path)
    with pytest.raises(s.InvalidArgumentError, match="is no socket"):
        await bus.start()
    assert bus.get_state() is s.BusState.STOPPED
    assert path.read_text() == "mine"


def test_the_blocking_client_listens_as_well(path: Path) -> None:
    with s.StdioBus(config(), native=s.NativeOptions("unix", unix_path=str(path))) as bus:
        assert (bus.get_listen_mode(), bus.get_client_count()) == ("unix", 0)
        assert bus.request("echo", {"x": 1})["params"] == {"x": 1}
        assert path.exists()
    assert not path.exists()
