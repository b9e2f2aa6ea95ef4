"""Every backend: a request gets its own answer, as it was given, and one only."""

from __future__ import annotations

import anyio
import msgspec
import pytest

from anyio_bus import (
    InvalidArgumentError,
    RemoteError,
    RemoteProtocolError,
    RequestTimeoutError,
    ScopeCancelledError,
    UnknownPoolError,
)
from tests.bus.support import DONE, begin, held, log, methods, until
from tests.contract.places import SCRIPTED, Place, all_places

pytestmark = all_places


class Point(msgspec.Struct):
    x: int


async def test_backend_is_named(place: Place) -> None:
    async with place.bus() as bus:
        assert bus.backend == bus.statistics().backend == place.name.partition("-")[0]


async def test_params_arrive_and_the_result_is_decoded(place: Place) -> None:
    async with place.bus() as bus:
        assert await bus.request("echo", Point(3), reply=Point) == Point(3)
        assert await bus.request("echo", ["\n\u2028\N{BUG}", None, 1.5]) == [
            "\n\u2028\N{BUG}",
            None,
            1.5,
        ]
        assert await bus.request("echo") is None
        with pytest.raises(RemoteProtocolError, match=r"\$\.x"):
            await bus.request("echo", {"x": "one"}, reply=Point)


async def test_error_of_the_worker_is_the_callers(place: Place) -> None:
    line = '{"id":$ID,"error":{"code":-5,"message":"no","data":[1]}}'
    async with place.bus() as bus:
        with pytest.raises(RemoteError) as caught:
            await bus.request("say", {"lines": [line]})

    assert (caught.value.code, caught.value.message, caught.value.data) == (-5, "no", [1])


async def test_params_that_cannot_be_sent_cost_that_call(place: Place) -> None:
    async with place.bus() as bus:
        with pytest.raises(InvalidArgumentError):
            await bus.request("echo", object())
        assert await bus.request("echo", [1]) == [1]


async def test_pool_is_named_where_there_are_several(place: Place) -> None:
    async with place.bus({"a": SCRIPTED, "b": SCRIPTED}) as bus:
        with pytest.raises(InvalidArgumentError, match="pool="):
            await bus.request("echo")
        with pytest.raises(UnknownPoolError):
            await bus.request("echo", pool="c")
        await bus.notify("note", pool="a")
        assert methods(await log(bus, pool="a")) == ["note"]
        assert await log(bus, pool="b") == []


async def test_answers_in_any_order_find_their_callers(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        calls = [begin(tasks, lambda i=i: bus.request("hold", [i])) for i in range(100)]
        await held(bus, 100)
        await bus.request("release", {"reversed": True})

        assert [await call.wait() for call in calls] == [[i] for i in range(100)]


async def test_raw_request_gets_its_id_back(place: Place) -> None:
    async with place.bus() as bus:
        frame = b'{"jsonrpc":"2.0","id":"\\u0041","method":"echo","params":[1.50]}'
        response = await bus.request_raw(frame)

    assert response == b'{"jsonrpc":"2.0","id":"\\u0041","result":[1.5]}'


async def test_long_lines_pass_in_both_directions(place: Place) -> None:
    text = "x" * (4 * 1024 * 1024)
    async with place.bus() as bus:
        assert await bus.request("echo", [text], reply=list[str]) == [text]


async def test_timed_out_request_tells_the_worker_and_its_late_answer_is_dropped(
    place: Place,
) -> None:
    async with place.bus() as bus:
        with pytest.raises(RequestTimeoutError) as caught:
            await bus.request("hold", timeout=0.05)
        assert caught.value.sent
        await bus.refresh()
        assert bus.workers()[0].in_flight == 1
        request, cancel = await log(bus)
        assert cancel["params"] == {"id": request["id"]}

        await bus.request("release")
        await bus.refresh()
        assert bus.statistics().kernel.late_answers == 1
        assert bus.workers()[0].in_flight == 0


async def test_cancelled_request_that_was_not_sent_never_runs(place: Place) -> None:
    async with place.bus(pool={"max_in_flight": 1}) as bus, anyio.create_task_group() as tasks:
        blocker = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        doomed = begin(tasks, lambda: bus.request("echo"))
        await until(lambda: bus.statistics().kernel.queued_requests == 1)
        doomed.scope.cancel()
        await doomed.wait()
        await bus.notify("release")
        await blocker.wait()

        assert methods(await log(bus)) == ["hold", "release"]


async def test_cancelled_request_that_was_sent_tells_the_worker(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        doomed = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        doomed.scope.cancel()
        await doomed.wait()

        assert methods(await log(bus)) == ["hold", "$/cancelRequest"]
        await bus.refresh()
        assert bus.statistics().kernel.cancelled == 1


async def test_cancelled_scope_ends_its_calls_and_no_others(place: Place) -> None:
    async with place.bus() as bus, anyio.create_task_group() as tasks:
        async with bus.open_scope() as scope:
            inside = begin(tasks, lambda: bus.request("hold", scope=scope))
            outside = begin(tasks, lambda: bus.request("hold", [1]))
            await held(bus, 2)
            scope.cancel("enough")
            with pytest.raises(ScopeCancelledError) as caught:
                await inside.wait()
            assert caught.value.reason == "enough"
            await bus.request("release")
            assert await outside.wait() == [1]


async def test_unasked_messages_harm_nobody(place: Place) -> None:
    lines = [
        '{"id":"stray","result":1}',
        "not JSON",
        "null",
        "\xff",
        '{"id":5,"method":"fs/read"}',
        '{"method":"note"}',
    ]
    async with place.bus() as bus:
        assert await bus.request("say", {"lines": [*lines, DONE]}) == "done"

        await bus.refresh()
        statistics = bus.statistics()
        assert statistics.kernel.stray_answers == 1
        assert statistics.kernel.bad_lines == 3
        assert statistics.unhandled == 2
        [reply] = [message for message in await log(bus) if "error" in message]
        assert (reply["id"], reply["error"]["code"]) == (5, -32601)
