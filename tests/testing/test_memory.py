"""The short way to a bus whose workers are functions of the test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import msgspec
import pytest

from anyio_bus import InvalidArgumentError, Memory, RemoteError, WorkerLostError, WorkerState
from anyio_bus.testing import cancel_sweep, memory_pools, memory_worker, open_memory_bus
from anyio_bus.worker import Worker

Receive = Callable[[], Awaitable[bytes]]
Send = Callable[[bytes], Awaitable[None]]


async def greet(name: str) -> str:
    await anyio.lowlevel.checkpoint()
    if not name:
        raise RemoteError(1, "who?")
    return f"hello {name}"


def add(a: int, b: int) -> int:
    return a + b


async def pong(receive: Receive, send: Send) -> None:
    """Answer every request, by hand."""
    while data := await receive():
        for line in data.splitlines():
            key = msgspec.json.decode(line)["id"]
            await send(msgspec.json.encode({"id": key, "result": "pong"}) + b"\n")


async def test_functions_make_a_worker() -> None:
    async with open_memory_bus(memory_worker({"greet": greet, "math/add": add})) as bus:
        assert bus.backend == "memory"
        assert await bus.request("greet", {"name": "Ada"}) == "hello Ada"
        assert await bus.request("math/add", {"a": 1, "b": 2}) == 3
        with pytest.raises(RemoteError, match="who"):
            await bus.request("greet", {"name": ""})


async def test_a_function_of_bytes_is_a_worker_too() -> None:
    async with open_memory_bus(pong) as bus:
        assert await bus.request("anything") == "pong"


async def test_a_mapping_names_the_pools() -> None:
    workers = {"greeter": memory_worker({"greet": greet}), "pinger": pong}
    async with open_memory_bus(workers, pool={"instances": 2}) as bus:
        assert [info.pool for info in bus.workers()] == ["greeter"] * 2 + ["pinger"] * 2
        assert await bus.request("anything", pool="pinger") == "pong"


async def test_a_worker_that_raises_dies_as_a_process_does() -> None:
    async def faulty(receive: Receive, send: Send) -> None:
        await receive()
        raise ValueError("my bug")

    async with open_memory_bus(faulty) as bus:
        with pytest.raises(WorkerLostError) as caught:
            await bus.request("anything")
    assert caught.value.exit_code == 1
    assert "my bug" in caught.value.stderr_tail


async def test_options_of_open_bus_pass_through() -> None:
    async def mute(receive: Receive, send: Send) -> None:
        while await receive():
            pass

    async with open_memory_bus(mute, timeout=0.01) as bus:
        with pytest.raises(TimeoutError):
            await bus.request("anything")
        await bus.wait_ready()
        assert [info.state for info in bus.workers()] == [WorkerState.READY]


@pytest.mark.parametrize("worker", [None, 3, "echo"])
async def test_what_is_no_worker_is_refused(worker: object) -> None:
    with pytest.raises(InvalidArgumentError, match="neither"):
        async with open_memory_bus(worker):
            pass


async def test_another_backend_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="open_bus"):
        async with open_memory_bus(pong, backend="python"):
            pass


def test_each_worker_gets_a_pool_of_its_name() -> None:
    pools = memory_pools(Memory({"a": Worker(), "b": pong}), max_in_flight=3)
    assert [(pool.id, pool.max_in_flight) for pool in pools] == [("a", 3), ("b", 3)]


async def test_a_bus_in_memory_can_be_cancelled_anywhere() -> None:
    async def once() -> None:
        async with open_memory_bus(pong) as bus:
            await bus.request("ping")

    with anyio.fail_after(15):
        assert await cancel_sweep(once) > 20
