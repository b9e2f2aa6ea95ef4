"""Own what a nexo plugin can raise and catch: errors of the plugin, of host calls, of its tools."""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = (
    "ManifestError",
    "MethodError",
    "PluginError",
    "RpcDecodeError",
    "RpcError",
    "RpcServerError",
    "RpcTimeoutError",
    "RpcTransportError",
    "ToolArgumentInvalid",
    "ToolDenied",
    "ToolExecutionFailed",
    "ToolInvocationError",
    "ToolNotFound",
    "ToolUnavailable",
    "WireError",
)


class PluginError(Exception):
    """The base of what the SDK itself raises."""


class ManifestError(PluginError):
    """The manifest breaks a rule; the message names the key.

    Attributes:
        problems: All that is wrong, where all was looked for.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, problems)
        self.problems: tuple[str, ...] = problems or (message,)

    def __str__(self) -> str:
        return str(self.args[0])


class WireError(PluginError):
    """A frame that cannot be sent: no JSON, or too large."""


class RpcError(PluginError):
    """A call to the host has no result."""


class RpcServerError(RpcError):
    """The host answered with an error.

    Attributes:
        code: Its JSON-RPC code.
        message: Its text.
        data: What came with it, None if nothing did.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(code, message, data)
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"rpc error {self.code}: {self.message}"


class RpcTimeoutError(RpcError, TimeoutError):
    """The host did not answer in time.

    Attributes:
        seconds: How long it had.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"no answer from the host within {self.seconds} s"


class RpcTransportError(RpcError):
    """The host is gone, or the plugin is shutting down: there will be no answer."""


class RpcDecodeError(RpcError):
    """The host's answer is not what the contract says."""


class MethodError(Exception):
    """What a handler of ``on_request`` raises to choose the error of the answer.

    Attributes:
        code: The JSON-RPC code.
        message: The text. The host reads the prefixes ``not_permitted`` and ``not_found`` of
            ``plugin.credentials.*``.
        data: What goes with it; None leaves it out.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(code, message, data)
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return self.message


class ToolInvocationError(Exception):
    """A tool has no result; each subclass has its code on the wire.

    Attributes:
        code: The JSON-RPC code.
    """

    code: ClassVar[int] = -33403

    def error_data(self) -> dict[str, Any] | None:
        """Return what goes into ``data`` of the error, None for nothing."""
        return None


class ToolNotFound(ToolInvocationError):
    """There is no tool of this name."""

    code = -33401

    def __init__(self, tool_name: str) -> None:
        super().__init__(tool_name)
        self.tool_name = tool_name

    def __str__(self) -> str:
        return f"tool not found: {self.tool_name}"


class _Said(ToolInvocationError):
    """One with a text of its own."""

    _prefix: ClassVar[str]

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"{self._prefix}: {self.message}"


class ToolArgumentInvalid(_Said):
    """The arguments do not fit.

    Attributes:
        details: What goes with the error; None leaves it out.
    """

    code = -33402
    _prefix = "invalid argument"

    def __init__(self, message: str, *, details: Any = None) -> None:
        super().__init__(message)
        self.details = details

    def error_data(self) -> dict[str, Any] | None:
        """Return the details."""
        return None if self.details is None else {"details": self.details}


class ToolExecutionFailed(_Said):
    """It went wrong."""

    _prefix = "execution failed"


class ToolUnavailable(_Said):
    """It cannot work now.

    Attributes:
        retry_after_ms: When to try again; None leaves it out.
    """

    code = -33404
    _prefix = "unavailable"

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms

    def error_data(self) -> dict[str, Any] | None:
        """Return when to try again."""
        return None if self.retry_after_ms is None else {"retry_after_ms": self.retry_after_ms}


class ToolDenied(_Said):
    """It is not allowed."""

    code = -33405
    _prefix = "denied"
