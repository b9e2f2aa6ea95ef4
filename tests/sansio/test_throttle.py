"""A log that others can fill is bounded, and says how much it left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anyio_bus._sansio.throttle import Throttle, Throttles


def test_a_burst_passes_and_what_is_over_is_counted() -> None:
    throttle = Throttle(2, 10.0)
    assert [throttle.take(0.0) for _ in range(5)] == [0, 0, None, None, None]
    assert throttle.suppressed == 3


def test_the_next_window_begins_with_the_first_line_after_the_last() -> None:
    throttle = Throttle(1, 10.0)
    assert throttle.take(5.0) == 0
    assert throttle.take(14.9) is None
    assert throttle.take(100.0) == 1
    assert throttle.take(109.9) is None
    assert throttle.take(110.0) == 1


def test_the_note_says_how_many_were_left_out() -> None:
    throttle = Throttle(1, 10.0)
    assert throttle.note(0.0) == ""
    assert throttle.note(1.0) is None
    assert throttle.note(2.0) is None
    assert throttle.note(10.0) == " (2 more of these were not logged)"
    assert throttle.note(20.0) == ""


def test_each_source_has_its_own_until_it_is_dropped() -> None:
    throttles = Throttles(1, 10.0)
    assert throttles.note("loud", 0.0) == ""
    assert throttles.note("loud", 0.0) is None
    assert throttles.note("quiet", 0.0) == ""
    throttles.drop("loud")
    throttles.drop("unknown")
    assert throttles.note("loud", 0.0) == ""


@given(
    st.integers(1, 5),
    st.floats(0.1, 10),
    st.lists(st.floats(0, 3), max_size=60),
)
def test_never_more_than_two_bursts_in_a_window_s_time_and_none_is_forgotten(
    burst: int, window_s: float, gaps: list[float]
) -> None:
    throttle = Throttle(burst, window_s)
    now, passed, told = 0.0, [], 0
    for gap in gaps:
        now += gap
        suppressed = throttle.take(now)
        if suppressed is not None:
            passed.append(now)
            told += suppressed
    assert told + throttle.suppressed + len(passed) == len(gaps)
    for start in passed:
        assert sum(start <= at < start + window_s for at in passed) <= 2 * burst
