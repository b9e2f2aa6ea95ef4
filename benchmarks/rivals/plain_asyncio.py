"""What most programs have: asyncio's subprocess and streams, ``json``, a future for each request."""

import asyncio
import itertools
import json
from asyncio.subprocess import PIPE, Process
from typing import Any

from benchmarks.floor._common import Figures, Options, measure, parse_options, run_in_loop

LONGEST_LINE = 2**30


class Connection:
    """Requests of many tasks over one worker; ``read`` runs beside them."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._reader, self._writer = process.stdout, process.stdin
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}

    async def request(self, method: str, params: object) -> object:
        """Send one request and return its result."""
        key = next(self._ids)
        message = {"jsonrpc": "2.0", "id": key, "method": method, "params": params}
        answer = self._asked[key] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps(message).encode() + b"\n")
        await self._writer.drain()
        return await answer

    async def read(self) -> None:
        """Bring each answer to the task that waits for it."""
        while line := await self._reader.readline():
            message = json.loads(line)
            self._asked.pop(message["id"]).set_result(message["result"])


async def main(options: Options) -> Figures:
    """Measure requests through one connection."""
    process = await asyncio.create_subprocess_exec(
        *options.argv, stdin=PIPE, stdout=PIPE, limit=LONGEST_LINE
    )
    connection = Connection(process)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(connection.read())
        figures = await measure(options, connection.request)
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
    return figures


if __name__ == "__main__":
    run_in_loop("plain asyncio", parse_options(loops=("asyncio", "uvloop")), main)
