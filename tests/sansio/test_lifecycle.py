"""The life of a slot over all states and events."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyio_bus._sansio.lifecycle import TABLE, Action, Event, Lifecycle, State

# The shortest way to each state.
WAYS: dict[State, list[Event]] = {
    State.VACANT: [],
    State.STARTING: [Event.SPAWN],
    State.READY: [Event.SPAWN, Event.UP],
    State.DRAINING: [Event.SPAWN, Event.UP, Event.DRAIN],
    State.STOPPING: [Event.SPAWN, Event.KILL],
    State.BACKOFF: [Event.SPAWN, Event.EXITED],
    State.PARKED: [Event.SPAWN, Event.EXITED, Event.GIVE_UP],
    State.STOPPED: [Event.RETIRE],
}
RUNNING = [State.STARTING, State.READY, State.DRAINING, State.STOPPING]
RESTING = [State.VACANT, State.BACKOFF, State.PARKED]

histories = st.lists(st.sampled_from(list(Event)))


def slot_in(state: State) -> Lifecycle:
    """Lead a new slot into a state."""
    life = Lifecycle()
    for event in WAYS[state]:
        life.fire(event)
    assert life.state is state
    return life


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_event_in_every_state_does_what_the_table_says(state: State, event: Event) -> None:
    life = slot_in(state)
    expected = TABLE[state].get(event, (state, Action.NONE))

    action = life.fire(event)

    assert (life.state, action) == expected


def test_the_table_has_a_row_for_every_state() -> None:
    assert set(TABLE) == set(State)


def test_the_design_page_shows_the_same_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "design" / "kernel.md").read_text("utf-8")
    shown = page.partition("<!-- table: lifecycle -->")[2].partition("<!-- end -->")[0]
    head, _, *rows = [
        [cell.strip().strip("`") for cell in line.split("|")[1:-1]]
        for line in shown.strip().splitlines()
    ]

    assert head[1:] == [str(event) for event in Event]
    assert {row[0]: row[1:] for row in rows} == {
        str(state): [", ".join(TABLE[state].get(event, ())) for event in Event] for state in State
    }


@given(histories)
def test_stopped_is_final(history: list[Event]) -> None:
    life = slot_in(State.STOPPED)

    assert {life.fire(event) for event in history} <= {Action.NONE}
    assert life.state is State.STOPPED


@given(histories, histories)
def test_a_retired_slot_ends_when_its_process_exits_whatever_happens_meanwhile(
    before: list[Event], after: list[Event]
) -> None:
    life = Lifecycle()
    for event in (*before, Event.RETIRE, *after):
        life.fire(event)
    life.fire(Event.EXITED)

    assert life.retired
    assert life.state is State.STOPPED


@given(histories)
def test_processes_are_started_and_buried_in_turn(history: list[Event]) -> None:
    life = Lifecycle()
    runs = False
    for event in history:
        action = life.fire(event)
        if action is Action.START:
            assert not runs
            runs = True
        elif action in (Action.BURY, Action.FINISH):
            assert runs
            runs = False
        assert runs is (life.state in RUNNING)


@given(histories)
def test_a_slot_is_stopped_only_if_it_was_retired(history: list[Event]) -> None:
    life = Lifecycle()
    for event in history:
        life.fire(event)

    assert life.retired is (Event.RETIRE in history)
    assert life.retired or life.state is not State.STOPPED


@given(histories)
def test_work_is_admitted_only_into_ready_and_ended_before_the_ladder(history: list[Event]) -> None:
    life = Lifecycle()
    takes_work = False
    for event in history:
        action = life.fire(event)
        takes_work = action is Action.ADMIT or (takes_work and action is Action.NONE)
        assert takes_work is (life.state is State.READY)


@pytest.mark.parametrize("state", RUNNING)
def test_a_running_slot_that_is_retired_stops_and_has_no_successor(state: State) -> None:
    life = slot_in(state)

    climbs = life.fire(Event.RETIRE)

    assert climbs is (Action.NONE if state is State.STOPPING else Action.CLIMB)
    assert life.fire(Event.EXITED) is Action.FINISH
    assert life.state is State.STOPPED


@pytest.mark.parametrize("state", RESTING)
def test_a_resting_slot_that_is_retired_is_stopped_at_once(state: State) -> None:
    life = slot_in(state)

    assert life.fire(Event.RETIRE) is Action.FORGET
    assert life.state is State.STOPPED


def test_a_slot_that_was_not_retired_gets_a_successor() -> None:
    life = slot_in(State.READY)

    assert not life.retired
    assert life.fire(Event.KILL) is Action.CLIMB
    assert life.fire(Event.EXITED) is Action.BURY
    assert life.fire(Event.SPAWN) is Action.START
