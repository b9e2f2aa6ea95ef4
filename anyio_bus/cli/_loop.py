"""Own the event loop of a command: which one, and that a signal ends it cleanly."""

from __future__ import annotations

import importlib.util
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

import anyio
import anyio.abc

from anyio_bus.cli._exits import WRONG_USE, CommandError

__all__ = ("STOP_GRACE_S", "is_there", "log_to_stderr", "quiet", "run_in_loop")

STOP_GRACE_S = 2.0  # for workers to end: somebody waits at a prompt

Operation = Callable[[], Awaitable[int]]


def is_there(loop: str) -> bool:
    """Tell whether an event loop can be used."""
    return loop == "asyncio" or importlib.util.find_spec(loop) is not None


def run_in_loop(operation: Operation, loop: str) -> int:
    """Run an async function to its exit code; SIGINT and SIGTERM cancel it.

    Raises:
        CommandError: The loop is not installed.
    """
    if not is_there(loop):
        text = f"{loop} is not installed; pip install 'anyio-bus[{loop}]' gets it"
        raise CommandError(text, WRONG_USE)
    return anyio.run(_until_signal, operation, backend=loop)


async def _until_signal(operation: Operation) -> int:
    scope = anyio.CancelScope()
    caught: list[int] = []
    error: Exception | None = None
    code = 0
    async with anyio.create_task_group() as tasks:
        await tasks.start(_watch_signals, scope, caught)
        try:
            with scope:
                code = await operation()
        except Exception as exc:  # raised bare after the join  # noqa: BLE001
            error = _bare(exc)
        tasks.cancel_scope.cancel("command is over")
    if caught:
        return 128 + caught[0]
    if error is not None:
        raise error
    return code


async def _watch_signals(
    scope: anyio.CancelScope, caught: list[int], *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    if sys.platform != "win32":
        with anyio.open_signal_receiver(*_heeded_signals()) as signals:
            task_status.started()
            async for number in signals:
                caught.append(number)
                scope.cancel(f"signal {number}")
    else:  # asyncio cannot watch them there; KeyboardInterrupt does it
        task_status.started()
        await anyio.sleep_forever()


def _heeded_signals() -> list[signal.Signals]:
    """Return the signals that end the command: without those that nohup, or a shell, has muted."""
    wanted = (signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP"))
    return [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]


def _bare(exc: Exception) -> Exception:
    """Return the first of the errors in a group: one line is enough for one mistake."""
    while isinstance(exc, ExceptionGroup):
        exc = exc.exceptions[0]
    return exc


def log_to_stderr(*, verbose: bool) -> None:
    """Show what the library logs: warnings, or everything."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="anyio-bus: %(message)s", stream=sys.stderr)


def quiet() -> None:
    """Show nothing of what the library logs."""
    logging.getLogger("anyio_bus").setLevel(logging.CRITICAL + 1)
