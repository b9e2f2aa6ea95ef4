"""Every error carries its facts, survives pickling and copying, and is caught as people expect."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from anyio_bus import _errors
from anyio_bus._errors import (
    BusError,
    BusInternalError,
    BusStoppedError,
    ConnectionLostError,
    Failure,
    FrameTooLargeError,
    InvalidArgumentError,
    InvalidStateError,
    KernelCode,
    LocalProtocolError,
    NotSupportedError,
    OverloadedError,
    PolicyDeniedError,
    PoolUnavailableError,
    ProtocolError,
    RemoteError,
    RemoteProtocolError,
    RequestTimeoutError,
    ScopeCancelledError,
    SessionLostError,
    StreamOverflowError,
    TransportError,
    UnknownPoolError,
    WorkerLostError,
    WorkerStartError,
    error_from_failure,
)

WITH_FACTS: list[tuple[BusError, dict[str, object]]] = [
    (InvalidArgumentError("m", field="id"), {"field": "id"}),
    (UnknownPoolError("m", pool="p", field="pool"), {"pool": "p", "field": "pool"}),
    (NotSupportedError("m", backend="connect"), {"backend": "connect"}),
    (InvalidStateError("m"), {}),
    (
        RequestTimeoutError("m", method="echo", pool="p", timeout_s=1.5, sent=False),
        {"method": "echo", "pool": "p", "timeout_s": 1.5, "sent": False},
    ),
    (RemoteError(-1, "m", [1]), {"code": -1, "message": "m", "data": [1]}),
    (PolicyDeniedError(-2, "m"), {"code": -2, "message": "m", "data": None}),
    (OverloadedError("m", limit="max_queued"), {"limit": "max_queued", "sent": False}),
    (TransportError("m"), {"sent": True}),
    (BusStoppedError("m", sent=False), {"sent": False}),
    (
        ConnectionLostError("m", reason="r", permanent=True),
        {"reason": "r", "permanent": True, "sent": True},
    ),
    (
        WorkerStartError("m", errno=2, phase="spawn", permanent=True, stderr_tail="oops"),
        {"errno": 2, "phase": "spawn", "permanent": True, "stderr_tail": "oops", "sent": True},
    ),
    (WorkerLostError("m", pid=7, signal=9), {"pid": 7, "signal": 9, "exit_code": None}),
    (ScopeCancelledError("m", reason="deadline"), {"reason": "deadline"}),
    (StreamOverflowError("m", buffered_bytes=5), {"buffered_bytes": 5}),
    (SessionLostError("m", session="s"), {"session": "s"}),
    (PoolUnavailableError("m", pool="p", reason="parked"), {"pool": "p", "reason": "parked"}),
    (FrameTooLargeError("m", limit_bytes=9), {"limit_bytes": 9}),
    (ProtocolError("m"), {}),
    (LocalProtocolError("m"), {}),
    (RemoteProtocolError("m", line_prefix=b"\xff"), {"line_prefix": b"\xff", "sent": True}),
    (BusInternalError("m"), {}),
]
NAMES = [type(error).__name__ for error, _ in WITH_FACTS]


def all_errors(base: type[BusError] = BusError) -> set[str]:
    """Return the names of all classes of the hierarchy but its root."""
    classes = [cls for cls in base.__subclasses__() if cls.__module__ == _errors.__name__]
    return {cls.__name__ for cls in classes}.union(*map(all_errors, classes))


def roundtrip(error: BusError) -> BusError:
    restored = pickle.loads(pickle.dumps(error))
    assert isinstance(restored, BusError)
    return restored


def test_every_error_of_the_hierarchy_is_tested_here_and_exported() -> None:
    assert set(NAMES) == all_errors()
    assert set(_errors.__all__) >= all_errors()


@pytest.mark.parametrize(("error", "facts"), WITH_FACTS, ids=NAMES)
@pytest.mark.parametrize("again", [lambda error: error, roundtrip, copy.copy, copy.deepcopy])
def test_an_error_keeps_its_sentence_and_its_facts(
    error: BusError, facts: dict[str, object], again: Callable[[BusError], BusError]
) -> None:
    restored = again(error)

    assert type(restored) is type(error)
    assert str(restored) == str(error)
    assert {name: getattr(restored, name) for name in facts} == facts


def test_notes_survive_pickling() -> None:
    error = WorkerLostError("m", pid=7)
    error.add_note("while stopping")

    assert roundtrip(error).__notes__ == ["while stopping"]


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (InvalidArgumentError, ValueError),
        (UnknownPoolError, ValueError),
        (RequestTimeoutError, TimeoutError),
        (BusStoppedError, anyio.ClosedResourceError),
        (ConnectionLostError, anyio.BrokenResourceError),
        (WorkerStartError, OSError),
        (WorkerLostError, anyio.BrokenResourceError),
    ],
)
def test_an_error_is_caught_as_what_people_already_catch(
    error: type[BusError], builtin: type[Exception]
) -> None:
    assert issubclass(error, builtin)


def test_a_fact_that_is_not_given_has_its_default() -> None:
    error = WorkerLostError("gone")

    assert (error.pid, error.reason, error.sent) == (None, "", True)
    assert vars(error) == {}


def test_a_fact_that_an_error_does_not_have_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="SessionLostError has no attribute 'pid'"):
        SessionLostError("m", pid=7)


@pytest.mark.parametrize(
    "cls", dict.fromkeys(type(error) for error, _ in WITH_FACTS), ids=lambda cls: cls.__name__
)
def test_help_of_an_error_names_each_of_its_facts(cls: type[BusError]) -> None:
    told = RemoteError if issubclass(cls, RemoteError) else cls
    for fact in cls._fact_names:
        assert f"    {fact}: " in (told.__doc__ or "")


def test_an_error_without_a_sentence_has_an_empty_one() -> None:
    emptied = BusError("m")
    emptied.args = ()

    assert (str(BusError()), str(emptied)) == ("", "")


def test_the_text_of_a_remote_error_has_message_and_code() -> None:
    assert str(RemoteError(-32601, "no such method")) == "no such method (code -32601)"


class OurError(SessionLostError, RemoteProtocolError):
    """What a user may derive."""

    attempts: int = 0
    _hidden: int = 0


def test_a_derived_error_has_the_facts_of_all_its_bases_and_its_own() -> None:
    error = OurError("m", session="s", line_prefix=b"x", attempts=3, sent=False)

    restored = roundtrip(error)

    assert vars(restored) == {"session": "s", "line_prefix": b"x", "attempts": 3, "sent": False}
    with pytest.raises(TypeError, match="_hidden"):
        OurError("m", _hidden=1)


# -- what a kernel's failure becomes -------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KernelCode.PARSE_ERROR, LocalProtocolError),
        (KernelCode.INVALID_REQUEST, LocalProtocolError),
        (KernelCode.WORKER_LOST, WorkerLostError),
        (KernelCode.NO_WORKER, PoolUnavailableError),
        (KernelCode.OVERLOADED, OverloadedError),
        (KernelCode.FRAME_TOO_LARGE, FrameTooLargeError),
        (KernelCode.SHUTTING_DOWN, BusStoppedError),
        (KernelCode.SESSION_LOST, SessionLostError),
        (KernelCode.CONNECTION_LOST, ConnectionLostError),
        (KernelCode.CANCELLED, ScopeCancelledError),
        (KernelCode.INTERNAL_ERROR, TransportError),
        (-1, TransportError),
    ],
)
@pytest.mark.parametrize("sent", [True, False])
def test_a_failure_becomes_the_error_of_its_code(
    code: int, kind: type[BusError], sent: bool
) -> None:
    error: Any = error_from_failure(Failure(code=code, message="why", sent=sent))

    assert error.sent is sent
    assert str(error) == "why"
    assert type(error) is kind


def test_an_unknown_pool_is_a_wrong_argument() -> None:
    failure = Failure(code=KernelCode.UNKNOWN_POOL, message="no pool 'p'", pool="p")
    error = error_from_failure(failure)

    assert type(error) is UnknownPoolError
    assert (error.pool, error.field) == ("p", "pool")


FULL = Failure(
    code=KernelCode.WORKER_LOST,
    message="why",
    reason="was killed by SIGKILL",
    pool="p",
    worker=3,
    pid=77,
    exit_code=4,
    signal=9,
    errno=2,
    permanent=True,
    limit_bytes=10,
    stderr_tail="oops",
    sent=False,
)


def facts_of(failure: Failure, **changes: Any) -> dict[str, object]:
    """Return the facts of the error that a failure becomes."""
    values = {name: getattr(failure, name) for name in failure.__struct_fields__}
    return vars(error_from_failure(Failure(**{**values, **changes})))


def test_a_lost_worker_is_described_in_full() -> None:
    assert facts_of(FULL) == {
        "pool": "p",
        "worker": 3,
        "pid": 77,
        "exit_code": 4,
        "signal": 9,
        "reason": "was killed by SIGKILL",
        "stderr_tail": "oops",
        "sent": False,
    }


def test_a_worker_that_died_in_a_phase_of_its_start_did_not_start() -> None:
    error = error_from_failure(Failure(code=KernelCode.WORKER_LOST, message="m", phase="handshake"))

    assert type(error) is WorkerStartError
    assert facts_of(FULL, phase="spawn") == {
        "pool": "p",
        "worker": 3,
        "pid": 77,
        "phase": "spawn",
        "errno": 2,
        "exit_code": 4,
        "signal": 9,
        "stderr_tail": "oops",
        "permanent": True,
        "sent": False,
    }


@pytest.mark.parametrize(
    ("code", "facts"),
    [
        (KernelCode.NO_WORKER, {"pool": "p", "reason": "was killed by SIGKILL", "sent": False}),
        (KernelCode.OVERLOADED, {"limit": "was killed by SIGKILL", "sent": False}),
        (KernelCode.FRAME_TOO_LARGE, {"limit_bytes": 10, "sent": False}),
        (KernelCode.CANCELLED, {"reason": "was killed by SIGKILL", "sent": False}),
    ],
)
def test_each_error_takes_the_facts_that_it_has(code: int, facts: dict[str, object]) -> None:
    assert facts_of(FULL, code=code) == facts
