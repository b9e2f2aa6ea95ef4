"""Own what a program writes: its methods, and how it is run."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, Literal, TypeVar, final

import anyio

from anyio_bus._errors import InvalidArgumentError
from anyio_bus._io.stdio import Stdio, open_stdio
from anyio_bus._sansio.binding import check_name
from anyio_bus.worker._handlers import Handler
from anyio_bus.worker._serving import CONTROL_METHODS, Conversation, Receive, Send
from anyio_bus.worker._settings import MIB, Settings, Telemetry
from anyio_bus.worker._signals import stop_signals

__all__ = ("Worker",)

logger = logging.getLogger("anyio_bus.worker")

F = TypeVar("F", bound=Callable[..., Any])


@final
class Worker:
    """The methods of a worker process, and the loop that serves them on its stdin and stdout.

    Each request gets exactly one answer. A handler that raises :class:`anyio_bus.RemoteError`
    chooses the error; anything else that it raises becomes -32603 with the name of the class and
    the message, and a traceback on stderr. :meth:`method` says how params become arguments.

    Args:
        max_concurrency: Requests that run at once; more of them wait.
        max_queued: Requests that wait, and notifications that wait; more requests are refused
            (-32053), more notifications are dropped. Answers, cancels and credit never wait.
        max_frame_bytes: Longest line in either direction, newline included.
        drain_s: Seconds that what is in progress has to finish once the input has ended, or SIGTERM
            or SIGINT came. After that, or at the next signal, it is cancelled.
        cancel: How the client is told that a request of this worker is cancelled: ``"lsp"``
            (``$/cancelRequest``), ``"mcp"``, ``"acp"`` or ``"none"``.
        telemetry: An :class:`anyio_bus.otel.Telemetry`, for a span and the time of each request.

    Raises:
        InvalidArgumentError: An argument is wrong; the message names it.
    """

    def __init__(
        self,
        *,
        max_concurrency: int = 64,
        max_queued: int = 1024,
        max_frame_bytes: int = 64 * MIB,
        drain_s: float = 5.0,
        cancel: Literal["lsp", "mcp", "acp", "none"] = "lsp",
        telemetry: Telemetry | None = None,
    ) -> None:
        self._settings = Settings(
            max_concurrency=max_concurrency,
            max_queued=max_queued,
            max_frame_bytes=max_frame_bytes,
            drain_s=drain_s,
            cancel=cancel,
            telemetry=telemetry,
        )
        self._methods: dict[str, Handler] = {}
        self._notifications: dict[str, Handler] = {}

    def method(self, name: str, *, inline: bool = False) -> Callable[[F], F]:
        """Register the decorated function as the handler of a request.

        An async function runs in a task, a plain one in a thread, so that it may block; it cannot
        be interrupted, but can look at :attr:`Context.cancelled`. With ``inline=True`` a plain
        function runs right in the event loop's thread, in the order in which requests are read: the
        fastest way for what never waits.

        How params become arguments:

        1. A parameter annotated :class:`Context` gets the context.
        2. If there is one other parameter and it is called ``params``, it gets the params as a
           whole, decoded into its annotation: a Struct, a dataclass, a TypedDict, a dict.
        3. Otherwise each parameter gets the member of its name or, if the params are an array, the
           item at its place, decoded into its annotation; where it is missing, its default.

        Unknown members are refused, unless there is a ``**kwargs`` to take them; ``_meta`` and
        ``sessionId`` never are. What does not fit is answered with -32602 and the path.

        Args:
            name: The method's name on the wire.
            inline: Call a plain function in the event loop's thread.

        Returns:
            A decorator that returns the function as it is.

        Raises:
            InvalidArgumentError: There is no name, it is taken, or the function's signature cannot
                be served.
        """
        check_name(name, "worker.method")

        def register(function: F) -> F:
            names = sys._getframe(1).f_locals  # a handler inside a function may use its classes
            self._add(self._methods, name, Handler(function, f"method {name!r}", inline, names))
            return function

        return register

    def notification(self, name: str, *, inline: bool = False) -> Callable[[F], F]:
        """Register the decorated function as the handler of a notification.

        As :meth:`method`, but nothing is answered; errors go to the log. Notifications are handled
        one after another, in the order in which they came; those without a handler are ignored.

        Args:
            name: The notification's name on the wire.
            inline: Call a plain function in the event loop's thread.

        Returns:
            A decorator that returns the function as it is.

        Raises:
            InvalidArgumentError: There is no name, it is taken, or the function's signature cannot
                be served.
        """
        check_name(name, "worker.notification")
        what = f"notification {name!r}"
        if name in CONTROL_METHODS:
            msg = f"{what} is the worker's own: it cancels requests, or gives credit"
            raise InvalidArgumentError(msg, field=name)

        def register(function: F) -> F:
            names = sys._getframe(1).f_locals
            self._add(self._notifications, name, Handler(function, what, inline, names))
            return function

        return register

    def _add(self, table: dict[str, Handler], name: str, handler: Handler) -> None:
        if name in table:
            msg = f"{handler.what} has a handler already"
            raise InvalidArgumentError(msg, field=name)
        table[name] = handler

    def run(self, backend: str = "asyncio", backend_options: dict[str, Any] | None = None) -> None:
        """Serve this process's stdin and stdout until the client closes them; blocks.

        File descriptors 0 and 1 are taken away first and for good: stray prints, C code and child
        processes write to stderr and read nothing. Handlers that have not ended one second after
        they were cancelled are left behind: the process ends with status 1.

        Args:
            backend: ``"asyncio"`` or ``"trio"``.
            backend_options: As for :func:`anyio.run`, ``{"use_uvloop": True}`` for example.

        Raises:
            KeyboardInterrupt: A handler raised it.
        """
        with open_stdio(give_back=False) as stdio:
            serve = partial(self._serve, stdio, signals=True, on_stuck=partial(_give_up, stdio))
            anyio.run(serve, backend=backend, backend_options=backend_options)

    async def serve(self, *, signals: bool = True) -> None:
        """Serve this process's stdin and stdout until the client closes them, in a running loop.

        As :meth:`run`, but file descriptors 0 and 1 are put back at the end, and handlers are
        waited for until they have ended.

        Args:
            signals: Stop at SIGTERM and SIGINT.

        Raises:
            KeyboardInterrupt: A handler raised it.

        Cancellation:
            Cancels the handlers and ends.
        """
        with open_stdio() as stdio:
            await self._serve(stdio, signals=signals)

    async def serve_stream(self, receive: Receive, send: Send) -> None:
        """Serve any two byte streams until the input ends.

        Args:
            receive: An async function that returns bytes, none at the end of the input.
            send: An async function that writes all the bytes it is given.

        Raises:
            KeyboardInterrupt: A handler raised it.
            Exception: ``receive`` or ``send`` raised something that does not mean the stream's end.

        Cancellation:
            Cancels the handlers and ends.
        """
        conversation = Conversation(self._methods, self._notifications, self._settings, send)
        await conversation.run(receive)

    async def _serve(
        self, stdio: Stdio, *, signals: bool, on_stuck: Callable[[], object] | None = None
    ) -> None:
        with stop_signals() if signals else nullcontext() as received:
            conversation = Conversation(
                self._methods, self._notifications, self._settings, stdio.send
            )
            await conversation.run(stdio, received, on_stuck)


def _give_up(stdio: Stdio) -> None:
    """End this process although handlers still run."""
    text = "they are left behind, and this process ends with status 1"
    logger.error(text, extra={"event": "handlers_left"})
    stdio.close()
    with suppress(Exception):
        logging.shutdown()
        sys.stderr.flush()
    os._exit(1)
