"""Own what an author makes: the adapter, its handlers, and how it is run."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar, final

import anyio

from anyio_bus._io.fdguard import fill_gaps
from anyio_bus._io.stdio import Stdio, open_stdio
from anyio_bus.plugins.nexo import manifest
from anyio_bus.plugins.nexo._definition import Bounds, Definition, RequestHandler
from anyio_bus.plugins.nexo._session import Session
from anyio_bus.plugins.nexo._tools import ToolTable
from anyio_bus.plugins.nexo.broker import BrokerSender, EventShape
from anyio_bus.plugins.nexo.errors import PluginError
from anyio_bus.plugins.nexo.methods import METHODS
from anyio_bus.plugins.nexo.stdout_guard import StrayOutput, StrayText, writable
from anyio_bus.plugins.nexo.types import Event, ToolDef, ToolHandler, ToolHandlerWithContext
from anyio_bus.plugins.nexo.wire import MAX_FRAME_BYTES
from anyio_bus.worker._signals import stop_signals

if TYPE_CHECKING:
    from anyio_bus.worker._duplex import Receive, Send

__all__ = ("EventHandler", "PluginAdapter", "ShutdownHandler")

_logger = logging.getLogger("anyio_bus.plugins.nexo")

EventHandler = Callable[[str, Event, BrokerSender], Awaitable[None]]
ShutdownHandler = Callable[[], Awaitable[None]]

THREADS_S = 0.2  # for threads that are ending anyway
CLOSE_S = 0.5  # for the loop to close: the host waits a second

F = TypeVar("F", bound=Callable[..., Any])

_manifest_extends_tools = manifest.extends_tools


@final
class PluginAdapter:
    """A nexo plugin: its manifest, its handlers, and the conversation with the host.

    Handlers are async functions or plain ones, which run in a thread, so that they may block.

    Args:
        manifest_toml: What stands in ``nexo-plugin.toml``.
        server_version: What the host is told; default ``<id>-<version>``.
        on_event: Called with topic, event and broker for each event.
        on_shutdown: Called at the end, however it comes, when the handlers have ended.
        tools: The catalog, as :meth:`declare_tools`.
        on_tool: As :meth:`on_tool`.
        on_tool_with_context: As :meth:`on_tool_with_context`; with both this one is called.
        enable_stdout_guard: Take stdin and stdout away from everything else while it runs: what is
            printed, by this process or its children, goes to stderr with a mark.
        max_frame_bytes: Longest line that is read, its LF not counted.
        handle_process_signals: Stop at SIGTERM and SIGINT; at the second one leave handlers behind.
        max_outbound_frame_bytes: Longest line that is written; default ``max_frame_bytes``.
        max_concurrency: Event handlers that run at once, and as many handlers of requests.
        max_queued: Events that wait, and requests. When it is reached the adapter reads on only
            half a second later or, at once, while a call to the host is open; then it drops
            events. Requests are refused.
        request_timeout_s: Seconds that the handler of a request has; the host waits 60.
        drain_s: Seconds for the whole end; the host waits 5.
        event_shape: ``"host"``: published events have ``id`` and ``timestamp``, without which the
            host drops them. ``"minimal"``: they have what the conformance kit wants, no more.

    Raises:
        ManifestError: The manifest breaks a rule, or does not list a tool.
        PluginError: An argument is wrong.
    """

    def __init__(
        self,
        *,
        manifest_toml: str,
        server_version: str | None = None,
        on_event: EventHandler | Callable[[str, Event, BrokerSender], Any] | None = None,
        on_shutdown: ShutdownHandler | Callable[[], Any] | None = None,
        tools: Sequence[ToolDef] | None = None,
        on_tool: ToolHandler | None = None,
        on_tool_with_context: ToolHandlerWithContext | None = None,
        enable_stdout_guard: bool = True,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        handle_process_signals: bool = True,
        max_outbound_frame_bytes: int | None = None,
        max_concurrency: int = 64,
        max_queued: int = 1024,
        request_timeout_s: float = 55.0,
        drain_s: float = 4.0,
        event_shape: EventShape = "host",
    ) -> None:
        document = manifest.read_manifest(manifest_toml)
        if event_shape not in {"host", "minimal"}:
            msg = f"PluginAdapter.event_shape must be 'host' or 'minimal', not {event_shape!r}"
            raise PluginError(msg)
        bounds = Bounds(
            max_frame_bytes=max_frame_bytes,
            max_outbound_frame_bytes=(
                max_frame_bytes if max_outbound_frame_bytes is None else max_outbound_frame_bytes
            ),
            max_concurrency=max_concurrency,
            max_queued=max_queued,
            request_timeout_s=request_timeout_s,
            drain_s=drain_s,
        )
        shown = manifest.json_safe(document)
        self._tools = ToolTable()
        self._plugin = Definition(document, shown, self._tools, bounds, event_shape)
        version = document["plugin"]["version"]
        self._plugin.server_version = server_version or f"{self._plugin.plugin_id}-{version}"
        self._plugin.on_event = on_event
        self._plugin.on_shutdown = on_shutdown
        self._broker = BrokerSender(self._plugin.plugin_id, event_shape)
        self._ready: anyio.Event | None = None
        self._guards = enable_stdout_guard
        self._signals = handle_process_signals
        self._ran = False
        if tools:
            self.declare_tools(tools)
        if on_tool is not None:
            self.on_tool(on_tool)
        if on_tool_with_context is not None:
            self.on_tool_with_context(on_tool_with_context)

    @property
    def manifest(self) -> dict[str, Any]:
        """The whole manifest."""
        return self._plugin.document

    @property
    def broker(self) -> BrokerSender:
        """The way to the host, for tasks of the author's own; usable while the adapter runs."""
        return self._broker

    # -- handlers ------------------------------------------------------------------------------

    def declare_tools(self, tools: Sequence[ToolDef]) -> PluginAdapter:
        """Put tools in the catalog that the host is told; return this adapter.

        Raises:
            ManifestError: ``[plugin.extends].tools`` does not list one.
            PluginError: A schema is no JSON.
        """
        manifest.check_tools(self._plugin.document, [tool.name for tool in tools])
        self._tools.declare(tools)
        return self

    def on_tool(self, handler: ToolHandler) -> PluginAdapter:
        """Set what is called with each :class:`ToolInvocation`; return this adapter.

        What it returns is the result, as it is.
        """
        self._tools.serve_any(handler, with_context=False)
        return self

    def on_tool_with_context(self, handler: ToolHandlerWithContext) -> PluginAdapter:
        """As :meth:`on_tool`, with a :class:`ToolContext` as second argument."""
        self._tools.serve_any(handler, with_context=True)
        return self

    def tool(
        self,
        name: str | None = None,
        *,
        description: str | None = None,
        input_schema: dict[str, Any] | None = None,
    ) -> Callable[[F], F]:
        """Make the decorated function a tool, with its parameters as arguments.

        A parameter annotated :class:`ToolContext` gets the context. The arguments are checked by the
        annotations; what does not fit is answered with -33402. The tool is in the catalog by itself.

        Args:
            name: The tool's name; default the function's.
            description: Default the first line of the function's docstring.
            input_schema: Default made from the annotations.

        Returns:
            A decorator that returns the function as it is.

        Raises:
            ManifestError: ``[plugin.extends].tools`` does not list it.
            PluginError: The function's signature cannot be served, or the parentheses are missing:
                it is ``@adapter.tool()``.
        """
        if name is not None and not isinstance(name, str):
            msg = f"tool() needs parentheses: @adapter.tool() or @adapter.tool(name), not {name!r}"
            raise PluginError(msg)

        def register(function: F) -> F:
            called = name or function.__name__
            manifest.check_tools(self._plugin.document, [called])
            said = (function.__doc__ or called).strip().partition("\n")[0]
            shown = ToolDef(called, description or said)
            names = sys._getframe(1).f_locals  # a tool inside a function may use its classes
            self._tools.bind(function, shown, names, schema=input_schema)
            return function

        return register

    def on_request(self, method: str, handler: Callable[..., Any]) -> PluginAdapter:
        """Serve any method of the host; return this adapter.

        Args:
            method: Its name on the wire.
            handler: Called with the params as plain objects and, if it takes two arguments, a
                :class:`RequestContext`. What it returns is the result. It raises
                :class:`MethodError` to choose the error; all else becomes -32603.

        Raises:
            PluginError: The method is the adapter's own, or has a handler already.
        """
        return self._serve_method(RequestHandler(method, handler))

    def on(self, kind: type, *, method: str | None = None) -> Callable[[F], F]:
        """Serve a method that the contract describes, with typed params.

        Args:
            kind: A struct of :mod:`anyio_bus.plugins.nexo.methods`: :class:`LlmChat`, for example.
            method: Another name on the wire, for the ``rpc_method`` of a manifest.

        Returns:
            A decorator that returns the function as it is; the function takes the struct and, if it
            takes two arguments, a :class:`RequestContext`.

        Raises:
            PluginError: There is no such method, or it has a handler already.
        """
        if kind not in METHODS:
            msg = f"{kind!r} is no method of the host; one is LlmChat: @adapter.on(LlmChat)"
            raise PluginError(msg)
        usual, answer = METHODS[kind]

        def register(function: F) -> F:
            self._serve_method(RequestHandler(method or usual, function, kind, answer))
            return function

        return register

    def _serve_method(self, handler: RequestHandler) -> PluginAdapter:
        if handler.method in self._plugin.requests:
            msg = f"{handler.method!r} has a handler already"
            raise PluginError(msg)
        self._plugin.requests[handler.method] = handler
        return self

    # -- running -------------------------------------------------------------------------------

    async def wait_ready(self) -> None:
        """Wait until ``initialize`` is answered: what is published before, the host drops.

        Cancellation:
            Always a checkpoint. Nothing is lost.
        """
        if self._ready is None:
            self._ready = anyio.Event()
        await self._ready.wait()

    async def run(self) -> None:
        """Serve the host on stdin and stdout until it ends the conversation; once only.

        Handlers are waited for until they have ended.

        Raises:
            PluginError: It ran already.
            KeyboardInterrupt: A handler raised it.

        Cancellation:
            Cancels the handlers and ends.
        """
        self._begin()
        with self._stdio(give_back=True) as stdio:
            await self._serve(stdio)

    def run_forever(
        self, backend: str = "asyncio", backend_options: dict[str, Any] | None = None
    ) -> None:
        """Serve the host on stdin and stdout until it ends the conversation; blocks, once only.

        Handlers that have not ended although they were cancelled are left behind: the process ends.

        Args:
            backend: ``"asyncio"`` or ``"trio"``.
            backend_options: As for :func:`anyio.run`, ``{"use_uvloop": True}`` for example.

        Raises:
            PluginError: It ran already.
            KeyboardInterrupt: A handler raised it.
        """
        self._begin()
        with self._stdio(give_back=False) as stdio:
            # asyncio joins the threads of its executor, whatever they do.
            closing = threading.Timer(CLOSE_S, _leave)
            closing.daemon = True
            try:
                anyio.run(
                    self._serve_and_close,
                    stdio,
                    closing,
                    backend=backend,
                    backend_options=backend_options,
                )
            finally:
                closing.cancel()
                if _left_threads():
                    _leave()

    async def serve_stream(self, receive: Receive, send: Send) -> None:
        """Serve a host on any two byte streams until the input ends; once only.

        Args:
            receive: An async function that returns bytes, none at the end of the input.
            send: An async function that writes all the bytes it is given.

        Raises:
            PluginError: It ran already.
            KeyboardInterrupt: A handler raised it.
            Exception: ``receive`` or ``send`` raised something that does not mean the stream's end.

        Cancellation:
            Cancels the handlers and ends.
        """
        self._begin()
        await self._session(send).run(receive)

    def _begin(self) -> None:
        if self._ran:
            msg = "PluginAdapter.run() already invoked"
            raise PluginError(msg)
        self._ran = True

    def _session(self, send: Send) -> Session:
        if self._ready is None:
            self._ready = anyio.Event()
        return Session(self._plugin, self._broker, self._ready, send)

    async def _serve(self, stdio: Stdio, *, on_stuck: Callable[[], object] | None = None) -> None:
        with stop_signals() if self._signals else nullcontext() as received:
            await self._session(stdio.send).run(stdio, received, on_stuck)

    async def _serve_and_close(self, stdio: Stdio, closing: threading.Timer) -> None:
        try:
            await self._serve(stdio, on_stuck=_leave)
        finally:
            closing.start()

    @contextmanager
    def _stdio(self, *, give_back: bool) -> Iterator[Stdio]:
        with ExitStack() as stack:
            if not self._guards:
                stdio = Stdio(0, 1)
                stack.callback(stdio.close)
            elif sys.platform == "win32":
                stdio = stack.enter_context(open_stdio(give_back=give_back))
            else:
                fill_gaps()
                stray = StrayOutput()
                stack.callback(stray.close)
                text = StrayText()
                if not give_back:
                    stack.callback(os.dup2, 2, 1)
                    stack.callback(text.flush)
                opened = open_stdio(give_back=give_back, stray=stray.fd, text=text)
                stdio = stack.enter_context(opened)
            yield stdio


def _left_threads() -> bool:
    """Whether plain functions still run that nobody waits for: the interpreter would, for ever."""
    until = time.monotonic() + THREADS_S
    left = [
        thread
        for thread in threading.enumerate()
        if not thread.daemon and type(thread).__module__.startswith("anyio.")
    ]
    for thread in left:
        thread.join(max(0.0, until - time.monotonic()))
    return any(thread.is_alive() for thread in left)


def _leave() -> None:
    """End this process although handlers still run: the host has asked for it, or is gone."""
    if writable(2):
        _logger.error("they are left behind, the process ends", extra={"event": "handlers_left"})
        with suppress(Exception):
            logging.shutdown()
            sys.stderr.flush()
    os._exit(0)
