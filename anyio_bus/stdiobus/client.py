"""The clients: :class:`AsyncStdioBus`, its blocking form, and what builds both."""

from __future__ import annotations

from anyio_bus.stdiobus._builder import StdioBusBuilder
from anyio_bus.stdiobus._client import AsyncStdioBus
from anyio_bus.stdiobus._inbox import NotificationSubscription
from anyio_bus.stdiobus._streams import StreamRequest
from anyio_bus.stdiobus._sync import StdioBus

__all__ = (
    "AsyncStdioBus",
    "NotificationSubscription",
    "StdioBus",
    "StdioBusBuilder",
    "StreamRequest",
)
