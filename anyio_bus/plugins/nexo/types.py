"""Own the values of the nexo contract: events, memories, completions, tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

if TYPE_CHECKING:
    from anyio_bus.plugins.nexo.broker import BrokerSender

__all__ = (
    "Event",
    "LlmCompleteResult",
    "MemoryEntry",
    "Message",
    "TokenCount",
    "ToolContext",
    "ToolDef",
    "ToolInvocation",
    "text_result",
)

T = TypeVar("T", bound="_Value")

_OUTBOUND = "plugin.outbound."
_INBOUND = "plugin.inbound."


class _Value(msgspec.Struct):
    """What is read from JSON objects, unknown members and all."""

    @classmethod
    def from_json(cls, d: dict[str, Any]) -> Self:
        """Read it from a JSON object.

        Raises:
            KeyError: A member that must be there is missing.
            msgspec.ValidationError: A member has the wrong type.
        """
        for field in cls.__struct_fields__[: -len(cls.__struct_defaults__) or None]:
            d[field]
        return msgspec.convert(d, cls)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {name: _plain(getattr(self, name)) for name in self.__struct_fields__}


def _plain(value: Any) -> Any:
    return value.to_json() if isinstance(value, _Value) else value


class Event(_Value):
    """What travels on the host's broker.

    Attributes:
        topic: Where it was published.
        source: Who published it; empty: the plugin that publishes it.
        payload: Any JSON value.
        correlation_id: Ties an answer to a question; left out when None.
        metadata: More members; left out when empty.
        id: A UUID; one is made when it is published without.
        timestamp: RFC 3339 with an offset; the time at which it is published without one.
        session_id: A UUID of the conversation it belongs to, None for none.
    """

    topic: str
    source: str = ""
    payload: Any = None
    correlation_id: str | None = None
    metadata: dict[str, Any] = {}
    id: str | None = None
    timestamp: str | None = None
    session_id: str | None = None

    @classmethod
    def new(cls, topic: str, source: str, payload: Any) -> Event:
        """Make one."""
        return cls(topic, source, payload)

    @classmethod
    def from_json(cls, d: dict[str, Any]) -> Event:
        """Read it from a JSON object.

        Raises:
            KeyError: There is no topic or no source.
            msgspec.ValidationError: A member has the wrong type.
        """
        for name in ("topic", "source"):
            d[name]
        return msgspec.convert(d, cls)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object, without the members that are not set."""
        members: dict[str, Any] = {
            "topic": self.topic,
            "source": self.source,
            "payload": self.payload,
        }
        if self.correlation_id is not None:
            members["correlation_id"] = self.correlation_id
        if self.metadata:
            members["metadata"] = self.metadata
        for name in ("id", "timestamp", "session_id"):
            value = getattr(self, name)
            if value is not None:
                members[name] = value
        return members

    def reply(self, payload: Any, *, topic: str | None = None) -> Event:
        """Make an answer to it that stays in its conversation.

        Args:
            payload: Any JSON value.
            topic: Where to; default this event's topic, with ``plugin.inbound.`` in the place of
                ``plugin.outbound.``.
        """
        if topic is None:
            topic = self.topic
            if topic.startswith(_OUTBOUND):
                topic = _INBOUND + topic.removeprefix(_OUTBOUND)
        answer = Event(topic, "", payload, session_id=self.session_id)
        answer.correlation_id = self.correlation_id
        return answer


class MemoryEntry(_Value):
    """One memory that the host found."""

    id: str
    agent_id: str
    content: str
    tags: list[str] = []
    concept_tags: list[str] = []
    created_at: str = ""
    memory_type: str | None = None


class Message(_Value):
    """One message of a chat; ``role`` is system, user, assistant or tool."""

    role: str
    content: Any


class TokenCount(_Value):
    """What a completion has cost."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class LlmCompleteResult(_Value):
    """A completion; ``content`` is None at the end of a stream, whose chunks were it."""

    content: str | None = None
    finish_reason: str = ""
    usage: TokenCount = msgspec.field(default_factory=TokenCount)


class ToolDef(msgspec.Struct, frozen=True):
    """A tool as the host's catalog shows it."""

    name: str
    description: str
    input_schema: dict[str, Any] = {}

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "name": self.name,
            "description": self.description,
            "input_schema": self.input_schema,
        }


class ToolInvocation(msgspec.Struct, frozen=True):
    """One call of a tool."""

    plugin_id: str
    tool_name: str
    args: Any = None
    agent_id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool is given besides its arguments."""

    broker: BrokerSender
    plugin_id: str


def text_result(text: str, *, is_error: bool = False) -> dict[str, Any]:
    """Make the result of a tool that says something."""
    return {"content": [{"type": "text", "text": text}], "is_error": is_error}


ToolHandler = Callable[[ToolInvocation], Any]
ToolHandlerWithContext = Callable[[ToolInvocation, ToolContext], Any]
