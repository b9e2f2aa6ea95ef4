"""Own the requests of workers: who serves them, which of them run, and the one answer of each."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from anyio_bus._errors import KernelCode
from anyio_bus._sansio.codec import encode_error
from anyio_bus._sansio.routing import Refused, Route

if TYPE_CHECKING:
    from anyio_bus._bus.calls import Calls
    from anyio_bus._sansio.events import Lines, WorkerChanged
    from anyio_bus._sansio.messages import Message

__all__ = ("Handlers",)

logger = logging.getLogger("anyio_bus")


class Handlers:
    """What answers the requests of workers.

    Args:
        calls: The calls of the bus, which pass on what workers send.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def take(self, event: Lines, message: Message) -> None:
        """Answer a request of a worker: nobody here handles it."""
        self._calls.unhandled += 1
        text = f"no handler for method {str(message.method)[:200]!r}"
        frame = encode_error(message.id, KernelCode.METHOD_NOT_FOUND, text)  # type: ignore[arg-type]
        try:
            self._calls.backend.submit(frame, Route(event.pool, worker=event.worker), None)
        except Refused as exc:
            logger.warning(
                "an answer to worker %s is dropped: %s", event.worker, exc.failure.message
            )

    def cancel(self, _event: Lines, _message: Message) -> bool:
        """Cancel a request of a worker; return whether it was one that runs."""
        return False

    def worker_changed(self, event: WorkerChanged) -> None:
        """Take note of a worker's death."""
