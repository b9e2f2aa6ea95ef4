"""Clients that are a Python API with the names of ``stdiobus``: that package, or ours of that name.

Transcripts are played through it: what a client sends is a call, what it gets is what the call
returns or raises, or what the handler of messages is given.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import queue
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.daemon import kit
from tests.parity.script import About, Names, Script
from tests.parity.stage import Workers, configuration, perform

OWN_CODES = {*range(1, 12), 99}  # of these the API makes classes
STOP_S = 2


class Caller:
    """A client of transcripts that makes calls of an API.

    Args:
        api: The module.
        portal: Where its event loop runs.
        bus: A client of it.
    """

    def __init__(self, api: Any, portal: BlockingPortal, bus: Any) -> None:
        self.api, self.portal, self.bus = api, portal, bus
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._calls: dict[str, Future[Any]] = {}
        self._chunks: dict[str, str] = {}  # session -> the text of its chunks so far
        self._sessions: dict[str, str] = {}  # request -> its session
        bus.on_message(self._hear)

    def _hear(self, line: str) -> None:
        message = json.loads(line)
        if "method" in message:
            self._said.put(line)

    # -- as a client of transcripts

    def send(self, frame: bytes) -> None:
        message = json.loads(frame)
        if "method" not in message:
            self.portal.call(self._send_raw, frame.decode())
        elif "id" not in message:
            self.portal.call(self._notify, message)
        else:
            self._sessions[message["id"]] = message["sessionId"]
            self._calls[message["id"]] = self.portal.start_task_soon(self._request, message)

    async def _send_raw(self, line: str) -> None:
        sent = self.bus.send(line)
        assert (await sent if inspect.isawaitable(sent) else sent) is not False

    async def _notify(self, message: dict[str, Any]) -> None:
        await self.bus.notify(message["method"], message["params"], options=self._options(message))

    async def _request(self, message: dict[str, Any]) -> Any:
        return await self.bus.request(
            message["method"], message["params"], options=self._options(message)
        )

    def _options(self, message: dict[str, Any]) -> Any:
        ext = message.get("_ext", {})
        identity, audit = ext.get("identity"), ext.get("audit")
        return self.api.RequestOptions(
            session_id=message["sessionId"],
            agent_id=message.get("agentId"),
            identity=identity and self.api.Identity(**snake(identity)),
            audit=audit and self.api.AuditEvent(**snake(audit)),
        )

    def expect(self, frame: bytes, names: Names) -> None:
        message = json.loads(frame)
        if "method" in message:
            line = self.next_message()
            names.check(frame, line.encode(), exact=False)
            self._take_chunk(json.loads(line))
        elif "error" in message:
            self._expect_error(self._calls.pop(message["id"]), message["error"])
        else:
            result = self._calls.pop(message["id"]).result(kit.PATIENCE_S)
            text = self._chunks.get(self._sessions[message["id"]])
            expected = message["result"]
            if text is not None:
                expected["text"] = text
            names.check_value(expected, result, f"{expected} and {result}")

    def next_message(self) -> str:
        """Return the next line of a worker that is no answer."""
        return self._said.get(timeout=kit.PATIENCE_S)

    def _take_chunk(self, message: dict[str, Any]) -> None:
        update = message["params"].get("update", {})
        if update.get("sessionUpdate") == "agent_message_chunk":
            session = message["sessionId"]
            self._chunks[session] = self._chunks.get(session, "") + update["content"]["text"]

    def _expect_error(self, call: Future[Any], error: dict[str, Any]) -> None:
        with pytest.raises(self.api.StdioBusError) as caught:
            call.result(kit.PATIENCE_S)
        code = error["code"] if error["code"] in OWN_CODES else 99
        found = caught.value
        assert (found.code, found.message, found.details) == (
            code,
            error["message"],
            error.get("data"),
        )

    def end(self) -> None:
        pytest.fail("a transcript with this step is for the clients on a wire")

    go = end

    def finish(self) -> None:
        assert not self._calls
        assert self._said.empty(), self._said.get()


def snake(members: dict[str, Any]) -> dict[str, Any]:
    """Return arguments for members of a frame."""
    return {
        "".join(f"_{c.lower()}" if c.isupper() else c for c in k): v for k, v in members.items()
    }


def bus_config(api: Any, about: About, command: list[str]) -> Any:
    """Return the configuration of a transcript in the types of an API."""
    config = configuration(about, command)
    pools = [api.PoolConfig(**pool) for pool in config["pools"]]
    return api.BusConfig(pools=pools, limits=api.LimitsConfig(**config["limits"]))


@contextlib.contextmanager
def calling(
    api: Any, config: Any, loop: str, *, stop_s: float = STOP_S, **options: Any
) -> Iterator[Caller]:
    """Start a client of an API on an event loop in a thread; stop it in the end."""
    with start_blocking_portal(loop) as portal:

        async def start() -> Caller:
            bus = api.AsyncStdioBus(config=config, timeout_ms=1000 * kit.PATIENCE_S, **options)
            caller = Caller(api, portal, bus)
            await bus.start()
            return caller

        caller = portal.call(start)
        try:
            yield caller
        finally:
            portal.call(caller.bus.stop, stop_s)


def perform_by_calls(script: Script, workers: Workers, api: Any, loop: str, **options: Any) -> None:
    """Perform a transcript by calls of an API; in the end all workers are gone."""
    config = bus_config(api, script.about, workers.command)
    with calling(api, config, loop, **options) as caller:
        workers.come(sum(pool.instances for pool in config.pools))
        perform(script, workers, {"a": caller}, exact=False)
    workers.assert_ended()
