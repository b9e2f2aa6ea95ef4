"""Own what telemetry sees of the calls of a bus; a bus without it has nothing of this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import UNSET

from anyio_bus._errors import InvalidArgumentError
from anyio_bus._sansio.codec import decode_error
from anyio_bus._sansio.events import Lines, Results, WorkerChanged
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.messages import is_error

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from anyio_bus._bus.calls import Calls
    from anyio_bus._sansio.events import Deliver, KernelEvent
    from anyio_bus._sansio.messages import RequestId

__all__ = ("Observer", "Telemetry", "check_telemetry", "observed")


class Observer(Protocol):
    """What is told of each call of one bus, in the loop's thread; it must not raise or block."""

    def begun(self, key: RequestId, method: str, params: object, pool: str) -> object:
        """A request begins, in the task that makes it; return the params to be sent."""
        ...

    def ended(self, key: RequestId, error: BaseException | None, worker: int | None = None) -> None:
        """It is over; ignored for one that is unknown, or was over already."""

    def abandoned(self, key: RequestId) -> None:
        """Its caller was cancelled."""

    def worker_restarted(self, pool: str, worker: int) -> None:
        """A worker has got another process."""


class Telemetry(Protocol):
    """What ``open_bus(telemetry=)`` takes; :class:`anyio_bus.otel.Telemetry` is one."""

    def observer(self) -> Observer:
        """Make what is told of the calls of one bus."""
        ...

    def serving(
        self,
        method: str,
        key: RequestId,
        meta: Mapping[str, Any],
        *,
        pool: str | None = None,
        worker: int | None = None,
    ) -> AbstractContextManager[None]:
        """Return what is entered around a handler."""
        ...


def check_telemetry(telemetry: object) -> None:
    """Refuse what is none."""
    if telemetry is not None and not callable(getattr(telemetry, "observer", None)):
        msg = f"telemetry must be an anyio_bus.otel.Telemetry, not {telemetry!r}"
        raise InvalidArgumentError(msg, field="telemetry")


def observed(calls: Calls, observer: Observer) -> Deliver:
    """Return what takes the kernel's events for some calls, and tells of those that end calls."""

    def deliver(events: list[KernelEvent]) -> None:
        for event in events:
            if isinstance(event, Lines):
                _tell_answers(calls, observer, event)
            elif isinstance(event, Results):
                for key in filter(calls.peer.calls.__contains__, event.keys):
                    observer.ended(key, None, event.worker)
            elif isinstance(event, WorkerChanged) and _is_restart(event):
                observer.worker_restarted(event.pool, event.worker)
        calls.deliver(events)

    return deliver


def _is_restart(event: WorkerChanged) -> bool:
    """Tell it from a first start: the generation is that of the process before."""
    return event.state is State.STARTING and event.generation > 0


def _tell_answers(calls: Calls, observer: Observer, event: Lines) -> None:
    for message in event.messages:
        if message.method is UNSET and message.id is not UNSET and message.id in calls.peer.calls:
            raw = message.error
            error = decode_error(raw) if is_error(message) and raw is not UNSET else None
            observer.ended(message.id, error, event.worker)
