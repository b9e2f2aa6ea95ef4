"""Own deadlines by timeout value: one ordered dict per distinct timeout, a heap over their heads.

All calls with the same timeout expire in the order in which they were made, so adding and removing
one costs O(1) and nothing dead is kept; the heap holds one entry per distinct timeout. An empty
dict is kept for the next call with its timeout, until there are too many of them.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable
from itertools import repeat
from typing import Generic, TypeVar

__all__ = ("Deadlines",)

K = TypeVar("K", bound=Hashable)

_FEW = 64  # distinct timeouts that are not worth tidying up


class Deadlines(Generic[K]):
    """When each key expires. Times are seconds of whatever clock the caller reads."""

    __slots__ = ("_heads", "_lanes", "_tidy_at")

    def __init__(self) -> None:
        self._lanes: dict[float, OrderedDict[K, float]] = {}
        self._heads: list[tuple[float, float]] = []  # (expiry of a lane's head or earlier, timeout)
        self._tidy_at = _FEW

    def __len__(self) -> int:
        """Return the number of keys."""
        return sum(map(len, self._lanes.values()))

    def add(self, key: K, timeout_s: float, now: float) -> float:
        """Let a key that is not there expire ``timeout_s`` from ``now``; return that time."""
        lane = self._lanes.get(timeout_s)
        if lane is None:
            lane = self._new_lane(timeout_s, now)
        at = lane[key] = now + timeout_s
        return at

    def renew(self, key: K, timeout_s: float, now: float) -> float:
        """Let a key expire ``timeout_s`` from ``now``, if need be later than it would have."""
        self.discard(key, timeout_s)
        return self.add(key, timeout_s, now)

    def _new_lane(self, timeout_s: float, now: float) -> OrderedDict[K, float]:
        if len(self._lanes) >= self._tidy_at:
            self._tidy()
        lane = self._lanes[timeout_s] = OrderedDict()
        heapq.heappush(self._heads, (now + timeout_s, timeout_s))
        return lane

    def discard(self, key: K, timeout_s: float) -> None:
        """Forget a key that was added with this timeout, if it is still there."""
        lane = self._lanes.get(timeout_s)
        if lane is not None:
            lane.pop(key, None)

    def discard_many(self, keys: Iterable[K], timeout_s: float) -> None:
        """Forget several keys that were added with this timeout, those that are still there."""
        lane = self._lanes.get(timeout_s)
        if lane is not None:
            deque(map(lane.pop, keys, repeat(None)), maxlen=0)

    def _tidy(self) -> None:
        """Drop the empty dicts."""
        self._lanes = {of: lane for of, lane in self._lanes.items() if lane}
        self._heads = [(next(iter(lane.values())), of) for of, lane in self._lanes.items()]
        heapq.heapify(self._heads)
        self._tidy_at = max(_FEW, 2 * len(self._lanes))

    def next(self) -> float | None:
        """Return the time at which the earliest key expires, None when there is no key."""
        while self._heads:
            at, timeout_s = self._heads[0]
            lane = self._lanes[timeout_s]
            if not lane:
                heapq.heappop(self._heads)
                del self._lanes[timeout_s]
                continue
            head = next(iter(lane.values()))
            if head == at:
                return at
            heapq.heapreplace(self._heads, (head, timeout_s))
        return None

    def expire(self, now: float) -> list[K]:
        """Remove and return every key whose time has come, earliest first."""
        expired: list[K] = []
        while (at := self.next()) is not None and at <= now:
            lane = self._lanes[self._heads[0][1]]
            expired.append(lane.popitem(last=False)[0])
        return expired
