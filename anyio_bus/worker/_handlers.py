"""Own the functions that a worker serves, and how each is called: awaited, in a thread, inline."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from anyio_bus._errors import InvalidArgumentError
from anyio_bus.worker._binding import Binding

if TYPE_CHECKING:
    from anyio_bus.worker._context import Context

__all__ = ("Handler",)


class Handler:
    """One registered function.

    Args:
        function: The function.
        what: What to call it in errors.
        inline: Call a plain function right in the event loop's thread, as messages are read.
        names: Further names that its annotations may use.

    Raises:
        InvalidArgumentError: It cannot be served; the message says why.
    """

    __slots__ = ("_binding", "_function", "_is_async", "inline", "what")

    def __init__(
        self,
        function: Callable[..., Any],
        what: str,
        inline: bool,
        names: Mapping[str, Any] | None,
    ) -> None:
        self.what = what
        if not callable(function):
            msg = f"{what}: {function!r} is not callable"
            raise InvalidArgumentError(msg, field=what)
        if _is(inspect.isasyncgenfunction, function) or _is(inspect.isgeneratorfunction, function):
            msg = f"{what}: a handler returns its result and must not yield; see Context.send_chunk"
            raise InvalidArgumentError(msg, field=what)
        self._is_async = _is(inspect.iscoroutinefunction, function)
        if inline and self._is_async:
            msg = f"{what}: inline=True is for plain functions"
            raise InvalidArgumentError(msg, field="inline")
        self._function = function
        self._binding = Binding(function, what, names)
        self.inline = inline

    def call(self, context: Context) -> Any:
        """Call it in this thread; return what it returns.

        Raises:
            InvalidParamsError: The params do not fit.
            Exception: Whatever it raises.
        """
        args, kwargs = self._binding.arguments(context, context._request.params)
        return self._function(*args, **kwargs)

    async def run(self, context: Context, limiter: anyio.CapacityLimiter) -> Any:
        """Await it, or run it in a thread; return its result. Raises as :meth:`call`."""
        if self._is_async:
            return await self.call(context)
        args, kwargs = self._binding.arguments(context, context._request.params)
        call = functools.partial(self._function, *args, **kwargs)
        result, error = await anyio.to_thread.run_sync(_outcome, call, limiter=limiter)
        if error is not None:
            raise error
        return await result if inspect.isawaitable(result) else result


def _outcome(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Return what a call returned or raised: a future cannot carry every exception."""
    try:
        return call(), None
    except BaseException as exc:  # noqa: ASYNC103, BLE001  # raised again in the loop's thread
        return None, exc  # noqa: ASYNC104


def _is(test: Callable[[Any], bool], function: Any) -> bool:
    """Test a function that may be wrapped in a partial, or be an instance with ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    return test(function) or test(type(function).__call__)
