"""The runtime inside a worker process: methods in, exactly one answer out for each request.

::

    from anyio_bus.worker import Worker

    worker = Worker()

    @worker.method("add")
    async def add(a: int, b: int = 0) -> int:
        return a + b

    if __name__ == "__main__":
        worker.run()
"""

from __future__ import annotations

from anyio_bus.worker._context import Context
from anyio_bus.worker._worker import Worker

__all__ = ("Context", "Worker")
