"""Structured-concurrency transport for worker processes that speak NDJSON JSON-RPC on stdio.

Open a bus, which owns pools of workers, and ask them; on asyncio and on trio::

    async with open_bus(Pool("echo", ["anyio-bus", "worker", "echo"], instances=2)) as bus:
        print(await bus.request("echo", {"message": "hello"}))

Begin with :func:`open_bus`, :class:`Pool` and :class:`Bus`; without an event loop with
``anyio_bus.sync``. Workers are written with ``anyio_bus.worker``. Every error that a call ends
with is a :class:`BusError`; streams and subscriptions also raise AnyIO's.
"""

# The public names are loaded on first use (PEP 562), so that `anyio_bus.worker` and the command line
# start quickly.

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msgspec import UNSET as UNSET
    from msgspec import Raw as Raw

    from anyio_bus._backends.docker import Docker as Docker
    from anyio_bus._backends.links import Connect as Connect
    from anyio_bus._backends.links import Subprocess as Subprocess
    from anyio_bus._backends.listening import Native as Native
    from anyio_bus._backends.memory import Memory as Memory
    from anyio_bus._bus.bus import Bus as Bus
    from anyio_bus._bus.bus import BusStatistics as BusStatistics
    from anyio_bus._bus.calls import Scope as Scope
    from anyio_bus._bus.handler_context import HandlerContext as HandlerContext
    from anyio_bus._bus.host import BusHost as BusHost
    from anyio_bus._bus.identity import AuditEvent as AuditEvent
    from anyio_bus._bus.identity import HelloResult as HelloResult
    from anyio_bus._bus.identity import Identity as Identity
    from anyio_bus._bus.lifetime import BusState as BusState
    from anyio_bus._bus.maps import MapResults as MapResults
    from anyio_bus._bus.opening import open_bus as open_bus
    from anyio_bus._bus.sessions import Session as Session
    from anyio_bus._bus.streams import ChunkSink as ChunkSink
    from anyio_bus._bus.streams import Stream as Stream
    from anyio_bus._bus.streams import StreamEvent as StreamEvent
    from anyio_bus._bus.streams import StreamEvents as StreamEvents
    from anyio_bus._bus.subscriptions import Subscription as Subscription
    from anyio_bus._bus.taps import FrameStream as FrameStream
    from anyio_bus._bus.taps import MessageHook as MessageHook
    from anyio_bus._bus.taps import Recording as Recording
    from anyio_bus._bus.taps import read_tap as read_tap
    from anyio_bus._bus.threads import FromThread as FromThread
    from anyio_bus._config import BusConfig as BusConfig
    from anyio_bus._config import Handshake as Handshake
    from anyio_bus._config import Limits as Limits
    from anyio_bus._config import Pool as Pool
    from anyio_bus._config import Probe as Probe
    from anyio_bus._config import Retry as Retry
    from anyio_bus._config import find_config as find_config
    from anyio_bus._config import load_config as load_config
    from anyio_bus._errors import BusError as BusError
    from anyio_bus._errors import BusInternalError as BusInternalError
    from anyio_bus._errors import BusStoppedError as BusStoppedError
    from anyio_bus._errors import ConnectionLostError as ConnectionLostError
    from anyio_bus._errors import FrameTooLargeError as FrameTooLargeError
    from anyio_bus._errors import InvalidArgumentError as InvalidArgumentError
    from anyio_bus._errors import InvalidStateError as InvalidStateError
    from anyio_bus._errors import LocalProtocolError as LocalProtocolError
    from anyio_bus._errors import NotSupportedError as NotSupportedError
    from anyio_bus._errors import OverloadedError as OverloadedError
    from anyio_bus._errors import PolicyDeniedError as PolicyDeniedError
    from anyio_bus._errors import PoolUnavailableError as PoolUnavailableError
    from anyio_bus._errors import ProtocolError as ProtocolError
    from anyio_bus._errors import RemoteError as RemoteError
    from anyio_bus._errors import RemoteProtocolError as RemoteProtocolError
    from anyio_bus._errors import RequestTimeoutError as RequestTimeoutError
    from anyio_bus._errors import ScopeCancelledError as ScopeCancelledError
    from anyio_bus._errors import SessionLostError as SessionLostError
    from anyio_bus._errors import StreamOverflowError as StreamOverflowError
    from anyio_bus._errors import TransportError as TransportError
    from anyio_bus._errors import UnknownPoolError as UnknownPoolError
    from anyio_bus._errors import WorkerLostError as WorkerLostError
    from anyio_bus._errors import WorkerStartError as WorkerStartError
    from anyio_bus._sansio.events import BadLineInfo as BadLineInfo
    from anyio_bus._sansio.events import ClientChanged as ClientChanged
    from anyio_bus._sansio.events import KernelStatistics as KernelStatistics
    from anyio_bus._sansio.events import WorkerInfo as WorkerInfo
    from anyio_bus._sansio.lifecycle import State as _State
    from anyio_bus._sansio.notifications import Chunk as Chunk
    from anyio_bus._sansio.notifications import Notification as Notification
    from anyio_bus._sansio.tapping import TapFrame as TapFrame

    WorkerState = _State  # to type checkers `State as WorkerState` would export nothing

__version__ = "0.1.0"

_MODULES: dict[str, tuple[str, ...]] = {
    "msgspec": ("UNSET", "Raw"),
    "anyio_bus._backends.docker": ("Docker",),
    "anyio_bus._backends.links": ("Connect", "Subprocess"),
    "anyio_bus._backends.listening": ("Native",),
    "anyio_bus._backends.memory": ("Memory",),
    "anyio_bus._bus.bus": ("Bus", "BusStatistics"),
    "anyio_bus._bus.calls": ("Scope",),
    "anyio_bus._bus.identity": ("AuditEvent", "HelloResult", "Identity"),
    "anyio_bus._bus.lifetime": ("BusState",),
    "anyio_bus._bus.opening": ("open_bus",),
    "anyio_bus._bus.sessions": ("Session",),
    "anyio_bus._bus.handler_context": ("HandlerContext",),
    "anyio_bus._bus.host": ("BusHost",),
    "anyio_bus._bus.taps": ("FrameStream", "MessageHook", "Recording", "read_tap"),
    "anyio_bus._bus.threads": ("FromThread",),
    "anyio_bus._bus.maps": ("MapResults",),
    "anyio_bus._bus.streams": ("ChunkSink", "Stream", "StreamEvent", "StreamEvents"),
    "anyio_bus._bus.subscriptions": ("Subscription",),
    "anyio_bus._sansio.notifications": ("Chunk", "Notification"),
    "anyio_bus._config": (
        "BusConfig",
        "Handshake",
        "Limits",
        "Pool",
        "Probe",
        "Retry",
        "find_config",
        "load_config",
    ),
    "anyio_bus._errors": (
        "BusError",
        "BusInternalError",
        "BusStoppedError",
        "ConnectionLostError",
        "FrameTooLargeError",
        "InvalidArgumentError",
        "InvalidStateError",
        "LocalProtocolError",
        "NotSupportedError",
        "OverloadedError",
        "PolicyDeniedError",
        "PoolUnavailableError",
        "ProtocolError",
        "RemoteError",
        "RemoteProtocolError",
        "RequestTimeoutError",
        "ScopeCancelledError",
        "SessionLostError",
        "StreamOverflowError",
        "TransportError",
        "UnknownPoolError",
        "WorkerLostError",
        "WorkerStartError",
    ),
    "anyio_bus._sansio.events": (
        "BadLineInfo",
        "ClientChanged",
        "KernelStatistics",
        "WorkerInfo",
    ),
    "anyio_bus._sansio.lifecycle": ("State=WorkerState",),
    "anyio_bus._sansio.tapping": ("TapFrame",),
}

_TABLE: dict[str, tuple[str, str]] = {
    entry.split("=")[-1]: (module, entry.split("=")[0])
    for module, names in _MODULES.items()
    for entry in names
}

__all__ = ("__version__", *sorted(_TABLE))  # pyright: ignore[reportUnsupportedDunderAll]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _TABLE[name]
    except KeyError:
        msg = f"module 'anyio_bus' has no attribute {name!r}"
        raise AttributeError(msg) from None
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_TABLE})
