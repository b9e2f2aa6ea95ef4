"""What follows a death: a delay that grows, or a park with its reason."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyio_bus._config import Limits
from anyio_bus._sansio.backoff import Death, Park, RestartPolicy, Retry

ENDLESS = 1_000_000
CRASH = Death(uptime_s=1.0, started=True)
FAILED_START = Death(uptime_s=0.1, started=False)


def policy(random: float = 1.0, **limits: float) -> RestartPolicy:
    """Make a policy without jitter (``random=1.0`` gives the whole delay)."""
    return RestartPolicy(Limits(**limits), lambda: random)  # type: ignore[arg-type]


def delays(restarts: RestartPolicy, deaths: list[Death], every_s: float = 1.0) -> list[float]:
    """Return the delay after each death; all of them must be followed by one."""
    out = []
    for index, death in enumerate(deaths):
        decision = restarts.on_death(death, index * every_s)
        assert isinstance(decision, Retry)
        out.append(decision.delay_s)
    return out


def test_the_delay_doubles_up_to_its_limit() -> None:
    restarts = policy(restart_delay_s=0.5, restart_delay_max_s=3.0, max_restarts=ENDLESS)

    assert delays(restarts, [CRASH] * 5) == [0.5, 1.0, 2.0, 3.0, 3.0]


@given(st.floats(0.0, 1.0, exclude_max=True), st.integers(1, 50))
def test_half_of_the_delay_is_random(jitter: float, deaths: int) -> None:
    full = delays(policy(max_restarts=ENDLESS), [CRASH] * deaths)
    jittered = delays(policy(jitter, max_restarts=ENDLESS), [CRASH] * deaths)

    assert jittered == pytest.approx([delay * (0.5 + jitter / 2) for delay in full])


def test_the_delay_never_overflows() -> None:
    restarts = policy(max_restarts=ENDLESS, restart_delay_max_s=math.inf)

    assert all(map(math.isfinite, delays(restarts, [CRASH] * 3000)))


def test_a_long_life_starts_the_delay_anew() -> None:
    restarts = policy(restart_delay_s=1.0, stable_after_s=10.0, max_restarts=ENDLESS)
    long_life = Death(uptime_s=10.0, started=True)

    assert delays(restarts, [CRASH, CRASH, long_life, CRASH]) == [1.0, 2.0, 1.0, 2.0]


def test_a_long_start_that_failed_does_not() -> None:
    restarts = policy(restart_delay_s=1.0, stable_after_s=10.0, start_attempts=ENDLESS)
    slow_failure = Death(uptime_s=60.0, started=False)

    assert delays(restarts, [CRASH, slow_failure, CRASH]) == [1.0, 2.0, 4.0]


def test_more_than_max_restarts_within_the_window_park() -> None:
    restarts = policy(max_restarts=2, restart_window_s=60.0, park_retry_s=7.0)
    delays(restarts, [CRASH, CRASH], every_s=30.0)

    assert restarts.on_death(CRASH, 60.0) == Park("more than max_restarts=2 within 60 s", 7.0)


def test_the_window_slides() -> None:
    restarts = policy(max_restarts=2, restart_window_s=60.0)

    assert len(delays(restarts, [CRASH] * 20, every_s=30.1)) == 20


def test_a_burst_parks_however_long_ago_the_deaths_before_it_were() -> None:
    restarts = policy(max_restarts=2, restart_window_s=60.0)
    for now in (0.0, 100.0, 200.0, 270.0, 280.0):
        assert isinstance(restarts.on_death(CRASH, now), Retry)

    assert isinstance(restarts.on_death(CRASH, 290.0), Park)


def test_max_restarts_of_0_means_never() -> None:
    decision = policy(max_restarts=0).on_death(CRASH, 0.0)

    assert isinstance(decision, Park)
    assert "max_restarts=0" in decision.reason


def test_failed_starts_in_a_row_park() -> None:
    restarts = policy(start_attempts=3, max_restarts=ENDLESS)
    delays(restarts, [FAILED_START, FAILED_START])

    decision = restarts.on_death(FAILED_START, 3.0)

    assert decision == Park("3 starts in a row failed", 60.0)


def test_a_start_that_succeeds_ends_the_row() -> None:
    restarts = policy(start_attempts=2, max_restarts=ENDLESS)

    assert len(delays(restarts, [FAILED_START, CRASH, FAILED_START, CRASH])) == 4


def test_what_cannot_be_started_parks_at_once() -> None:
    hopeless = Death(uptime_s=0.0, started=False, permanent=True)

    assert policy().on_death(hopeless, 0.0) == Park("its command cannot be started", 60.0)


def test_a_park_retry_of_0_means_never() -> None:
    decision = policy(max_restarts=0, park_retry_s=0.0).on_death(CRASH, 0.0)

    assert isinstance(decision, Park)
    assert decision.retry_s is None


def test_a_death_that_was_asked_for_neither_waits_nor_counts() -> None:
    restarts = policy(restart_delay_s=1.0, max_restarts=1, start_attempts=2)
    asked = Death(uptime_s=0.0, started=False, asked=True, permanent=True)

    assert [restarts.on_death(asked, 0.0) for _ in range(5)] == [Retry(0.0)] * 5
    assert restarts.on_death(CRASH, 1.0) == Retry(1.0)


def test_a_reset_forgets_delay_window_and_failed_starts() -> None:
    restarts = policy(restart_delay_s=1.0, max_restarts=2, start_attempts=2)
    restarts.on_death(CRASH, 0.0)
    restarts.on_death(FAILED_START, 0.0)

    restarts.reset()

    assert restarts.on_death(FAILED_START, 0.0) == Retry(1.0)
    assert restarts.on_death(CRASH, 0.0) == Retry(2.0)
