"""Cancelled before any of its steps, a worker leaves whole frames, no handler, and fds in place."""

from __future__ import annotations

import json
import os
from typing import Any

import anyio

from anyio_bus.testing import cancel_sweep
from anyio_bus.worker import Context, Worker
from tests.worker.kit import line, notification, request
from tests.worker.test_stdio import on_pipes, same_file


class Busy:
    """A worker whose handlers do everything that waits, and a client that goes along."""

    def __init__(self) -> None:
        self.worker = Worker(max_concurrency=2)
        self.inside = 0
        self.begun = 0
        self.writes: list[bytes] = []
        self.worker.method("stream")(self.stream)
        self.worker.method("ask")(self.ask)
        self.worker.notification("note")(self.note)

    async def stream(self, context: Context) -> str:
        with self:
            await context.send_chunk("one")
            await context.send_chunk("two")
            await context.notify("news")
            return "done"

    async def ask(self, context: Context) -> Any:
        with self:
            return await context.request("question")

    async def note(self) -> None:
        with self:
            await anyio.lowlevel.checkpoint()

    def __enter__(self) -> None:
        self.begun += 1
        self.inside += 1

    def __exit__(self, *_: object) -> None:
        self.inside -= 1

    async def converse(self) -> None:
        """Have one whole conversation."""
        to_worker, inbox = anyio.create_memory_object_stream[bytes](100)

        async def receive() -> bytes:
            try:
                return await inbox.receive()
            except anyio.EndOfStream:
                return b""

        async def send(data: bytes) -> None:
            self.writes.append(data)
            await anyio.lowlevel.checkpoint()
            for message in map(json.loads, data.splitlines()):
                if message.get("method") == "question":
                    to_worker.send_nowait(line({"id": message["id"], "result": 42}))
                    to_worker.close()
                if message.get("method") == "chunk":
                    credit = {"id": message["params"]["_meta"]["requestId"], "bytes": 1000}
                    to_worker.send_nowait(line(notification("bus/credit", credit)))

        meta = {"_meta": {"anyio-bus/credit": 1}}
        with to_worker, inbox:
            for message in (
                request(1, "stream", meta),
                notification("note"),
                request(2, "stream"),
                request(3, "ask"),
            ):
                to_worker.send_nowait(line(message))
            await self.worker.serve_stream(receive, send)

    def check(self) -> None:
        assert self.inside == 0
        wire = b"".join(self.writes)
        assert not wire or wire.endswith(b"\n")
        answered = [m["id"] for m in map(json.loads, wire.splitlines()) if "method" not in m]
        assert len(answered) == len(set(answered))


async def test_a_conversation_cancelled_at_any_step_leaves_whole_frames_and_no_handler() -> None:
    rounds: list[Busy] = []

    async def converse() -> None:
        rounds.append(Busy())
        await rounds[-1].converse()

    def check() -> None:
        rounds[-1].check()

    assert await cancel_sweep(converse, check=check) > 20
    assert rounds[-1].begun == 4


async def test_serving_stdio_cancelled_at_any_step_gives_the_fds_back() -> None:
    with on_pipes() as wire:
        os.close(wire.write)

        def check() -> None:
            assert not same_file(1, 2)
            assert os.get_blocking(1)

        assert await cancel_sweep(Worker().serve, check=check) > 3
