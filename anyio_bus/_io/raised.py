"""Own the questions to what a handler raised: was it cancelled, was it Ctrl-C or an exit."""

from __future__ import annotations

import math

import anyio

__all__ = ("exit_in", "is_cancellation", "is_cancelled", "is_interrupt")


def is_cancellation(exc: BaseException) -> bool:
    """Tell whether a handler ended because a scope around it was cancelled.

    One that raises the loop's exception by itself would take down the task group around it on asyncio.
    """
    if anyio.current_effective_deadline() != -math.inf:
        return False
    return is_cancelled(exc)


def is_cancelled(exc: BaseException) -> bool:
    """Tell whether nothing but the loop's exception of a cancellation was raised, by whomever."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(anyio.get_cancelled_exc_class())[1] is None
    return isinstance(exc, anyio.get_cancelled_exc_class())


def is_interrupt(exc: BaseException) -> bool:
    """Tell whether Ctrl-C is among what was raised."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.subgroup(KeyboardInterrupt) is not None
    return isinstance(exc, KeyboardInterrupt)


def exit_in(exc: BaseException) -> BaseException | None:
    """Return what is to end the program: the first Ctrl-C or exit in what was raised."""
    if isinstance(exc, KeyboardInterrupt | SystemExit):
        return exc
    if isinstance(exc, BaseExceptionGroup):
        return next(filter(None, map(exit_in, exc.exceptions)), None)
    return None
