"""Own the functions that a worker serves, and how each is called: awaited, in a thread, inline."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.to_thread

from anyio_bus._errors import InvalidArgumentError
from anyio_bus._sansio.binding import Binding
from anyio_bus.worker._context import Context

__all__ = ("Handler", "call_in_thread")


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

    __slots__ = ("_binding", "_function", "inline", "what")

    def __init__(
        self,
        function: Callable[..., Any],
        what: str,
        inline: bool,
        names: Mapping[str, Any] | None,
    ) -> None:
        self.what = what
        self._binding = Binding(function, what, Context, names)
        if inline and self._binding.is_async:
            msg = f"{what}: inline=True is for plain functions"
            raise InvalidArgumentError(msg, field="inline")
        self._function = function
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
        if self._binding.is_async:
            return await self.call(context)
        args, kwargs = self._binding.arguments(context, context._request.params)
        call = functools.partial(self._function, *args, **kwargs)
        return await call_in_thread(call, limiter)


async def call_in_thread(
    call: Callable[[], Any], limiter: anyio.CapacityLimiter, *, abandon: bool = False
) -> Any:
    """Call a plain function in a thread; return what it returns, awaited if it can be.

    Args:
        call: The function.
        limiter: How many may run.
        abandon: Leave the thread behind when the wait is cancelled.

    Raises:
        BaseException: Whatever it raises.
    """
    result, error = await anyio.to_thread.run_sync(
        _outcome, call, limiter=limiter, abandon_on_cancel=abandon
    )
    if error is not None:
        raise error
    return await result if inspect.isawaitable(result) else result


def _outcome(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Return what a call returned or raised: a future cannot carry every exception."""
    try:
        return call(), None
    except BaseException as exc:  # noqa: ASYNC103, BLE001  # raised again in the loop's thread
        return None, exc  # noqa: ASYNC104
