"""Lines at, over and far below the limit, both ways: each over it costs its own request alone."""

from __future__ import annotations

import resource

import anyio
import pytest

from anyio_bus import FrameTooLargeError, Limits, open_bus
from tests.bus.support import begin, held, log, methods, one_worker, scripted

LIMIT = 4096
SMALL = Limits(max_frame_bytes=LIMIT)
MIB = 1024 * 1024


async def test_frame_over_the_limit_is_refused_unsent() -> None:
    async with one_worker(SMALL) as bus:
        for call in (
            bus.request("echo", ["x" * LIMIT]),
            bus.notify("echo", ["x" * LIMIT]),
            bus.request_raw(b'{"id":1,"method":"echo","params":["%b"]}' % (b"x" * LIMIT)),
            bus.send(b'{"method":"echo","params":["%b"]}' % (b"x" * LIMIT)),
        ):
            with pytest.raises(FrameTooLargeError) as caught:
                await call
            assert not caught.value.sent
            assert caught.value.limit_bytes == LIMIT
        assert bus.statistics().pending == 0
        assert methods(await log(bus)) == ["echo"]


async def test_frame_and_answer_of_exactly_the_limit_pass() -> None:
    async with one_worker(SMALL) as bus:
        await bus.notify("x" * (LIMIT - len('{"jsonrpc":"2.0","method":""}\n')))
        overhead = len('{"jsonrpc":"2.0","id":2,"result":""}\n')
        text = await bus.request("blow", {"bytes": LIMIT - overhead}, reply=str)
        assert len(text) == LIMIT - overhead

        with pytest.raises(FrameTooLargeError):
            await bus.notify("x" * (1 + LIMIT - len('{"jsonrpc":"2.0","method":""}\n')))
        with pytest.raises(FrameTooLargeError):
            await bus.request("blow", {"bytes": LIMIT - overhead + 1}, reply=str)


@pytest.mark.parametrize("shape", ["id first", "id last"])
async def test_answer_over_the_limit_costs_that_request_and_no_other(shape: str) -> None:
    async with one_worker(SMALL) as bus, anyio.create_task_group() as tasks:
        others = [begin(tasks, lambda i=i: bus.request("hold", [i])) for i in range(3)]
        await held(bus, 3)

        for size in (LIMIT, 50 * LIMIT):
            with pytest.raises(FrameTooLargeError) as caught:
                await bus.request("blow", {"bytes": size, "shape": shape})
            assert caught.value.sent
            assert caught.value.limit_bytes == LIMIT

        await bus.request("release")
        assert [await other.wait() for other in others] == [[0], [1], [2]]
        assert bus.statistics().kernel.bad_lines == 2
        assert bus.statistics().kernel.stray_answers == 0
        assert bus.workers()[0].in_flight == 0


async def test_answer_over_the_limit_whose_id_is_hidden_costs_the_only_request() -> None:
    async with one_worker(Limits(max_frame_bytes=4 * LIMIT)) as bus:
        with pytest.raises(FrameTooLargeError):
            await bus.request("blow", {"bytes": 3 * LIMIT, "shape": "id hidden"})
        assert await bus.request("echo", [1]) == [1]


@pytest.mark.parametrize("shape", ["notification", "request"])
async def test_oversize_line_that_is_no_answer_costs_no_request(shape: str) -> None:
    async with one_worker(SMALL) as bus:
        assert await bus.request("blow", {"bytes": 3 * LIMIT, "shape": shape}) == "done"
        assert bus.statistics().kernel.bad_lines == 1
        assert bus.statistics().kernel.stray_answers == 0


@pytest.mark.timeout(60)
async def test_line_of_64_mib_passes_in_both_directions() -> None:
    async with one_worker() as bus:
        text = "x" * (64 * MIB - 1000)
        before = resident_peak()

        echoed = await bus.request("echo", [text], reply=list[str], timeout=None)

        assert echoed[0] == text
        assert resident_peak() - before < 8 * 64 * MIB
        assert bus.statistics().pending_bytes == 0


def resident_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def test_many_long_answers_are_read_whole_and_in_order() -> None:
    async with open_bus(scripted(instances=2)) as bus, anyio.create_task_group() as tasks:
        sizes = [2**n for n in range(0, 22, 3)] * 2
        calls = [
            begin(tasks, lambda s=s: bus.request("blow", {"bytes": s}, reply=str)) for s in sizes
        ]

        assert [len(await call.wait()) for call in calls] == sizes
