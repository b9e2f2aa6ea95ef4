"""The ``stdiobus`` client by its own names, on the core of anyio_bus.

``from stdiobus import ...`` becomes ``from anyio_bus.stdiobus import ...``, and the program runs as
it is, on asyncio and on trio. ``anyio-bus migrate`` rewrites the imports.
"""

from __future__ import annotations

from anyio_bus import __version__
from anyio_bus.stdiobus.client import (
    AsyncStdioBus,
    NotificationSubscription,
    StdioBus,
    StdioBusBuilder,
)
from anyio_bus.stdiobus.errors import (
    CancelledError,
    InternalError,
    InvalidArgumentError,
    InvalidStateError,
    NegotiationFailedError,
    NotSupportedError,
    PolicyDeniedError,
    ResourceExhaustedError,
    StdioBusError,
    TimeoutError,  # noqa: A004  # the name there
    TransportError,
    UnavailableError,
)
from anyio_bus.stdiobus.types import (
    AuditEvent,
    BackendMode,
    BusConfig,
    BusState,
    BusStats,
    DockerOptions,
    HelloParams,
    HelloResult,
    Identity,
    LimitsConfig,
    ListenMode,
    NativeOptions,
    OverflowPolicy,
    PoolConfig,
    RequestOptions,
    StreamEvent,
    StreamEventType,
    SubprocessOptions,
)

__all__ = (
    "AsyncStdioBus",
    "AuditEvent",
    "BackendMode",
    "BusConfig",
    "BusState",
    "BusStats",
    "CancelledError",
    "DockerOptions",
    "HelloParams",
    "HelloResult",
    "Identity",
    "InternalError",
    "InvalidArgumentError",
    "InvalidStateError",
    "LimitsConfig",
    "ListenMode",
    "NativeOptions",
    "NegotiationFailedError",
    "NotSupportedError",
    "NotificationSubscription",
    "OverflowPolicy",
    "PolicyDeniedError",
    "PoolConfig",
    "RequestOptions",
    "ResourceExhaustedError",
    "StdioBus",
    "StdioBusBuilder",
    "StdioBusError",
    "StreamEvent",
    "StreamEventType",
    "SubprocessOptions",
    "TimeoutError",
    "TransportError",
    "UnavailableError",
    "__version__",
)
