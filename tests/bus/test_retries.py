"""A request is sent again only where that is safe."""

from __future__ import annotations

import os
import signal
from typing import Any

import anyio
import anyio.to_thread
import pytest

from anyio_bus import (
    Bus,
    BusStoppedError,
    InvalidArgumentError,
    Limits,
    PoolUnavailableError,
    RemoteError,
    RequestTimeoutError,
    Retry,
    ScopeCancelledError,
    WorkerLostError,
    WorkerStartError,
    open_bus,
)
from tests.bus.support import (
    DONE,
    WAIT_S,
    begin,
    held,
    log,
    methods,
    one_worker,
    scripted,
    until,
)

QUICK = Retry(attempts=3, backoff_s=0.01)
SAFE = Retry(attempts=3, backoff_s=0.05, idempotent=True)
PATIENT = Retry(attempts=3, backoff_s=60, idempotent=True)


async def test_what_may_have_run_is_sent_again_only_if_it_is_idempotent() -> None:
    async with one_worker(Limits(restart_delay_s=0.01)) as bus:
        with pytest.raises(WorkerLostError):
            await bus.request("die", retry=QUICK)
        assert bus.workers()[0].restarts <= 1
        safe = Retry(attempts=3, backoff_s=0.01, idempotent=True)
        with pytest.raises(WorkerLostError):
            await bus.request("die", retry=safe)
        await bus.request("echo")
        assert bus.workers()[0].restarts == 4


async def test_an_idempotent_request_outlives_its_worker(tmp_path: Any) -> None:
    """The first worker dies of it, its successor answers."""
    flag = tmp_path / "died"
    code = f"""
import json, os, sys
for line in sys.stdin:
    if not os.path.exists({str(flag)!r}):
        open({str(flag)!r}, "w").close()
        os._exit(3)
    key = json.loads(line)["id"]
    print(json.dumps({{"id": key, "result": "done"}}), flush=True)
"""
    pool = scripted()
    argv = [pool.argv[0], "-c", code]
    async with open_bus(type(pool)("w", argv), limits=Limits(restart_delay_s=0.01)) as bus:
        safe = Retry(backoff_s=0.01, idempotent=True)
        assert await bus.request("x", retry=safe) == "done"


async def test_what_was_never_sent_is_sent_again() -> None:
    limits = Limits(restart_delay_s=0.01, start_attempts=1, park_retry_s=0)
    crash = [scripted().argv[0], "-c", "raise SystemExit(3)"]
    async with open_bus(type(scripted())("w", crash), limits=limits) as bus:
        await until(lambda: bus.workers()[0].reason)
        with pytest.raises((WorkerStartError, PoolUnavailableError)) as info:
            await bus.request("x", retry=Retry(attempts=4, backoff_s=0.01))
        assert info.value.sent is False
        assert bus.statistics().kernel.routing_errors == 4


@pytest.mark.parametrize("idempotent", [True, False])
async def test_errors_of_the_worker_and_timeouts_are_final(idempotent: bool) -> None:
    error = '{"id":$ID,"error":{"code":7,"message":"no"}}'
    retry = Retry(attempts=3, backoff_s=0.01, idempotent=idempotent)
    async with one_worker() as bus:
        with pytest.raises(RemoteError):
            await bus.request("say", {"lines": [error]}, retry=retry)
        with pytest.raises(RequestTimeoutError):
            await bus.request("mute", timeout=0.01, retry=retry)
        assert methods(await log(bus)).count("say") == 1
        assert methods(await log(bus)).count("mute") == 1


async def test_cancelling_ends_the_wait_between_two_attempts() -> None:
    async with one_worker(Limits(restart_delay_s=0.01)) as bus:
        slow = Retry(attempts=2, backoff_s=60, backoff_max_s=60, idempotent=True)
        with anyio.move_on_after(0.2) as scope:
            await bus.request("die", retry=slow)
        assert scope.cancelled_caught
        assert await bus.request("echo", {"n": 1}) == {"n": 1}


@pytest.mark.parametrize(
    ("options", "field"), [({"attempts": 0}, "attempts"), ({"backoff_s": -1}, "backoff_s")]
)
def test_a_retry_validates_itself(options: Any, field: str) -> None:
    with pytest.raises(InvalidArgumentError, match=field):
        Retry(**options)


@pytest.mark.parametrize("wrong", [3, True, "twice", Retry], ids=str)
async def test_what_is_no_retry_is_refused_before_anything_is_sent(wrong: Any) -> None:
    async with one_worker() as bus:
        with pytest.raises(InvalidArgumentError, match=r"a Retry or None, not .*attempts=3\)$"):
            await bus.request("die", retry=wrong)
        with pytest.raises(InvalidArgumentError, match="retry must be"):
            await anyio.to_thread.run_sync(
                lambda: bus.from_thread.request("die", retry=wrong, collect="text")
            )
        assert methods(await log(bus)) == ["echo"]


async def test_a_scope_ends_the_wait_between_two_attempts() -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        async with bus.open_scope() as scope:
            resting = begin(tasks, lambda: bus.request("die", retry=PATIENT, scope=scope))
            await until(lambda: bus._calls._resting)
            scope.cancel("enough")
            with pytest.raises(ScopeCancelledError, match="enough") as info:
                await resting.wait()
        assert info.value.sent


@pytest.mark.parametrize("drain_s", [0, 5])
async def test_a_stop_ends_the_wait_between_two_attempts(drain_s: float) -> None:
    async with one_worker() as bus, anyio.create_task_group() as tasks:
        resting = begin(tasks, lambda: bus.request("die", retry=PATIENT))
        await until(lambda: bus._calls._resting)
        await bus.stop(drain_s=drain_s)
        with pytest.raises(BusStoppedError, match="shutting down"):
            await resting.wait()


# --- one timeout for all attempts -----------------------------------------------------------------


async def test_a_pause_that_the_timeout_would_end_is_not_waited_for() -> None:
    slow = Retry(attempts=2, backoff_s=60, backoff_max_s=60, idempotent=True)
    async with one_worker() as bus:
        with pytest.raises(WorkerLostError), anyio.fail_after(WAIT_S):
            await bus.request("die", timeout=30, retry=slow)


async def deadline_of_attempt(bus: Bus, number: int) -> float:
    """Wait until this attempt at "hold" is at a worker; return when it is to time out."""
    await held(bus, number)
    at = bus._calls.peer.next_deadline()
    assert at is not None
    return at


def kill_the_worker(bus: Bus) -> None:
    pid = bus.workers()[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def test_each_attempt_has_what_is_left_of_the_timeout() -> None:
    async with one_worker(Limits(restart_delay_s=0.01)) as bus, anyio.create_task_group() as tasks:
        call = begin(tasks, lambda: bus.request("hold", [7], timeout=30, retry=SAFE))
        first = await deadline_of_attempt(bus, 1)
        kill_the_worker(bus)
        second = await deadline_of_attempt(bus, 2)
        assert second == pytest.approx(first, abs=0.01)  # the pause alone takes longer
        await bus.notify("release")
        assert await call.wait() == [7]


async def test_progress_starts_the_timeout_of_all_attempts_anew() -> None:
    async with one_worker(Limits(restart_delay_s=0.01)) as bus, anyio.create_task_group() as tasks:
        call = begin(
            tasks, lambda: bus.request("hold", timeout=30, retry=SAFE, progress_renews=True)
        )
        first = await deadline_of_attempt(bus, 1)
        kill_the_worker(bus)
        second = await deadline_of_attempt(bus, 2)
        assert second == pytest.approx(first, abs=0.01)

        key = (await log(bus))[-1]["id"]
        chunk = f'{{"method":"chunk","params":{{"text":"a","_meta":{{"requestId":{key}}}}}}}'
        before = anyio.current_time()
        await bus.request("say", {"lines": [chunk, DONE]})
        renewed = await deadline_of_attempt(bus, 2)
        assert renewed >= before + 30

        kill_the_worker(bus)
        third = await deadline_of_attempt(bus, 3)
        assert third == pytest.approx(renewed, abs=0.01)
        await bus.notify("release")
        await call.wait()


async def test_a_timeout_of_a_later_attempt_speaks_of_all_of_them() -> None:
    """The second waits for a worker that is not up again for a minute: it is not sent itself."""
    async with one_worker(Limits(restart_delay_s=60, restart_delay_max_s=60)) as bus:
        with pytest.raises(RequestTimeoutError, match=r"from pool .w. within 0\.5 s$") as info:
            await bus.request("die", timeout=0.5, retry=SAFE)
    assert info.value.timeout_s == 0.5
    assert info.value.sent
    assert isinstance(info.value.__cause__, WorkerLostError)


async def test_a_parked_pool_is_tried_no_longer_than_the_timeout() -> None:
    limits = Limits(restart_delay_s=0.01, start_attempts=1, park_retry_s=0)
    crash = [scripted().argv[0], "-c", "raise SystemExit(3)"]
    patient = Retry(attempts=50, backoff_s=60, backoff_max_s=60)
    async with open_bus(type(scripted())("w", crash), limits=limits) as bus:
        await until(lambda: bus.workers()[0].reason)
        with pytest.raises((WorkerStartError, PoolUnavailableError)), anyio.fail_after(WAIT_S):
            await bus.request("x", timeout=30, retry=patient)
