"""Own one end of a conversation: the ids of its own requests, which are open, and until when.

The same machine serves a client (whose peer is a kernel) and a worker (whose peer is the client).
What a request stands for is up to its owner: it is kept as an opaque call.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from anyio_bus._sansio.deadlines import Deadlines

if TYPE_CHECKING:
    from anyio_bus._sansio.messages import Message, RequestId

__all__ = ("Call", "Peer")


class Call(Protocol):
    """What a peer keeps of an open request: its id and its timeout (None: no deadline).

    Neither changes while it is open. Requests without deadlines may share one.
    """

    key: RequestId
    timeout_s: float | None


C = TypeVar("C", bound=Call)
_TIMEOUT_OF = attrgetter("timeout_s")


class Peer(Generic[C]):
    """The open requests of one end, in the order in which they were made.

    Args:
        new_key: Makes the ids; default the numbers from 1.

    Attributes:
        calls: The open calls by id.
        new_key: Returns an id that this peer never used before.
        late_answers: Answers that no open call was there for.
    """

    __slots__ = ("_deadlines", "_keys", "calls", "late_answers", "new_key")

    def __init__(self, new_key: Callable[[], RequestId] | None = None) -> None:
        self.calls: dict[RequestId, C] = {}
        self._deadlines: Deadlines[RequestId] = Deadlines()
        self._keys: Iterator[RequestId] = (
            itertools.count(1) if new_key is None else iter(new_key, None)
        )
        self.new_key: Callable[[], RequestId] = self._keys.__next__
        self.late_answers: int = 0

    def new_keys(self, count: int) -> list[RequestId]:
        """Return so many ids that this peer never used before."""
        return list(itertools.islice(self._keys, count))

    def open(self, call: C, now: float) -> float:
        """Keep a call; return the time at which it expires, infinity where it has no deadline."""
        self.calls[call.key] = call
        if call.timeout_s is None:
            return math.inf
        return self._deadlines.add(call.key, call.timeout_s, now)

    def renew(self, call: C, now: float) -> None:
        """Start the call's timeout anew: there was progress."""
        if call.timeout_s is not None and call.key in self.calls:
            self._deadlines.renew(call.key, call.timeout_s, now)

    def receive(self, answer: Message) -> C | None:
        """Take an answer; return the call that it ends, None (and count it) if it is late."""
        call = self.calls.pop(answer.id, None)  # type: ignore[arg-type]  # an answer has an id
        if call is None:
            self.late_answers += 1
        elif call.timeout_s is not None:
            self._deadlines.discard(answer.id, call.timeout_s)  # type: ignore[arg-type]
        return call

    def receive_many(self, keys: Sequence[RequestId]) -> list[C | None]:
        """Take the answers to several ids; return in their places the calls that they end."""
        calls: list[C | None] = list(map(self.calls.pop, keys, itertools.repeat(None)))
        kinds = set(calls)
        if None in kinds:
            self.late_answers += calls.count(None)
            kinds.discard(None)
        for timeout_s in set(map(_TIMEOUT_OF, kinds)) - {None}:
            self._deadlines.discard_many(keys, timeout_s)
        return calls

    def close(self, key: RequestId) -> C | None:
        """Forget a call and its deadline; return it if it was open."""
        call = self.calls.pop(key, None)
        if call is not None and call.timeout_s is not None:
            self._deadlines.discard(key, call.timeout_s)
        return call

    def next_deadline(self) -> float | None:
        """Return when the next call expires, None when none does."""
        return self._deadlines.next()

    def expire(self, now: float) -> list[C]:
        """Remove and return the calls whose time has come."""
        return [self.calls.pop(key) for key in self._deadlines.expire(now)]
