"""Own the one translation from what a handler did to the frame that answers its request.

Workers and buses both serve requests, and answer alike. What goes wrong in a handler is told to the
caller's ``report(text, exception)``, for the log; the frame never holds a traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from anyio_bus._errors import InvalidArgumentError, KernelCode, RemoteError
from anyio_bus._sansio.binding import InvalidParamsError
from anyio_bus._sansio.codec import encode_error, encode_result

if TYPE_CHECKING:
    from anyio_bus._sansio.messages import RequestId

__all__ = ("Report", "error_frame", "result_frame")

Report: TypeAlias = Callable[[str, BaseException], None]

_MESSAGE_CHARACTERS = 4096  # of an exception's text; more of it is in the log


def result_frame(
    key: RequestId, method: str, result: object, limit_bytes: int, report: Report
) -> bytes:
    """Answer with a result; with an error where it cannot be encoded or is too large."""
    try:
        frame = encode_result(key, result)
    except Exception as exc:  # its own code may run while it is encoded  # noqa: BLE001  # noqa: BLE001
        report(f"the result of {method!r} cannot be encoded", exc)
        cause = exc.__cause__ if isinstance(exc, InvalidArgumentError) else exc
        text = f"the result of {method!r} cannot be encoded as JSON: {_text(cause or exc)}"
        return encode_error(key, KernelCode.INTERNAL_ERROR, text)
    if len(frame) > limit_bytes:
        text = f"answer of {len(frame)} bytes is over max_frame_bytes={limit_bytes}"
        return encode_error(key, KernelCode.FRAME_TOO_LARGE, text)
    return frame


def error_frame(
    key: RequestId, method: str, exc: BaseException, limit_bytes: int, report: Report
) -> bytes:
    """Answer with an exception: its own code, or -32603 and a traceback in the log."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]  # it used a task group, which is its own affair
    if isinstance(exc, InvalidParamsError):
        return encode_error(key, KernelCode.INVALID_PARAMS, f"invalid params: {exc}")
    if isinstance(exc, RemoteError):
        frame = _remote_error_frame(key, exc)
        if frame is not None and len(frame) <= limit_bytes:
            return frame
    report(f"the handler of {method!r} raised", exc)
    text = f"{type(exc).__name__}: {_text(exc)}"[:_MESSAGE_CHARACTERS]
    return encode_error(key, KernelCode.INTERNAL_ERROR, text)


def _remote_error_frame(key: RequestId, exc: RemoteError) -> bytes | None:
    """Answer with what the handler chose; None if that is not a JSON-RPC error object."""
    if type(exc.code) is not int or not isinstance(exc.message, str):
        return None
    try:
        return encode_error(key, exc.code, exc.message, exc.data)
    except Exception:  # data that cannot be encoded  # noqa: BLE001
        return None


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:  # a broken __str__  # noqa: BLE001
        return "(no text)"
