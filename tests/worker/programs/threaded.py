"""A worker that runs in a thread which is not the main one."""

from __future__ import annotations

import threading
from typing import Any

from anyio_bus.worker import Worker

worker = Worker()


@worker.method("echo")
async def echo(params: Any) -> Any:
    return params


thread = threading.Thread(target=worker.run)
thread.start()
thread.join()
