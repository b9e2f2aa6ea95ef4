"""Own the bounds of a worker, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from anyio_bus._errors import InvalidArgumentError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from anyio_bus._sansio.messages import RequestId

__all__ = ("Settings", "Telemetry")

MIB = 1024 * 1024


class Telemetry(Protocol):
    """What has a span while a handler runs."""

    def serving(
        self, method: str, key: RequestId, meta: Mapping[str, Any]
    ) -> AbstractContextManager[None]:
        """Return what is entered around a handler."""
        ...

    def outgoing(self, params: object) -> object:
        """Return the params to be sent with a request to the client."""
        ...


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What :class:`~anyio_bus.worker.Worker` takes; it says what each means."""

    max_concurrency: int = 64
    max_queued: int = 1024
    max_frame_bytes: int = 64 * MIB
    drain_s: float = 5.0
    cancel: Literal["lsp", "mcp", "acp", "none"] = "lsp"
    telemetry: Any = None  # a Telemetry: msgspec does not check Protocols

    def __post_init__(self) -> None:
        """Validate."""
        for name in ("max_concurrency", "max_queued", "max_frame_bytes"):
            least = 0 if name == "max_queued" else 1
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise _wrong(name, f"must be a whole number of at least {least}, not {value!r}")
        if type(self.drain_s) not in {int, float} or not 0 <= self.drain_s < float("inf"):
            raise _wrong("drain_s", f"must be a number of seconds, not {self.drain_s!r}")
        if not callable(getattr(self.telemetry or Telemetry, "serving", None)):
            raise _wrong(
                "telemetry", f"must be an anyio_bus.otel.Telemetry, not {self.telemetry!r}"
            )
        if self.cancel not in {"lsp", "mcp", "acp", "none"}:
            raise _wrong("cancel", f"must be 'lsp', 'mcp', 'acp' or 'none', not {self.cancel!r}")


def _wrong(name: str, text: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"Worker.{name} {text}", field=name)
