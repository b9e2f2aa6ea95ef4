"""Own how a plain function serves a worker's requests in a thread, where it may block."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, final

import anyio.to_thread
from msgspec import UNSET

from anyio_bus import HandlerContext
from anyio_bus.sync._sessions import SyncScope

if TYPE_CHECKING:
    from anyio_bus.sync._bus import SyncBus

__all__ = ("SyncHandlerContext", "in_thread")


@final
class SyncHandlerContext:
    """The request of a worker that a handler serves; a parameter annotated with it gets it.

    The blocking :class:`~anyio_bus.HandlerContext`.
    """

    __slots__ = ("_bus", "_context")

    def __init__(self, bus: SyncBus, context: HandlerContext) -> None:
        """Made by a bus."""
        self._bus = bus
        self._context = context

    def __repr__(self) -> str:
        """Show what it is and who asked."""
        return f"<Sync{repr(self._context)[1:]}"

    @property
    def bus(self) -> SyncBus:
        """The bus that was asked."""
        return self._bus

    @property
    def scope(self) -> SyncScope:
        """The scope that this request belongs to: that of its handler's registration."""
        return SyncScope._of(self._bus._runner, self._context.scope)

    @property
    def pool(self) -> str:
        """The pool of the worker that asked."""
        return self._context.pool

    @property
    def worker(self) -> int:
        """The number of the worker that asked."""
        return self._context.worker

    @property
    def method(self) -> str:
        """The method that was called."""
        return self._context.method

    @property
    def request_id(self) -> int | str | float | None:
        """The id of the request, which is the worker's own: another worker may use it as well."""
        return self._context.request_id

    @property
    def session(self) -> str | None:
        """The ``sessionId`` at top level or, without one there, in the params."""
        return self._context.session

    @property
    def meta(self) -> dict[str, Any]:
        """The member ``_meta`` of the params as plain objects; empty where there is none."""
        return self._context.meta

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled: then nobody waits for the result, and the thread may end."""
        return self._context.cancelled

    def notify(self, method: str, params: object = UNSET) -> None:
        """Send a notification to the worker that asked, ahead of the answer.

        Raises:
            BusError: As :meth:`HandlerContext.notify`.
        """
        self._bus._runner.run(self._context.notify, method, params)


def in_thread(
    bus: SyncBus, function: Callable[..., Any], names: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Return an async handler that calls a plain function in a thread; an async one as it is.

    Args:
        bus: Whose loop serves.
        function: The function.
        names: Further names that its annotations may use.
    """
    plain: Any = function
    while isinstance(plain, functools.partial):
        plain = plain.func
    if not callable(plain):
        return function  # refused by the bus, by its name
    if not inspect.isroutine(plain) and not inspect.isclass(plain):
        plain = type(plain).__call__
    if any(map(_never_in_a_thread, (function, plain))):
        return function

    async def call(*args: Any, **kwargs: Any) -> Any:
        """Serve one request in a thread."""
        args = tuple(_blocking(bus, arg) for arg in args)
        kwargs = {name: _blocking(bus, arg) for name, arg in kwargs.items()}
        bound = functools.partial(function, *args, **kwargs)
        # A thread cannot be cancelled: it is left to itself, and its result is dropped.
        return await anyio.to_thread.run_sync(
            bound, abandon_on_cancel=True, limiter=bus._runner.handler_threads
        )

    functools.update_wrapper(call, function)
    try:
        hints = typing.get_type_hints(plain, localns=dict(names or {}), include_extras=True)
    except (TypeError, NameError, SyntaxError):
        return call  # refused by the bus, which says why
    call.__annotations__ = {
        name: HandlerContext if hint is SyncHandlerContext else hint for name, hint in hints.items()
    }
    return call


def _never_in_a_thread(function: Callable[..., Any]) -> bool:
    return (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)  # refused by the bus
        or inspect.isasyncgenfunction(function)
    )


def _blocking(bus: SyncBus, argument: Any) -> Any:
    if isinstance(argument, HandlerContext):
        return SyncHandlerContext(bus, argument)
    return argument
