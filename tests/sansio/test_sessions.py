"""The table of sessions: what holds each, what became of the lost ones, and how many it keeps."""

from __future__ import annotations

from anyio_bus._config import Limits, Pool
from anyio_bus._errors import Failure
from anyio_bus._sansio.events import SessionInfo
from anyio_bus._sansio.routing import Lane, PoolTable
from anyio_bus._sansio.sessions import Loss, SessionTable

WHY = Failure(code=-32050, message="it died")


def lane_of(worker: int) -> Lane:
    """Make a lane of pool "p"."""
    return Lane(worker, PoolTable(Pool("p", ["worker"]), Limits()))


def test_a_session_is_held_by_the_lane_that_it_was_tied_to_last() -> None:
    table, (a, b) = SessionTable(9), (lane_of(0), lane_of(1))
    table.bind("s", a)
    table.bind("s", b)
    assert table.lane_of("s") is b
    assert ([*a.sessions], [*b.sessions], len(table)) == ([], ["s"], 1)
    assert table.find("s") == SessionInfo("p", 1)


def test_an_ended_session_is_forgotten_held_lost_or_unknown() -> None:
    table, a = SessionTable(9), lane_of(0)
    table.bind("lost", a)
    table.lose(a, WHY, None)
    table.bind("held", a)
    for session in ("lost", "held", "never"):
        table.end(session)
        assert table.find(session) is None
    assert (len(table), [*a.sessions]) == (0, [])


def test_a_lost_session_says_why_once() -> None:
    table, a = SessionTable(9), lane_of(0)
    table.bind("s", a)
    table.lose(a, WHY, None)
    assert (table.lane_of("s"), table.find("s")) == (None, SessionInfo("p", failure=WHY))
    assert table.take_loss("s") == Loss("p", WHY, leased=False)
    assert table.take_loss("s") is None
    assert len(table) == 0


def test_a_session_that_loses_its_lease_stays_lost_until_it_is_ended() -> None:
    table, a = SessionTable(9), lane_of(0)
    table.bind("s", a)
    table.lose(a, WHY, "s")
    for _ in range(2):
        assert table.take_loss("s") == Loss("p", WHY, leased=True)
    table.end("s")
    assert table.take_loss("s") is None


def test_a_full_table_forgets_the_oldest_lost_session_but_no_lease() -> None:
    table, (a, b, c) = SessionTable(4), (lane_of(0), lane_of(1), lane_of(2))
    for session, lane in (("leased", a), ("old", b), ("young", c)):
        table.bind(session, lane)
        assert table.make_room()
        table.lose(lane, WHY, "leased")
    table.bind("held", a)

    assert table.make_room()
    assert [table.find(session) is None for session in ("old", "young")] == [True, False]
    table.bind("more", a)
    assert table.make_room()
    table.bind("last", a)
    assert not table.make_room()
    assert {"leased", "held", "more", "last"} == {*a.sessions, "leased"}
    assert table.find("leased") is not None


def test_of_what_is_lost_together_the_one_that_was_tied_first_is_the_oldest() -> None:
    names = [f"s{number}" for number in range(20)]  # a set would have them in any order
    table, a = SessionTable(20), lane_of(0)
    for session in names:
        table.bind(session, a)
    table.lose(a, WHY, None)
    for number in range(20):
        assert table.make_room()
        assert [table.find(name) is None for name in names].count(True) == number + 1
        assert table.find(names[number]) is None
        table.bind(f"new {number}", a)


def test_room_is_counted_with_what_is_about_to_begin() -> None:
    table = SessionTable(2)
    assert table.make_room(1)
    assert not table.make_room(2)
