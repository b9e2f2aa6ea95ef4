"""Own the whole error hierarchy, and the one table from kernel codes to its classes.

Every class is importable from :mod:`anyio_bus`. Facts are typed attributes; the message is one
sentence. All errors pickle and copy.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import anyio
import msgspec

__all__ = (
    "BusError",
    "BusInternalError",
    "BusStoppedError",
    "ConnectionLostError",
    "Failure",
    "FrameTooLargeError",
    "InvalidArgumentError",
    "InvalidStateError",
    "KernelCode",
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
    "error_from_failure",
)


class KernelCode:
    """The JSON-RPC error codes that a kernel makes itself (``docs/design/kernel.md``)."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    WORKER_LOST = -32050
    NO_WORKER = -32051
    UNKNOWN_POOL = -32052
    OVERLOADED = -32053
    FRAME_TOO_LARGE = -32054
    SHUTTING_DOWN = -32055
    SESSION_LOST = -32056
    CONNECTION_LOST = -32057  # made by a client alone: it has lost its kernel
    CANCELLED = -32800


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel's word on why a request has no answer: the same value in process and on the wire."""

    code: int
    message: str
    reason: str = ""
    pool: str | None = None
    worker: int | None = None
    session: str | None = None
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    sent: bool = True
    errno: int | None = None
    phase: str | None = None
    permanent: bool = False
    limit_bytes: int | None = None
    stderr_tail: str = ""


def _restore(cls: type[BusError], message: str, facts: dict[str, object]) -> BusError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    for name, value in facts.items():
        setattr(error, name, value)
    return error


class BusError(Exception):
    """The base of everything that anyio_bus raises."""

    _fact_names: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        """Collect the names of the facts that this class and its bases declare."""
        super().__init_subclass__()
        own = {name for name in inspect.get_annotations(cls) if not name.startswith("_")}
        inherited = (getattr(base, "_fact_names", ()) for base in cls.__bases__)
        cls._fact_names = frozenset(own).union(*inherited)

    def __init__(self, message: str = "", /, **facts: object) -> None:
        """Store the sentence and the facts; an unknown fact is a :class:`TypeError`."""
        super().__init__(message)
        for name, value in facts.items():
            if name not in self._fact_names:
                msg = f"{type(self).__name__} has no attribute {name!r}"
                raise TypeError(msg)
            setattr(self, name, value)

    def __str__(self) -> str:
        """Return the sentence."""
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as class, sentence and facts, whatever the second base would do."""
        return _restore, (type(self), str(self), dict(self.__dict__))


class InvalidArgumentError(BusError, ValueError):
    """Wrong use, found before anything starts; the message names the field.

    Attributes:
        field: The argument, or the key of a configuration; None where there is none.
    """

    field: str | None = None


class UnknownPoolError(InvalidArgumentError):
    """No pool has this name.

    Attributes:
        field: ``"pool"``.
        pool: The name that no pool has.
    """

    field: str | None = "pool"
    pool: str | None = None


class NotSupportedError(BusError):
    """This backend cannot do it; the message names the backend.

    Attributes:
        backend: The backend; None where it is something else that cannot.
    """

    backend: str | None = None


class InvalidStateError(BusError):
    """Not now: not open yet, open already, or used from a forked child."""


class RequestTimeoutError(BusError, TimeoutError):
    """The call's own ``timeout`` ran out before its answer came.

    Attributes:
        method: Method of the request.
        pool: The pool that it went to.
        timeout_s: Seconds that it had.
        sent: False guarantees that no byte of the request reached a worker.
    """

    method: str | None = None
    pool: str | None = None
    timeout_s: float | None = None
    sent: bool = True


class RemoteError(BusError):
    """The call worked; the handler refused. Also what a handler raises to choose its error object.

    Args:
        code: JSON-RPC error code.
        message: The error's message.
        data: Its data, as plain objects; None where there is none.
    """

    code: int
    message: str
    data: Any

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(f"{message} (code {code})", code=code, message=message, data=data)


class PolicyDeniedError(RemoteError):
    """Refused by policy."""


class OverloadedError(BusError):
    """A limit with policy "fail" is reached.

    Attributes:
        limit: Name of the limit.
        sent: False guarantees that no byte of the request reached a worker. True after an attempt
            before that was sent (``retry=``), and where a daemon says that it had no room for what
            a worker answers (``slow_client``).
    """

    limit: str | None = None
    sent: bool = False


class TransportError(BusError):
    """The transport failed the call, not the handler.

    Attributes:
        sent: False guarantees that no byte of the request reached a worker.
    """

    sent: bool = True


class BusStoppedError(TransportError, anyio.ClosedResourceError):
    """The bus is shutting down: you stopped it.

    Attributes:
        sent: False guarantees that no byte of the request reached a worker.
    """


class ConnectionLostError(TransportError, anyio.BrokenResourceError):
    """The kernel is elsewhere, and cannot be reached (any more).

    Attributes:
        reason: What became of it.
        permanent: Whether this bus will not reach it again, or trying anew is of no use.
        sent: False guarantees that no byte of the request reached a worker.
    """

    reason: str = ""
    permanent: bool = False


class WorkerStartError(TransportError, OSError):
    """A worker did not come up: exec failed, it died at start, or its handshake failed.

    Attributes:
        pool: The pool.
        worker: Number of the worker.
        pid: Its process; None where there was none.
        phase: ``"spawn"`` (its command could not be executed), ``"start"`` (it ended before it did
            anything) or ``"handshake"`` (it refused it, or did not answer in time).
        errno: The system's error number, where it gave one.
        exit_code: What it exited with; None where a signal killed it.
        signal: What killed it; None where it exited.
        stderr_tail: The last 4096 bytes of its stderr.
        permanent: Whether another try cannot help.
        sent: False guarantees that no byte of the request reached a worker.
    """

    pool: str | None = None
    worker: int | None = None
    pid: int | None = None
    phase: str | None = None
    errno: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    stderr_tail: str = ""
    permanent: bool = False


class WorkerLostError(TransportError, anyio.BrokenResourceError):
    """The worker exited, hung up, or was killed by us while the request was in flight.

    Attributes:
        pool: The pool.
        worker: Number of the worker.
        pid: Its process; None where there was none.
        exit_code: What it exited with; None where a signal killed it.
        signal: What killed it; None where it exited.
        reason: How it ended, in words.
        stderr_tail: The last 4096 bytes of its stderr.
        sent: False guarantees that no byte of the request reached a worker.
    """

    pool: str | None = None
    worker: int | None = None
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    stderr_tail: str = ""


class ScopeCancelledError(TransportError):
    """The scope of the call was cancelled.

    Attributes:
        reason: Why: what ``scope.cancel()`` was given, ``"deadline"`` or ``"scope closed"``.
        sent: False guarantees that no byte of the request reached a worker.
    """

    reason: str = ""


class StreamOverflowError(TransportError):
    """The reader of this stream was too slow.

    Attributes:
        buffered_bytes: Bytes that had not been read.
        sent: False guarantees that no byte of the request reached a worker.
    """

    buffered_bytes: int | None = None


class SessionLostError(TransportError):
    """The worker that held this session's state is gone.

    Attributes:
        session: The session.
        sent: False guarantees that no byte of the request reached a worker.
    """

    session: str | None = None


class PoolUnavailableError(TransportError):
    """Every slot of the pool is parked, or a worker that was asked for is not there.

    Attributes:
        pool: The pool.
        reason: Why, in words: what became of its last worker, for example.
        sent: False guarantees that no byte of the request reached a worker.
    """

    pool: str | None = None
    reason: str = ""


class FrameTooLargeError(TransportError):
    """A line is over ``max_frame_bytes``.

    Attributes:
        limit_bytes: The limit.
        sent: False guarantees that no byte of the request reached a worker.
    """

    limit_bytes: int | None = None


class ProtocolError(TransportError):
    """The rules of NDJSON JSON-RPC 2.0 are broken.

    Attributes:
        sent: False guarantees that no byte of the request reached a worker.
    """


class LocalProtocolError(ProtocolError):
    """We would break them.

    Attributes:
        sent: False guarantees that no byte of the request reached a worker.
    """


class RemoteProtocolError(ProtocolError):
    """The worker broke them.

    Attributes:
        line_prefix: At most 200 bytes of its line.
        sent: False guarantees that no byte of the request reached a worker.
    """

    line_prefix: bytes = b""


class BusInternalError(BusError):
    """A bug of ours. Please report it, with the exception group it is raised from."""


_CLASSES: dict[int, type[BusError]] = {
    KernelCode.PARSE_ERROR: LocalProtocolError,
    KernelCode.INVALID_REQUEST: LocalProtocolError,
    KernelCode.WORKER_LOST: WorkerLostError,
    KernelCode.NO_WORKER: PoolUnavailableError,
    KernelCode.UNKNOWN_POOL: UnknownPoolError,
    KernelCode.OVERLOADED: OverloadedError,
    KernelCode.FRAME_TOO_LARGE: FrameTooLargeError,
    KernelCode.SHUTTING_DOWN: BusStoppedError,
    KernelCode.SESSION_LOST: SessionLostError,
    KernelCode.CONNECTION_LOST: ConnectionLostError,
    KernelCode.CANCELLED: ScopeCancelledError,
}


def error_from_failure(failure: Failure) -> BusError:
    """Translate a kernel's failure into the exception that its caller gets, with the same facts."""
    cls = _CLASSES.get(failure.code, TransportError)
    if failure.phase is not None:
        cls = WorkerStartError
    facts = {name: getattr(failure, name) for name in cls._fact_names if hasattr(failure, name)}
    if cls is OverloadedError:
        facts["limit"] = failure.reason
    return cls(failure.message, **facts)
