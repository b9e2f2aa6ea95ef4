"""Random histories of a router: one end for every request, whole frames, every limit kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from anyio_bus._config import Limits, Pool
from anyio_bus._sansio.messages import RequestId
from anyio_bus._sansio.routing import Entry, Lane, Mode, Refused, Route, Router, Withdrawal

ANY = Route("p")
FIRST_BYTES = [bytes([code]) for code in range(0x80, 0x100)]  # one for each frame of a run
SESSIONS = ["s", "t"]


def keys_of(entries: Iterable[Entry]) -> list[RequestId]:
    return [entry.key for entry in entries]


class AnyHistory(RuleBasedStateMachine):
    """Random histories against what a client can know of them.

    ``live`` and ``ends`` are the model: a request is live from its submission to its one end.
    ``written`` is what each lane's pipe got. Each frame begins with a byte of its own, so that one
    written byte tells whose it is.
    """

    @initialize(
        max_in_flight=st.integers(0, 2),
        max_queued=st.integers(1, 4),
        max_output_bytes=st.sampled_from([1, 12, 1000]),
        cancel=st.sampled_from(["lsp", "none"]),
        balance=st.sampled_from(["least_busy", "round_robin"]),
    )
    def open(
        self, max_in_flight: int, max_queued: int, max_output_bytes: int, cancel: Any, balance: Any
    ) -> None:
        pool = Pool("p", ["worker"], max_in_flight=max_in_flight, cancel=cancel, balance=balance)
        self.limits = Limits(max_queued=max_queued, max_output_bytes=max_output_bytes)
        self.router = Router([pool], self.limits)
        self.pool = self.router.pools["p"]
        self.workers = 0
        self.lanes: list[Lane] = []
        self.buried: list[Lane] = []
        self.written: dict[Lane, bytes] = {}
        self.in_hand: dict[Lane, bytes] = {}  # claimed by whoever writes it
        self.frames: dict[bytes, bytes] = {}  # first byte -> frame, requests and notifications
        self.routes: dict[int, Route] = {}
        self.session_of: dict[RequestId, str] = {}  # of requests, as long as the session lasts
        self.live: set[int] = set()
        self.tombstones: dict[int, Lane] = {}
        self.ends: dict[int, str] = {}
        self.removed: set[int] = set()
        self.home: dict[str, Lane] = {}
        self.lost: set[str] = set()
        self.surviving: set[str] = set()  # lost ones of which something waits that may go on

    # -- what is known --

    def new_frame(self, size: int) -> tuple[int, bytes]:
        key = len(self.frames)
        content = FIRST_BYTES[key] + b"." * size + b"\n"
        self.frames[FIRST_BYTES[key]] = content
        return key, content

    def sent(self, key: int) -> bool:
        in_hand_or_written = [*self.written.values(), *self.in_hand.values()]
        return any(FIRST_BYTES[key] in data for data in in_hand_or_written)

    def in_flight(self, lane: Lane) -> set[RequestId]:
        return set(lane.entries)

    def handed(self) -> set[RequestId]:
        return {key for lane in self.lanes for key in lane.entries}

    def end(self, key: int, how: str) -> None:
        assert key not in self.ends, f"{key} ended twice: {self.ends[key]}, {how}"
        self.ends[key] = how
        self.live.discard(key)

    def has_room(self, lane: Lane) -> bool:
        most = self.pool.config.max_in_flight
        busy = most > 0 and len(lane.entries) >= most
        return not busy and lane.outbox.size <= self.limits.max_output_bytes

    def homes(self) -> None:
        """A session that began stays where it began."""
        for lane in self.lanes:
            for session in lane.sessions:
                if session in self.surviving:
                    self.surviving.discard(session)
                    self.lost.discard(session)
                assert session not in self.lost
                assert self.home.setdefault(session, lane) is lane

    def forget(self, sessions: set[str]) -> None:
        """What is under way in these sessions is not theirs any more."""
        self.lost -= sessions
        self.surviving -= sessions
        for session in sessions & set(self.home):
            del self.home[session]
            for key in [key for key, of in self.session_of.items() if of == session]:
                del self.session_of[key]

    # -- what happens --

    @precondition(lambda self: len(self.lanes) < 3)
    @rule(mode=st.sampled_from(Mode))
    def a_worker_comes(self, mode: Mode) -> None:
        lane = self.router.add_lane(self.workers, "p")
        self.workers += 1
        self.lanes.append(lane)
        self.written[lane] = b""
        self.router.set_mode(lane, mode)

    @precondition(lambda self: self.lanes)
    @rule(data=st.data(), mode=st.sampled_from(Mode))
    def a_worker_changes(self, data: st.DataObject, mode: Mode) -> None:
        self.router.set_mode(data.draw(st.sampled_from(self.lanes)), mode)

    @precondition(lambda self: len(self.frames) < len(FIRST_BYTES))
    @rule(
        size=st.sampled_from([0, 5, 20]),
        to=st.sampled_from(["any", "any", *SESSIONS, "worker"]),
        worker=st.integers(0, 4),
        is_request=st.sampled_from([True, True, True, False]),
        rebind=st.booleans(),
    )
    def submit(self, size: int, to: str, worker: int, is_request: bool, rebind: bool) -> None:
        key, content = self.new_frame(size)
        route = ANY if to == "any" else Route("p", session=to, rebind=rebind)
        route = Route("p", worker=worker) if to == "worker" else route
        room = {lane: self.has_room(lane) for lane in self.lanes}
        load = {lane: len(lane.entries) for lane in self.lanes}
        queued, queued_bytes = self.pool.queued, self.pool.queued_bytes
        self.routes[key] = route
        if rebind and route.session is not None:
            self.lost.discard(route.session)
        try:
            lane = self.router.submit(content, route, key if is_request else None)
        except Refused as refused:
            self.ends[key] = "refused"
            self.check_refusal(refused.failure.reason, route, queued, queued_bytes)
            return
        if is_request:
            self.live.add(key)
            if route.session is not None:
                self.session_of[key] = route.session
        else:
            self.ends[key] = "told"
        if lane is not None and is_request:
            assert room[lane]
            assert lane.mode is not Mode.CLOSED
            if route is ANY:
                open_lanes = [other for other in self.lanes if other.mode is Mode.OPEN]
                assert lane in open_lanes
                if self.pool.config.balance == "least_busy":
                    assert load[lane] == min(load[other] for other in open_lanes if room[other])
        if lane is not None and route.worker is not None:
            assert lane.worker == route.worker
        if lane is None and is_request and route is ANY and queued == 0:
            assert not any(room[other] for other in self.pool.open)

    def check_refusal(self, reason: str, route: Route, queued: int, queued_bytes: int) -> None:
        if reason == "session_lost":
            assert route.session in self.lost
            self.lost.discard(route.session)
        elif reason == "worker_gone":
            assert route.worker not in {lane.worker for lane in self.lanes}
        elif reason == "max_queued":
            assert queued == self.limits.max_queued
        else:
            assert reason == "max_output_bytes"
            assert queued_bytes > self.limits.max_output_bytes

    @rule()
    def pump(self) -> None:
        before = {lane: self.in_flight(lane) for lane in self.lanes}
        fed = self.router.pump(self.pool)
        assert len(fed) == len(set(fed))
        for lane in self.lanes:
            assert lane in fed or self.in_flight(lane) == before[lane]
            for entry in list(lane.waiting)[:1]:
                assert not self.has_room(lane) or lane.mode is Mode.CLOSED or entry.key is None
        for entry in list(self.pool.queue)[:1]:
            assert entry.key is None or not any(map(self.has_room, self.pool.open))

    @precondition(lambda self: self.lanes)
    @rule(
        data=st.data(), most=st.integers(0, 30), buffers=st.integers(1, 3), offer=st.integers(1, 60)
    )
    def write(self, data: st.DataObject, most: int, buffers: int, offer: int) -> None:
        lane = data.draw(st.sampled_from(self.lanes))
        piece = self.in_hand.pop(lane, None)
        if piece is None:
            piece = b"".join(lane.outbox.buffers(buffers, offer))[:most]
        lane.outbox.advance(len(piece))
        self.written[lane] += piece

    @precondition(lambda self: bool(set(self.lanes) - set(self.in_hand)))
    @rule(data=st.data(), buffers=st.integers(1, 3), offer=st.integers(1, 60))
    def claim(self, data: st.DataObject, buffers: int, offer: int) -> None:
        idle = [lane for lane in self.lanes if lane not in self.in_hand]
        lane = data.draw(st.sampled_from(idle))
        claimed = lane.outbox.buffers(buffers, offer)
        lane.outbox.claim(len(claimed))
        self.in_hand[lane] = b"".join(claimed)

    @precondition(lambda self: self.handed())
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from([lane for lane in self.lanes if lane.entries]))
        key: Any = data.draw(st.sampled_from(list(lane.entries)))
        assert self.router.settle(lane, key) is (key in self.live)
        if key in self.live:
            self.end(key, "answered")
        else:
            assert self.tombstones.pop(key) is lane

    @precondition(lambda self: self.lanes)
    @rule(data=st.data(), key=st.integers(0, 60))
    def stray_answer(self, data: st.DataObject, key: int) -> None:
        lane = data.draw(st.sampled_from(self.lanes + self.buried))
        if key not in lane.entries:
            assert not self.router.settle(lane, key)

    @rule(key=st.integers(0, 60))
    def withdraw(self, key: int) -> None:
        lane_with_it = next((lane for lane in self.lanes if key in lane.entries), None)
        outcome, lane = self.router.withdraw(key, "why")
        if key not in self.live:
            assert (outcome, lane) == (Withdrawal.UNKNOWN, None)
            return
        assert lane is lane_with_it
        if self.sent(key):
            assert outcome is Withdrawal.CANCELLED
            assert lane is not None
            self.tombstones[key] = lane
        else:
            assert outcome is Withdrawal.REMOVED
            self.removed.add(key)
        self.end(key, "withdrawn")

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def withdraw_a_live_one(self, data: st.DataObject) -> None:
        self.withdraw(data.draw(st.sampled_from(sorted(self.live))))

    @precondition(lambda self: self.live | set(self.tombstones))
    @rule(data=st.data())
    def submit_an_id_in_use(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.live | set(self.tombstones))))
        with pytest.raises(Refused, match="in use"):
            self.router.submit(b"!\n", ANY, key)

    @precondition(lambda self: self.handed())
    @rule(data=st.data())
    def grace_is_over(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from([lane for lane in self.lanes if lane.entries]))
        key: Any = data.draw(st.sampled_from(list(lane.entries)))
        self.router.free_tombstone(lane, key)
        assert (key in lane.entries) is (key in self.live)
        self.tombstones.pop(key, None)

    @precondition(lambda self: self.lanes)
    @rule(data=st.data())
    def a_worker_dies(self, data: st.DataObject) -> None:
        self.bury(data.draw(st.sampled_from(self.lanes)))

    def bury(self, lane: Lane) -> None:
        strict = [entry for entry in lane.waiting if not entry.route.rebind]
        had = self.live & {*lane.entries, *keys_of(strict)}
        again = {entry.route.session or "" for entry in lane.waiting if entry.route.rebind}
        gone = {session for session, home in self.home.items() if home is lane}
        dead = self.router.drop_lane(lane)
        assert set(keys_of(dead)) == had
        for entry in dead:
            key: Any = entry.key
            assert entry.sent is self.sent(key)
            self.end(key, "failed")
        self.lanes.remove(lane)
        self.buried.append(lane)
        self.forget(gone)
        self.lost |= gone
        self.surviving |= again & gone
        for key in [key for key, owner in self.tombstones.items() if owner is lane]:
            del self.tombstones[key]

    @rule()
    def the_queue_fails(self) -> None:
        waiting = self.live - self.handed()
        failed = self.router.fail_queue(self.pool)
        assert set(keys_of(failed)) == waiting
        for entry in failed:
            key: Any = entry.key
            assert not entry.sent
            assert not self.sent(key)
            self.end(key, "failed")
        assert self.pool.queued == 0

    @rule(session=st.sampled_from(SESSIONS))
    def a_session_ends(self, session: str) -> None:
        self.router.sessions.end(session)
        self.forget({session})

    @precondition(lambda self: self.lanes)
    @rule(data=st.data(), session=st.sampled_from(SESSIONS))
    def a_new_session_is_tied(self, data: st.DataObject, session: str) -> None:
        lane = data.draw(st.sampled_from(self.lanes))
        if session not in self.home:
            self.router.bind_session(session, lane)
            self.home[session] = lane
            self.lost.discard(session)

    # -- what always holds --

    @invariant()
    def what_is_live_has_no_end_and_is_somewhere(self) -> None:
        assert self.router.live == len(self.live)
        waiting = set(keys_of(self.waiting())) - {None}
        assert waiting | self.handed() == self.live | set(self.tombstones)
        assert not waiting & self.handed()

    def waiting(self) -> list[Entry]:
        return [*self.pool.queue, *(entry for lane in self.lanes for entry in lane.waiting)]

    @invariant()
    def limits_hold_and_the_books_are_right(self) -> None:
        most = self.pool.config.max_in_flight
        waiting = self.waiting()
        assert all(len(lane.entries) <= most or most == 0 for lane in self.lanes)
        assert self.pool.queued == len(waiting) <= self.limits.max_queued
        assert self.pool.queued_bytes == sum(len(entry.frame) for entry in waiting)
        assert self.pool.queued_bytes <= self.limits.max_output_bytes + 22
        for lane in self.lanes:
            left = b"".join(lane.outbox.buffers(10**6, 10**9))
            assert lane.outbox.size == len(left)

    @invariant()
    def sessions_stay_where_they_are(self) -> None:
        self.homes()
        assert len(self.router.sessions) == len(self.home) + len(self.lost)
        for lane in self.lanes:
            bound = [*lane.entries, *keys_of(lane.waiting)]
            sessions = {self.session_of[key] for key in bound if key in self.session_of}
            assert all(self.home[session] is lane for session in sessions)

    @invariant()
    def only_whole_frames_are_written_each_once_and_in_order(self) -> None:
        lines: list[bytes] = []
        for lane, data in self.written.items():
            *whole, begun = data.split(b"\n")
            own = [line + b"\n" for line in whole if not line.startswith(b"{")]
            assert all(self.frames[line[:1]] == line for line in own)
            assert b"{" in begun[:1] or self.frames.get(begun[:1], b"").startswith(begun)
            lines += own
            places = [FIRST_BYTES.index(line[:1]) for line in own]
            free = [
                key for key in places if self.routes[key] == ANY and self.ends.get(key) != "told"
            ]
            assert free == sorted(free), lane.worker
        assert len(lines) == len(set(lines))

    @invariant()
    def what_was_removed_is_never_written(self) -> None:
        assert not any(self.sent(key) for key in self.removed)

    def teardown(self) -> None:
        if not hasattr(self, "router"):
            return
        for lane in list(self.lanes):
            self.bury(lane)
        self.the_queue_fails()
        assert self.live == set()
        assert set(self.ends) == set(range(len(self.frames)))
        assert self.router.live == 0


@pytest.mark.timeout(120)  # thousands of steps, each with all invariants
def test_in_any_history_every_request_ends_once_and_every_frame_is_whole() -> None:
    run_state_machine_as_test(AnyHistory)
