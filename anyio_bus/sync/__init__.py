"""The bus for programs without an event loop: the same calls, blocking, from any thread."""

from __future__ import annotations

from anyio_bus.sync._bus import SyncBus, SyncMessageHook, SyncRecording, open_bus_sync
from anyio_bus.sync._handlers import SyncHandlerContext
from anyio_bus.sync._maps import SyncMapResults
from anyio_bus.sync._sessions import SyncScope, SyncSession
from anyio_bus.sync._streams import SyncFrameStream, SyncStream, SyncSubscription

__all__ = (
    "SyncBus",
    "SyncFrameStream",
    "SyncHandlerContext",
    "SyncMapResults",
    "SyncMessageHook",
    "SyncRecording",
    "SyncScope",
    "SyncSession",
    "SyncStream",
    "SyncSubscription",
    "open_bus_sync",
)
