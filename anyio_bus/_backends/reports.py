"""Own how reports of the C kernel become values, wherever that runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from anyio_bus._errors import Failure
from anyio_bus._sansio.events import KernelStatistics, SessionInfo, WorkerInfo
from anyio_bus._sansio.messages import RequestId
from anyio_bus._sansio.tapping import TapFrame

if TYPE_CHECKING:
    from anyio_bus._config import BusConfig

__all__ = (
    "PoolStatus",
    "Status",
    "config_json",
    "decode_failure",
    "decode_frame",
    "decode_session",
    "decode_status",
)

# What the C kernel counts with; whoever asks for more has no bound in mind.
_MOST_UINT32 = 2**32 - 1
_MOST_S = 1e9
_MOST = {
    "max_input_buffer": 2**30,
    "max_output_queue": 2**52,
    "max_restarts": 1_000_000,
    "stderr_tail_bytes": 64 * 2**20,
}
_CLIENT_FIELDS = ("args", "chunks", "collect", "serial", "guard", "spawn", "spares")


class PoolStatus(msgspec.Struct):
    """A pool, as ``bus/status`` has it."""

    workers: list[WorkerInfo]
    id: str = ""
    unavailable: Failure | None = None  # why every worker is parked


class Status(msgspec.Struct):
    """The result of ``bus/status``."""

    pools: list[PoolStatus]
    bus: str = ""
    version: str = ""
    statistics: KernelStatistics | None = None

    @property
    def single(self) -> str | None:
        """The only pool, which lines need not name; None where there are several."""
        return self.pools[0].id if len(self.pools) == 1 else None

    def workers(self) -> list[WorkerInfo]:
        """Return every slot."""
        return [info for pool in self.pools for info in pool.workers]


class _Frame(msgspec.Struct):
    time: float
    at: float
    direction: Any
    pool: str
    worker: int
    generation: int
    kind: Any
    size: int
    id: RequestId = None
    method: str | None = None
    request: RequestId = None
    reason: str = ""
    message: msgspec.Raw | UnsetType = UNSET
    line: bytes = b""  # base64 on the wire


_FRAME_FIELDS = tuple(name for name in _Frame.__struct_fields__ if name not in ("message", "line"))
_frames = msgspec.json.Decoder(_Frame)

decode_failure = msgspec.json.Decoder(Failure).decode
decode_session = msgspec.json.Decoder(SessionInfo).decode
decode_status = msgspec.json.Decoder(Status).decode


def decode_frame(report: bytes) -> TapFrame:
    """Decode what a tap has seen."""
    seen = _frames.decode(report)
    fields = {name: getattr(seen, name) for name in _FRAME_FIELDS}
    frame = seen.line if seen.message is UNSET else bytes(seen.message) + b"\n"
    return TapFrame(frame=frame, **fields)


def config_json(config: BusConfig) -> bytes:
    """Encode a configuration for the C kernel; what is the client's own is left out."""
    pools = []
    for pool in config.pools:
        fields = {name: getattr(pool, name) for name in pool.__struct_fields__}
        for name in _CLIENT_FIELDS:
            del fields[name]
        fields["ready"] = pool.ready if pool.ready == "spawn" else msgspec.to_builtins(pool.ready)
        fields["groups"] = None if pool.groups is None else list(pool.groups)
        fields["command"] = list(pool.argv)
        fields["max_in_flight"] = min(pool.max_in_flight, _MOST_UINT32)
        for name in ("max_requests", "idle_timeout_s", "max_lifetime_s", "max_rss_bytes"):
            fields[name] = min(fields[name], 2**52)
        pools.append(fields)
    limits = {
        name: min(value, _MOST.get(name, _MOST_UINT32 if isinstance(value, int) else _MOST_S))
        for name, value in msgspec.to_builtins(config.limits).items()
    }
    # Not msgspec's: bytes of paths that are no text are surrogates, and go as escapes.
    return json.dumps({"pools": pools, "limits": limits}, default=msgspec.to_builtins).encode()
