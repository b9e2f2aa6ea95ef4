"""Own the two questions to what a handler raised: was it cancelled, and was it Ctrl-C."""

from __future__ import annotations

import math

import anyio

__all__ = ("is_cancellation", "is_interrupt")


def is_cancellation(exc: BaseException) -> bool:
    """Tell whether a handler ended because a scope around it was cancelled.

    One that raises the loop's exception by itself would take down the task group around it on asyncio.
    """
    if anyio.current_effective_deadline() != -math.inf:
        return False
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(anyio.get_cancelled_exc_class())[1] is None
    return isinstance(exc, anyio.get_cancelled_exc_class())


def is_interrupt(exc: BaseException) -> bool:
    """Tell whether Ctrl-C is among what was raised."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.subgroup(KeyboardInterrupt) is not None
    return isinstance(exc, KeyboardInterrupt)
