"""Own the later methods of the host: what each is asked, what each answers, and their errors.

A handler of :meth:`PluginAdapter.on` gets one of these structs. It returns the answer as the
contract has it: a struct of this module, or plain objects.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from anyio_bus.plugins.nexo.errors import MethodError

__all__ = (
    "METHODS",
    "ChannelAuthenticationError",
    "ChannelConnectionError",
    "ChannelRateLimitedError",
    "ChannelRecipientError",
    "ChannelSendOutbound",
    "ChannelStart",
    "ChannelStop",
    "ChannelUnsupportedError",
    "Configure",
    "ContextOverflowError",
    "CredentialsIssue",
    "CredentialsList",
    "CredentialsReload",
    "CredentialsResolveBytes",
    "HookDecision",
    "LlmAuthenticationError",
    "LlmChat",
    "LlmConnectionError",
    "LlmRateLimitedError",
    "ModelNotFoundError",
    "OnHook",
    "OutboundToolInvoke",
    "SentMessage",
    "VectorCollectionNotFoundError",
    "VectorDelete",
    "VectorDimensionError",
    "VectorMatch",
    "VectorMatches",
    "VectorQuery",
    "VectorRateLimitedError",
    "VectorRecord",
    "VectorSearch",
    "VectorUpsert",
    "VectorWriteError",
    "chat_text",
    "chat_tool_calls",
)

OK: dict[str, Any] = {"ok": True}


class ChannelStart(msgspec.Struct):
    """``channel.start``; what its handler returns is ignored."""

    kind: str
    instance: str | None = None


class ChannelStop(msgspec.Struct):
    """``channel.stop``, which may come twice; what its handler returns is ignored."""

    kind: str


class ChannelSendOutbound(msgspec.Struct):
    """``channel.send_outbound``; answered with a :class:`SentMessage`.

    Attributes:
        kind: The channel.
        msg: Its ``kind`` is ``text`` (``to``, ``body``), ``media`` (``to``, ``url``, ``caption``) or
            ``custom``.
    """

    kind: str
    msg: dict[str, Any]


class SentMessage(msgspec.Struct):
    """Where and when a message went out."""

    message_id: str
    sent_at_unix: int


class LlmChat(msgspec.Struct):
    """``llm.chat``, for plugins that are language models.

    Answered with :func:`chat_text` or :func:`chat_tool_calls`. With ``stream`` the handler sends
    pieces by :meth:`RequestContext.send_delta` first.
    """

    provider: str
    model: str
    request: dict[str, Any]
    stream: bool = False


class OnHook(msgspec.Struct):
    """``hook.on_hook``; answered with a :class:`HookDecision`, or None to go on."""

    hook_name: str
    plugin_id: str = ""
    event: dict[str, Any] = {}


class HookDecision(msgspec.Struct, omit_defaults=True):
    """What a hook decides; all that is not set is left out.

    Attributes:
        decision: ``allow``, ``block`` or ``transform``.
    """

    abort: bool = False
    reason: str | None = None
    override: dict[str, Any] | None = None
    decision: str | None = None
    transformed_body: Any = None
    do_not_reply_again: bool = False


class VectorRecord(msgspec.Struct):
    """One thing to remember."""

    id: str
    content: str
    embedding: list[float]
    metadata: Any = None


class VectorUpsert(msgspec.Struct):
    """``memory.vector_upsert``; answered with ``{"count": ...}`` or the number alone."""

    backend: str
    collection: str
    records: list[VectorRecord]


class VectorQuery(msgspec.Struct):
    """What is searched for."""

    embedding: list[float]
    limit: int = 10
    filter: Any = None


class VectorSearch(msgspec.Struct):
    """``memory.vector_search``; answered with :class:`VectorMatches`."""

    backend: str
    collection: str
    query: VectorQuery


class VectorMatch(msgspec.Struct):
    """One thing that was found."""

    id: str
    content: str
    score: float
    metadata: Any = None


class VectorMatches(msgspec.Struct):
    """What was found."""

    matches: list[VectorMatch]


class VectorDelete(msgspec.Struct):
    """``memory.vector_delete``; answered with ``{"count": ...}`` or the number alone."""

    backend: str
    collection: str
    ids: list[str]


class Configure(msgspec.Struct):
    """``plugin.configure``: the operator's settings, at the start and at each change."""

    value: Any = None


class CredentialsList(msgspec.Struct):
    """``plugin.credentials.list``; answered with ``{"accounts": [...], "warnings": [...]}``."""


class CredentialsIssue(msgspec.Struct):
    """``plugin.credentials.issue``; what its handler returns is ignored."""

    account_id: str
    agent_id: str


class CredentialsResolveBytes(msgspec.Struct):
    """``plugin.credentials.resolve_bytes``; answered with bytes, or ``{"bytes_b64": ...}``."""

    account_id: str
    agent_id: str
    fingerprint: str


class CredentialsReload(msgspec.Struct):
    """``plugin.credentials.reload``; what its handler returns is ignored."""


class OutboundToolInvoke(msgspec.Struct):
    """``outbound_tool.invoke``, or the ``rpc_method`` of the manifest; answered with any JSON."""

    tool_name: str
    args: Any = None


def _done(_result: object) -> object:
    return OK


def _counted(result: object) -> object:
    return {"count": result} if type(result) is int else result


def _matched(result: object) -> object:
    return {"matches": result} if isinstance(result, list) else result


def _decided(result: object) -> object:
    return {} if result is None else result


def _secret(result: object) -> object:
    return {"bytes_b64": result} if isinstance(result, bytes | bytearray) else result


def _same(result: object) -> object:
    return result


# What a method is asked, and what makes its answer out of what the handler returned.
METHODS: dict[type, tuple[str, Any]] = {
    ChannelStart: ("channel.start", _done),
    ChannelStop: ("channel.stop", _done),
    ChannelSendOutbound: ("channel.send_outbound", _same),
    LlmChat: ("llm.chat", _same),
    OnHook: ("hook.on_hook", _decided),
    VectorUpsert: ("memory.vector_upsert", _counted),
    VectorSearch: ("memory.vector_search", _matched),
    VectorDelete: ("memory.vector_delete", _counted),
    Configure: ("plugin.configure", _same),
    CredentialsList: ("plugin.credentials.list", _same),
    CredentialsIssue: ("plugin.credentials.issue", _done),
    CredentialsResolveBytes: ("plugin.credentials.resolve_bytes", _secret),
    CredentialsReload: ("plugin.credentials.reload", _done),
    OutboundToolInvoke: ("outbound_tool.invoke", _same),
}


def _chat(content: dict[str, Any], finish: str, prompt: int, completion: int) -> dict[str, Any]:
    return {
        "content": content,
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion},
        "finish_reason": {"kind": finish},
    }


def chat_text(
    text: str, *, finish: str = "stop", prompt_tokens: int = 0, completion_tokens: int = 0
) -> dict[str, Any]:
    """Make the answer of ``llm.chat`` that is a text."""
    return _chat({"type": "text", "text": text}, finish, prompt_tokens, completion_tokens)


def chat_tool_calls(
    calls: list[dict[str, Any]], *, prompt_tokens: int = 0, completion_tokens: int = 0
) -> dict[str, Any]:
    """Make the answer of ``llm.chat`` that calls tools: each with ``id``, ``name``, ``arguments``."""
    content = {"type": "tool_calls", "tool_calls": calls}
    return _chat(content, "tool_use", prompt_tokens, completion_tokens)


# -- errors with a code of their own -----------------------------------------------------------


class _Coded(MethodError):
    """One whose data are its keyword arguments."""

    number: ClassVar[int]

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(self.number, message, data or None)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.message, self.data or {})


def _restored(kind: type[_Coded], message: str, data: dict[str, Any]) -> _Coded:
    return kind(message, **data)


class ChannelConnectionError(_Coded):
    """The channel cannot be reached."""

    number = -33001


class ChannelAuthenticationError(_Coded):
    """The channel does not accept the credentials."""

    number = -33002


class ChannelRecipientError(_Coded):
    """There is no such recipient."""

    number = -33003

    def __init__(self, message: str, *, recipient: str, reason: str) -> None:
        super().__init__(message, recipient=recipient, reason=reason)


class ChannelRateLimitedError(_Coded):
    """Too many messages."""

    number = -33004

    def __init__(self, message: str, *, retry_after_secs: int) -> None:
        super().__init__(message, retry_after_secs=retry_after_secs)


class ChannelUnsupportedError(_Coded):
    """The channel cannot do that."""

    number = -33005

    def __init__(self, message: str, *, feature: str) -> None:
        super().__init__(message, feature=feature)


class LlmConnectionError(_Coded):
    """The model cannot be reached."""

    number = -33101


class LlmAuthenticationError(_Coded):
    """The model's provider does not accept the credentials."""

    number = -33102


class LlmRateLimitedError(_Coded):
    """Too many requests."""

    number = -33103

    def __init__(self, message: str, *, retry_after_secs: int) -> None:
        super().__init__(message, retry_after_secs=retry_after_secs)


class ModelNotFoundError(_Coded):
    """There is no such model."""

    number = -33104


class ContextOverflowError(_Coded):
    """The conversation is too long for the model."""

    number = -33105


class VectorCollectionNotFoundError(_Coded):
    """There is no such collection."""

    number = -33301

    def __init__(self, message: str, *, collection: str) -> None:
        super().__init__(message, collection=collection)


class VectorDimensionError(_Coded):
    """An embedding has the wrong length."""

    number = -33302

    def __init__(self, message: str, *, expected: int, got: int) -> None:
        super().__init__(message, expected=expected, got=got)


class VectorRateLimitedError(_Coded):
    """Too many requests."""

    number = -33303


class VectorWriteError(_Coded):
    """It could not be stored."""

    number = -33304
