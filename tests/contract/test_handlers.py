"""Every backend that there is: requests of workers, to the one that asked and to no other."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from anyio_bus import Bus, HandlerContext, Limits
from tests.bus.support import DONE, held, log, until
from tests.contract.places import Place, all_places

pytestmark = all_places


async def say(bus: Bus, *lines: str) -> None:
    assert await bus.request("say", {"lines": [*lines, DONE]}) == "done"


async def answers(bus: Bus, count: int) -> list[Any]:
    """Wait until the worker that has the next request has so many answers."""
    with anyio.fail_after(5):
        while True:
            found = [line for line in await log(bus) if "method" not in line]
            if len(found) >= count:
                return found


async def test_each_request_is_answered_once_with_its_own_id(place: Place) -> None:
    async with place.bus() as bus:

        @bus.handler("ask/*")
        async def handle(context: HandlerContext, number: int) -> list[Any]:
            await anyio.lowlevel.checkpoint()
            return [context.method, number]

        ids = ["1", '"1"', "-5", '"caf\\u00e9"', "1.5"]
        asked = [
            '{"id":%s,"method":"ask/%d","params":{"number":%d}}' % (i, n, n)
            for n, i in enumerate(ids)
        ]
        await say(bus, *asked)
        found = await answers(bus, len(ids))
        assert {repr(line["id"]): line["result"] for line in found} == {
            repr(key): [f"ask/{n}", n] for n, key in enumerate([1, "1", -5, "café", 1.5])
        }


async def test_workers_with_equal_ids_get_their_own_answers(place: Place) -> None:
    async with place.bus(pool={"instances": 2}) as bus:

        @bus.handler("ask")
        def handle(context: HandlerContext) -> int:
            return context.worker

        for _ in bus.workers():  # ties go in turn
            await say(bus, '{"id":1,"method":"ask"}')
        for worker in bus.workers():
            [answer] = await log_of(bus, worker.worker)
            assert (answer["id"], answer["result"]) == (1, worker.worker)


async def test_death_of_a_worker_cancels_what_it_asked_for_and_nothing_else(place: Place) -> None:
    async with place.bus(pool={"instances": 2}, limits=Limits(restart_delay_s=0.001)) as bus:
        running: dict[int, HandlerContext] = {}
        go_on = anyio.Event()

        @bus.handler("ask")
        async def handle(context: HandlerContext) -> str:
            running[context.worker] = context
            await go_on.wait()
            return "answer"

        for _ in bus.workers():
            await say(bus, '{"id":1,"method":"ask"}')
        await until(lambda: len(running) == 2)
        victim, other = (worker.worker for worker in bus.workers())
        bus._backend.kill(victim)
        await until(lambda: running[victim].cancelled)
        assert not running[other].cancelled
        await until(lambda: bus.workers()[0].generation == 2)
        await bus.wait_ready()
        go_on.set()
        await until(lambda: bus.statistics().handling == 0)
        logs = {worker: await log_of(bus, worker) for worker in (victim, other)}
        assert logs[victim] == []
        assert [line["result"] for line in logs[other]] == ["answer"]


async def log_of(bus: Bus, worker: int) -> list[Any]:
    """Return the answers that one worker was sent: the other is held meanwhile."""
    others = [each.worker for each in bus.workers() if each.worker != worker]
    for other in others:
        bus._backend.hold(other)
    try:
        return [line for line in await log(bus) if "method" not in line]
    finally:
        for other in others:
            bus._backend.release(other)


@pytest.mark.parametrize("cancel", ["lsp", "mcp", "acp", "none"])
async def test_handler_that_is_cancelled_by_its_scope_is_answered_in_every_profile(
    place: Place, cancel: str
) -> None:
    async with place.bus(pool={"cancel": cancel}) as bus, bus.open_scope() as scope:

        @bus.handler("ask", scope=scope)
        async def handle() -> None:
            await anyio.sleep_forever()

        await say(bus, '{"id":"q","method":"ask"}')
        await until(lambda: bus.statistics().handling == 1)
        scope.cancel("enough")
        [answer] = await answers(bus, 1)
        assert answer["error"]["code"] == -32800
        assert answer["error"]["message"] == "cancelled: enough"


async def test_worker_that_is_full_is_still_answered(place: Place) -> None:
    async with place.bus(pool={"max_in_flight": 1}) as bus, anyio.create_task_group() as tasks:
        answered = anyio.Event()

        @bus.handler("ask")
        async def handle() -> str:
            answered.set()
            return "answer"

        tasks.start_soon(bus.request, "hold")
        await held(bus, 1)
        await bus.notify("say", {"lines": ['{"id":1,"method":"ask"}']})
        with anyio.fail_after(5):
            await answered.wait()
        await bus.notify("release")
        assert [line["result"] for line in await answers(bus, 1)] == ["answer"]
