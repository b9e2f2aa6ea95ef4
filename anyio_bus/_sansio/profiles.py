"""Own what differs between protocols: the notification that cancels a request.

Sources: LSP 3.17 ``$/cancelRequest {id}``; MCP ``notifications/cancelled {requestId, reason}`` (no
answer follows, and ``initialize`` is never cancelled); ACP ``$/cancel_request {requestId}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio_bus._sansio.codec import encode_notification

if TYPE_CHECKING:
    from anyio_bus._sansio.messages import RequestId

__all__ = ("CANCEL_METHODS", "SILENT_METHODS", "answers_cancelled", "cancel_frame")

# profile -> (method, name of the id's parameter, whether an answer follows)
_CANCEL: dict[str, tuple[str, str, bool]] = {
    "lsp": ("$/cancelRequest", "id", True),
    "mcp": ("notifications/cancelled", "requestId", False),
    "acp": ("$/cancel_request", "requestId", True),
}

CANCEL_METHODS: dict[str, str] = {method: param for method, param, _ in _CANCEL.values()}
"""Method -> the parameter that holds the id, of every profile: what a worker listens for."""

SILENT_METHODS = frozenset(method for method, _, answered in _CANCEL.values() if not answered)
"""Those after which no answer follows."""


def cancel_frame(profile: str, key: RequestId, reason: str = "") -> bytes | None:
    """Return the frame that tells a worker that a request is cancelled; None for ``"none"``."""
    if profile not in _CANCEL:
        return None
    method, param, _ = _CANCEL[profile]
    params: dict[str, object] = {param: key}
    if profile == "mcp" and reason:
        params["reason"] = reason
    return encode_notification(method, params)


def answers_cancelled(profile: str) -> bool:
    """Tell whether a worker still answers a request that was cancelled."""
    return profile not in _CANCEL or _CANCEL[profile][2]
