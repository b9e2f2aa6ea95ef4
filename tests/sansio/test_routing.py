"""The fate of every request: exactly one end, whole frames, and every limit kept."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from msgspec import Raw

from anyio_bus._config import Limits, Pool, Probe
from anyio_bus._errors import KernelCode
from anyio_bus._sansio.events import SessionInfo
from anyio_bus._sansio.messages import RequestId
from anyio_bus._sansio.profiles import cancel_frame
from anyio_bus._sansio.routing import (
    CONTROL_RESERVE_BYTES,
    Entry,
    Lane,
    Mode,
    Refused,
    Route,
    Router,
    Withdrawal,
)

ANY = Route("p")


def make(*, lanes: int = 1, max_in_flight: int = 1, **options: Any) -> tuple[Router, list[Lane]]:
    """Make a router of pools "p" and "q" with open lanes in "p"."""
    of_pool = ("balance", "cancel", "session", "idle_timeout_s", "max_requests", "health")
    pool_options = {name: options.pop(name) for name in of_pool if name in options}
    config = Pool("p", ["worker"], max_in_flight=max_in_flight, **pool_options)
    router = Router([config, Pool("q", ["worker"])], Limits(**options))
    opened = [router.add_lane(worker, "p") for worker in range(lanes)]
    for lane in opened:
        router.set_mode(lane, Mode.OPEN)
    return router, opened


def frame(key: object) -> bytes:
    """Make something that stands for a frame."""
    return f"<{key}>\n".encode()


def ask(router: Router, *keys: RequestId, route: Route = ANY) -> list[Lane | None]:
    """Submit a request for each key."""
    return [router.submit(frame(key), route, key) for key in keys]


def in_session(name: str) -> Route:
    """Route into a session of pool "p"."""
    return Route("p", session=name)


def write(lane: Lane, most: int = 10**9) -> bytes:
    """Write that many bytes of what waits for the pipe, as one write would."""
    data = b"".join(lane.outbox.buffers(1000, 10**9))[:most]
    lane.outbox.advance(len(data))
    return data


def keys_of(entries: Iterable[Entry]) -> list[RequestId]:
    return [entry.key for entry in entries]


def refusal(router: Router, route: Route, key: RequestId = 99, size: int = 10) -> tuple[int, str]:
    """Submit what must be refused; return code and reason."""
    before = router.live
    with pytest.raises(Refused) as caught:
        router.submit(b"x" * size, route, key)
    failure = caught.value.failure
    assert not failure.sent
    assert router.live == before
    assert str(caught.value) == failure.message
    return failure.code, failure.reason


# -- the out-queue --------------------------------------------------------------------------------


def test_a_claimed_request_that_is_withdrawn_is_still_written_and_then_cancelled() -> None:
    router, (lane,) = make()
    ask(router, 1)
    lane.outbox.claim(1)

    assert router.withdraw(1) == (Withdrawal.CANCELLED, lane)
    assert write(lane) == b"<1>\n" + (cancel_frame("lsp", 1) or b"")


def test_a_frame_that_is_written_is_not_kept() -> None:
    router, (lane,) = make()
    ask(router, 1)
    write(lane)

    assert lane.entries[1].frame == b""


def test_a_frame_that_is_answered_while_it_is_written_stays_whole_among_withdrawn_ones() -> None:
    router, (lane,) = make(max_in_flight=0)
    ask(router, *range(300))
    begun = write(lane, 2)
    router.settle(lane, 0)
    router.settle(lane, 1)

    for key in range(2, 300):
        router.withdraw(key)

    assert begun + write(lane) == b"<0>\n<1>\n"


# -- choosing a lane -----------------------------------------------------------------------------


def test_a_request_goes_to_the_least_busy_lane() -> None:
    router, (a, b, c) = make(lanes=3, max_in_flight=0)
    ask(router, 1, 2, 3, 4, 5, 6)
    router.settle(b, 2)

    assert ask(router, 7) == [b]
    assert [len(lane.entries) for lane in (a, b, c)] == [2, 2, 2]


def test_ties_are_broken_in_turn() -> None:
    router, (a, b, c) = make(lanes=3)
    chosen = []
    for key in range(7):
        (lane,) = ask(router, key)
        assert lane is not None
        chosen.append(lane)
        router.settle(lane, key)

    assert chosen == [a, b, c, a, b, c, a]


def test_a_tie_goes_to_the_next_in_turn_after_one_that_is_full() -> None:
    router, (_, b, c) = make(lanes=3)
    ask(router, 1, 2, 3)
    router.settle(b, 2)
    router.settle(c, 3)

    assert ask(router, 4) == [b]


def test_round_robin_takes_the_next_lane_that_has_room() -> None:
    router, (a, b, c) = make(lanes=3, max_in_flight=2, balance="round_robin")
    assert ask(router, 1, 2, 3, 4) == [a, b, c, a]
    router.settle(c, 3)
    assert ask(router, 5, 6) == [b, c]

    assert ask(router, 7, 8) == [c, None]


def test_a_pool_without_an_open_lane_lets_requests_wait() -> None:
    router, (a, b) = make(lanes=2)
    router.set_mode(a, Mode.CLOSED)
    router.set_mode(b, Mode.HELD)

    assert ask(router, 1) == [None]
    assert router.pump(router.pools["p"]) == []

    router.set_mode(b, Mode.OPEN)
    assert router.pump(router.pools["p"]) == [b]


def test_modes_can_be_set_again_and_in_any_order() -> None:
    router, (a, b) = make(lanes=2)
    for mode in (Mode.OPEN, Mode.HELD, Mode.HELD, Mode.CLOSED, Mode.OPEN, Mode.OPEN):
        router.set_mode(a, mode)

    assert router.pools["p"].open == [b, a]


def test_a_full_lane_takes_no_request_until_one_is_answered() -> None:
    router, (lane,) = make(max_in_flight=2)
    assert ask(router, 1, 2, 3) == [lane, lane, None]
    assert router.pump(router.pools["p"]) == []

    assert router.settle(lane, 1)
    assert router.pump(router.pools["p"]) == [lane]
    assert sorted(map(str, lane.entries)) == ["2", "3"]


def test_0_in_flight_means_no_count() -> None:
    router, (lane,) = make(max_in_flight=0)

    assert ask(router, *range(2000)) == [lane] * 2000


def test_a_lane_with_too_many_bytes_to_write_takes_no_request_until_some_are_written() -> None:
    router, (lane,) = make(max_in_flight=0, max_output_bytes=7)
    assert ask(router, 1, 2, 3) == [lane, lane, None]

    write(lane, 1)

    assert router.pump(router.pools["p"]) == [lane]


def test_a_request_does_not_overtake_those_that_wait() -> None:
    router, (lane,) = make()
    ask(router, 1, 2)
    router.settle(lane, 1)

    assert ask(router, 3) == [None]
    router.pump(router.pools["p"])
    assert list(lane.entries) == [2]


# -- refusals ------------------------------------------------------------------------------------


def test_an_unknown_pool_is_refused() -> None:
    router, _ = make()

    assert refusal(router, Route("nowhere")) == (KernelCode.UNKNOWN_POOL, "unknown_pool")


def test_a_frame_over_the_limit_is_refused_and_one_at_the_limit_is_not() -> None:
    router, (lane,) = make(max_frame_bytes=10)

    assert refusal(router, ANY, size=11) == (KernelCode.FRAME_TOO_LARGE, "max_frame_bytes")
    assert router.submit(b"x" * 10, ANY, 1) is lane


def test_a_worker_that_is_not_there_is_refused() -> None:
    router, _ = make()

    assert refusal(router, Route("p", worker=7)) == (KernelCode.NO_WORKER, "worker_gone")
    assert refusal(router, Route("q", worker=0)) == (KernelCode.NO_WORKER, "worker_gone")


def test_more_than_max_queued_are_refused_wherever_they_wait() -> None:
    router, (lane, _) = make(lanes=2, max_queued=3)
    assert ask(router, 1, 2, 3) == [lane, router.pools["p"].lanes[1], None]
    assert ask(router, 4, 5, route=Route("p", worker=0)) == [None, None]

    assert refusal(router, ANY) == (KernelCode.OVERLOADED, "max_queued")
    assert refusal(router, Route("p", worker=0)) == (KernelCode.OVERLOADED, "max_queued")
    router.withdraw(4)
    assert ask(router, 6) == [None]


def test_more_than_max_output_bytes_and_a_frame_are_refused() -> None:
    router, _ = make(max_output_bytes=len(frame(2)))
    assert ask(router, 1, 2, 3)[1:] == [None, None]

    assert refusal(router, ANY) == (KernelCode.OVERLOADED, "max_output_bytes")
    router.withdraw(2)
    assert ask(router, 4) == [None]


@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 1.0), ("one", "one"), (2**70, 2**70)])
def test_an_id_in_use_is_refused(first: RequestId, second: RequestId) -> None:
    router, (lane,) = make()
    ask(router, first)

    assert refusal(router, ANY, second) == (KernelCode.INVALID_REQUEST, "duplicate_id")
    router.settle(lane, first)
    assert ask(router, second) == [lane]


def test_the_id_of_a_waiting_request_is_in_use() -> None:
    router, _ = make()
    ask(router, 1, 2)

    assert refusal(router, ANY, 2) == (KernelCode.INVALID_REQUEST, "duplicate_id")
    assert router.withdraw(2) == (Withdrawal.REMOVED, None)
    assert ask(router, 2) == [None]


def test_the_id_of_a_cancelled_request_is_in_use_until_its_slot_is_free() -> None:
    router, (lane,) = make(max_in_flight=0)
    for key in (1, 2, 3):
        ask(router, key)
        write(lane)
        router.withdraw(key)
        assert refusal(router, ANY, key) == (KernelCode.INVALID_REQUEST, "duplicate_id")

    assert not router.settle(lane, 1)
    router.free_tombstone(lane, 2)
    assert ask(router, 1, 2) == [lane, lane]
    router.drop_lane(lane)
    assert ask(router, 3) == [None]


def test_ids_of_different_types_are_different_ids() -> None:
    router, (lane,) = make(max_in_flight=0)
    ask(router, 1, "1", "", "null")

    assert not router.settle(lane, None)
    assert not router.settle(lane, 0)
    assert router.settle(lane, "1")
    assert router.settle(lane, 1.0)
    assert list(lane.entries) == ["", "null"]


# -- what names its worker -----------------------------------------------------------------------


def test_a_request_for_a_worker_goes_there_though_another_is_idle() -> None:
    router, (_, b) = make(lanes=2, max_in_flight=2)

    assert ask(router, 1, 2, 3, route=Route("p", worker=1)) == [b, b, None]


def test_a_held_lane_takes_only_what_names_it() -> None:
    router, (a, b) = make(lanes=2, max_in_flight=0)
    ask(router, 1, route=in_session("s"))
    router.set_mode(a, Mode.HELD)

    assert ask(router, 2, 3) == [b, b]
    assert ask(router, 4, route=Route("p", worker=0)) == [a]
    assert ask(router, 5, route=in_session("s")) == [a]


def test_a_closed_lane_takes_no_request_until_it_opens() -> None:
    router, (lane,) = make(max_in_flight=0)
    ask(router, 1, route=in_session("s"))
    router.set_mode(lane, Mode.CLOSED)
    assert ask(router, 2, route=Route("p", worker=0)) == [None]
    assert ask(router, 3, route=in_session("s")) == [None]
    assert router.pump(router.pools["p"]) == []

    router.set_mode(lane, Mode.OPEN)

    assert router.pump(router.pools["p"]) == [lane]
    assert list(lane.entries) == [1, 2, 3]


def test_what_waits_for_a_worker_goes_before_what_waits_for_any() -> None:
    router, (lane,) = make()
    ask(router, 1, 2)
    ask(router, 3, route=Route("p", worker=0))

    router.settle(lane, 1)
    router.pump(router.pools["p"])

    assert list(lane.entries) == [3]


def test_a_request_for_a_worker_does_not_overtake_those_that_wait_for_it() -> None:
    router, (lane,) = make()
    ask(router, 1, 2, route=Route("p", worker=0))
    router.settle(lane, 1)

    assert ask(router, 3, route=Route("p", worker=0)) == [None]


# -- notifications and answers -------------------------------------------------------------------


def tell(router: Router, content: object, route: Route = ANY) -> Lane | None:
    """Submit a notification, or an answer to a worker's request."""
    return router.submit(frame(content), route, None)


def test_a_notification_does_not_wait_for_requests() -> None:
    router, (lane,) = make()
    ask(router, 1, 2)

    assert tell(router, "note") is lane
    assert write(lane) == b"<1>\n<note>\n"
    assert router.live == 2


def test_an_answer_reaches_a_worker_that_takes_no_more_work() -> None:
    router, (lane,) = make()
    ask(router, 1)
    router.set_mode(lane, Mode.CLOSED)

    assert tell(router, "answer", Route("p", worker=0)) is lane


def test_notifications_go_to_lanes_in_turn() -> None:
    router, (a, b) = make(lanes=2)
    ask(router, 1, 2)

    assert [tell(router, "note") for _ in range(3)] == [a, b, a]


def test_a_notification_waits_for_an_open_lane() -> None:
    router, (lane,) = make()
    router.set_mode(lane, Mode.CLOSED)
    assert tell(router, "note") is None
    ask(router, 1)

    router.set_mode(lane, Mode.OPEN)

    assert router.pump(router.pools["p"]) == [lane]
    assert write(lane) == b"<note>\n<1>\n"


def test_the_reserve_for_notifications_ends_and_then_they_wait() -> None:
    router, (a, b) = make(lanes=2, max_output_bytes=1)
    pool = router.pools["p"]
    big = b"x" * (CONTROL_RESERVE_BYTES + 2)
    assert router.submit(big, ANY, None) is a
    assert router.submit(big, ANY, None) is b

    assert tell(router, "note") is None
    assert router.pump(pool) == []
    write(b)
    assert router.pump(pool) == [b]
    assert tell(router, "next") is b


def test_the_reserve_of_a_worker_that_is_named_ends_too() -> None:
    router, (lane,) = make(max_output_bytes=1)
    named = Route("p", worker=0)
    router.submit(b"x" * (CONTROL_RESERVE_BYTES + 1), named, None)
    assert tell(router, "last", named) is lane

    assert tell(router, "note", named) is None
    assert router.pump(router.pools["p"]) == []
    write(lane)
    assert router.pump(router.pools["p"]) == [lane]
    assert write(lane) == b"<note>\n"


def test_waiting_notifications_count_as_queued() -> None:
    router, (lane,) = make(max_queued=1)
    router.set_mode(lane, Mode.CLOSED)
    tell(router, "note")

    assert refusal(router, ANY, None) == (KernelCode.OVERLOADED, "max_queued")


# -- sessions ------------------------------------------------------------------------------------


def test_a_session_stays_on_its_worker_though_another_is_idle() -> None:
    router, (a, _) = make(lanes=2, max_in_flight=2)

    assert ask(router, 1, 2, 3, route=in_session("s")) == [a, a, None]
    assert tell(router, "note", in_session("s")) is a
    assert len(router.sessions) == 1


def test_a_request_without_a_session_begins_none() -> None:
    router, _ = make()
    ask(router, 1)

    assert len(router.sessions) == 0


def test_a_request_that_names_another_worker_does_not_move_its_session() -> None:
    router, (a, b) = make(lanes=2, max_in_flight=0)
    ask(router, 1, route=in_session("s"))

    assert ask(router, 2, route=Route("p", session="s", worker=1)) == [b]
    assert ask(router, 3, route=in_session("s")) == [a]


def test_a_session_is_told_once_that_its_worker_is_gone() -> None:
    router, (a, b) = make(lanes=2)
    ask(router, 1, route=in_session("s"))
    router.drop_lane(a)

    assert refusal(router, in_session("s")) == (KernelCode.SESSION_LOST, "session_lost")
    assert ask(router, 2, route=in_session("s")) == [b]


def test_a_lost_session_begins_anew_untold_where_its_request_asks_for_that() -> None:
    router, [a, b] = make(lanes=2)
    ask(router, 1, route=in_session("s"))
    router.drop_lane(a)
    assert ask(router, 2, route=Route("p", session="s", rebind=True)) == [b]


def test_what_waits_for_a_lost_session_with_rebind_goes_on_elsewhere() -> None:
    router, [a, b] = make(lanes=2)
    again = Route("p", session="s", rebind=True)
    assert ask(router, 1, 2, 3, route=again) == [a, None, None]
    ask(router, 4, route=in_session("other"))
    router.sessions.bind("strict", a)
    ask(router, 5, route=in_session("strict"))

    assert [entry.key for entry in router.drop_lane(a)] == [1, 5]
    router.free_tombstone(b, 4)
    router.settle(b, 4)
    assert router.pump(router.pools["p"]) == [b]
    assert list(b.entries) == [2]
    assert [entry.key for entry in b.waiting] == [3]


def test_what_waits_for_a_lost_lease_goes_down_with_it() -> None:
    router, [a, _b] = make(lanes=2)
    again = Route("p", session="s", rebind=True)
    ask(router, 1, 2, route=again)
    assert [entry.key for entry in router.drop_lane(a, lease="s")] == [1, 2]
    for _ in range(2):
        assert refusal(router, again) == (KernelCode.SESSION_LOST, "session_lost")
    router.sessions.end("s")
    assert ask(router, 3, route=again) != [None]


def test_a_notification_of_a_session_waits_until_its_worker_is_admitted() -> None:
    router, _ = make(lanes=0)
    starting = router.add_lane(0, "p")
    router.bind_session("s", starting)
    assert tell(router, "note", in_session("s")) is None
    assert tell(router, "answer", Route("p", worker=0)) is starting
    router.set_mode(starting, Mode.HELD)
    assert router.pump(router.pools["p"]) == [starting]
    router.set_mode(starting, Mode.CLOSED)
    assert tell(router, "more", in_session("s")) is starting


def test_a_session_too_many_is_refused_until_one_ends() -> None:
    router, [a] = make(max_in_flight=2, max_sessions=2)
    ask(router, 1, route=in_session("a"))
    ask(router, 2, route=in_session("b"))
    assert refusal(router, in_session("c")) == (KernelCode.OVERLOADED, "max_sessions")
    assert ask(router, 3, route=in_session("a")) == [None]
    router.sessions.end("b")
    assert ask(router, 4, 5, route=in_session("c")) == [None, None]
    assert refusal(router, in_session("d")) == (KernelCode.OVERLOADED, "max_sessions")
    assert ask(router, 6) == [None]
    assert [*a.sessions] == ["a"]


def named(method: str, session: str | None = None) -> bytes:
    """Make a frame that names its session in the params."""
    params = {} if session is None else {"sessionId": session}
    return json.dumps({"method": method, "params": params}).encode() + b"\n"


def test_an_acp_session_is_where_it_was_made() -> None:
    router, [a, b] = make(lanes=2, session="acp")
    assert router.submit(named("session/new"), ANY, 1) is a
    assert router.submit(named("session/new"), ANY, 2) is b
    for lane, key, session in ((b, 2, "sb"), (a, 1, "sa")):
        router.learn_session(lane, key, Raw(json.dumps({"sessionId": session}).encode()))
        router.settle(lane, key)
    assert router.submit(named("session/prompt", "sb"), ANY, 3) is b
    assert router.submit(named("session/cancel", "sb"), ANY, None) is b
    assert router.submit(named("session/prompt", "sa"), ANY, 4) is a
    assert router.submit(named("session/prompt", "sa"), Route("p", session="mine"), 5) is None
    assert router.sessions.find("mine") is None


def test_a_lost_acp_session_is_told_unless_it_is_loaded_again() -> None:
    router, [a, b] = make(lanes=2, session="acp")
    router.bind_session("s", a)
    router.bind_session("t", a)
    router.drop_lane(a)
    assert router.submit(named("session/load", "t"), ANY, 1) is b
    router.settle(b, 1)
    with pytest.raises(Refused) as caught:
        router.submit(named("session/prompt", "s"), ANY, 2)
    assert caught.value.failure.reason == "session_lost"
    assert router.submit(named("session/prompt", "s"), ANY, 3) is b


def test_only_the_answer_to_its_making_names_an_acp_session() -> None:
    router, [a] = make(max_in_flight=9, session="acp", max_sessions=1)
    answer = Raw(b'{"sessionId":"s"}')
    router.submit(named("session/list"), ANY, 1)
    router.learn_session(a, 1, answer)
    router.learn_session(a, 77, answer)
    router.submit(named("session/new"), ANY, 2)
    router.learn_session(a, 2, Raw(b"{}"))
    router.submit(named("session/new"), ANY, 3)
    write(a)
    router.withdraw(3)
    router.learn_session(a, 3, answer)
    assert len(router.sessions) == 0

    router.bind_session("s", a)
    with pytest.raises(Refused) as caught:
        router.submit(named("session/new"), ANY, 4)
    assert caught.value.failure.reason == "max_sessions"


def test_a_session_is_reported_with_its_worker_until_that_is_gone() -> None:
    router, [a] = make()
    assert router.sessions.find("s") is None
    ask(router, 1, route=in_session("s"))
    assert router.sessions.find("s") == SessionInfo("p", 0, in_flight=1)
    router.drop_lane(a)
    assert router.sessions.find("s") == SessionInfo("p")
    assert len(router.sessions) == 1


def test_a_session_that_is_ended_begins_anew_elsewhere() -> None:
    router, (a, b) = make(lanes=2, max_in_flight=0)
    assert ask(router, 1, route=in_session("s")) == [a]
    router.sessions.end("s")
    assert len(router.sessions) == 0

    assert ask(router, 2, route=in_session("s")) == [b]
    router.drop_lane(a)
    assert ask(router, 3, route=in_session("s")) == [b]


def test_ending_a_lost_or_an_unknown_session_forgets_it() -> None:
    router, (a, b) = make(lanes=2)
    ask(router, 1, route=in_session("s"))
    router.drop_lane(a)

    router.sessions.end("s")
    router.sessions.end("never")

    assert ask(router, 2, route=in_session("s")) == [b]


def test_a_session_that_waits_for_its_first_worker_stays_together_and_in_order() -> None:
    router, (a, b) = make(lanes=2)
    for lane in (a, b):
        router.set_mode(lane, Mode.CLOSED)
    ask(router, 1, route=in_session("s"))
    ask(router, 2)
    ask(router, 3, route=in_session("s"))
    for lane in (a, b):
        router.set_mode(lane, Mode.OPEN)

    router.pump(router.pools["p"])
    ask(router, 4, route=in_session("s"))

    assert (list(a.entries), list(b.entries)) == ([1], [2])
    assert keys_of(a.waiting) == [3, 4]
    assert router.pools["p"].queued == 2


def test_what_waits_for_a_session_that_begins_goes_along_as_far_as_there_is_room() -> None:
    router, (lane,) = make(max_in_flight=2)
    router.set_mode(lane, Mode.CLOSED)
    ask(router, 1, 2, 3, route=in_session("s"))
    ask(router, 4)
    router.set_mode(lane, Mode.OPEN)

    assert router.pump(router.pools["p"]) == [lane]

    assert list(lane.entries) == [1, 2]
    assert keys_of(lane.waiting) == [3]


def test_what_waits_for_a_session_goes_down_with_its_worker() -> None:
    router, (a, b) = make(lanes=2)
    router.set_mode(a, Mode.CLOSED)
    router.set_mode(b, Mode.CLOSED)
    ask(router, 1, route=in_session("s"))
    ask(router, 2)
    ask(router, 3, route=in_session("s"))
    router.set_mode(a, Mode.OPEN)
    router.pump(router.pools["p"])

    dead = router.drop_lane(a)

    assert [(entry.key, entry.sent) for entry in dead] == [(1, False), (3, False)]
    assert keys_of(router.pools["p"].queue) == [2]
    assert refusal(router, in_session("s")) == (KernelCode.SESSION_LOST, "session_lost")


def test_a_waiting_request_of_a_session_can_be_withdrawn_before_the_session_begins() -> None:
    router, (lane,) = make(max_in_flight=0)
    router.set_mode(lane, Mode.CLOSED)
    ask(router, 1, 2, 3, route=in_session("s"))
    for key in (2, 1):
        assert router.withdraw(key) == (Withdrawal.REMOVED, None)
    router.set_mode(lane, Mode.OPEN)

    router.pump(router.pools["p"])

    assert list(lane.entries) == [3]
    assert router.withdraw(3) == (Withdrawal.REMOVED, lane)
    assert router.pools["p"].unbound == {}


def test_a_session_is_not_taken_to_a_worker_of_another_pool() -> None:
    router, _ = make()
    ask(router, 1, route=in_session("s"))

    elsewhere = (KernelCode.INVALID_REQUEST, "session_elsewhere")
    assert refusal(router, Route("q", session="s")) == elsewhere
    assert ask(router, 2, route=in_session("s")) == [None]
    assert router.pools["q"].queued_bytes == 0


def test_a_session_can_be_tied_to_a_worker_before_its_first_request() -> None:
    router, (a, b) = make(lanes=2, max_in_flight=2)
    ask(router, 1, route=in_session("moved"))
    router.bind_session("s", b)
    router.bind_session("moved", b)

    assert ask(router, 2, route=in_session("s")) == [b]
    assert ask(router, 3, route=in_session("moved")) == [b]
    router.drop_lane(a)
    assert ask(router, 4, route=in_session("moved")) == [None]
    assert len(router.sessions) == 2


def test_what_waits_for_a_session_goes_to_the_worker_that_it_is_tied_to() -> None:
    router, (a, b) = make(lanes=2)
    for lane in (a, b):
        router.set_mode(lane, Mode.CLOSED)
    ask(router, 1, 2, route=in_session("s"))
    router.bind_session("s", b)
    for lane in (a, b):
        router.set_mode(lane, Mode.OPEN)

    assert router.pump(router.pools["p"]) == [b]
    assert (list(b.entries), keys_of(b.waiting)) == ([1], [2])


def test_a_request_that_names_its_worker_begins_a_session_there() -> None:
    router, (_, b) = make(lanes=2, max_in_flight=0)

    assert ask(router, 1, route=Route("p", session="s", worker=1)) == [b]
    assert ask(router, 2, route=in_session("s")) == [b]


# -- answers -------------------------------------------------------------------------------------


def test_an_answer_ends_its_request_once() -> None:
    router, (lane,) = make()
    ask(router, 1)

    assert router.settle(lane, 1)
    assert not router.settle(lane, 1)
    assert (router.live, router.stray_answers, router.late_answers) == (0, 1, 0)


def test_an_answer_of_another_worker_ends_nothing() -> None:
    router, (a, b) = make(lanes=2)
    ask(router, 1, 2)

    assert not router.settle(b, 1)
    assert router.stray_answers == 1
    assert router.settle(a, 1)


def test_an_answer_before_the_whole_frame_is_written_does_not_tear_it() -> None:
    router, (lane,) = make(max_in_flight=0)
    ask(router, 1, 2)
    begun = write(lane, 2)

    assert router.settle(lane, 1)
    assert router.settle(lane, 2)

    assert begun + write(lane) == b"<1>\n<2>\n"


def test_a_request_that_was_answered_cannot_be_withdrawn() -> None:
    router, (lane,) = make()
    ask(router, 1)
    router.settle(lane, 1)

    assert router.withdraw(1) == (Withdrawal.UNKNOWN, None)
    assert router.withdraw("never") == (Withdrawal.UNKNOWN, None)
    assert router.withdraw(None) == (Withdrawal.UNKNOWN, None)


@pytest.mark.parametrize(
    ("in_flight", "key", "found"),
    [
        ([1, 2], 2, 2),
        ([1, 2], None, None),
        ([1, 2], 3, None),
        ([1], None, 1),
        ([1], 7, None),
        ([], None, None),
        ([], 1, None),
    ],
)
def test_an_unreadable_answer_is_blamed_on_its_id_or_on_the_only_request(
    in_flight: list[int], key: RequestId, found: RequestId
) -> None:
    router, (lane,) = make(max_in_flight=0)
    ask(router, *in_flight)

    assert router.blame(lane, key) == found


# -- withdrawing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("route", [ANY, Route("p", worker=0), in_session("s")])
def test_a_waiting_request_that_is_withdrawn_never_runs(route: Route) -> None:
    router, (lane,) = make()
    ask(router, 1, 2, 3, route=route)

    assert router.withdraw(2) == (Withdrawal.REMOVED, None)

    router.settle(lane, 1)
    router.pump(router.pools["p"])
    assert write(lane) == b"<1>\n<3>\n"
    assert router.pools["p"].queued_bytes == 0


def test_a_request_of_which_no_byte_was_written_never_runs_and_makes_room() -> None:
    router, (lane,) = make(max_in_flight=2)
    ask(router, 1, 2, 3)
    write(lane, 1)

    assert router.withdraw(2, "why") == (Withdrawal.REMOVED, lane)

    assert router.pump(router.pools["p"]) == [lane]
    assert write(lane) == b"1>\n<3>\n"


def test_a_request_that_is_partly_written_is_finished_and_then_cancelled() -> None:
    router, (lane,) = make()
    ask(router, 1)
    begun = write(lane, 2)

    assert router.withdraw(1) == (Withdrawal.CANCELLED, lane)

    assert begun + write(lane) == b"<1>\n" + (cancel_frame("lsp", 1) or b"")
    assert router.live == 0


def test_the_worker_is_told_the_reason_where_the_profile_has_one() -> None:
    router, (lane,) = make(cancel="mcp")
    ask(router, 1)
    write(lane)
    router.withdraw(1, "too slow")

    assert write(lane) == cancel_frame("mcp", 1, "too slow")


def test_a_worker_that_finishes_its_work_is_told_too() -> None:
    router, (lane,) = make()
    ask(router, 1)
    write(lane)
    router.set_mode(lane, Mode.CLOSED)

    assert router.withdraw(1) == (Withdrawal.CANCELLED, lane)
    assert write(lane) == cancel_frame("lsp", 1)


def test_under_the_profile_none_a_cancelled_request_only_keeps_its_slot() -> None:
    router, (lane,) = make(cancel="none")
    ask(router, 1)
    write(lane)

    assert router.withdraw(1) == (Withdrawal.CANCELLED, lane)
    assert write(lane) == b""
    assert ask(router, 2) == [None]


def test_a_cancelled_request_keeps_its_slot_until_its_late_answer() -> None:
    router, (lane,) = make()
    ask(router, 1, 2)
    write(lane)
    router.withdraw(1)
    assert router.pump(router.pools["p"]) == []

    assert not router.settle(lane, 1)

    assert (router.late_answers, router.stray_answers) == (1, 0)
    assert router.pump(router.pools["p"]) == [lane]


def test_a_cancelled_request_that_is_never_answered_frees_its_slot_in_the_end() -> None:
    router, (lane,) = make()
    ask(router, 1, 2)
    write(lane)
    router.withdraw(1)

    router.free_tombstone(lane, 1)
    router.free_tombstone(lane, 1)

    assert router.pump(router.pools["p"]) == [lane]
    assert not router.settle(lane, 1)
    assert router.stray_answers == 1


def test_only_a_cancelled_request_loses_its_slot_to_the_grace() -> None:
    router, (lane,) = make()
    ask(router, 1)

    router.free_tombstone(lane, 1)

    assert router.settle(lane, 1)


# -- the end of lanes and pools ------------------------------------------------------------------


def test_a_dead_worker_takes_along_what_it_had_and_says_of_each_whether_it_was_sent() -> None:
    router, (lane,) = make(max_in_flight=4)
    ask(router, 1, 2, 3, 4)
    ask(router, 5, route=Route("p", worker=0))
    write(lane, 6)
    router.withdraw(1)

    dead = router.drop_lane(lane)

    assert [(entry.key, entry.sent) for entry in dead] == [
        (2, True),
        (3, False),
        (4, False),
        (5, False),
    ]
    assert router.live == 0
    assert router.drop_lane(lane) == []


def test_what_waits_for_any_worker_survives_the_death_of_one() -> None:
    router, (a, b) = make(lanes=2)
    ask(router, 1, 2, 3)

    assert keys_of(router.drop_lane(a)) == [1]

    router.settle(b, 2)
    assert router.pump(router.pools["p"]) == [b]
    assert list(b.entries) == [3]


def test_notifications_for_a_dead_worker_are_dropped_with_their_bytes() -> None:
    router, (lane,) = make(max_output_bytes=1)
    named = Route("p", worker=0)
    router.submit(b"x" * (CONTROL_RESERVE_BYTES + 2), named, None)
    tell(router, "note", named)

    assert router.drop_lane(lane) == []
    assert (router.pools["p"].queued, router.pools["p"].queued_bytes) == (0, 0)


def test_a_successor_is_a_lane_of_its_own() -> None:
    router, (old,) = make()
    ask(router, 1)
    successor = router.add_lane(0, "p")
    router.set_mode(successor, Mode.OPEN)

    assert keys_of(router.drop_lane(old)) == [1]

    assert router.pools["p"].lanes == {0: successor}
    assert ask(router, 2) == [successor]


def test_failing_a_queue_ends_all_that_waits_and_nothing_else() -> None:
    router, (a, b) = make(lanes=2)
    pool = router.pools["p"]
    ask(router, 1, 2, 3)
    ask(router, 4, route=Route("p", worker=0))
    ask(router, 5, 6, route=in_session("s"))

    failed = router.fail_queue(pool)

    assert [(entry.key, entry.sent) for entry in failed] == [
        (3, False),
        (5, False),
        (6, False),
        (4, False),
    ]
    assert (pool.queued, pool.queued_bytes, pool.unbound) == (0, 0, {})
    assert (list(a.entries), list(b.entries)) == ([1], [2])
    assert router.withdraw(4) == (Withdrawal.UNKNOWN, None)
    assert router.fail_queue(pool) == []


def test_notifications_that_wait_are_dropped_with_the_queue() -> None:
    router, (lane,) = make()
    router.set_mode(lane, Mode.CLOSED)
    tell(router, "note")
    ask(router, 1)

    assert keys_of(router.fail_queue(router.pools["p"])) == [1]
    router.set_mode(lane, Mode.OPEN)
    assert router.pump(router.pools["p"]) == []


# -- what policies stand on ----------------------------------------------------------------------


def test_a_pool_that_rests_packs_what_has_no_session_and_spreads_sessions() -> None:
    router, (first, second) = make(lanes=2, max_in_flight=2, idle_timeout_s=1)

    for key in (1, 2):
        assert ask(router, key) == [first]
        router.settle(first, key)
    assert ask(router, 3, 4) == [first, second]
    for lane, key in ((first, 3), (second, 4)):
        router.settle(lane, key)
    assert ask(router, 5, route=in_session("a")) != ask(router, 6, route=in_session("b"))


def test_round_robin_goes_on_in_turn_in_a_pool_that_rests() -> None:
    router, (first, second) = make(
        lanes=2, max_in_flight=9, idle_timeout_s=1, balance="round_robin"
    )

    assert ask(router, 1, 2, 3) == [first, second, first]


def test_a_lane_counts_requests_alone_and_tells_when_it_was_given_so_many() -> None:
    router, (lane,) = make(max_in_flight=9, max_requests=2)
    spent: list[Lane] = []
    router.on_spent = spent.append

    router.submit(b"notification\n", ANY, None)
    ask(router, 1)
    assert (lane.served, spent) == (1, [])
    ask(router, 2, 3)
    assert (lane.served, spent) == (3, [lane])


def test_nobody_has_to_be_told_that_a_lane_is_spent() -> None:
    router, (lane,) = make(max_in_flight=9, max_requests=1)

    assert ask(router, 1) == [lane]


def test_without_a_limit_nobody_is_told_of_requests() -> None:
    router, (lane,) = make(max_in_flight=9)

    ask(router, 1, 2)
    assert lane.served == 2


def test_what_waits_for_a_worker_is_known() -> None:
    router, (lane,) = make()

    ask(router, 1)
    assert lane.queued == 0
    ask(router, 2, 3)
    assert lane.queued == 2


def test_probes_are_nobodys_work_in_flight() -> None:
    router, (lane,) = make(max_in_flight=9, health=Probe("ping"))
    probe = Route("p", worker=0, probe=True)

    ask(router, 1)
    assert (lane.sole(), lane.in_flight()) == (1, 1)
    ask(router, 2, route=probe)
    assert (lane.sole(), lane.in_flight(), len(lane.entries)) == (1, 1, 2)
    ask(router, 3)
    assert (lane.sole(), lane.in_flight()) == (None, 2)
    ask(router, 4)
    assert lane.sole() is None


def test_the_only_request_of_a_worker_is_known_without_probes() -> None:
    router, (lane,) = make(max_in_flight=9)

    assert (lane.sole(), lane.in_flight()) == (None, 0)
    ask(router, 1)
    assert (lane.sole(), lane.in_flight()) == (1, 1)
    ask(router, 2)
    assert (lane.sole(), lane.in_flight()) == (None, 2)


# -- several at once ------------------------------------------------------------------------------


def ask_many(router: Router, *keys: RequestId, route: Route = ANY) -> Lane | None:
    return router.submit_many([frame(key) for key in keys], route, [*keys])


def test_several_requests_are_taken_and_answered_as_each_would_be() -> None:
    router, (lane,) = make(max_in_flight=9)

    assert ask_many(router, 1, 2, 3) is lane
    assert (list(lane.entries), lane.served, router.live) == ([1, 2, 3], 3, 3)
    assert router.withdraw(2) == (Withdrawal.REMOVED, lane)
    assert write(lane) == frame(1) + frame(3)
    assert router.settle_many(lane, [3, 1])
    assert (list(lane.entries), router.live) == ([], 0)


def test_several_are_refused_together_where_one_may_have_to_wait() -> None:
    options: list[tuple[dict[str, Any], Route]] = [
        ({"max_in_flight": 1}, ANY),
        ({"max_in_flight": 9, "max_output_bytes": 7}, ANY),
        ({"max_in_flight": 9, "max_frame_bytes": 7}, ANY),
        ({"max_in_flight": 9, "max_requests": 5}, ANY),
        ({"max_in_flight": 9, "session": "acp"}, ANY),
        ({"max_in_flight": 9, "lanes": 2}, ANY),
        ({"max_in_flight": 9, "lanes": 0}, ANY),
        ({"max_in_flight": 9}, in_session("s")),
        ({"max_in_flight": 9}, Route("p", worker=0)),
        ({"max_in_flight": 9}, Route("nowhere")),
    ]
    for limits, route in options:
        router, lanes = make(**limits)
        assert ask_many(router, 1, 2, route=route) is None
        assert not any(lane.entries or lane.outbox.size for lane in lanes)
        assert router.live == 0


@pytest.mark.parametrize("keys", [[1, 1], [1, 9], [1, 2, 3]])
def test_answers_that_are_not_all_waited_for_settle_nothing_together(keys: list[int]) -> None:
    router, (lane,) = make(max_in_flight=9)
    ask_many(router, 1, 2)
    if 3 in keys:  # cancelled after it was written: its answer is late
        ask(router, 3)
        write(lane)
        router.withdraw(3)

    assert not router.settle_many(lane, keys)
    assert router.live == 2
