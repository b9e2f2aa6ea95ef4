"""A nexo host for the tests of plugins: it starts one, talks to it, and is as strict as the real one.

::

    async with open_host([sys.executable, "plugin.py"]) as host:
        await host.event("plugin.outbound.echo", {"text": "hello"})
        published = await host.next_published()
        assert published.event["payload"] == {"text": "hello"}
        assert await host.invoke("echo_shout", {"text": "a"}) == "A"
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple, final

import anyio
import anyio.abc

from anyio_bus.plugins.nexo import PluginAdapter

__all__ = ("HostError", "NexoHost", "PluginFailure", "Published", "Streamed", "open_host")

INIT_S = 5.0  # that the real host waits for `initialize`
SHUTDOWN_S = 5.0  # and for `shutdown`
EXIT_S = 1.0  # and then for the process to end
CALL_S = 60.0  # and for a tool
_NEXT_S = 5.0  # that a test waits for what takes milliseconds
_UNANSWERED = -32603
_SAID_VIOLATIONS = 3  # the first ones
_SAID_CHARACTERS = 10_000  # the last ones of stderr: a traceback ends with its error
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")

Message = dict[str, Any]


class Published(NamedTuple):
    """An event that the plugin has published."""

    topic: str
    event: dict[str, Any]


class Streamed(NamedTuple):
    """What a handler of ``llm.complete`` returns to answer in pieces."""

    chunks: Sequence[str]
    result: Any


class HostError(Exception):
    """What a handler of :meth:`NexoHost.answer` raises to answer with an error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(code, message, data)
        self.code = code
        self.message = message
        self.data = data


class PluginFailure(Exception):
    """The plugin answered with an error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(code, message, data)
        self.code = code
        self.message = message
        self.data = data


@final
class NexoHost:
    """One plugin, and what it says; :func:`open_host` makes them.

    Attributes:
        violations: Each thing that the plugin did and the contract forbids, in words.
        dropped: Events that the real host would drop, with the reason.
        requests: The plugin's own requests, as they came.
        returncode: The exit status, None while it runs or where it is no process.
    """

    def __init__(self, plugin_id: str | None, allowed: Sequence[str] | None) -> None:
        self.violations: list[str] = []
        self.dropped: list[tuple[Any, str]] = []
        self.requests: list[Message] = []
        self.returncode: int | None = None
        self._plugin_id = plugin_id
        self._allowed = allowed
        self._published: deque[Published] = deque()
        self._others: deque[Message] = deque()
        self._answers: dict[int, Message] = {}
        self._waiting: set[int] = set()
        self._handlers: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self._taker: Callable[[Message], Awaitable[None]] = self._answer
        self._keys = 4  # 1 is for `initialize`, 2 for `shutdown`, 3 for `plugin.configure`
        self._changed = anyio.Event()
        self._ended = False
        self._input_closed = False
        self._rest = b""
        self._stderr: list[bytes] = []
        self._stderr_read = anyio.Event()
        self._write: Callable[[bytes], Any] = _nowhere
        self._close: Callable[[], Any] = _nowhere

    # -- what the plugin is told ---------------------------------------------------------------

    async def send(self, *messages: Message | bytes) -> None:  # noqa: ASYNC910
        """Send messages, or lines as they are."""
        frames = [m if isinstance(m, bytes) else _line(m) for m in messages]
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._write(b"".join(frames))

    async def request(
        self, method: str, params: Any = None, *, key: int | None = None, timeout: float = CALL_S
    ) -> Any:
        """Send a request; return the result.

        Args:
            method: Its name.
            params: Left out when None.
            key: Its id; default the next number.
            timeout: Seconds.

        Raises:
            PluginFailure: It was answered with an error.
            TimeoutError: It was not answered in time.
            EOFError: The plugin has ended.
        """
        if key is None:
            key, self._keys = self._keys, self._keys + 1
        message: Message = {"jsonrpc": "2.0", "id": key, "method": method}
        if params is not None:
            message["params"] = params
        self._waiting.add(key)
        await self.send(message)
        await self._until(lambda: key in self._answers, f"the answer to {method}", limit_s=timeout)
        answer = self._answers.pop(key)
        if "error" in answer:
            error = answer["error"]
            known = isinstance(error, dict) and {"code", "message"} <= {*error}
            assert known, f"{method}: an error has a code and a message, not {error!r}"
            raise PluginFailure(error["code"], error["message"], error.get("data"))
        assert "result" in answer, f"{method}: there is neither result nor error: {answer!r}"
        return answer["result"]

    async def initialize(self) -> dict[str, Any]:
        """Shake hands, and check the answer as the host does; return it.

        Raises:
            AssertionError: The real host would end the plugin.
            PluginFailure: It was answered with an error.
        """
        result = await self.request("initialize", {"nexo_version": "0.9.9"}, key=1, timeout=INIT_S)
        found = _at(result, "manifest", "plugin", "id")
        assert isinstance(found, str), f"initialize: manifest.plugin.id is {found!r}"
        if self._plugin_id is not None:
            assert found == self._plugin_id, f"initialize: {found!r} is not {self._plugin_id!r}"
        self._plugin_id = found
        listed = _at(result, "manifest", "plugin", "extends", "tools") or []
        tools = _at(result, "tools") or []
        for what, value in (("manifest.plugin.extends.tools", listed), ("tools", tools)):
            assert isinstance(value, list), f"initialize: {what} is no list: {value!r}"
        for tool in tools:
            whole = isinstance(tool, dict) and {*tool} >= {"name", "description", "input_schema"}
            assert whole, f"tool {tool!r}"
            assert tool["name"] in listed, f"tool {tool['name']!r} is not in extends.tools"
        return dict(result)

    async def invoke(
        self, tool_name: str, args: Any = None, *, agent_id: str | None = "agent"
    ) -> Any:
        """Call a tool; return its result. Raises as :meth:`request`."""
        params = {
            "plugin_id": self._plugin_id,
            "tool_name": tool_name,
            "args": args,
            "agent_id": agent_id,
        }
        return await self.request("tool.invoke", params)

    async def event(self, topic: str, payload: Any, **members: Any) -> None:
        """Send an event, with an id, a time and no session unless they are given."""
        event = {
            "id": str(uuid.uuid4()),
            "timestamp": datetime.now(UTC).isoformat(),
            "topic": topic,
            "source": "host",
            "session_id": None,
            "payload": payload,
            **members,
        }
        params = {"topic": topic, "event": event}
        await self.send({"jsonrpc": "2.0", "method": "broker.event", "params": params})

    def answer(self, method: str, handler: Callable[[dict[str, Any]], Any]) -> None:
        """Answer a method that the plugin calls.

        Args:
            method: ``memory.recall``, for example; without a handler it is "not yet wired".
            handler: Takes the params; returns the result or :class:`Streamed`, or raises
                :class:`HostError`.
        """
        self._handlers[method] = handler

    def take_requests(self, taker: Callable[[Message], Awaitable[None]] | None) -> None:
        """Have a function take the plugin's requests, instead of answering them; None: as before."""
        self._taker = taker or self._answer

    async def shutdown(self, reason: str = "test") -> None:
        """Ask the plugin to end, as the host does, and wait until it has.

        Raises:
            PluginFailure: It was answered with an error.
            TimeoutError: The real host would kill it.
        """
        await self.request("shutdown", {"reason": reason}, key=2, timeout=SHUTDOWN_S)
        await self._until_end(EXIT_S)

    async def close_input(self) -> None:
        """Be gone: the plugin reads the end of its input."""
        self._input_closed = True
        await self._close()

    # -- what the plugin says ------------------------------------------------------------------

    @property
    def stderr(self) -> str:
        """What it wrote to stderr so far; empty where it is no process."""
        return b"".join(self._stderr).decode(errors="replace")

    async def next_published(self, timeout: float = _NEXT_S) -> Published:
        """Wait for an event that the host accepts; return it.

        Raises:
            TimeoutError: None came.
            EOFError: The plugin has ended.
        """
        await self._until(lambda: bool(self._published), "an event", limit_s=timeout)
        return self._published.popleft()

    async def next_notification(self, timeout: float = _NEXT_S) -> Message:
        """Wait for a notification that is no event, ``llm.chat.delta`` for example; return it.

        Raises:
            TimeoutError: None came.
            EOFError: The plugin has ended.
        """
        await self._until(lambda: bool(self._others), "a notification", limit_s=timeout)
        return self._others.popleft()

    async def _until(  # noqa: ASYNC910
        self, done: Callable[[], bool], what: str, *, limit_s: float, at_end: bool = False
    ) -> None:
        try:
            with anyio.fail_after(limit_s):  # noqa: ASYNC912  # each turn waits
                while not done():
                    if self._ended and not at_end:
                        code = ""
                        if self.returncode is not None:
                            code = f" with {self.returncode}"
                            with anyio.move_on_after(EXIT_S):  # a child of its may have it still
                                await self._stderr_read.wait()
                        msg = f"the plugin has ended{code}, and {what} has not come{self._said()}"
                        raise EOFError(msg)
                    await self._changed.wait()
        except TimeoutError:
            msg = f"{what} has not come in {limit_s:g} s{self._said()}"
            raise TimeoutError(msg) from None

    async def _until_end(self, limit_s: float) -> None:
        what = "the end of the plugin, or of what has its stdout,"
        await self._until(lambda: self._ended, what, limit_s=limit_s, at_end=True)

    def _said(self) -> str:
        """Return what may be the reason that something has not come; a flood is cut."""
        wrong = "".join(f"; {text}" for text in self.violations[:_SAID_VIOLATIONS])
        said = self.stderr[-_SAID_CHARACTERS:]
        return f"{wrong}; stderr: {said}" if said else wrong

    def _note(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _take(self, data: bytes) -> None:  # noqa: ASYNC910
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                await self._take_line(line)
        self._note()

    async def _take_line(self, line: bytes) -> None:  # noqa: ASYNC910
        try:
            message = json.loads(line.decode(), parse_constant=_no_constant)
        except ValueError as exc:
            self.violations.append(f"no JSON on the wire: {line[:200]!r}: {exc}")
            return  # noqa: ASYNC910
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            self.violations.append(f"no JSON-RPC 2.0 on the wire: {line[:200]!r}")
        elif "method" not in message:
            self._take_answer(message)
        elif "id" in message:
            await self._take_request(message)
        elif message["method"] == "broker.publish":
            self._take_event(message.get("params"))
        else:
            self._others.append(message)

    def _take_answer(self, message: Message) -> None:
        if ("error" in message) == ("result" in message):
            self.violations.append(f"an answer is either result or error: {message!r}")
        key = message.get("id")
        if type(key) is not int or key not in self._waiting:
            self.violations.append(f"an answer to nothing: {message!r}")
            return
        self._waiting.discard(key)
        self._answers[key] = message

    def _take_event(self, params: Any) -> None:
        reason = self._why_dropped(params)
        if reason is None:
            self._published.append(Published(params["topic"], params["event"]))
        else:
            self.dropped.append((params, reason))

    def _why_dropped(self, params: Any) -> str | None:
        topic = params.get("topic") if isinstance(params, dict) else None
        event = params.get("event") if isinstance(params, dict) else None
        if not isinstance(topic, str) or not topic or not isinstance(event, dict):
            return "it has no topic or no event"
        for name in ("id", "timestamp", "topic", "source", "payload"):
            if name not in event:
                return f"event.{name} is missing"
        try:
            uuid.UUID(event["id"])
            if event.get("session_id") is not None:
                uuid.UUID(event["session_id"])
        except (ValueError, AttributeError, TypeError):
            return "event.id or event.session_id is no UUID"
        if not isinstance(event["timestamp"], str) or not _RFC3339.fullmatch(event["timestamp"]):
            return "event.timestamp is not RFC 3339"
        if self._allowed is not None and not any(topic_fits(p, topic) for p in self._allowed):
            return f"topic {topic!r} is not allowed"
        return None

    async def _take_request(self, message: Message) -> None:
        self.requests.append(message)
        if type(message["id"]) is not int:
            self.violations.append(f"the id of a request must be a whole number: {message!r}")
        await self._taker(message)

    async def _answer(self, message: Message) -> None:
        key, method = message["id"], message["method"]
        answer: Message = {"jsonrpc": "2.0", "id": key}
        handler = self._handlers.get(method)
        try:
            if handler is None:
                raise HostError(_UNANSWERED, "host services not yet wired")
            result = handler(message.get("params") or {})
            if isinstance(result, Streamed):
                for chunk in result.chunks:
                    params = {"request_id": key, "chunk": chunk}
                    delta = {"jsonrpc": "2.0", "method": "llm.complete.delta", "params": params}
                    await self.send(delta)
                result = result.result
            answer["result"] = result
        except HostError as exc:
            answer["error"] = {"code": exc.code, "message": exc.message}
            if exc.data is not None:
                answer["error"]["data"] = exc.data
        await self.send(answer)

    # -- its life ------------------------------------------------------------------------------

    async def _run_process(
        self, process: anyio.abc.Process, task_status: anyio.abc.TaskStatus[None]
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._write = process.stdin.send
        self._close = process.stdin.aclose
        task_status.started()
        await self._read(process.stdout)
        self.returncode = await process.wait()
        self._end()

    async def _run_adapter(
        self, adapter: PluginAdapter, task_status: anyio.abc.TaskStatus[None]
    ) -> None:
        to_plugin, from_host = anyio.create_memory_object_stream[bytes](math.inf)
        to_host, from_plugin = anyio.create_memory_object_stream[bytes](math.inf)

        async def receive() -> bytes:
            try:
                return await from_host.receive()
            except anyio.EndOfStream:
                return b""  # noqa: ASYNC910

        async def close() -> None:
            to_plugin.close()
            await anyio.lowlevel.checkpoint()

        async def serve() -> None:
            try:
                await adapter.serve_stream(receive, to_host.send)
            finally:
                to_host.close()

        self._write = to_plugin.send
        self._close = close
        with to_plugin, from_host, to_host, from_plugin:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(serve)
                task_status.started()
                await self._read(from_plugin)
        self._end()

    async def _read(self, stream: Any) -> None:  # noqa: ASYNC910
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            while True:
                await self._take(await stream.receive())
        if self._rest:
            self.violations.append(f"a torn frame at the end: {self._rest[:200]!r}")

    async def _read_stderr(self, stream: anyio.abc.ByteReceiveStream) -> None:  # noqa: ASYNC910
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            while True:
                self._stderr.append(await stream.receive())
                self._note()
        self._stderr_read.set()

    def _end(self) -> None:
        self._ended = True
        self._note()

    async def _finish(self) -> None:
        """End what has not ended, and say what was wrong."""
        if not self._ended and not self._input_closed:
            await self.shutdown()
        await self._until_end(SHUTDOWN_S + EXIT_S)
        assert not self.violations, "\n".join(self.violations)


def _at(value: Any, *path: str) -> Any:
    """Return what stands at a path; None where there is nothing, or no object on the way."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def topic_fits(pattern: str, topic: str) -> bool:
    """Whether a topic fits a pattern: ``*`` is one segment, ``>`` at the end one or more."""
    wanted, found = pattern.split("."), topic.split(".")
    if "" in found:
        return False
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(found) <= len(wanted):
            return False
        found = found[: len(wanted)]
    return len(wanted) == len(found) and all(
        w in {"*", f} for w, f in zip(wanted, found, strict=True)
    )


@asynccontextmanager
async def open_host(
    plugin: PluginAdapter | Sequence[str],
    *,
    initialize: bool = True,
    plugin_id: str | None = None,
    allowed: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> AsyncIterator[NexoHost]:
    """Start a plugin and be its host; at the end it is shut down and must end in time.

    What it has started and left behind is killed then.

    Args:
        plugin: A command to start, or an adapter to serve in this process.
        initialize: Shake hands before the block begins.
        plugin_id: What its id must be; default whatever it says.
        allowed: Patterns of the topics that it may publish to; default all.
        env: The environment of the process.
        cwd: Its working directory.

    Raises:
        AssertionError: The plugin did what the contract forbids; the message says what.
        TimeoutError: It did not end in time.

    Cancellation:
        Kills the process, and what it has started.
    """
    host = NexoHost(plugin_id, allowed)
    body_error: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        process: anyio.abc.Process | None = None
        try:
            if isinstance(plugin, PluginAdapter):
                await tasks.start(host._run_adapter, plugin)
            else:
                process = await anyio.open_process(
                    list(plugin),
                    env=env,
                    cwd=cwd,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
                assert process.stderr is not None
                tasks.start_soon(host._read_stderr, process.stderr)
                await tasks.start(host._run_process, process)
            if initialize:
                await host.initialize()
            yield host
            await host._finish()
        except Exception as exc:  # raised bare, after the join  # noqa: BLE001
            body_error = exc
        finally:
            if process is not None:
                _kill(process)
            tasks.cancel_scope.cancel("the host is gone")
            if process is not None:
                with anyio.CancelScope(shield=True):
                    await process.aclose()
    if body_error is not None:
        raise body_error


def _kill(process: anyio.abc.Process) -> None:
    """Kill what is left of a plugin: on Unix its group, which its children are in as well."""
    if sys.platform != "win32":
        with suppress(ProcessLookupError, PermissionError):  # macOS: only dead ones are in it
            os.killpg(process.pid, signal.SIGKILL)
    elif process.returncode is None:
        process.kill()


async def _nowhere(_data: bytes = b"") -> None:  # noqa: ASYNC910
    """Before it runs."""


def _line(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _no_constant(name: str) -> float:
    msg = f"{name} is no JSON"
    raise ValueError(msg)
