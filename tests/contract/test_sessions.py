"""Every backend: what is called in a session stays on one worker, and the session's end is told."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from anyio_bus import (
    AuditEvent,
    Bus,
    Identity,
    InvalidArgumentError,
    InvalidStateError,
    ScopeCancelledError,
    Session,
    SessionLostError,
    WorkerLostError,
)
from tests.bus.support import begin, held, log, methods, until
from tests.contract.places import SCRIPTED, Place, all_places

pytestmark = all_places

TWO: dict[str, Any] = {"instances": 2}


async def lose(bus: Bus, worker: int) -> None:
    """Kill a worker and wait for its successor."""
    generation = next(w.generation for w in bus.workers() if w.worker == worker)
    bus._backend.kill(worker)
    await until(lambda: all(w.generation > generation for w in bus.workers() if w.worker == worker))
    await bus.wait_ready()


async def test_a_session_stays_on_one_worker(place: Place) -> None:
    async with place.bus(pool=TWO) as bus, bus.session() as session:
        assert session.worker is None
        for _ in range(4):
            await session.notify("mine")
        await bus.notify("mine", session=session.id)
        await bus.notify("other")
        await bus.refresh()
        assert session.worker is not None
        assert methods(await log(bus, session=session)) == ["mine"] * 5
        assert await session.request("echo", [1]) == [1]
        assert len(session.id) == 32
        await bus.refresh()
        assert bus.statistics().kernel.sessions == 1
    assert bus.statistics().kernel.sessions == 0


async def test_any_text_names_a_session(place: Place) -> None:
    async with place.bus(pool=TWO) as bus:
        for _ in range(4):
            await bus.notify("mine", session="s")
        await bus.send(b'{"method":"raw","sessionId":"s"}')
        await bus.request_raw(b'{"id":1,"method":"echo","sessionId":"s"}')
        assert methods(await log(bus, session="s")) == ["mine"] * 4 + ["raw", "echo"]


async def test_a_session_remembers_its_pool(place: Place) -> None:
    async with place.bus({"a": SCRIPTED, "b": SCRIPTED}) as bus:
        async with bus.session(pool="b") as session:
            assert (session.pool, await session.request("echo", [1])) == ("b", [1])
            assert await bus.request("echo", [1], session=session) == [1]
            with pytest.raises(InvalidArgumentError, match="'b'") as caught:
                await bus.request("echo", session=session, pool="a")
            assert caught.value.field == "pool"
        await bus.notify("mine", session="s", pool="b")
        await bus.refresh()
        assert methods(await log(bus, session="s")) == ["echo", "echo", "mine"]
        with pytest.raises(InvalidArgumentError, match="pool= must be given"):
            await bus.request("echo", session="never")


async def test_a_lost_session_is_told_once_and_begins_anew(place: Place) -> None:
    async with place.bus(pool=TWO) as bus, bus.session() as session:
        await session.request("echo")
        assert session.worker is not None
        assert not session.lost
        await lose(bus, session.worker)
        assert session.lost
        with pytest.raises(SessionLostError, match=session.id) as caught:
            await session.request("echo")
        assert caught.value.session == session.id
        assert not caught.value.sent
        assert not session.lost
        assert await session.request("echo", [1]) == [1]


async def test_a_session_with_rebind_goes_on_elsewhere(place: Place) -> None:
    async with place.bus(pool=TWO) as bus, bus.session(rebind=True) as session:
        await session.request("echo")
        assert session.worker is not None
        await lose(bus, session.worker)
        assert await session.request("echo", [1]) == [1]


async def test_a_call_in_flight_learns_why_the_worker_died(place: Place) -> None:
    async with place.bus() as bus, bus.session() as session, anyio.create_task_group() as tasks:
        call = begin(tasks, lambda: session.request("hold"))
        await held(bus, 1)
        bus._backend.kill(session.worker or 0)
        with pytest.raises(WorkerLostError):
            await call.wait()


async def test_leaving_a_session_withdraws_its_calls(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        async with bus.session() as session:
            call = begin(tasks, lambda: session.request("hold"))
            await held(bus, 1)
        with pytest.raises(ScopeCancelledError):
            await call.wait()
        assert methods(await log(bus)) == ["hold", "$/cancelRequest"]
        with pytest.raises(InvalidStateError, match="over"):
            await session.request("echo")
        with pytest.raises(InvalidStateError, match="over"):
            await bus.notify("echo", session=session)


async def test_a_session_is_named_on_the_wire_only_where_the_envelope_is_kept(place: Place) -> None:
    identity, audit = Identity("me", "admin"), AuditEvent("e1", "look", actor="me")
    for envelope in ("strip", "keep"):
        async with place.bus(pool={"envelope": envelope}) as bus:
            options = {"identity": identity, "audit": audit, "agent_id": "a"}
            async with bus.session(id="s", **options) as session:
                await session.notify("note")
                await session.request("echo", [1])
                await session.request_raw(b'{"id":1,"method":"echo","sessionId":"x","params":[1]}')
                frames = await log(bus, session=session)
        for frame in frames:
            assert frame.get("sessionId") == ("s" if envelope == "keep" else None)
            assert frame["agentId"] == "a"
            assert frame["_ext"] == {
                "identity": {"subjectId": "me", "role": "admin", "assertedBy": "self"},
                "audit": {"eventId": "e1", "action": "look", "actor": "me"},
            }
        assert len(frames) == 3


async def test_an_id_is_open_once(place: Place) -> None:
    async with place.bus() as bus, bus.session(id="s"):
        with pytest.raises(InvalidArgumentError, match="open already") as caught:
            async with bus.session(id="s"):
                pass
        assert caught.value.field == "id"


async def test_bad_sessions_are_refused_by_name(place: Place) -> None:
    async with place.bus() as bus, place.bus() as other:
        wrong: Any
        for wrong in ("", 5, Session):
            with pytest.raises(InvalidArgumentError) as caught:
                await bus.request("echo", session=wrong)
            assert caught.value.field == "session"
        for field, value in (
            ("id", ""),
            ("identity", "me"),
            ("audit", {}),
            ("agent_id", 5),
            ("env", {}),
        ):
            options: dict[str, Any] = {field: value}
            with pytest.raises(InvalidArgumentError) as caught:
                async with bus.session(**options):
                    pass
            assert caught.value.field == field
        async with other.session() as session:
            with pytest.raises(InvalidArgumentError, match="another bus"):
                await bus.request("echo", session=session)


async def test_an_agents_session_is_known_by_its_own_name(place: Place) -> None:
    async with place.bus(pool={"instances": 2, "session": "acp"}) as bus:
        made = [(await bus.request("session/new"))["sessionId"] for _ in range(4)]
        for session in made * 2:
            assert await bus.request("session/prompt", {"sessionId": session}) == session
            await bus.notify("session/cancel", {"sessionId": session})
        raw = {"id": 1, "method": "session/prompt", "params": {"sessionId": made[0]}}
        await bus.request_raw(json.dumps(raw | {"sessionId": "no matter"}))

        logs = [await log(bus, session=session) for session in made]
        for session, lines in zip(made, logs, strict=True):
            named = [line for line in lines if line.get("params", {}).get("sessionId") == session]
            assert len(named) == 4 + (session == made[0])
        await bus.refresh()
        assert bus.statistics().kernel.sessions == 4
        await bus.end_session(made[0])
        await bus.refresh()
        assert bus.statistics().kernel.sessions == 3


@pytest.mark.parametrize("kind", ["acp", "params.sessionId"])
async def test_the_session_of_a_call_is_stronger_than_what_its_params_say(
    place: Place, kind: str
) -> None:
    async with place.bus(pool={"instances": 2, "session": kind}) as bus:
        async with bus.session(id="mine") as session:
            for number in range(4):
                name = {"sessionId": f"s{number}"}
                assert await session.request("session/prompt", name) == f"s{number}"
                await session.notify("note", name)
            await bus.request("session/prompt", {"sessionId": "s9"}, session="mine")
            assert len(await log(bus, session=session)) == 9
            await bus.refresh()
            assert bus.statistics().kernel.sessions == 1
            await lose(bus, session.worker or 0)
            with pytest.raises(SessionLostError, match="mine"):
                await session.request("session/load", {"sessionId": "mine"})


async def test_an_agents_session_is_lost_until_it_is_loaded(place: Place) -> None:
    async with place.bus(pool={"session": "acp"}) as bus:
        made = [(await bus.request("session/new"))["sessionId"] for _ in range(2)]
        await lose(bus, 0)
        await bus.request("session/load", {"sessionId": made[0]})
        assert await bus.request("session/prompt", {"sessionId": made[0]}) == made[0]
        with pytest.raises(SessionLostError, match=made[1]):
            await bus.request("session/prompt", {"sessionId": made[1]})


async def test_a_session_can_be_named_at_any_place_of_the_params(place: Place) -> None:
    async with place.bus(pool={"instances": 2, "session": "params.thread.id"}) as bus:
        for _ in range(4):
            await bus.notify("note", {"thread": {"id": "t"}})
            await bus.notify("note", {"thread": {}})
        lines = await log(bus, session="t")
        assert sum(line["params"] == {"thread": {"id": "t"}} for line in lines) == 4


async def test_a_session_with_a_block_is_not_ended_by_name(place: Place) -> None:
    async with place.bus() as bus, bus.session() as session:
        with pytest.raises(InvalidArgumentError, match="block"):
            await bus.end_session(session.id)


async def test_what_waits_for_a_session_with_rebind_survives_its_worker(place: Place) -> None:
    pool = {"instances": 2, "max_in_flight": 1}
    async with place.bus(pool=pool) as bus, bus.session(rebind=True) as session:
        async with anyio.create_task_group() as tasks:
            first = begin(tasks, lambda: session.request("hold"))
            await held(bus, 1)
            second = begin(tasks, lambda: session.request("echo", [2]))
            await until(lambda: bus.statistics().kernel.queued_requests == 1)
            bus._backend.kill(session.worker or 0)
            with pytest.raises(WorkerLostError):
                await first.wait()
            assert await second.wait() == [2]
