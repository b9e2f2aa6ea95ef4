"""`bus.map`: many requests in flight, in order or as they come, with a bound in both directions."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import anyio
import pytest

from anyio_bus import (
    BusStoppedError,
    InvalidArgumentError,
    RemoteError,
    RemoteProtocolError,
    RequestTimeoutError,
    ScopeCancelledError,
    open_bus,
)
from tests.bus.support import held, log, methods, one_worker, scripted

FAIL = {"lines": ['{"id":$ID,"error":{"code":5,"message":"no"}}']}


def items(count: int) -> Iterator[dict[str, int]]:
    return ({"n": n} for n in range(count))


async def async_items(count: int) -> AsyncIterator[dict[str, int]]:  # noqa: ASYNC900  # as users do
    for n in range(count):
        await anyio.lowlevel.checkpoint()
        yield {"n": n}


@pytest.mark.parametrize("source", [items, async_items])
@pytest.mark.parametrize("ordered", [True, False])
async def test_every_item_has_its_result(source: Any, ordered: bool) -> None:
    async with open_bus(scripted(instances=2), grace_s=2) as bus:
        found = []
        async with bus.map("echo", source(500), in_flight=16, ordered=ordered) as results:
            async for result in results:
                found.append(result["n"])
                if not ordered:
                    assert results.index == result["n"]
        assert sorted(found) == list(range(500))
        assert not ordered or found == sorted(found)


async def test_results_come_in_order_though_answers_do_not() -> None:
    async with one_worker() as bus:
        async with bus.map("hold", items(4)) as results, anyio.create_task_group() as tasks:
            tasks.start_soon(bus.request, "release", {"reversed": True})
            assert [result["n"] async for result in results] == [0, 1, 2, 3]
        async with (
            bus.map("hold", items(4), ordered=False) as results,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(bus.request, "release", {"reversed": True})
            found = [(results.index, result["n"]) async for result in results]
        assert found == [(3, 3), (2, 2), (1, 1), (0, 0)]


async def test_no_more_is_read_than_may_be_in_flight() -> None:
    taken: list[int] = []

    def counted() -> Iterator[dict[str, int]]:
        for n in range(100):
            taken.append(n)
            yield {"n": n}

    async with one_worker() as bus:
        async with bus.map("echo", counted(), in_flight=8) as results:
            await bus.request("echo")  # after the answers of all that was sent
            assert len(taken) == 8  # nobody has read a result
            for _ in range(2):  # a quarter of them, as more are only made then
                await anext(results)
            assert len(taken) == 10


async def test_an_error_ends_the_map_and_cancels_the_rest() -> None:
    async with one_worker() as bus:
        async with bus.map("say", [FAIL, {"lines": []}, {"lines": []}]) as results:
            with pytest.raises(RemoteError, match="no"):
                await anext(results)
            assert methods(await log(bus))[-2:] == ["$/cancelRequest"] * 2
            with pytest.raises(StopAsyncIteration):
                await anext(results)


async def test_errors_can_be_results() -> None:
    params: list[Any] = [FAIL, {"lines": ['{"id":$ID,"result":1}']}, "no params"]
    async with one_worker() as bus:
        async with bus.map("say", params, return_errors=True) as results:
            first, second, third = [result async for result in results]
    assert isinstance(first, RemoteError)
    assert second == 1
    assert isinstance(third, InvalidArgumentError)


async def test_a_result_that_is_not_what_was_asked_for_costs_itself() -> None:
    answers = ["1", '"two"', "3", "4.5", "5", '[null, {"a": [6]}]']
    params = [{"lines": [f'{{"id":$ID,"result":{answer}}}']} for answer in answers]
    async with one_worker() as bus:
        found = {}
        async with bus.map("say", params, reply=int, return_errors=True) as results:
            async for result in results:
                found[results.index] = result
    assert [found[0], found[2], found[4]] == [1, 3, 5]
    assert [type(found[place]) for place in (1, 3, 5)] == [RemoteProtocolError] * 3


async def test_an_error_beside_a_result_is_an_error_unless_it_is_null() -> None:
    members = ['"result":null,"error":{"code":5,"message":"no"}', '"error":null,"result":1']
    params = [{"lines": [f'{{"id":$ID,{member}}}']} for member in [*members, *members]]
    async with one_worker() as bus, bus.map("say", params, return_errors=True) as results:
        found = [result async for result in results]
    assert [type(result) for result in found] == [RemoteError, int] * 2


@pytest.mark.parametrize("ordered", [True, False])
async def test_results_are_told_from_errors_notes_and_answers_of_others(ordered: bool) -> None:
    note = '{"method":"note","params":{}}'
    one, other, last = '{"id":$ID,"result":{"n":1}}', FAIL["lines"][0], '{"id":$ID,"result":[]}'
    params = [{"lines": lines} for lines in ([one], [other], [note, one], [last, note], [one])]
    async with one_worker() as bus, bus.subscribe("note") as notes:
        async with (
            bus.map("say", params, ordered=ordered, return_errors=True) as results,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(bus.request, "echo")
            pairs = [(results.index, result) async for result in results]
        found = dict(pairs)
        assert isinstance(found.pop(1), RemoteError)
        assert found == {0: {"n": 1}, 2: {"n": 1}, 3: [], 4: {"n": 1}}
        assert len([await anext(notes) for _ in range(2)]) == 2


async def test_requests_made_at_once_count_with_all_their_bytes() -> None:
    frames = [f'{{"jsonrpc":"2.0","id":{n},"method":"hold","params":{{}}}}\n' for n in range(2, 5)]
    async with one_worker() as bus:
        async with bus.map("hold", [{}] * 3):
            assert bus.statistics().pending_bytes == sum(map(len, frames))
        assert bus.statistics().pending_bytes == 0


async def test_leaving_early_cancels_the_rest() -> None:
    async with one_worker() as bus:
        async with bus.map("hold", items(3)):
            await held(bus, 3)
        assert methods(await log(bus))[-3:] == ["$/cancelRequest"] * 3
        assert bus.statistics().pending == 0


@pytest.mark.parametrize("source", [items, async_items])
async def test_what_the_params_raise_comes_after_the_results_before_it(source: Any) -> None:
    def broken() -> Iterator[Any]:
        yield from items(3)
        raise LookupError("no more")

    async def async_broken() -> AsyncIterator[Any]:  # noqa: ASYNC900  # as users do
        async for item in async_items(3):
            yield item
        raise LookupError("no more")

    found = []
    async with one_worker() as bus:
        with pytest.raises(LookupError, match="no more"):
            async with bus.map("echo", broken() if source is items else async_broken()) as results:
                async for result in results:
                    found.append(result["n"])  # noqa: PERF401  # those before the error
    assert found == [0, 1, 2]


async def test_an_asynchronous_generator_is_closed() -> None:
    closed = anyio.Event()

    async def endless() -> AsyncIterator[Any]:  # noqa: ASYNC900  # that is the point
        try:
            while True:
                yield {}
        finally:
            closed.set()

    async with one_worker() as bus:
        async with bus.map("echo", endless(), in_flight=4) as results:
            await anext(results)
        assert closed.is_set()


async def test_the_bodys_own_error_comes_out_bare() -> None:
    async with one_worker() as bus:
        for source in (items(3), async_items(3)):
            with pytest.raises(KeyError):
                async with bus.map("echo", source):
                    raise KeyError("mine")


@pytest.mark.parametrize(
    ("params", "options", "field"),
    [
        (5, {}, "params"),
        ("text", {}, "params"),
        ([], {"in_flight": 0}, "in_flight"),
        ([], {"timeout": -1}, "timeout"),
    ],
)
async def test_wrong_arguments_are_refused(params: Any, options: Any, field: str) -> None:
    async with one_worker() as bus:
        with pytest.raises(InvalidArgumentError, match=field):
            async with bus.map("echo", params, **options):
                pytest.fail("it opened")


async def test_a_map_of_nothing_is_empty() -> None:
    async with one_worker() as bus, bus.map("echo", []) as results:
        assert [result async for result in results] == []


async def test_each_request_of_a_map_has_its_timeout() -> None:
    async with one_worker() as bus:
        async with bus.map("mute", items(3), timeout=0.05, return_errors=True) as results:
            errors = [error async for error in results]
        assert [type(error) for error in errors] == [RequestTimeoutError] * 3
        assert errors[0].timeout_s == 0.05
        assert errors[0].pool == "w"
        assert methods(await log(bus))[-3:] == ["$/cancelRequest"] * 3
        assert bus._calls._batches.next() is None


async def test_nothing_of_a_map_is_left_when_it_is_over() -> None:
    async with one_worker() as bus:
        async with bus.map("echo", items(50), in_flight=8) as results:
            assert len([result async for result in results]) == 50
        async with bus.map("hold", items(5)):
            pass
        assert bus._calls._batches.next() is None
        assert bus.statistics().pending_bytes == 0


async def test_what_the_params_raise_at_their_end_leaves_the_bodys_error_bare() -> None:
    async def fail_at_the_end() -> AsyncIterator[dict[str, int]]:  # noqa: ASYNC900  # a user's
        try:
            for number in range(100):
                yield {"n": number}
        finally:
            raise ValueError

    async with one_worker() as bus:
        with pytest.raises(ZeroDivisionError):
            async with bus.map("echo", fail_at_the_end(), in_flight=2) as results:
                async for _ in results:
                    raise ZeroDivisionError
        with pytest.raises(ValueError, match=r"^$"):
            async with bus.map("echo", fail_at_the_end(), in_flight=2) as results:
                await anext(results)


@pytest.mark.parametrize("source", [items, async_items])
async def test_a_stop_with_a_drain_loses_no_result_of_a_map(source: Any) -> None:
    found = []
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        async with bus.map("echo", source(1000), in_flight=8, return_errors=True) as results:
            with pytest.raises(BusStoppedError):
                async for result in results:
                    found.append(result["n"])
                    if len(found) == 20:
                        tasks.start_soon(partial(bus.stop, drain_s=5))
                        await anyio.wait_all_tasks_blocked()
    assert found == list(range(len(found)))
    assert results._next == len(found) > 20  # those in flight too


async def test_errors_of_what_cannot_be_sent_are_not_kept() -> None:
    async with one_worker() as bus:
        unfit = (object() for _ in range(100))
        async with bus.map("echo", unfit, in_flight=4, return_errors=True) as results:
            assert len([error async for error in results]) == 100
            assert not results._ready


async def test_a_cancelled_scope_ends_a_map_without_end() -> None:
    async with one_worker() as bus, bus.open_scope() as scope:
        endless = ({"n": number} for number in itertools.count())
        async with bus.map("echo", endless, scope=scope, return_errors=True) as results:
            await anext(results)
            scope.cancel("enough")
            with pytest.raises(ScopeCancelledError):
                async for _ in results:
                    pass
        assert results._next < 200


@pytest.mark.parametrize("ordered", [True, False])
async def test_requests_with_text_for_ids_have_their_results(ordered: bool) -> None:
    async with open_bus(scripted(), ids="text") as bus:
        async with bus.map("echo", items(100), in_flight=16, ordered=ordered) as results:
            found = [(results.index, result["n"]) async for result in results]
        assert sorted(found) == [(n, n) for n in range(100)]


async def test_two_maps_at_once_have_each_its_own_results() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        found: dict[int, list[int]] = {1: [], 1000: []}

        async def run(first: int) -> None:
            params = ({"n": n} for n in range(first, first + 200))
            async with bus.map("echo", params, in_flight=16) as results:
                async for result in results:
                    found[first].append(result["n"])

        for first in found:
            tasks.start_soon(run, first)
    assert found == {first: [*range(first, first + 200)] for first in found}


async def test_a_reader_who_takes_his_time_has_requests_made_meanwhile() -> None:
    taken = []

    def counted() -> Iterator[dict[str, int]]:
        for item in items(100):
            taken.append(item["n"])
            yield item

    async with one_worker() as bus, bus.map("echo", counted(), in_flight=8) as results:
        await anext(results)
        await bus.request("echo")  # after the answers of all that was sent
        await anyio.sleep(0.01)
        await anext(results)
        assert len(taken) == 10  # a quarter of them at once, though the rest was not read
