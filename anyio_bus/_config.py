"""Own the configuration: frozen Structs that validate themselves, and where they are read from."""

from __future__ import annotations

import logging
import os
import random
import re
import shlex
from collections.abc import Sequence
from functools import lru_cache
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, get_origin

import msgspec
from msgspec import UNSET
from msgspec.structs import force_setattr

from anyio_bus._errors import (
    BusStoppedError,
    FrameTooLargeError,
    InvalidArgumentError,
    ProtocolError,
    ScopeCancelledError,
    SessionLostError,
    StreamOverflowError,
    TransportError,
)

__all__ = (
    "BusConfig",
    "Handshake",
    "Limits",
    "Pool",
    "Probe",
    "Retry",
    "find_config",
    "load_config",
)


# What sending a request again does not help, or what the caller is to hear of.
_FINAL = (
    BusStoppedError,
    FrameTooLargeError,
    ProtocolError,
    ScopeCancelledError,
    SessionLostError,
    StreamOverflowError,
)

logger = logging.getLogger("anyio_bus")

MIB = 1024 * 1024
MCP_VERSION = "2025-11-25"  # a server that does not know it answers with one that it does
ACP_VERSION = 1
CLIENT_NAME, CLIENT_VERSION = "anyio-bus", "0.1.0"
CHUNK_PROFILES = ("anyio-bus", "acp", "mcp-progress")
_EXAMPLE = (
    "give open_bus() a pool, for example:\n"
    '    async with open_bus(Pool("echo", [sys.executable, "-m", "my_worker"])) as bus:\n'
    '        await bus.request("echo", {"message": "hello"})'
)


@lru_cache(maxsize=64)
def _hints(cls: type) -> dict[str, Any]:
    return {f.name: (f.encode_name, f.type) for f in msgspec.structs.fields(cls)}


def _fail(owner: object, field: str, problem: str, key: object = UNSET) -> InvalidArgumentError:
    label = type(owner).__name__
    if isinstance(owner, Pool) and owner.id and isinstance(owner.id, str):
        label = f"Pool({owner.id!r})"
    where = field if key is UNSET else f"{field}[{key!r}]"
    return InvalidArgumentError(f"{label}.{where}: {problem}", field=field)


def _check_types(struct: msgspec.Struct) -> None:
    """Check every field against its annotation, as decoding from JSON would."""
    for name, (_, kind) in _hints(type(struct)).items():
        value = getattr(struct, name)
        problem = _mismatch(value, kind)
        if problem is None:
            continue
        for key, part in value.items() if isinstance(value, dict) else ():
            why = _mismatch({key: part}, kind)
            if why is not None:  # without "at `$[...]`": this is where
                raise _fail(struct, name, why.partition(" - at ")[0], key)
        raise _fail(struct, name, problem)


def _mismatch(value: object, kind: Any) -> str | None:
    """Say why this is no value of a type; None where it is one."""
    try:
        msgspec.convert(value, kind)
    except RecursionError as exc:
        return str(exc)
    except msgspec.ValidationError as exc:
        choices = _choices(kind) if isinstance(value, str) else []
        return f"must be one of {', '.join(choices)}, not {value!r}" if choices else str(exc)
    return None


def _choices(kind: Any) -> list[str]:
    """Return what there is to choose from, as it is written, where a type has a Literal."""
    parts = get_args(kind) if get_origin(kind) is not Literal else (kind,)
    literals = [part for part in parts if get_origin(part) is Literal]
    others = [part for part in parts if part not in literals] if literals else []
    found = [repr(value) for literal in literals for value in get_args(literal)]
    return found + ["None" if part is NoneType else f"{part.__name__}(...)" for part in others]


def _check_range(
    struct: msgspec.Struct, *, positive: Sequence[str], natural: Sequence[str]
) -> None:
    for name in positive:
        if not getattr(struct, name) > 0:
            raise _fail(struct, name, f"must be greater than 0, not {getattr(struct, name)!r}")
    for name in natural:
        if not getattr(struct, name) >= 0:  # neither is a NaN
            raise _fail(struct, name, f"must not be negative, not {getattr(struct, name)!r}")


def _check_message(struct: msgspec.Struct, method: str, *more: str) -> None:
    """Check the parts of a request that is sent to workers later."""
    if not getattr(struct, method):
        raise _fail(struct, method, "must not be empty")
    for name in (method, *more):
        try:
            msgspec.json.encode(getattr(struct, name))
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise _fail(struct, name, f"cannot be encoded as JSON: {exc}") from exc


if TYPE_CHECKING:
    _Checked = msgspec.Struct  # for a type checker it is made as any Struct
else:

    class _NamesItself(type(msgspec.Struct)):
        """A class whose refusal of an argument names it, and what was meant."""

        def __call__(cls, *args: object, **options: object) -> object:
            """Make one."""
            try:
                return super().__call__(*args, **options)
            except TypeError as exc:
                import difflib  # few programs need it  # noqa: PLC0415

                known = cls.__struct_fields__
                msg = f"{cls.__name__}: {exc}"
                for name in options:
                    if name not in known and repr(name) in msg:
                        close = difflib.get_close_matches(name, known, 1, 0.7)
                        msg += "".join(f"; did you mean {meant!r}?" for meant in close)
                raise TypeError(msg) from None

    class _Checked(msgspec.Struct, metaclass=_NamesItself):
        """What a user makes."""


class Handshake(_Checked, frozen=True, forbid_unknown_fields=False):
    """The exchange that a new worker must answer before it gets work, again after each restart.

    Args:
        method: Method of the request that the kernel sends first.
        params: Its params, as plain objects.
        then_notify: Method of a notification sent after the answer; None for none.
        timeout_s: Seconds that the worker has to answer.
    """

    method: str
    params: dict[str, Any] = {}
    then_notify: str | None = None
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        """Validate."""
        _check_types(self)
        _check_range(self, positive=("timeout_s",), natural=())
        _check_message(self, "method", "params", "then_notify")

    @classmethod
    def mcp(
        cls,
        *,
        capabilities: dict[str, Any] | None = None,
        name: str = CLIENT_NAME,
        version: str = CLIENT_VERSION,
        timeout_s: float = 30.0,
    ) -> Self:
        """Return the handshake of the Model Context Protocol: ``initialize``, ``initialized``.

        Args:
            capabilities: What this client can do, ``{"sampling": {}}`` for example.
            name: The client's name, as servers see it.
            version: The client's version.
            timeout_s: Seconds that the server has to answer.
        """
        params = {
            "protocolVersion": MCP_VERSION,
            "capabilities": capabilities or {},
            "clientInfo": {"name": name, "version": version},
        }
        return cls("initialize", params, "notifications/initialized", timeout_s)

    @classmethod
    def acp(
        cls,
        *,
        capabilities: dict[str, Any] | None = None,
        name: str = CLIENT_NAME,
        version: str = CLIENT_VERSION,
        timeout_s: float = 30.0,
    ) -> Self:
        """Return the handshake of the Agent Client Protocol: ``initialize``.

        Args:
            capabilities: What the agent may ask of this client; default: neither files nor a
                terminal. ``{"fs": {"readTextFile": True, "writeTextFile": True}}`` needs handlers
                for ``fs/read_text_file`` and ``fs/write_text_file``.
            name: The client's name, as agents see it.
            version: The client's version.
            timeout_s: Seconds that the agent has to answer.
        """
        params = {
            "protocolVersion": ACP_VERSION,
            "clientCapabilities": capabilities or {},
            "clientInfo": {"name": name, "version": version},
        }
        return cls("initialize", params, None, timeout_s)


class Probe(_Checked, frozen=True, forbid_unknown_fields=False):
    """How a pool finds out that a worker is ill: by its silence.

    A ready worker that has written nothing for ``every_s`` gets the request. If it writes nothing at
    all, no byte on stdout or stderr, for ``timeout_s`` after that either, it is killed, and its
    successor starts. An error is an answer, and whoever writes anything else is slow, not ill.

    Args:
        method: Method of the request.
        params: Its params, as plain objects.
        every_s: Seconds between two looks at a worker.
        timeout_s: Seconds of silence that count as illness.
    """

    method: str
    params: dict[str, Any] = {}
    every_s: float = 30.0
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        """Validate."""
        _check_types(self)
        _check_range(self, positive=("every_s", "timeout_s"), natural=())
        _check_message(self, "method", "params")


class Retry(_Checked, frozen=True):
    """When a request is sent again.

    Only after a transport error, and only where that is safe: no byte of the request reached a
    worker (``sent`` is False), or the call is marked as idempotent. Never after a
    :class:`RequestTimeoutError`, not even one with ``sent=False``: the call's ``timeout`` is one
    for all attempts and pauses, so nothing is left of it. A pause that would not end within it is
    not waited for: the error before it is raised at once.

    Args:
        attempts: How often it is sent at most, the first time included.
        backoff_s: Seconds before the second attempt, at most; doubles with each. The delay is
            random between half of that and all of it.
        backoff_max_s: Longest delay in seconds.
        idempotent: The call may run twice without harm.
    """

    attempts: int = 3
    backoff_s: float = 0.1
    backoff_max_s: float = 5.0
    idempotent: bool = False

    def __post_init__(self) -> None:
        """Validate."""
        _check_types(self)
        _check_range(self, positive=("attempts",), natural=("backoff_s", "backoff_max_s"))

    def allows(self, error: Exception, attempt: int) -> bool:
        """Tell whether to send it again after this error of attempt number ``attempt``, from 1."""
        if attempt >= self.attempts or not isinstance(error, TransportError):
            return False
        if isinstance(error, _FINAL):
            return False
        return self.idempotent or error.sent is False

    def delay_s(self, attempt: int) -> float:
        """Return the seconds to wait after attempt number ``attempt``."""
        full = min(self.backoff_s * 2.0 ** min(attempt - 1, 32), self.backoff_max_s)
        return full * (0.5 + 0.5 * random.random())  # only spreads load


class Pool(_Checked, frozen=True):
    """A set of worker processes that run the same command.

    Args:
        id: The name of the pool.
        command: The argv list, or a program to be followed by ``args``. Never split as by a shell.
        args: Arguments after ``command``.
        instances: Number of workers, at least 1.
        env: Variables set on top of this process's environment; None removes one.
        cwd: Working directory of the workers; None for this process's.
        balance: ``"least_busy"`` (ties in turn) or ``"round_robin"``, for what has no session.
        max_in_flight: Unanswered requests per worker, cancelled ones included; 0 means no count.
        envelope: ``"strip"`` sends workers plain JSON-RPC; ``"keep"`` leaves ``sessionId`` and
            ``pool`` in it.
        session: Where a frame names its session: ``"top"`` (``sessionId`` at top level; that is what
            ``session=`` stands for), ``"acp"`` (``params.sessionId``; the worker that made a session
            keeps it), or a path into the params, such as ``"params.thread.id"``.
        cancel: The notification that tells a worker that a request is cancelled: ``"lsp"``
            (``$/cancelRequest``), ``"mcp"`` (``notifications/cancelled``), ``"acp"``
            (``$/cancel_request``) or ``"none"``.
        chunks: What tells a part of an answer from other notifications: ``"anyio-bus"`` (method
            ``chunk``, as workers built on :mod:`anyio_bus.worker` send), ``"acp"``
            (``session/update``), ``"mcp-progress"`` (``notifications/progress``), or from Python a
            function ``(method, params) -> text | None``.
        collect: ``"text"`` puts the joined text of a request's chunks into its result.
        serial: Each worker serves the requests of a session one after the other, so that a chunk
            which does not say whose it is belongs to the oldest of them.
        ready: ``"spawn"``, or the :class:`Handshake` played to every new worker.
        guard: Add a watchdog process that kills this pool's process groups when this process dies.
        spares: Workers held in reserve, started and ready, besides ``instances``.
        idle_timeout_s: Seconds without a request after which a worker ends; it starts again when a
            request finds every running one busy. 0 means never.
        max_lifetime_s: Age in seconds at which a worker is replaced; 0 means never.
        max_requests: Requests after which a worker is replaced; 0 means never.
        max_rss_bytes: Resident memory of a worker's own process at which it is replaced; 0 means
            never. Linux only.
        health: The :class:`Probe` that finds workers that have fallen silent; None for none.
        user: The user that the workers run as, by name or id; needs root.
        groups: Their groups, by name or id, the primary one first; None means those of ``user``.
        umask: Their file mode mask, as an integer or as octal text (``"027"``).
        nice: Added to this process's niceness.
        rlimits: Resource limits by their names in lower case without ``RLIMIT_``, for example
            ``{"nofile": 1024}``: a number, or the soft and the hard one; None means no limit.
        spawn: How they are started: ``"posix"``, ``"portable"``, or ``"auto"``: what this system
            has, or ``ANYIO_BUS_SPAWNER`` says.
    """

    id: str
    command: str | Sequence[str]
    args: Sequence[str] = ()
    instances: int = 1
    env: dict[str, str | None] = {}
    cwd: str | None = None
    balance: Literal["least_busy", "round_robin"] = "least_busy"
    max_in_flight: int = 1024
    envelope: Literal["strip", "keep"] = "strip"
    session: str = "top"
    cancel: Literal["lsp", "mcp", "acp", "none"] = "lsp"
    chunks: Any = "anyio-bus"
    collect: Literal["text"] | None = None
    serial: bool = False
    ready: Literal["spawn"] | Handshake = "spawn"
    guard: bool = False
    spares: int = 0
    idle_timeout_s: float = 0.0
    max_lifetime_s: float = 0.0
    max_requests: int = 0
    max_rss_bytes: int = 0
    health: Probe | None = None
    user: str | int | None = None
    groups: Sequence[str | int] | None = None
    umask: int | str | None = None
    nice: int = 0
    rlimits: dict[str, int | Sequence[int | None] | None] = {}
    spawn: Literal["auto", "posix", "portable"] = "auto"

    def __post_init__(self) -> None:
        """Validate, and turn ``command`` with ``args`` into one argv tuple."""
        for name in ("cwd", "command", "args"):
            force_setattr(self, name, _without_paths(getattr(self, name)))
        _check_types(self)
        if not self.id:
            raise _fail(self, "id", "must not be empty")
        _check_range(
            self,
            positive=("instances",),
            natural=(
                "max_in_flight",
                "spares",
                "idle_timeout_s",
                "max_lifetime_s",
                "max_requests",
                "max_rss_bytes",
            ),
        )
        head = [self.command] if isinstance(self.command, str) else list(self.command)
        argv = [*head, *self.args]
        if not argv or not argv[0]:
            raise _fail(self, "command", "must not be empty")
        if len(argv) == 1 and isinstance(self.command, str) and not os.path.exists(self.command):
            words = _shell_words(self.command)
            if len(words) > 1:
                raise _fail(self, "command", f"is not split as a shell would; write {words!r}")
        _check_chunks(self, self.chunks)
        _check_session(self, self.session)
        if not all(map(_fits_system, argv)):
            raise _fail(self, "command", "must not contain NUL or lone surrogates")
        if not _fits_system(self.cwd or ""):
            raise _fail(self, "cwd", "must not contain NUL or lone surrogates")
        for name, value in self.env.items():
            if not name or "=" in name or not _fits_system(name + (value or "")):
                raise _fail(self, "env", f"{name!r} is not a valid variable")
        force_setattr(self, "command", tuple(argv))
        force_setattr(self, "args", ())
        self._check_options()

    def _check_options(self) -> None:
        """Check what needs no system; who and what there is on this one is checked at the start."""
        for name, kind in (("ready", Handshake), ("health", Probe)):
            if isinstance(getattr(self, name), dict):  # as from a file
                force_setattr(self, name, msgspec.convert(getattr(self, name), kind))
        if self.user == "" or (isinstance(self.user, int) and self.user < 0):
            raise _fail(self, "user", f"is neither a name nor an id: {self.user!r}")
        for group in self.groups or ():
            if group == "" or (isinstance(group, int) and group < 0):
                raise _fail(self, "groups", f"is neither a name nor an id: {group!r}")
        if self.groups is not None:
            if not self.groups:
                raise _fail(self, "groups", "must name at least one, the primary group")
            force_setattr(self, "groups", tuple(self.groups))
        if self.umask is not None:
            force_setattr(self, "umask", _mask(self, self.umask))
        if not -40 <= self.nice <= 40:
            raise _fail(self, "nice", f"must be within -40 and 40, not {self.nice}")
        limits = {name: _soft_and_hard(self, name, pair) for name, pair in self.rlimits.items()}
        force_setattr(self, "rlimits", limits)

    @classmethod
    def mcp(cls, id: str, command: str | Sequence[str], **options: Any) -> Self:  # noqa: A002
        """Return a pool of Model Context Protocol servers (stdio).

        Handshake, cancel and chunk profile are MCP's; any of them may be given in ``options``.

        Args:
            id: The name of the pool.
            command: As for any pool.
            **options: Any other field of a pool.
        """
        return cls(id, command, **{**_MCP, "ready": Handshake.mcp(), **options})

    @classmethod
    def acp(cls, id: str, command: str | Sequence[str], **options: Any) -> Self:  # noqa: A002
        """Return a pool of Agent Client Protocol agents (stdio).

        Handshake, cancel, chunk and session profile are ACP's; any of them may be given in
        ``options``.

        Args:
            id: The name of the pool.
            command: As for any pool.
            **options: Any other field of a pool.
        """
        return cls(id, command, **{**_ACP, "ready": Handshake.acp(), **options})

    @property
    def argv(self) -> tuple[str, ...]:
        """The whole command line."""
        return tuple(self.command)


_SESSION_PATH = re.compile(r"params(\.[^.\s]+)+")


def _check_session(pool: Pool, path: str) -> None:
    if path not in ("top", "acp") and not _SESSION_PATH.fullmatch(path):
        problem = "must be 'top', 'acp', or a path such as 'params.thread.id'"
        raise _fail(pool, "session", f"{problem}, not {path!r}")


_MCP = {"cancel": "mcp", "chunks": "mcp-progress"}
_ACP = {"session": "acp", "cancel": "acp", "chunks": "acp"}


def _mask(pool: Pool, umask: int | str) -> int:
    try:
        mask = int(umask, 8) if isinstance(umask, str) else umask
    except ValueError:
        raise _fail(pool, "umask", f"is not octal: {umask!r}") from None
    if not 0 <= mask <= 0o777:
        raise _fail(pool, "umask", f"must be within 0 and 0o777, not {umask!r}")
    return mask


def _soft_and_hard(
    pool: Pool, name: str, limit: int | Sequence[int | None] | None
) -> tuple[int | None, int | None]:
    pair = tuple(limit) if isinstance(limit, Sequence) else (limit, limit)
    if len(pair) != 2 or any(part is not None and part < 0 for part in pair):
        what = "must be a number from 0, None, or the soft and the hard limit"
        raise _fail(pool, "rlimits", f"{name!r} {what}, not {limit!r}")
    soft, hard = pair
    if hard is not None and (soft is None or soft > hard):
        raise _fail(pool, "rlimits", f"{name!r}: the soft limit is above the hard one: {limit!r}")
    return soft, hard


def _check_chunks(pool: Pool, chunks: object) -> None:
    if chunks not in CHUNK_PROFILES and not callable(chunks):
        names = ", ".join(map(repr, CHUNK_PROFILES))
        raise _fail(pool, "chunks", f"must be one of {names}, or a function")


def _without_paths(value: Any) -> Any:
    """Turn a path, or the paths in a list, into strings."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_paths(part) for part in value]
    return value


def _fits_system(text: str) -> bool:
    """Tell whether the system can be given this text; bytes that are no text are surrogates to us."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _shell_words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a lone quote, so nobody took it for a shell's command line
        return [command]


_LIMIT_KEYS = {
    "max_frame_bytes": "max_input_buffer",
    "max_output_bytes": "max_output_queue",
    "restart_window_s": "restart_window_sec",
    "drain_timeout_s": "drain_timeout_sec",
    "backpressure_timeout_s": "backpressure_timeout_sec",
}


class Limits(_Checked, frozen=True, kw_only=True, rename=_LIMIT_KEYS):
    """Every bound of a bus, with its default.

    Args:
        max_frame_bytes: Longest line in either direction, newline included.
        max_output_bytes: Bytes queued for one pool or one worker, besides one frame.
        max_pending: Requests of one bus without an answer; more callers wait.
        max_queued: Requests of one pool that no worker has taken yet; more are refused.
        max_sessions: Sessions that are known at a time, lost ones that nobody asked for included; of
            these the oldest are forgotten, else more are refused.
        max_handlers: Requests of workers that are served at once; more are refused, for what waits
            here may be what another one waits for. As many as ``Pool.max_in_flight``: a request
            that a worker serves seldom asks for two things at a time.
        max_restarts: Restarts of one worker within ``restart_window_s``; then its slot is parked.
            0 means never restart.
        restart_window_s: Seconds of the sliding window.
        start_attempts: Failed starts in a row that park a slot.
        start_window_s: A worker that ends within so many seconds, having neither read nor written
            anything, has failed to start.
        restart_delay_s: First delay before a restart; doubles up to ``restart_delay_max_s``.
        restart_delay_max_s: Longest delay before a restart.
        stable_after_s: Uptime in seconds after which the delay starts anew.
        park_retry_s: Seconds after which a parked slot tries again on its own; 0 means never.
        cancel_grace_s: Seconds for which a cancelled request keeps its slot without an answer.
        drain_timeout_s: Seconds that a draining worker has for what it has in flight.
        backpressure_timeout_s: Seconds for which a worker's pipe may stay paused for a slow reader;
            then that reader's stream or subscription ends. 0 means for ever.
        stderr_tail_bytes: Bytes of stderr that are kept of each worker.
    """

    max_frame_bytes: int = 64 * MIB
    max_output_bytes: int = 64 * MIB
    max_pending: int = 65_536
    max_queued: int = 65_536
    max_sessions: int = 65_536
    max_handlers: int = 1024
    max_restarts: int = 5
    restart_window_s: float = 60.0
    start_attempts: int = 3
    start_window_s: float = 10.0
    restart_delay_s: float = 0.1
    restart_delay_max_s: float = 30.0
    stable_after_s: float = 10.0
    park_retry_s: float = 60.0
    cancel_grace_s: float = 5.0
    drain_timeout_s: float = 30.0
    backpressure_timeout_s: float = 60.0
    stderr_tail_bytes: int = 64 * 1024

    def __post_init__(self) -> None:
        """Validate."""
        _check_types(self)
        if self.drain_timeout_s == 0:
            force_setattr(self, "drain_timeout_s", 30.0)
        _check_range(
            self,
            positive=(
                "max_frame_bytes",
                "max_output_bytes",
                "max_pending",
                "max_queued",
                "max_sessions",
                "max_handlers",
                "restart_window_s",
                "start_attempts",
                "restart_delay_s",
                "restart_delay_max_s",
                "cancel_grace_s",
                "stderr_tail_bytes",
            ),
            natural=(
                "max_restarts",
                "start_window_s",
                "stable_after_s",
                "park_retry_s",
                "drain_timeout_s",
                "backpressure_timeout_s",
            ),
        )


class BusConfig(_Checked, frozen=True):
    """The pools of a bus and its limits; the content of a configuration file."""

    pools: Sequence[Pool]
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        """Validate."""
        if not isinstance(self.pools, Sequence):
            raise _fail(self, "pools", f"expected a list of Pool, got {type(self.pools).__name__}")
        if not self.pools:
            raise _fail(self, "pools", "must name at least one pool")
        seen: set[str] = set()
        for pool in self.pools:
            if not isinstance(pool, Pool):
                raise _fail(self, "pools", f"expected Pool, got {type(pool).__name__}")
            if pool.id in seen:
                raise _fail(self, "pools", f"the id {pool.id!r} is used twice")
            seen.add(pool.id)
        if not isinstance(self.limits, Limits):
            raise _fail(self, "limits", f"expected Limits, got {type(self.limits).__name__}")
        force_setattr(self, "pools", tuple(self.pools))

    @classmethod
    def from_json(
        cls, text: bytes | str, *, strict: bool = False, source: str = "config"
    ) -> BusConfig:
        """Read the JSON schema of a configuration file.

        Args:
            text: The JSON document.
            strict: Make an unknown key an error instead of a warning.
            source: What to call the document in errors.

        Raises:
            InvalidArgumentError: It is not JSON, or a field is wrong; the message names it.
        """
        try:
            data = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            msg = f"{source}: not valid JSON: {exc}"
            raise InvalidArgumentError(msg) from exc
        return cls.from_mapping(data, strict=strict, source=source)

    @classmethod
    def from_mapping(
        cls, data: object, *, strict: bool = True, source: str = "config"
    ) -> BusConfig:
        """Read plain objects in the schema of a configuration file; see :meth:`from_json`."""
        if isinstance(data, dict):
            data = _without_transport(data, source)
        unknown = list(_unknown_keys(data, cls, "$"))
        if unknown and strict:
            msg = f"{source}: unknown key {unknown[0]}"
            raise InvalidArgumentError(msg, field=unknown[0])
        for key in unknown:
            extra = {"event": "unknown_key"}
            logger.warning("%s: unknown key %s is ignored", source, key, extra=extra)
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as exc:
            msg = f"{source}: {exc}"
            raise InvalidArgumentError(msg, field=getattr(exc.__cause__, "field", None)) from exc


_TRANSPORT_KEPT = {"mode": "stdio", "framing": "ndjson", "protocol": "json"}


def _without_transport(data: dict[str, Any], source: str) -> dict[str, Any]:
    """Take out the existing kernel's ``transport`` table; refuse by name what we do not speak."""
    transport = data.get("transport")
    if transport is None:
        return data
    if not isinstance(transport, dict):
        msg = f"{source}: transport: expected an object"
        raise InvalidArgumentError(msg, field="transport")
    for key, value in transport.items():
        if key not in _TRANSPORT_KEPT or value != _TRANSPORT_KEPT[key]:
            kept = ", ".join(f"{k}={v}" for k, v in _TRANSPORT_KEPT.items())
            msg = f"{source}: transport.{key}={value!r} is not supported; use {kept}"
            raise InvalidArgumentError(msg, field=f"transport.{key}")
    return {key: value for key, value in data.items() if key != "transport"}


def _unknown_keys(data: object, cls: type, path: str) -> list[str]:
    if not isinstance(data, dict):
        return []
    known = {encoded for encoded, _ in _hints(cls).values()}
    found = [f"{path}.{key}" for key in data if key not in known]
    if cls is BusConfig:
        pools = data.get("pools")
        for index, pool in enumerate(pools if isinstance(pools, list) else []):
            found += _unknown_keys(pool, Pool, f"{path}.pools[{index}]")
        found += _unknown_keys(data.get("limits"), Limits, f"{path}.limits")
    if cls is Pool:
        found += _unknown_keys(data.get("ready"), Handshake, f"{path}.ready")
        found += _unknown_keys(data.get("health"), Probe, f"{path}.health")
    return found


def load_config(path: str | os.PathLike[str], *, strict: bool = False) -> BusConfig:
    """Read a JSON file, or the ``[tool.anyio-bus]`` table of a TOML file.

    Args:
        path: The file; ``.toml`` is read as TOML, anything else as JSON.
        strict: Make an unknown key an error instead of a warning.

    Raises:
        InvalidArgumentError: It cannot be read, or a field is wrong; the message names it.
    """
    source = os.fspath(path)
    raw = _read(source)
    if not source.endswith(".toml"):
        return BusConfig.from_json(raw, strict=strict, source=source)
    table = _toml_table(raw, source)
    if table is None:
        msg = f"{source}: has no [tool.anyio-bus] table"
        raise InvalidArgumentError(msg)
    return BusConfig.from_mapping(table, strict=strict, source=source)


def _read(source: str) -> bytes:
    try:
        with open(source, "rb") as file:
            return file.read()
    except OSError as exc:
        msg = f"{source}: {exc.strerror or exc}"
        raise InvalidArgumentError(msg) from exc


def _toml_table(raw: bytes, source: str) -> object:
    import tomllib  # few programs have one to read  # noqa: PLC0415

    try:
        tool = tomllib.loads(raw.decode()).get("tool")
        return tool.get("anyio-bus") if isinstance(tool, dict) else None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        msg = f"{source}: not valid TOML: {exc}"
        raise InvalidArgumentError(msg) from exc


def find_config(start: str | os.PathLike[str] | None = None) -> BusConfig:
    """Find the configuration of a program that calls ``open_bus()`` alone.

    ``ANYIO_BUS_CONFIG`` names the file; else the nearest ``anyio-bus.json``, or ``pyproject.toml``
    with a ``[tool.anyio-bus]`` table, in ``start`` (default: the working directory) or above.

    Raises:
        InvalidArgumentError: There is none; the message shows the two-line form with a pool.
    """
    named = os.environ.get("ANYIO_BUS_CONFIG")
    if named:
        return load_config(named)
    folder, above = os.path.realpath(start or os.getcwd()), ""
    while folder != above:
        own = os.path.join(folder, "anyio-bus.json")
        if os.path.isfile(own):  # unlike Path.is_file() it takes "no access" for a no
            return load_config(own)
        project = os.path.join(folder, "pyproject.toml")
        if os.path.isfile(project) and _toml_table(_read(project), project) is not None:
            return load_config(project)
        folder, above = os.path.dirname(folder), folder
    looked_for = "no ANYIO_BUS_CONFIG, no anyio-bus.json, no [tool.anyio-bus]"
    msg = f"no configuration: {looked_for}; {_EXAMPLE}"
    raise InvalidArgumentError(msg)
