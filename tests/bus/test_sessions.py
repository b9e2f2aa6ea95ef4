"""What a session adds to its calls: the greeting, its scope, its own words for wrong use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
import pytest

from anyio_bus import (
    AuditEvent,
    HelloResult,
    Identity,
    InvalidArgumentError,
    Memory,
    Pool,
    ScopeCancelledError,
    Session,
    open_bus,
)
from anyio_bus.worker import Worker
from tests.bus.support import begin, held, one_worker


def greeter(seen: list[Any]) -> Worker:
    """Make a worker that answers hello."""
    worker = Worker()

    @worker.method("stdio_bus/hello")
    async def hello(params: Any) -> Any:
        seen.append(params)
        extensions = {"x": {"selected": "1.2", "active": True}}
        return {"negotiatedProtocolVersion": "0.1.0", "sessionId": "w1", "extensions": extensions}

    return worker


async def test_hello_greets_the_worker() -> None:
    seen: list[Any] = []
    async with open_bus(Pool("w", ["w"]), backend=Memory({"w": greeter(seen)})) as bus:
        async with bus.session() as session:
            result = await session.hello(extensions={"x": {"version": "1", "required": True}})
            assert session.worker == 0
    assert result == HelloResult("0.1.0", "w1", {"x": {"selected": "1.2", "active": True}})
    extensions = {"x": {"version": "1", "required": True}}
    assert seen == [{"protocolVersion": "0.1.0", "extensions": extensions}]


async def test_a_session_has_a_scope_unless_another_is_given() -> None:
    async with one_worker() as bus, bus.session() as session, anyio.create_task_group() as tasks:
        async with bus.open_scope() as other:
            mine = begin(tasks, lambda: session.request("hold"))
            named = begin(tasks, lambda: bus.request("hold", session=session))
            theirs = begin(tasks, lambda: session.request("hold", scope=other))
            await held(bus, 3)
            session.scope.cancel("enough")
            for call in (mine, named):
                with pytest.raises(ScopeCancelledError, match="enough"):
                    await call.wait()
            assert not theirs.over


def test_sessions_are_not_constructed() -> None:
    with pytest.raises(TypeError, match=r"bus\.session"):
        Session()


@pytest.mark.parametrize(
    ("kind", "values", "field"),
    [
        (Identity, (5, "admin"), "subject_id"),
        (Identity, ("me", None), "role"),
        (AuditEvent, ("e", "a", 5), "parent_event_id"),
    ],
)
def test_identities_and_audit_events_are_checked(
    kind: type[msgspec.Struct], values: Sequence[Any], field: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=rf"{kind.__name__}\.{field}") as caught:
        kind(*values)
    assert caught.value.field == field
