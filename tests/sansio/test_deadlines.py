"""Deadlines behave as a plain list of (key, timeout, time) would, and keep nothing dead."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from anyio_bus._sansio.deadlines import Deadlines

keys = st.integers(0, 5)
timeouts = st.sampled_from([0.0, 0.5, 1, 1.0, 3.0, 60.0, float("inf")])


class LikeAPlainList(RuleBasedStateMachine):
    """The same calls on Deadlines and on a dict of (key, timeout) -> time."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines: Deadlines[int] = Deadlines()
        self.model: dict[tuple[int, float], float] = {}
        self.now = 100.0

    @rule(seconds=st.sampled_from([0.0, 0.25, 1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=keys, timeout_s=timeouts)
    def add_or_renew(self, key: int, timeout_s: float) -> None:
        at = self.now + timeout_s
        known = (key, timeout_s) in self.model
        add = self.deadlines.renew if known else self.deadlines.add
        assert add(key, timeout_s, self.now) == at
        self.model[key, timeout_s] = at

    @rule(some=st.lists(keys), timeout_s=timeouts)
    def discard_many(self, some: list[int], timeout_s: float) -> None:
        self.deadlines.discard_many(some, timeout_s)
        for key in some:
            self.model.pop((key, timeout_s), None)

    @rule(key=keys, timeout_s=timeouts)
    def discard(self, key: int, timeout_s: float) -> None:
        self.deadlines.discard(key, timeout_s)
        self.model.pop((key, timeout_s), None)

    @rule()
    def look(self) -> None:
        assert self.deadlines.next() == min(self.model.values(), default=None)

    @rule()
    def expire(self) -> None:
        due = {entry: at for entry, at in self.model.items() if at <= self.now}
        expired = self.deadlines.expire(self.now)
        assert sorted(expired) == sorted(key for key, _ in due)
        times = [{at for (key, _), at in due.items() if key == found} for found in expired]
        assert all(min(a) <= max(b) for a, b in pairwise(times))
        for entry in due:
            del self.model[entry]

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.deadlines) == len(self.model)


def test_deadlines_are_those_of_a_plain_list() -> None:
    run_state_machine_as_test(LikeAPlainList)


def test_keys_expire_earliest_first_whatever_their_timeouts() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.add("third", 3.0, 0.0)
    deadlines.add("first", 1.0, 0.0)
    deadlines.add("fourth", 3.0, 0.5)
    deadlines.add("second", 1.0, 1.0)

    assert deadlines.expire(3.5) == ["first", "second", "third", "fourth"]
    assert deadlines.next() is None


def test_a_key_expires_at_its_time_and_not_before() -> None:
    deadlines: Deadlines[str] = Deadlines()
    at = deadlines.add("key", 2.0, 10.0)

    assert (at, deadlines.next()) == (12.0, 12.0)
    assert deadlines.expire(11.9) == []
    assert deadlines.expire(12.0) == ["key"]
    assert deadlines.expire(99.0) == []


def test_a_renewed_key_goes_behind_those_that_were_not() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.add("renewed", 2.0, 0.0)
    deadlines.add("other", 2.0, 0.5)
    deadlines.renew("renewed", 2.0, 1.0)

    assert deadlines.next() == 2.5
    assert deadlines.expire(3.0) == ["other", "renewed"]


def test_a_timeout_is_used_again_after_it_ran_empty() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.add("old", 2.0, 0.0)
    deadlines.discard("old", 2.0)
    deadlines.add("new", 2.0, 5.0)

    assert deadlines.next() == 7.0


def test_discarding_what_is_not_there_changes_nothing() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.add("key", 2.0, 0.0)

    deadlines.discard("key", 3.0)
    deadlines.discard("other", 2.0)

    assert len(deadlines) == 1


def test_timeouts_that_are_never_used_again_leave_nothing_behind() -> None:
    deadlines: Deadlines[int] = Deadlines()
    deadlines.add(-1, 5000.0, 0.0)
    for key in range(10_000):
        timeout_s = 3600.0 + key / 7
        deadlines.add(key, timeout_s, 0.0)
        deadlines.discard(key, timeout_s)

    assert len(deadlines._lanes) < 200
    assert len(deadlines._heads) < 200
    assert deadlines.next() == 5000.0


def test_many_timeouts_in_use_are_all_kept() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for key in range(1000):
        deadlines.add(key, 1000.0 - key, 0.0)

    assert deadlines.expire(2000.0) == list(reversed(range(1000)))
