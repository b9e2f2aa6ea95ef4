"""Own what a client says about itself in its frames, and what a worker answers to its hello."""

from __future__ import annotations

from typing import Any

import msgspec

from anyio_bus._errors import InvalidArgumentError

__all__ = ("AuditEvent", "HelloResult", "Identity", "envelope_members")


class Identity(msgspec.Struct, frozen=True, rename="camel"):
    """Who stands behind the requests of a session.

    Args:
        subject_id: Who it is.
        role: In which role.
        asserted_by: Who says so; ``"self"`` is the client.
    """

    subject_id: str
    role: str
    asserted_by: str = "self"

    def __post_init__(self) -> None:
        """Validate."""
        _check_fields(self)


class AuditEvent(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What the requests of a session are part of, for an audit log. What is None is not sent.

    Args:
        event_id: Its id.
        action: What is being done.
        parent_event_id: The event that it is part of.
        timestamp: When.
        actor: By whom.
        resource: To what.
        outcome: With what outcome.
    """

    event_id: str
    action: str
    parent_event_id: str | None = None
    timestamp: str | int | float | None = None
    actor: str | None = None
    resource: str | None = None
    outcome: str | None = None

    def __post_init__(self) -> None:
        """Validate."""
        _check_fields(self)


class HelloResult(msgspec.Struct, frozen=True, rename="camel"):
    """What a worker answered to ``stdio_bus/hello``.

    Args:
        negotiated_protocol_version: The version that it speaks.
        session_id: Its own name for the session.
        extensions: Name -> what it says about that extension.
    """

    negotiated_protocol_version: str = ""
    session_id: str = ""
    extensions: dict[str, Any] = {}


def _check_fields(value: msgspec.Struct) -> None:
    for field in msgspec.structs.fields(type(value)):
        try:
            msgspec.convert(getattr(value, field.name), field.type)
        except msgspec.ValidationError as exc:
            msg = f"{type(value).__name__}.{field.name}: {exc}"
            raise InvalidArgumentError(msg, field=field.name) from None


def envelope_members(
    identity: Identity | None, audit: AuditEvent | None, agent_id: str | None
) -> dict[str, object]:
    """Return the members that stand at the top level of the frames.

    Raises:
        InvalidArgumentError: One is of another type.
    """
    members: dict[str, object] = {}
    given = (
        ("agent_id", agent_id, str),
        ("identity", identity, Identity),
        ("audit", audit, AuditEvent),
    )
    for name, value, kind in given:
        if value is not None and not isinstance(value, kind):
            msg = f"{name} must be {kind.__name__}, not {type(value).__name__}"
            raise InvalidArgumentError(msg, field=name)
    if agent_id is not None:
        members["agentId"] = agent_id
    ext = {"identity": identity, "audit": audit}
    if identity is not None or audit is not None:
        members["_ext"] = {name: value for name, value in ext.items() if value is not None}
    return members
