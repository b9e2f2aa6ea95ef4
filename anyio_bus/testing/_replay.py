"""Own the worker that answers as a recorded one did."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias, final

import msgspec
from msgspec import UNSET, UnsetType

from anyio_bus import InvalidArgumentError, TapFrame, read_tap

__all__ = ("Replay", "replay")

Receive: TypeAlias = Callable[[], Awaitable[bytes]]
Send: TypeAlias = Callable[[bytes], Awaitable[None]]
Key: TypeAlias = int | str | float | None

METHOD_NOT_FOUND, INVALID_PARAMS, CANCELLED = -32601, -32602, -32800
HIDDEN = "***"  # what a recording has in the place of a secret
SHOWN_CHARACTERS = 100  # of a value in an error
SHOWN_METHODS = 20
_CANCELS = {
    "$/cancelRequest": "id",
    "$/cancel_request": "requestId",
    "notifications/cancelled": "requestId",
}


class _Message(msgspec.Struct):
    id: Key | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Any = UNSET


_message = msgspec.json.Decoder(_Message)


class _AwaitAnswer(msgspec.Struct, frozen=True):
    """The recorded worker had an answer to its own request before it went on."""

    key: Key


class _AwaitCancel(msgspec.Struct, frozen=True):
    """The recorded request was cancelled before its worker went on."""


Step: TypeAlias = TapFrame | _AwaitAnswer | _AwaitCancel


class _Exchange(msgspec.Struct, eq=False):
    """A recorded request and what followed from it."""

    key: Key
    method: str
    params: Any
    redacted: bool
    steps: list[Step] = []
    answered: bool = False
    used: bool = False

    @property
    def token(self) -> Any:
        return _progress_token(self.params)


def replay(
    source: str | os.PathLike[str] | Iterable[TapFrame],
    *,
    pool: str | None = None,
    worker: int | None = None,
    repeat: bool = False,
) -> Replay:
    """Make a worker for the memory backend that answers as a recorded one did.

    ::

        async with open_memory_bus(replay("session.ndjson")) as bus:
            assert await bus.request("greet", {"name": "Ada"}) == "hello Ada"

    A request gets what followed the recorded one of its method and params, without the time in
    between: chunks, requests to the client, the answer; ids are those of the new request. A
    request that was recorded several times gets these answers in turn. ``_meta`` does not count,
    and where the recording hides a secret any value fits. What was not recorded is refused with an
    error that says what is different.

    Args:
        source: A file of :meth:`anyio_bus.Bus.record_tap`, or frames of a tap.
        pool: The pool whose worker it is; may be left out where the recording has only one.
        worker: Only this one of its workers.
        repeat: Answer as the last time when no recorded answer is left.

    Raises:
        InvalidArgumentError: There is no such file, pool or request in it.
    """
    if isinstance(source, str | os.PathLike):
        try:
            frames = read_tap(source)
        except OSError as exc:
            msg = f"the recording cannot be read: {exc}"
            raise InvalidArgumentError(msg, field="source") from exc
    else:
        frames = list(source)
    pools = sorted({frame.pool for frame in frames})
    if pool is None and len(pools) > 1:
        msg = f"pool= must be given: the recording has {', '.join(map(repr, pools))}"
        raise InvalidArgumentError(msg, field="pool")
    kept = [f for f in frames if pool in (None, f.pool) and worker in (None, f.worker)]
    script = _Script(kept)
    if not script.exchanges:
        whose = "" if pool is None else f" of pool {pool!r}"
        msg = f"the recording has no request{whose}; its pools: {', '.join(pools) or 'none'}"
        raise InvalidArgumentError(msg, field="source")
    return Replay(script, repeat=repeat)


class _Script:
    """What was recorded, as exchanges."""

    def __init__(self, frames: Iterable[TapFrame]) -> None:
        self.exchanges: list[_Exchange] = []
        self.preamble: list[TapFrame] = []  # what came before any request
        self._open: dict[tuple[object, ...], _Exchange] = {}
        self._last: dict[tuple[object, ...], _Exchange] = {}
        self._asked: dict[tuple[object, ...], _Exchange] = {}  # by requests of the worker
        for frame in frames:
            process = (frame.pool, frame.worker, frame.generation)
            if frame.direction == "to_worker":
                self._add_ours(process, frame)
            else:
                self._add_theirs(process, frame)

    def _add_ours(self, process: tuple[object, ...], frame: TapFrame) -> None:
        if frame.kind == "request":
            params = _message.decode(frame.frame).params
            exchange = _Exchange(frame.id, frame.method or "", params, frame.redacted)
            self.exchanges.append(exchange)
            self._open[*process, frame.id] = self._last[process] = exchange
        elif frame.kind == "response":
            asked = self._asked.pop((*process, frame.id), None)
            if asked is not None:
                asked.steps.append(_AwaitAnswer(frame.id))
        elif frame.method in _CANCELS:
            cancelled = self._open.get((*process, frame.request))
            if cancelled is not None and not cancelled.answered:
                cancelled.steps.append(_AwaitCancel())

    def _add_theirs(self, process: tuple[object, ...], frame: TapFrame) -> None:
        if not frame.whole:
            return
        key = frame.id if frame.kind == "response" else frame.request
        owner = self._open.get((*process, key))
        if frame.kind == "response":
            if owner is None or owner.answered:  # its request was not recorded
                return
            owner.answered = True
        owner = owner or self._last.get(process)
        if owner is None:
            self.preamble.append(frame)
            return
        owner.steps.append(frame)
        if frame.kind == "request":
            self._asked[*process, frame.id] = owner


@final
class Replay:
    """A worker that answers as a recorded one did; made by :func:`replay`.

    It may serve any number of workers, one after another or at once; together they give each
    recorded answer once.
    """

    def __init__(self, script: _Script, *, repeat: bool) -> None:
        self._script = script
        self._repeat = repeat
        self._keys = map("replay-{}".format, itertools.count(1))

    @property
    def unused(self) -> list[str]:
        """The methods of the recorded requests that nobody has sent yet."""
        return [exchange.method for exchange in self._script.exchanges if not exchange.used]

    async def serve_stream(self, receive: Receive, send: Send) -> None:
        """Serve until ``receive`` returns no bytes.

        Cancellation:
            Ends it.
        """
        talk = _Talk(self._find, self._keys)
        out = b"".join(frame.frame for frame in self._script.preamble)
        rest = b""
        while True:
            if out:
                await send(out)
            data = await receive()
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            out = b"".join(map(talk.feed, lines))

    def _find(self, method: str, params: Any) -> _Exchange | tuple[int, str]:
        """Return the exchange for a request, or the code and text of a refusal."""
        same = [exchange for exchange in self._script.exchanges if exchange.method == method]
        if not same:
            known = Counter(exchange.method for exchange in self._script.exchanges)
            shown = ", ".join(f"{name!r} ({n})" for name, n in known.most_common(SHOWN_METHODS))
            return (
                METHOD_NOT_FOUND,
                f"replay: no request {method!r} was recorded; there are {shown}",
            )
        fitting = [exchange for exchange in same if _difference(exchange, params) is None]
        if not fitting:
            nearest = next((exchange for exchange in same if not exchange.used), same[-1])
            why = _difference(nearest, params)
            return INVALID_PARAMS, f"replay: no request {method!r} like this was recorded: {why}"
        found = next((exchange for exchange in fitting if not exchange.used), None)
        if found is None and not self._repeat:
            text = f"replay: request {method!r} with these params was recorded {len(fitting)} times"
            return INVALID_PARAMS, f"{text}, all of which are used up (see repeat=)"
        found = found or fitting[-1]
        found.used = True
        return found


class _Playback:
    """One request that is being answered."""

    def __init__(self, exchange: _Exchange, request: _Message) -> None:
        self.key: Key = None if request.id is UNSET else request.id
        self.steps = iter(exchange.steps)
        self.awaited: Step | None = None
        self.answered: set[Key] = set()  # its requests to the client, before it waits for them
        self.recorded_key = exchange.key
        self.tokens = (exchange.token, _progress_token(request.params))


class _Talk:
    """What one client and the replayed worker say to each other."""

    def __init__(
        self,
        find: Callable[[str, Any], _Exchange | tuple[int, str]],
        keys: Iterable[str],
    ) -> None:
        self._find = find
        self._keys = iter(keys)
        self._playing: dict[Key, _Playback] = {}  # by the id of the request
        self._asked: dict[Key, tuple[_Playback, Key]] = {}  # by the new id: whose, the recorded id

    def feed(self, line: bytes) -> bytes:
        """Take a line of the client; return what is to be written for it."""
        try:
            message = _message.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return b""
        if message.method is UNSET:
            return self._take_answer(message)
        if message.id is UNSET:
            name = _CANCELS.get(message.method)
            key = message.params.get(name) if name and isinstance(message.params, dict) else None
            return self._cancel(key)
        found = self._find(message.method, message.params)
        if isinstance(found, tuple):
            return _error(message.id, *found)
        playback = self._playing[message.id] = _Playback(found, message)
        return self._play(playback)

    def _take_answer(self, message: _Message) -> bytes:
        asked = None if message.id is UNSET else self._asked.pop(message.id, None)
        if asked is None:
            return b""
        playback, key = asked
        if playback.awaited == _AwaitAnswer(key):
            return self._play(playback)
        playback.answered.add(key)
        return b""

    def _cancel(self, key: Key) -> bytes:
        playback = self._playing.get(key)
        if playback is None:
            return b""
        if isinstance(playback.awaited, _AwaitCancel):
            return self._play(playback)
        del self._playing[key]
        return _error(key, CANCELLED, "cancelled")

    def _play(self, playback: _Playback) -> bytes:
        """Go on until it is over or has to wait; return what is to be written."""
        out: list[bytes] = []
        for step in playback.steps:
            if isinstance(step, TapFrame):
                out.append(self._rewritten(step, playback))
            elif isinstance(step, _AwaitAnswer) and step.key in playback.answered:
                playback.answered.remove(step.key)
            else:
                playback.awaited = step
                return b"".join(out)
            if isinstance(step, TapFrame) and step.kind == "response":
                self._playing.pop(playback.key, None)
        return b"".join(out)

    def _rewritten(self, frame: TapFrame, playback: _Playback) -> bytes:
        """Return a recorded line with the ids of the new conversation."""
        if frame.kind == "bad":
            return frame.frame
        message = msgspec.json.decode(frame.frame)
        if frame.kind == "response":
            message["id"] = playback.key
        elif frame.kind == "request":
            message["id"] = next(self._keys)
            self._asked[message["id"]] = (playback, frame.id)
        params = message.get("params")
        if isinstance(params, dict):
            meta = params.get("_meta")
            if isinstance(meta, dict) and meta.get("requestId") == playback.recorded_key:
                meta["requestId"] = playback.key
            recorded, token = playback.tokens
            if token is not UNSET and params.get("progressToken") == recorded:
                params["progressToken"] = token
        return msgspec.json.encode(message) + b"\n"


def _error(key: Key | UnsetType, code: int, text: str) -> bytes:
    error = {"code": code, "message": text}
    return msgspec.json.encode({"jsonrpc": "2.0", "id": key, "error": error}) + b"\n"


def _progress_token(params: Any) -> Any:
    meta = params.get("_meta") if isinstance(params, dict) else None
    return meta.get("progressToken", UNSET) if isinstance(meta, dict) else UNSET


def _difference(exchange: _Exchange, params: Any) -> str | None:
    """Say where the params of a request are not those recorded; None if they are."""
    recorded, given = _without_meta(exchange.params), _without_meta(params)
    return _differs(recorded, given, "params", exchange.redacted)


def _without_meta(params: Any) -> Any:
    if not isinstance(params, dict):
        return None if params is UNSET else params
    return {name: value for name, value in params.items() if name != "_meta"} or None


def _differs(recorded: Any, given: Any, path: str, redacted: bool) -> str | None:
    if isinstance(recorded, dict) and isinstance(given, dict):
        for name in {**recorded, **given}:
            if name not in given:
                return f"{path}.{name} is missing"
            if name not in recorded:
                return f"{path}.{name} was not there"
            why = _differs(recorded[name], given[name], f"{path}.{name}", redacted)
            if why is not None:
                return why
        return None
    if isinstance(recorded, list) and isinstance(given, list) and len(recorded) == len(given):
        pairs = enumerate(zip(recorded, given, strict=True))
        whys = (_differs(a, b, f"{path}[{n}]", redacted) for n, (a, b) in pairs)
        return next((why for why in whys if why is not None), None)
    if recorded == given and isinstance(recorded, bool) == isinstance(given, bool):
        return None
    if redacted and recorded == HIDDEN and isinstance(given, str | int | float):
        return None
    return f"{path} was {_short(recorded)}, not {_short(given)}"


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
