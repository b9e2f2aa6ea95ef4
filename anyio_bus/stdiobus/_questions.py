"""Own the requests of workers: whoever sees them as text may answer them as text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import msgspec

import anyio_bus

__all__ = ("Questions",)

MAX_OPEN = 4096  # more than a bus serves at once, so that only what it refused is ever dropped
METHOD_NOT_FOUND = -32601

_Key = tuple[str, object]  # the type and the value: 1 and "1" are two ids


def _key(id_: object) -> _Key:
    return type(id_).__name__, id_


class _Question:
    """One request of a worker."""

    def __init__(self) -> None:
        self.taken = False
        self.answer: dict[str, Any] | None = None
        self.answered = anyio.Event()


class Questions:
    """What workers have asked and nobody has answered yet.

    A worker's line is seen before the bus serves it, so the answer may be there first.

    Args:
        show: Shows a request to those who see lines, where they do not see that of the worker.
    """

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self._show = show
        self._open: OrderedDict[_Question, _Key] = OrderedDict()
        self.heard = False  # whether anybody sees the lines of workers

    def ask(self, id_: object) -> None:
        """Take note that a worker's line is a request."""
        self._open[_Question()] = _key(id_)
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)

    def answer(self, response: dict[str, Any]) -> bool:
        """Take the answer of the program; return whether anybody has asked for it."""
        key = _key(response.get("id"))
        for question, asked in self._open.items():
            if asked == key and question.answer is None:
                question.answer = response
                question.answered.set()
                return True
        return False

    async def serve(self, context: anyio_bus.HandlerContext, params: Any) -> Any:
        """Wait for the answer to a request; the handler of all methods.

        Raises:
            RemoteError: It is an error, or nobody sees the lines of workers.
        """
        await anyio.lowlevel.checkpoint()
        if self._show is not None and self.heard:
            self.ask(context.request_id)
            self._show(_line_of(context, params))
        key = _key(context.request_id)
        found = (q for q, asked in self._open.items() if asked == key and not q.taken)
        question = next(found, None)
        if question is None or not self.heard:
            text = f"no handler for method {context.method!r}"
            raise anyio_bus.RemoteError(METHOD_NOT_FOUND, text)
        question.taken = True
        try:
            await question.answered.wait()
        finally:
            self._open.pop(question, None)
        return _result_of(question.answer or {})


def _line_of(context: anyio_bus.HandlerContext, params: Any) -> str:
    message = {"jsonrpc": "2.0", "id": context.request_id, "method": context.method}
    if params is not None:
        message["params"] = params
    if context.session is not None:
        message["sessionId"] = context.session
    return msgspec.json.encode(message).decode()


def _result_of(response: dict[str, Any]) -> Any:
    error = response.get("error")
    if error is None:
        return response.get("result")
    try:
        known = msgspec.convert(error, _Error)
    except msgspec.ValidationError:
        known = _Error(-32603, f"not an error object: {error!r}")
    raise anyio_bus.RemoteError(known.code, known.message, known.data)


class _Error(msgspec.Struct):
    code: int
    message: str
    data: Any = None
