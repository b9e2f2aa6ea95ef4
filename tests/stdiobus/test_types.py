"""The value types: fields, defaults, checks, and what they are on the wire."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from anyio_bus import stdiobus as s
from anyio_bus.stdiobus import errors
from anyio_bus.stdiobus.types import ExtensionInfo


def test_a_configuration_is_the_kernel_s_json_without_limits_that_are_not_set() -> None:
    config = s.BusConfig([s.PoolConfig("a", "run", ["-x"], 2)], s.LimitsConfig(max_restarts=0))
    assert json.loads(config.to_json()) == {
        "pools": [{"id": "a", "command": "run", "args": ["-x"], "instances": 2}],
        "limits": {"max_restarts": 0},
    }
    bare = s.BusConfig([s.PoolConfig(id="a", command="run")], s.LimitsConfig())
    assert json.loads(bare.to_json()) == {
        "pools": [{"id": "a", "command": "run", "args": [], "instances": 1}]
    }


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (s.BusConfig(), "pools"),
        (s.BusConfig([s.PoolConfig("", "run")]), r"pools\[0\].id"),
        (s.BusConfig([s.PoolConfig("a", "run"), s.PoolConfig("b", "")]), r"pools\[1\].command"),
        (s.BusConfig([s.PoolConfig("a", "run", instances=0)]), r"pools\[0\].instances"),
    ],
)
def test_a_wrong_configuration_names_the_field(config: s.BusConfig, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        config.validate()
    with pytest.raises(s.InvalidArgumentError, match=field):
        s.AsyncStdioBus(config)
    with pytest.raises(ValueError, match=field):  # as callers of the other client expect
        s.StdioBus(config)


def test_listeners_are_checked_by_their_mode() -> None:
    assert s.NativeOptions("unix", unix_path="/x").listen_mode is s.ListenMode.UNIX
    s.NativeOptions("tcp", tcp_port=65535).validate()
    with pytest.raises(ValueError, match="listen_mode"):
        s.NativeOptions("carrier pigeon")
    for wrong, field in [
        (s.NativeOptions(s.ListenMode.TCP), "tcp_port"),
        (s.NativeOptions("tcp", tcp_port=0), "tcp_port"),
        (s.NativeOptions("tcp", tcp_port=65536), "tcp_port"),
        (s.NativeOptions("unix"), "unix_path"),
        (s.NativeOptions(poll_interval_ms=0), "poll_interval_ms"),
    ]:
        with pytest.raises(ValueError, match=field):
            wrong.validate()


def test_modes_and_states_equal_their_text_and_number() -> None:
    assert s.BackendMode("docker") is s.BackendMode.DOCKER == "docker"
    assert s.OverflowPolicy.DROP == "drop"
    assert s.OverflowPolicy.DROP_OLDEST == "drop_oldest"
    assert [state.name for state in sorted(s.BusState)] == [
        "CREATED",
        "STARTING",
        "RUNNING",
        "STOPPING",
        "STOPPED",
    ]
    assert s.BusState.RUNNING == 2


def test_a_stream_event_s_type_equals_text_and_member_and_its_data_is_what_it_brings() -> None:
    chunk = s.StreamEvent(s.StreamEventType.CHUNK, text="a")
    result = s.StreamEvent(s.StreamEventType.RESULT, result={"text": "a"})
    assert chunk.type == "chunk"
    assert chunk.type == s.StreamEventType.CHUNK
    assert (chunk.data, result.data) == ("a", {"text": "a"})
    with pytest.raises(AttributeError):
        chunk.text = "b"  # type: ignore[misc]


def test_the_hello_and_the_extensions_have_their_names_on_the_wire() -> None:
    asked = s.HelloParams(extensions={"x": ExtensionInfo("1", required=True)})
    assert asked.to_dict() == {
        "protocolVersion": "0.1.0",
        "extensions": {"x": {"version": "1", "required": True}},
    }
    answer = {
        "negotiatedProtocolVersion": "0.1.0",
        "sessionId": "s",
        "extensions": {"x": {"selected": "2", "active": True}, "y": {"version": "3"}},
    }
    assert s.HelloResult.from_dict(answer) == s.HelloResult(
        "0.1.0", "s", {"x": ExtensionInfo("2", active=True), "y": ExtensionInfo("3")}
    )
    assert s.HelloResult.from_dict({}) == s.HelloResult("", "", {})


def test_identity_and_audit_leave_out_what_is_not_set() -> None:
    assert s.Identity("u", "r").to_dict() == {
        "subjectId": "u",
        "role": "r",
        "assertedBy": "self",
    }
    assert s.AuditEvent("e", "read").to_dict() == {"eventId": "e", "action": "read"}
    whole = s.AuditEvent("e", "read", "p", "t", {"id": "x"}, "file", "ok").to_dict()
    assert list(whole) == [
        "eventId",
        "action",
        "parentEventId",
        "timestamp",
        "actor",
        "resource",
        "outcome",
    ]


def test_errors_have_code_message_details_and_text() -> None:
    error = s.TimeoutError("too late", {"after": 1})
    assert str(error) == "[TIMEOUT] too late"
    assert (error.code, error.message, error.details) == (3, "too late", {"after": 1})
    assert error.to_dict() == {"code": 3, "message": "too late", "details": {"after": 1}}
    assert s.TransportError("gone").to_dict() == {"code": 5, "message": "gone"}
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(again), again.to_dict()) == (s.TimeoutError, error.to_dict())


def test_each_number_has_its_class_and_any_other_one_is_internal() -> None:
    classes = {code: type(errors.error_from_code(int(code), "m")) for code in errors.ErrorCode}
    assert {code.name: cls.__name__ for code, cls in classes.items()} == {
        "INVALID_ARGUMENT": "InvalidArgumentError",
        "INVALID_STATE": "InvalidStateError",
        "TIMEOUT": "TimeoutError",
        "CANCELLED": "CancelledError",
        "TRANSPORT_ERROR": "TransportError",
        "NEGOTIATION_FAILED": "NegotiationFailedError",
        "POLICY_DENIED": "PolicyDeniedError",
        "UNAVAILABLE": "UnavailableError",
        "RESOURCE_EXHAUSTED": "ResourceExhaustedError",
        "NOT_SUPPORTED": "NotSupportedError",
        "INTERNAL": "InternalError",
    }
    assert type(errors.error_from_code(-32601, "m")) is s.InternalError
    assert errors.error_from_code("1", "m").code == 99
