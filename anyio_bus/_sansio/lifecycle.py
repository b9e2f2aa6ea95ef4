"""Own the life of a worker slot: what each event means in each state, as one table.

``docs/design/kernel.md`` shows the same table, and a test compares the two; the C kernel implements
that page. Whoever runs a slot calls :meth:`Lifecycle.fire` and does the action that it returns.
"""

from __future__ import annotations

import enum

__all__ = ("TABLE", "Action", "Event", "Lifecycle", "State")


class State(enum.StrEnum):
    """Where a slot stands."""

    VACANT = "vacant"  # no process, none planned until somebody asks
    STARTING = "starting"  # a process exists; its exec or its handshake is not yet done
    READY = "ready"  # takes work
    DRAINING = "draining"  # takes no new work, finishes what it has
    STOPPING = "stopping"  # the stop ladder runs
    BACKOFF = "backoff"  # dead; starts again when its delay is over
    PARKED = "parked"  # given up; starts again on request or by the slow retry
    STOPPED = "stopped"  # ended for good


class Event(enum.StrEnum):
    """What happens to a slot."""

    SPAWN = "spawn"  # a process was asked for: at start, by timer, or by request
    UP = "up"  # exec succeeded and the handshake, if any, was answered
    DRAIN = "drain"  # finish, then end
    DRAINED = "drained"  # nothing is in flight any more, or the drain time is over
    HUNG_UP = "hung_up"  # closed its stdin or stdout, or its handshake failed
    KILL = "kill"  # end it now, and start a successor
    EXITED = "exited"  # the process is gone and reaped
    GIVE_UP = "give_up"  # the restart policy says: park
    REST = "rest"  # its end was asked for, and nothing waits: no successor until somebody asks
    RETIRE = "retire"  # end it for good: the bus stops or the pool shrinks


class Action(enum.StrEnum):
    """What the owner of the slot does then."""

    NONE = "none"  # nothing to do; the event is late or has no meaning here
    START = "start"  # spawn a process
    ADMIT = "admit"  # let the router give it work
    CLOSE = "close"  # no new work
    CLIMB = "climb"  # no new work, and the stop ladder
    BURY = "bury"  # fail what is in flight, ask the restart policy
    FINISH = "finish"  # fail what is in flight; no successor
    FORGET = "forget"  # nothing runs; drop the plan to start


S, E, A = State, Event, Action

TABLE: dict[State, dict[Event, tuple[State, Action]]] = {
    S.VACANT: {E.SPAWN: (S.STARTING, A.START), E.RETIRE: (S.STOPPED, A.FORGET)},
    S.STARTING: {
        E.UP: (S.READY, A.ADMIT),
        E.DRAIN: (S.STOPPING, A.CLIMB),
        E.HUNG_UP: (S.STOPPING, A.CLIMB),
        E.KILL: (S.STOPPING, A.CLIMB),
        E.EXITED: (S.BACKOFF, A.BURY),
        E.RETIRE: (S.STOPPING, A.CLIMB),
    },
    S.READY: {
        E.DRAIN: (S.DRAINING, A.CLOSE),
        E.HUNG_UP: (S.STOPPING, A.CLIMB),
        E.KILL: (S.STOPPING, A.CLIMB),
        E.EXITED: (S.BACKOFF, A.BURY),
        E.RETIRE: (S.STOPPING, A.CLIMB),
    },
    S.DRAINING: {
        E.DRAINED: (S.STOPPING, A.CLIMB),
        E.HUNG_UP: (S.STOPPING, A.CLIMB),
        E.KILL: (S.STOPPING, A.CLIMB),
        E.EXITED: (S.BACKOFF, A.BURY),
        E.RETIRE: (S.STOPPING, A.CLIMB),
    },
    S.STOPPING: {E.EXITED: (S.BACKOFF, A.BURY)},
    S.BACKOFF: {
        E.SPAWN: (S.STARTING, A.START),
        E.GIVE_UP: (S.PARKED, A.NONE),
        E.REST: (S.VACANT, A.NONE),
        E.RETIRE: (S.STOPPED, A.FORGET),
    },
    S.PARKED: {E.SPAWN: (S.STARTING, A.START), E.RETIRE: (S.STOPPED, A.FORGET)},
    S.STOPPED: {},
}


class Lifecycle:
    """The state of one slot. A slot that was retired ends in ``STOPPED`` when its process exits."""

    __slots__ = ("_retired", "state")

    def __init__(self) -> None:
        self.state = State.VACANT
        self._retired = False

    @property
    def retired(self) -> bool:
        """Whether it has been told to end for good."""
        return self._retired

    def fire(self, event: Event) -> Action:
        """Take an event; return what is to be done. One without meaning here changes nothing."""
        if event is Event.RETIRE:
            self._retired = True
        state, action = TABLE[self.state].get(event, (self.state, Action.NONE))
        if self._retired and state is State.BACKOFF:
            state, action = State.STOPPED, Action.FINISH
        self.state = state
        return action
