"""The types of the ``stdiobus`` client by their own names: configuration, options, events.

Times are in milliseconds where a name ends with ``_ms`` and in seconds where it ends with ``_sec``,
as they are there.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = (
    "AuditEvent",
    "BackendMode",
    "BusConfig",
    "BusState",
    "BusStats",
    "DockerOptions",
    "ErrorHandler",
    "ExtensionInfo",
    "HelloParams",
    "HelloResult",
    "Identity",
    "LimitsConfig",
    "ListenMode",
    "MessageHandler",
    "NativeOptions",
    "OverflowPolicy",
    "PoolConfig",
    "RequestOptions",
    "StreamEvent",
    "StreamEventType",
    "SubprocessOptions",
)

MessageHandler = Callable[[str], None]
ErrorHandler = Callable[[int, str], None]

MAX_PORT = 65535


class _Text(str, enum.Enum):  # no StrEnum: str() gives "Class.MEMBER" there  # noqa: UP042
    """Members equal their text."""


class BackendMode(_Text):
    """Where the kernel runs. ``PYTHON`` is ours: in this process, in Python."""

    AUTO = "auto"
    NATIVE = "native"
    DOCKER = "docker"
    SUBPROCESS = "subprocess"
    PYTHON = "python"


class ListenMode(_Text):
    """Where the kernel listens for other programs."""

    NONE = "none"
    TCP = "tcp"
    UNIX = "unix"


class OverflowPolicy(_Text):
    """What happens to a subscription whose queue is full.

    ``DROP`` drops the newest notification, ``DROP_OLDEST`` the oldest one; ``CLOSE`` ends the
    subscription after what it holds.
    """

    DROP = "drop"
    DROP_OLDEST = "drop_oldest"
    CLOSE = "close"


class StreamEventType(_Text):
    """What an event of a stream is."""

    CHUNK = "chunk"
    RESULT = "result"


class BusState(enum.IntEnum):
    """Where a bus stands."""

    CREATED = 0
    STARTING = 1
    RUNNING = 2
    STOPPING = 3
    STOPPED = 4


@dataclass
class PoolConfig:
    """A pool of workers that run the same command."""

    id: str
    command: str
    args: list[str] = field(default_factory=list)
    instances: int = 1


@dataclass
class LimitsConfig:
    """The bounds of the kernel; None leaves one at its default."""

    max_input_buffer: int | None = None
    max_output_queue: int | None = None
    max_restarts: int | None = None
    restart_window_sec: int | None = None
    drain_timeout_sec: int | None = None
    backpressure_timeout_sec: int | None = None


@dataclass
class BusConfig:
    """The pools of a bus and its limits."""

    pools: list[PoolConfig] = field(default_factory=list)
    limits: LimitsConfig | None = None

    def validate(self) -> None:
        """Check it.

        Raises:
            ValueError: There is no pool, or one without id, command or instances.
        """
        if not self.pools:
            msg = "pools: at least one pool must be given"
            raise ValueError(msg)
        for index, pool in enumerate(self.pools):
            if not pool.id:
                msg = f"pools[{index}].id must not be empty"
                raise ValueError(msg)
            if not pool.command:
                msg = f"pools[{index}].command: pool {pool.id!r} has none"
                raise ValueError(msg)
            if pool.instances < 1:
                msg = f"pools[{index}].instances: pool {pool.id!r} needs 1 or more"
                raise ValueError(msg)

    def to_json(self) -> str:
        """Return it in the kernel's JSON schema; limits that are not set are left out."""
        plain: dict[str, Any] = {"pools": [asdict(pool) for pool in self.pools]}
        limits = {} if self.limits is None else asdict(self.limits)
        limits = {name: value for name, value in limits.items() if value is not None}
        if limits:
            plain["limits"] = limits
        return json.dumps(plain)


@dataclass
class SubprocessOptions:
    """Options of the subprocess backend: which ``anyio-busd`` is started, one for each pool.

    ``env`` is set for the workers on any backend. What is about times and lines has no effect here.
    """

    binary_path: str = ""
    start_timeout_sec: float = 5.0
    drain_timeout_sec: float = 30.0
    stderr_buffer_lines: int = 200
    env: dict[str, str] = field(default_factory=dict)


@dataclass
class DockerOptions:
    """Options of the docker backend; the image is one with ``anyio-busd``.

    Fetching the image is part of ``startup_timeout_sec``. Each pool has a container of its own.
    """

    image: str = "stdiobus/stdiobus:node20"
    pull_policy: str = "if-missing"
    engine_path: str = "docker"
    startup_timeout_sec: float = 15.0
    container_name_prefix: str = "stdiobus"
    extra_args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)

    def validate(self) -> None:
        """Check it.

        Raises:
            ValueError: The pull policy is none of the three.
        """
        if self.pull_policy not in {"never", "if-missing", "always"}:
            msg = f"pull_policy must be never, if-missing or always, not {self.pull_policy!r}"
            raise ValueError(msg)


@dataclass
class NativeOptions:
    """Options of the native backend: where it listens. ``poll_interval_ms`` has no effect here.

    One pool may be served so; TCP is for loopback.
    """

    listen_mode: ListenMode | str = ListenMode.NONE
    tcp_host: str = "127.0.0.1"
    tcp_port: int | None = None
    unix_path: str | None = None
    poll_interval_ms: int = 1

    def __post_init__(self) -> None:
        """Turn the text of a mode into the mode.

        Raises:
            ValueError: There is no such mode.
        """
        try:
            self.listen_mode = ListenMode(self.listen_mode)
        except ValueError:
            msg = f"listen_mode must be none, tcp or unix, not {self.listen_mode!r}"
            raise ValueError(msg) from None

    def validate(self) -> None:
        """Check it.

        Raises:
            ValueError: An address is missing or wrong.
        """
        if self.poll_interval_ms < 1:
            msg = f"poll_interval_ms must be 1 or more, not {self.poll_interval_ms!r}"
            raise ValueError(msg)
        if self.listen_mode == ListenMode.UNIX and not self.unix_path:
            msg = "unix_path must be given with listen_mode unix"
            raise ValueError(msg)
        if self.listen_mode == ListenMode.TCP:
            if self.tcp_port is None:
                msg = "tcp_port must be given with listen_mode tcp"
                raise ValueError(msg)
            if not 1 <= self.tcp_port <= MAX_PORT:
                msg = f"tcp_port must be in 1..{MAX_PORT}, not {self.tcp_port!r}"
                raise ValueError(msg)


@dataclass
class BusStats:
    """What the kernel has counted."""

    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    worker_restarts: int = 0
    routing_errors: int = 0
    client_connects: int = 0
    client_disconnects: int = 0


@dataclass
class ExtensionInfo:
    """A protocol extension: as asked for (``required``), or as agreed on (``active``)."""

    version: str
    required: bool = False
    active: bool = False


@dataclass
class HelloParams:
    """What a client asks for in its hello."""

    protocol_version: str = "0.1.0"
    extensions: dict[str, ExtensionInfo] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as it goes over the wire."""
        extensions = {
            name: {"version": each.version, "required": each.required}
            for name, each in self.extensions.items()
        }
        return {"protocolVersion": self.protocol_version, "extensions": extensions}


@dataclass
class HelloResult:
    """What a worker answered to the hello."""

    negotiated_protocol_version: str
    session_id: str
    extensions: dict[str, ExtensionInfo] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> HelloResult:
        """Read it from the wire; what is missing is empty."""
        extensions = data.get("extensions") or {}
        return cls(
            data.get("negotiatedProtocolVersion", ""),
            data.get("sessionId", ""),
            {name: _extension(each) for name, each in extensions.items()},
        )


def _extension(data: dict[str, Any]) -> ExtensionInfo:
    version = data.get("selected") or data.get("version") or ""
    return ExtensionInfo(version, active=bool(data.get("active", False)))


@dataclass
class Identity:
    """Who stands behind a request."""

    subject_id: str
    role: str
    asserted_by: str = "self"

    def to_dict(self) -> dict[str, Any]:
        """Return it as it goes over the wire."""
        return {
            "subjectId": self.subject_id,
            "role": self.role,
            "assertedBy": self.asserted_by,
        }


@dataclass
class AuditEvent:
    """What a request is part of, for an audit log."""

    event_id: str
    action: str
    parent_event_id: str | None = None
    timestamp: str | None = None
    actor: dict[str, str] | None = None
    resource: str | None = None
    outcome: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as it goes over the wire; what is not set is left out."""
        plain = {
            "eventId": self.event_id,
            "action": self.action,
            "parentEventId": self.parent_event_id,
            "timestamp": self.timestamp,
            "actor": self.actor,
            "resource": self.resource,
            "outcome": self.outcome,
        }
        return {name: value for name, value in plain.items() if value is not None}


@dataclass
class RequestOptions:
    """What one call may say besides method and params."""

    timeout_ms: int | None = None
    session_id: str | None = None
    agent_id: str | None = None
    identity: Identity | None = None
    audit: AuditEvent | None = None


@dataclass(frozen=True)
class StreamEvent:
    """One event of a stream: any number of chunks, then one result."""

    type: StreamEventType
    text: str | None = None
    result: Any = None

    @property
    def data(self) -> Any:
        """The text of a chunk; the result of a result."""
        return self.text if self.type == StreamEventType.CHUNK else self.result
