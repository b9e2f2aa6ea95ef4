"""The errors of the ``stdiobus`` client by their own names, codes and texts."""

from __future__ import annotations

import enum
from typing import Any, ClassVar

__all__ = (
    "CancelledError",
    "ErrorCode",
    "InternalError",
    "InvalidArgumentError",
    "InvalidStateError",
    "NegotiationFailedError",
    "NotSupportedError",
    "PolicyDeniedError",
    "ResourceExhaustedError",
    "StdioBusError",
    "TimeoutError",
    "TransportError",
    "UnavailableError",
    "error_from_code",
)


class ErrorCode(enum.IntEnum):
    """The numbers of the errors: in ``code``, and in the error objects that workers answer with."""

    INVALID_ARGUMENT = 1
    INVALID_STATE = 2
    TIMEOUT = 3
    CANCELLED = 4
    TRANSPORT_ERROR = 5
    NEGOTIATION_FAILED = 6
    POLICY_DENIED = 7
    UNAVAILABLE = 8
    RESOURCE_EXHAUSTED = 9
    NOT_SUPPORTED = 10
    INTERNAL = 99


class StdioBusError(Exception):
    """The base of what ``anyio_bus.stdiobus`` raises; its ``__cause__`` is our own error, if any.

    Args:
        message: What happened.
        details: More about it; for an error that a worker answered with, its ``data``.

    Attributes:
        code: Its number.
        message: What happened.
        details: More about it, None without any.
    """

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(self, message: str, details: Any = None) -> None:
        super().__init__(message)
        self.message: str = message
        self.details: Any = details

    def __str__(self) -> str:
        """Return the name of the code and the message."""
        return f"[{self.code.name}] {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the details."""
        return type(self), (self.message, self.details)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain objects; without details that are None."""
        plain: dict[str, Any] = {"code": int(self.code), "message": self.message}
        if self.details is not None:
            plain["details"] = self.details
        return plain


class InvalidArgumentError(StdioBusError, ValueError):
    """An argument or the configuration is wrong."""

    code = ErrorCode.INVALID_ARGUMENT


class InvalidStateError(StdioBusError):
    """Not now: the bus is not started, or started already, or stopped."""

    code = ErrorCode.INVALID_STATE


class TimeoutError(StdioBusError):  # the name there  # noqa: A001
    """The answer did not come in time."""

    code = ErrorCode.TIMEOUT


class CancelledError(StdioBusError):
    """The request was cancelled by somebody else."""

    code = ErrorCode.CANCELLED


class TransportError(StdioBusError):
    """The request got no answer: its worker died, or the bus was stopped.

    For a worker ``details`` has what is known of ``pool``, ``worker``, ``pid``, ``exit_code``,
    ``signal``, ``reason``, ``sent`` and ``stderr_tail``.
    """

    code = ErrorCode.TRANSPORT_ERROR


class NegotiationFailedError(StdioBusError):
    """The worker's answer to the hello is no such answer."""

    code = ErrorCode.NEGOTIATION_FAILED


class PolicyDeniedError(StdioBusError):
    """Refused by policy."""

    code = ErrorCode.POLICY_DENIED


class UnavailableError(StdioBusError):
    """No worker of the pool is there, nor will be for now."""

    code = ErrorCode.UNAVAILABLE


class ResourceExhaustedError(StdioBusError):
    """A queue or a frame is over its limit."""

    code = ErrorCode.RESOURCE_EXHAUSTED


class NotSupportedError(StdioBusError):
    """This backend cannot do it."""

    code = ErrorCode.NOT_SUPPORTED


class InternalError(StdioBusError):
    """The worker answered with an error of its own, or there is a bug."""

    code = ErrorCode.INTERNAL


class _Classes:
    by_code: ClassVar[dict[int, type[StdioBusError]]] = {
        int(cls.code): cls for cls in StdioBusError.__subclasses__()
    }


def error_from_code(code: object, message: str, details: Any = None) -> StdioBusError:
    """Return the error with this number; :class:`InternalError` for any other one."""
    known = code if isinstance(code, int) else 0
    return _Classes.by_code.get(known, InternalError)(message, details)
