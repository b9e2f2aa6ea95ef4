"""The client session of ``mcp`` over its stdio transport: requests that no schema is checked for.

That is the least it can do for a request: of its own methods each also checks models. There is no
handshake, which the worker does not know.
"""

from typing import Any

from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp_types import Request
from pydantic import TypeAdapter

from benchmarks.floor._common import Figures, Options, measure, parse_options, run_in_loop

ANYTHING = TypeAdapter(dict[str, Any])


async def main(options: Options) -> Figures:
    """Measure requests through one session."""
    command, *arguments = options.argv
    server = StdioServerParameters(command=command, args=arguments)
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:

        async def request(method: str, params: Any) -> object:
            asked = Request[dict[str, Any], str](method=method, params=params)
            return await session.send_request(asked, ANYTHING)

        return await measure(options, request, only_objects=True)


if __name__ == "__main__":
    run_in_loop("mcp", parse_options(), main)
