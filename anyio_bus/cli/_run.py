"""``anyio-bus run``: requests from stdin to the pools of a configuration, answers to stdout."""

from __future__ import annotations

import sys
from itertools import count
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from anyio_bus import Bus, BusConfig, BusError, find_config, load_config, open_bus
from anyio_bus.cli._exits import OK
from anyio_bus.cli._lines import (
    INVALID_REQUEST,
    BadLine,
    Order,
    error_line,
    error_of,
    parse_line,
)
from anyio_bus.cli._loop import STOP_GRACE_S, log_to_stderr, run_in_loop
from anyio_bus.cli._show import on_terminal, pretty_json
from anyio_bus.cli._stdio import LineReader, LineWriter, Oversize

if TYPE_CHECKING:
    from anyio_bus.cli._parser import Arguments

__all__ = ("execute",)


def execute(arguments: Arguments) -> int:
    """Run the command.

    Raises:
        InvalidArgumentError: The configuration is wrong.
        BrokenPipeError: Nobody reads the answers any more.
    """
    log_to_stderr(verbose=arguments.verbose)
    config = (
        find_config()
        if arguments.config is None
        else load_config(arguments.config, strict=arguments.strict)
    )

    async def serve() -> int:
        async with open_bus(
            config,
            timeout=arguments.timeout,
            grace_s=STOP_GRACE_S,
            record_tap=arguments.tap,
        ) as bus:
            _greet(config)
            await _Conversation(bus, arguments.in_flight).run()
        return OK

    return run_in_loop(serve, arguments.loop or "asyncio")


def _greet(config: BusConfig) -> None:
    if sys.stdin is not None and sys.stdin.isatty():
        pools = ", ".join(pool.id for pool in config.pools)
        hint = "a line is METHOD {params}, or a JSON-RPC request; Ctrl-D ends"
        print(f"anyio-bus: pools {pools}; {hint}", file=sys.stderr)


class _Conversation:
    """Requests from stdin, side by side.

    Owns:
        The tasks that wait for answers.
    """

    def __init__(self, bus: Bus, in_flight: int) -> None:
        self._bus = bus
        self._lines = LineReader(0)
        self._answers = LineWriter(1)
        self._pretty = on_terminal()
        self._slots = anyio.Semaphore(in_flight)
        self._keys = count(1)

    async def run(self) -> None:
        """Take lines until the end of stdin, and wait for what is pending then.

        Raises:
            BrokenPipeError: Nobody reads the answers any more.
        """
        try:
            async with anyio.create_task_group() as tasks:
                while (line := await self._lines.read_line()) is not None:
                    order = self._order(line)
                    if order is not None:
                        await self._slots.acquire()
                        tasks.start_soon(self._serve, order)
        except BaseExceptionGroup as group:
            if group.subgroup(BrokenPipeError) is None:
                raise
            raise BrokenPipeError from group

    def _order(self, line: bytes | Oversize) -> Order | BadLine | None:
        """Say what a line asks for, or what is wrong with it; None for an empty one."""
        if isinstance(line, Oversize):
            return BadLine(INVALID_REQUEST, str(line))
        try:
            return parse_line(line, self._keys) if line.strip() else None
        except BadLine as exc:
            return exc

    async def _serve(self, order: Order | BadLine) -> None:
        try:
            if isinstance(order, BadLine):
                answer: bytes | None = error_line(order.key, order.code, str(order))
            else:
                answer = await self._ask(order)
            if answer is not None:
                await self._answers.write(pretty_json(answer) if self._pretty else answer)
        finally:
            self._slots.release()
        await anyio.lowlevel.checkpoint()

    async def _ask(self, order: Order) -> bytes | None:
        await anyio.lowlevel.checkpoint()
        try:
            if order.key is not None:
                return await self._bus.request_raw(order.frame, pool=order.pool)
            await self._bus.send(order.frame, pool=order.pool)
        except BusError as exc:
            if order.key is not None:
                return error_of(order.key, exc)
            print(f"anyio-bus: a notification was not sent: {exc}", file=sys.stderr)
        return None
