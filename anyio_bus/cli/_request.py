"""``anyio-bus request``: one worker, one request, its result."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import msgspec

from anyio_bus import (
    BusError,
    Limits,
    Pool,
    RemoteError,
    RequestTimeoutError,
    WorkerLostError,
    WorkerStartError,
    open_bus,
)
from anyio_bus.cli._exits import FAILED, OK, WRONG_USE, CommandError
from anyio_bus.cli._loop import STOP_GRACE_S, log_to_stderr, quiet, run_in_loop
from anyio_bus.cli._show import to_json

if TYPE_CHECKING:
    from anyio_bus.cli._parser import Arguments

__all__ = ("execute",)

STDERR_LINES = 20  # of a worker that died


def execute(arguments: Arguments) -> int:
    """Run the command.

    Raises:
        InvalidArgumentError: The params are neither object nor array.
        CommandError: An argument is wrong.
    """
    argv = _split(arguments.pool_command)
    params = None if arguments.params is None else _decode(arguments.params)
    if arguments.verbose:
        log_to_stderr(verbose=True)
    else:
        quiet()  # what it would say is in the error

    async def once() -> int:
        # One try: whoever asks for one answer does not want to wait for a second start.
        limits = Limits(max_restarts=0, start_attempts=1)
        pool = Pool("request", argv)
        async with open_bus(
            pool, limits=limits, timeout=arguments.timeout, grace_s=STOP_GRACE_S
        ) as bus:
            result = await bus.request(arguments.method, params)
            print(to_json(result).decode(), flush=True)
        return OK

    try:
        return run_in_loop(once, arguments.loop or "asyncio")
    except (RemoteError, RequestTimeoutError, WorkerLostError, WorkerStartError) as exc:
        print("\n".join(_describe(exc)), file=sys.stderr)
        return FAILED


def _split(command: str) -> list[str]:
    try:
        argv = shlex.split(command)
    except ValueError as exc:
        msg = f"POOL-COMMAND {command!r}: {exc}"
        raise CommandError(msg, WRONG_USE) from exc
    if not argv:
        msg = "POOL-COMMAND is empty"
        raise CommandError(msg, WRONG_USE)
    return argv


def _decode(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        msg = f"JSON {text!r}: {exc}"
        raise CommandError(msg, WRONG_USE) from exc


def _describe(exc: BusError) -> list[str]:
    """Say what happened: the error object, or the exit status with the last of stderr."""
    lines = [f"anyio-bus: {exc}"]
    if isinstance(exc, RemoteError) and exc.data is not None:
        lines.append(msgspec.json.format(msgspec.json.encode(exc.data), indent=2).decode())
    if isinstance(exc, WorkerLostError | WorkerStartError):
        tail = exc.stderr_tail.rstrip("\n").split("\n")[-STDERR_LINES:]
        if tail != [""]:
            lines += ["stderr of the worker:", *(f"  {line}" for line in tail)]
    return lines
