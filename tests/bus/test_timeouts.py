"""A call's timeout: what its caller gets, and what becomes of the request and its slot."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from anyio_bus import Bus, Handshake, InvalidArgumentError, Limits, RequestTimeoutError, open_bus
from tests.bus.support import begin, held, log, methods, one_worker, scripted, until

SHORT_S = 0.05


async def test_request_without_an_answer_in_time_raises_request_timeout_error() -> None:
    async with one_worker() as bus:
        with pytest.raises(RequestTimeoutError) as caught:
            await bus.request("hold", timeout=SHORT_S)

        assert isinstance(caught.value, TimeoutError)
        assert str(caught.value) == "request 'hold' got no answer from pool 'w' within 0.05 s"
        assert caught.value.method == "hold"
        assert caught.value.pool == "w"
        assert caught.value.timeout_s == SHORT_S
        assert caught.value.sent
        assert bus.statistics().timeouts == 1
        assert bus.statistics().pending == 0
        assert await bus.request("echo", [1]) == [1]


async def test_request_that_times_out_in_a_queue_was_not_sent_and_never_runs() -> None:
    async with one_worker(max_in_flight=1) as bus, anyio.create_task_group() as tasks:
        blocker = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)

        with pytest.raises(RequestTimeoutError) as caught:
            await bus.request("echo", ["late"], timeout=SHORT_S)

        assert not caught.value.sent
        assert bus.statistics().kernel.queued_requests == 0
        await bus.notify("release")
        await blocker.wait()
        assert methods(await log(bus)) == ["echo", "hold", "release"]


async def test_request_times_out_unsent_while_no_worker_is_ready() -> None:
    pool = scripted(ready=Handshake("mute"))
    async with open_bus(pool, grace_s=1) as bus:
        with pytest.raises(RequestTimeoutError) as caught:
            await bus.request("echo", timeout=SHORT_S)

        assert not caught.value.sent
        assert bus.statistics().pending == 0
        assert bus.statistics().kernel.queued_requests == 0


async def test_default_timeout_is_that_of_the_bus() -> None:
    async with open_bus(scripted(), timeout=SHORT_S) as bus:
        with pytest.raises(RequestTimeoutError) as caught:
            await bus.request("mute")
        assert caught.value.timeout_s == SHORT_S

        with pytest.raises(RequestTimeoutError) as caught:
            await bus.request_raw(b'{"id":1,"method":"mute"}')
        assert caught.value.timeout_s == SHORT_S


async def test_own_timeout_takes_the_place_of_the_default() -> None:
    async with open_bus(scripted(), timeout=1e-9) as bus:
        assert await bus.request("echo", [1], timeout=30) == [1]
        assert await bus.request("echo", [2], timeout=None) == [2]
        assert await bus.request("echo", [3], timeout=float("inf")) == [3]


async def test_timeout_of_zero_raises_at_once() -> None:
    async with one_worker() as bus:
        with pytest.raises(RequestTimeoutError) as caught:
            await bus.request("hold", timeout=0)

        assert caught.value.timeout_s == 0
        assert await bus.request("echo", [1]) == [1]


async def test_what_is_no_timeout_is_refused(subtests: pytest.Subtests) -> None:
    wrong: list[Any] = [-1, float("nan"), "1", True, [1]]
    async with one_worker() as bus:
        for timeout in wrong:
            with subtests.test(timeout=timeout):
                with pytest.raises(InvalidArgumentError, match="timeout"):
                    await bus.request("echo", timeout=timeout)
                with pytest.raises(InvalidArgumentError, match="timeout"):
                    await bus.request_raw(b'{"id":1,"method":"echo"}', timeout=timeout)
                with pytest.raises(InvalidArgumentError, match="timeout"):
                    async with open_bus(scripted(), timeout=timeout):
                        pass
        assert bus.statistics().kernel.messages_out == 1


CANCEL_FRAMES: dict[str, tuple[str, str]] = {
    "lsp": ("$/cancelRequest", "id"),
    "mcp": ("notifications/cancelled", "requestId"),
    "acp": ("$/cancel_request", "requestId"),
}


async def test_timed_out_request_tells_its_worker_in_the_profile_of_its_pool() -> None:
    pools = [scripted(profile, cancel=profile) for profile in (*CANCEL_FRAMES, "none")]
    async with open_bus(*pools) as bus:
        for profile in (*CANCEL_FRAMES, "none"):
            await bus.request("echo", pool=profile)
            with pytest.raises(RequestTimeoutError):
                await bus.request("hold", pool=profile, timeout=SHORT_S)

        for profile, (method, param) in CANCEL_FRAMES.items():
            _, request, cancel = await log(bus, pool=profile)
            assert "id" not in cancel
            assert cancel["method"] == method
            assert cancel["params"][param] == request["id"]
        assert methods(await log(bus, pool="none")) == ["echo", "hold"]


async def test_late_answer_is_dropped_and_counted() -> None:
    async with one_worker() as bus:
        with pytest.raises(RequestTimeoutError):
            await bus.request("hold", ["late"], timeout=SHORT_S)
        assert bus.statistics().kernel.late_answers == 0

        await bus.request("release")

        assert bus.statistics().kernel.late_answers == 1
        assert bus.statistics().kernel.stray_answers == 0
        assert await bus.request("echo", [1]) == [1]


async def test_timed_out_request_keeps_its_slot_until_its_late_answer() -> None:
    async with one_worker(max_in_flight=1) as bus, anyio.create_task_group() as tasks:
        with pytest.raises(RequestTimeoutError):
            await bus.request("hold", timeout=SHORT_S)

        assert in_flight(bus) == 1
        next_one = begin(tasks, lambda: bus.request("echo", [2]))
        await until(lambda: bus.statistics().kernel.queued_requests == 1)
        await bus.notify("release")

        assert await next_one.wait() == [2]
        assert in_flight(bus) == 0


async def test_timed_out_request_frees_its_slot_after_the_grace_without_an_answer() -> None:
    async with one_worker(Limits(cancel_grace_s=0.1), max_in_flight=1) as bus:
        with pytest.raises(RequestTimeoutError):
            await bus.request("hold", timeout=SHORT_S)
        assert in_flight(bus) == 1

        assert await bus.request("echo", [2]) == [2]

        assert in_flight(bus) == 0
        assert bus.statistics().kernel.late_answers == 0


async def test_many_timeouts_of_different_lengths_expire_by_themselves() -> None:
    lengths = [0.05, 0.02, 0.04, 0.01, 0.03, 0.05, 0.02]
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        calls = [begin(tasks, lambda s=s: bus.request("mute", timeout=s)) for s in lengths]
        for call, length in zip(calls, lengths, strict=True):
            with pytest.raises(RequestTimeoutError) as caught:
                await call.wait()
            assert caught.value.timeout_s == length

    assert bus.statistics().timeouts == len(lengths)


def in_flight(bus: Bus) -> int:
    return sum(worker.in_flight for worker in bus.workers())
