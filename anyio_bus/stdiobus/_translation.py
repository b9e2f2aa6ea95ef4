"""Own the step from our errors to those of the stdiobus names; nothing else translates them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio_bus
from anyio_bus.stdiobus import errors

__all__ = ("translating",)

STOPPING = "Bus is shutting down"

_FACTS = (
    "pool",
    "worker",
    "pid",
    "exit_code",
    "signal",
    "reason",
    "session",
    "sent",
    "stderr_tail",
)

# The first row that fits; its order is from the particular to the general.
_CLASSES: tuple[tuple[type[anyio_bus.BusError], type[errors.StdioBusError]], ...] = (
    (anyio_bus.InvalidArgumentError, errors.InvalidArgumentError),
    (anyio_bus.LocalProtocolError, errors.InvalidArgumentError),
    (anyio_bus.InvalidStateError, errors.InvalidStateError),
    (anyio_bus.NotSupportedError, errors.NotSupportedError),
    (anyio_bus.OverloadedError, errors.ResourceExhaustedError),
    (anyio_bus.FrameTooLargeError, errors.ResourceExhaustedError),
    (anyio_bus.StreamOverflowError, errors.ResourceExhaustedError),
    (anyio_bus.PoolUnavailableError, errors.UnavailableError),
    (anyio_bus.WorkerStartError, errors.UnavailableError),
    (anyio_bus.ScopeCancelledError, errors.CancelledError),
    (anyio_bus.TransportError, errors.TransportError),
)


@contextmanager
def translating(method: str = "") -> Iterator[None]:
    """Raise what is raised inside by the names of :mod:`anyio_bus.stdiobus.errors`."""
    try:
        yield
    except anyio_bus.BusError as exc:
        raise _translated(exc, method) from exc


def _translated(exc: anyio_bus.BusError, method: str) -> errors.StdioBusError:
    if isinstance(exc, anyio_bus.RemoteError):
        return errors.error_from_code(exc.code, exc.message, exc.data)
    if isinstance(exc, anyio_bus.RequestTimeoutError):
        return errors.TimeoutError(f"Request timeout: {method}")
    if isinstance(exc, anyio_bus.BusStoppedError):
        return errors.TransportError(STOPPING)
    facts = {name: getattr(exc, name, None) for name in _FACTS}
    details = {name: value for name, value in facts.items() if value not in (None, "")}
    for ours, theirs in _CLASSES:
        if isinstance(exc, ours):
            return theirs(str(exc), details or None)
    return errors.InternalError(str(exc), details or None)
