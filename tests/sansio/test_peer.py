"""One end's own requests: ids, deadlines, and answers that come or do not."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from anyio_bus._sansio.codec import decode_block, encode_result
from anyio_bus._sansio.messages import Message
from anyio_bus._sansio.peer import Peer


class Call:
    """The least that a peer asks of a call."""

    def __init__(self, key: int, timeout_s: float | None = None) -> None:
        self.key = key
        self.timeout_s = timeout_s


def answer(key: Any) -> Message:
    """Make the decoded answer to a request."""
    (message,) = decode_block(encode_result(key, "done"))
    assert isinstance(message, Message)
    return message


def opened(timeout_s: float | None = None) -> tuple[Peer[Call], Call]:
    """Make a peer with one call, opened at 0."""
    peer: Peer[Call] = Peer()
    call = Call(peer.new_key(), timeout_s)
    peer.open(call, 0.0)
    return peer, call


def test_ids_are_never_used_twice() -> None:
    peer: Peer[Call] = Peer()

    assert len({peer.new_key() for _ in range(100)}) == 100


def test_an_answer_ends_its_call_once() -> None:
    peer, call = opened()

    assert peer.receive(answer(call.key)) is call
    assert peer.receive(answer(call.key)) is None
    assert peer.late_answers == 1
    assert peer.calls == {}


@pytest.mark.parametrize("key", ["1", None, 2, 1.5, ""])
def test_an_answer_with_another_id_ends_nothing(key: object) -> None:
    peer, call = opened()

    assert peer.receive(answer(key)) is None
    assert list(peer.calls.values()) == [call]


def test_an_answer_whose_id_is_the_same_number_ends_the_call() -> None:
    peer, call = opened()

    assert peer.receive(answer(float(call.key))) is call


def test_a_call_without_a_timeout_never_expires() -> None:
    peer, call = opened(None)

    peer.renew(call, 1.0)

    assert peer.next_deadline() is None
    assert peer.expire(1e12) == []


def test_opening_tells_when_the_call_expires() -> None:
    peer: Peer[Call] = Peer()

    assert peer.open(Call(1, 2.5), 10.0) == 12.5
    assert peer.open(Call(2), 10.0) == math.inf
    assert peer.next_deadline() == 12.5


def test_an_expired_call_is_closed_and_its_answer_is_late() -> None:
    peer, call = opened(2.0)

    assert peer.expire(1.9) == []
    assert peer.expire(2.0) == [call]
    assert peer.receive(answer(call.key)) is None
    assert peer.late_answers == 1


def test_progress_starts_the_timeout_anew() -> None:
    peer, call = opened(2.0)

    peer.renew(call, 1.5)

    assert peer.expire(2.0) == []
    assert peer.expire(3.5) == [call]


def test_progress_of_a_closed_call_does_not_revive_it() -> None:
    peer, call = opened(2.0)
    peer.close(call.key)

    peer.renew(call, 1.5)

    assert peer.next_deadline() is None


@pytest.mark.parametrize("timeout_s", [None, 2.0])
def test_a_call_that_is_closed_is_forgotten_with_its_deadline(timeout_s: float | None) -> None:
    peer, call = opened(timeout_s)

    assert peer.close(call.key) is call
    assert peer.close(call.key) is None
    assert peer.next_deadline() is None


def test_several_ids_are_new_and_in_a_row() -> None:
    peer: Peer[Call] = Peer()
    assert peer.new_keys(3) == [1, 2, 3]
    assert peer.new_key() == 4


def test_all_answers_of_a_run_may_be_waited_for() -> None:
    peer: Peer[Call] = Peer()
    calls = [Call(key, None) for key in peer.new_keys(2)]
    for call in calls:
        peer.open(call, 0.0)
    assert peer.receive_many([2, 1]) == calls[::-1]
    assert peer.late_answers == 0


class LikeAPlainDict(RuleBasedStateMachine):
    """Every call ends exactly once: answered, closed or expired."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.peer: Peer[Call] = Peer()
        self.open: dict[Call, float] = {}
        self.late = 0
        self.now = 0.0

    @rule(target=calls, timeout_s=st.sampled_from([None, 0.0, 1.0, 2.0]))
    def open_call(self, timeout_s: float | None) -> Call:
        call = Call(self.peer.new_key(), timeout_s)
        self.open[call] = float("inf") if timeout_s is None else self.now + timeout_s
        at = self.peer.open(call, self.now)
        assert at == self.open[call]
        return call

    @rule(call=calls)
    def answer(self, call: Call) -> None:
        expected = call if call in self.open else None
        self.late += call not in self.open
        assert self.peer.receive(answer(call.key)) is expected
        self.open.pop(call, None)

    @rule(data=st.data())
    def answer_some(self, data: st.DataObject) -> None:
        known = list(self.open)
        asked = data.draw(st.lists(st.sampled_from(known), unique_by=id)) if known else []
        keys = [call.key for call in asked]
        assert self.peer.receive_many([*keys, "nobody's"]) == [*asked, None]
        self.late += 1
        for call in asked:
            del self.open[call]

    @rule(call=consumes(calls))
    def close(self, call: Call) -> None:
        assert self.peer.close(call.key) is (call if call in self.open else None)
        self.open.pop(call, None)

    @rule(call=calls)
    def renew(self, call: Call) -> None:
        self.peer.renew(call, self.now)
        if call in self.open and call.timeout_s is not None:
            self.open[call] = self.now + call.timeout_s

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        due = {call for call, at in self.open.items() if at <= self.now}
        assert set(self.peer.expire(self.now)) == due
        for call in due:
            del self.open[call]

    @invariant()
    def the_same_calls_are_open(self) -> None:
        assert set(self.peer.calls.values()) == set(self.open)
        assert self.peer.late_answers == self.late
        times = [at for at in self.open.values() if at < float("inf")]
        assert self.peer.next_deadline() == min(times, default=None)


def test_every_call_ends_once_as_in_a_plain_dict() -> None:
    run_state_machine_as_test(LikeAPlainDict)
