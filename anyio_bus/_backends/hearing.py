"""Own what a kernel elsewhere says: its messages become events, its own word is told from workers'."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Raw

from anyio_bus._backends.mirror import decode_event
from anyio_bus._backends.reports import decode_frame
from anyio_bus._errors import Failure
from anyio_bus._sansio.events import Failed, KernelEvent, LineBad, Lines
from anyio_bus._sansio.messages import BadLine, Message, RequestId

if TYPE_CHECKING:
    from anyio_bus._backends.mirror import Mirror
    from anyio_bus._sansio.tapping import Tap

__all__ = ("Hearing",)

REPORTS = frozenset({"bus/event", "bus/frame"})

logger = logging.getLogger("anyio_bus.kernel")


class _KernelError(msgspec.Struct):
    code: int
    message: str
    data: dict[str, Any]


class _Stamp(msgspec.Struct):
    bus: str = ""


_stamps = msgspec.json.Decoder(_Stamp)
_kernel_errors = msgspec.json.Decoder(_KernelError)


class Hearing:
    """Makes events of messages, and remembers what it takes to understand the next one.

    Args:
        mirror: Is told what became of workers and sessions.
        live: The requests without an outcome; one that gets it is taken out.
        take_own: Takes an answer to none of them.
        bus: The kernel's random id, which no worker knows.
    """

    def __init__(
        self,
        mirror: Mirror,
        live: dict[RequestId, str],
        take_own: Callable[[Message], None],
        bus: str,
    ) -> None:
        self._mirror = mirror
        self._live = live
        self._take_own = take_own
        self.tap: Tap | None = None
        self.begin(bus)

    def begin(self, bus: str) -> None:
        """From now on hear a kernel of this id, from its first word."""
        self._bus = bus
        self._source: tuple[str, int, RequestId] = ("", -1, None)  # of the next line

    def sort(self, messages: list[Message], events: list[KernelEvent]) -> None:
        """Make events of messages; what stands beside each other and is of one kind is one."""
        live, out = self._live, events.append
        answers: list[Message] = []
        calls: list[Message] = []
        for message in messages:
            if message.method is not UNSET:
                if answers:
                    out(Lines("", -1, answers, None, "answers"))
                    answers = []
                if message.method in REPORTS and self._is_own(message):
                    self._end_run(calls, events)
                    calls = []
                    self._take_report(message, events)
                else:
                    calls.append(message)
                continue
            if calls:
                self._end_run(calls, events)
                calls = []
            if message.id not in live:
                self._take_own(message)
                continue
            key: Any = message.id
            del live[key]
            failure = None if message.error is UNSET else self.own_error(message.error)
            if failure is None:
                answers.append(message)
                continue
            if answers:
                out(Lines("", -1, answers, None, "answers"))
                answers = []
            out(Failed(key, failure))
        if answers:
            out(Lines("", -1, answers, None, "answers"))
        self._end_run(calls, events)

    def _end_run(self, calls: list[Message], events: list[KernelEvent]) -> None:
        if calls:
            pool, worker, sole = self._source
            events.append(Lines(pool, worker, calls, sole, "calls"))

    def own_error(self, raw: Raw) -> Failure | None:
        """Return the failure of an error that is the kernel's own word, not a worker's."""
        if b'"anyio-bus"' not in bytes(raw):
            return None
        try:
            error = _kernel_errors.decode(raw)
            if error.data.pop("source", "") != "anyio-bus":
                return None
            if error.data.pop("bus", "") != self._bus:
                return None
            facts = {"code": error.code, "message": error.message, **error.data}
            return msgspec.convert(facts, Failure)
        except msgspec.MsgspecError:
            return None

    def _is_own(self, message: Message) -> bool:
        """Tell the kernel's own word from a worker's line of that name, which is passed on."""
        try:
            return _stamps.decode(message.params).bus == self._bus  # type: ignore[arg-type]
        except (msgspec.MsgspecError, TypeError, UnicodeError):
            return False

    def _take_report(self, message: Message, events: list[KernelEvent]) -> None:
        """Take the kernel's own word, as far as it is understood."""
        try:
            self._read_report(message, bytes(message.params), events)  # type: ignore[arg-type]
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            extra = {"event": "kernel"}
            logger.warning("the kernel said what is not understood: %s", exc, extra=extra)

    def _read_report(self, message: Message, params: bytes, events: list[KernelEvent]) -> None:
        if message.method == "bus/frame":
            if self.tap is not None:
                self.tap([decode_frame(params)])
            return
        event = decode_event(params)
        if event.event == "source":
            self._source = (event.pool, event.worker, event.sole)
        elif event.event == "worker_changed":
            events.append(self._mirror.take_worker(event))
        elif event.event == "session":
            self._mirror.take_session(event)
        elif event.event == "line_bad":
            line = BadLine(event.prefix.encode(errors="replace"), event.reason, event.size)
            events.append(LineBad(event.pool, event.worker, line))
