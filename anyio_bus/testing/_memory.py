"""Own the short way to a bus whose workers are functions in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from anyio_bus import Bus, InvalidArgumentError, Limits, Memory, Pool, open_bus
from anyio_bus.worker import Worker

__all__ = ("memory_pools", "memory_worker", "open_memory_bus")


def memory_worker(methods: Mapping[str, Callable[..., Any]]) -> Worker:
    """Make a worker of some functions.

    ::

        async def greet(name: str) -> str:
            return f"hello {name}"

        bus = open_memory_bus(memory_worker({"greet": greet}))

    Args:
        methods: Method name -> what ``@worker.method(name)`` takes.
    """
    worker = Worker()
    for name, function in methods.items():
        worker.method(name)(function)
    return worker


def memory_pools(backend: Memory, **options: Any) -> tuple[Pool, ...]:
    """Make a pool for each worker of a memory backend, of the same name.

    Args:
        backend: The backend.
        **options: What else each :class:`~anyio_bus.Pool` gets, ``instances`` for example.
    """
    return tuple(Pool(name, ["memory", name], **options) for name in backend.workers)


@asynccontextmanager
async def open_memory_bus(
    workers: Any,
    *,
    pool: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    **options: Any,
) -> AsyncIterator[Bus]:
    """Open a bus whose workers run in this process: no child, everything else is real.

    ::

        async with open_memory_bus(worker) as bus:
            assert await bus.request("greet", {"name": "Ada"}) == "hello Ada"

    Args:
        workers: A :class:`~anyio_bus.worker.Worker`, or an async function ``(receive, send)``; its
            pool is called ``"memory"``. Or a mapping of pool names to them.
        pool: What else each pool gets, ``{"instances": 2}`` for example.
        limits: The bounds.
        **options: As for :func:`~anyio_bus.open_bus`.

    Raises:
        InvalidArgumentError: A worker is neither of these.

    Cancellation:
        As :func:`~anyio_bus.open_bus`.
    """
    if "backend" in options:
        msg = "open_memory_bus() is for the memory backend; open_bus(backend=...) takes others"
        raise InvalidArgumentError(msg, field="backend")
    backend = Memory(workers if isinstance(workers, Mapping) else {"memory": workers})
    pools = memory_pools(backend, **(pool or {}))
    async with open_bus(*pools, backend=backend, limits=limits, **options) as bus:
        yield bus
