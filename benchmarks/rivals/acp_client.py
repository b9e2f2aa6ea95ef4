"""The connection of ``agent-client-protocol``: requests of a method that no schema is checked for.

That is the least it can do for a request: its own methods also build and check models.
"""

from typing import Any

from acp.stdio import spawn_stdio_connection

from benchmarks.floor._common import Figures, Options, measure, parse_options, run_in_loop

LONGEST_LINE = 2**30


async def refuse(method: str, _params: Any, _is_notification: bool) -> Any:
    """Serve what the worker asks, which it never does."""
    raise AssertionError(f"the worker asked for {method}")


async def main(options: Options) -> Figures:
    """Measure requests through one connection."""
    async with spawn_stdio_connection(refuse, *options.argv, limit=LONGEST_LINE) as (connection, _):

        async def request(method: str, params: Any) -> object:
            return await connection.send_request(method, params)

        return await measure(options, request)


if __name__ == "__main__":
    run_in_loop("acp", parse_options(loops=("asyncio", "uvloop")), main)
