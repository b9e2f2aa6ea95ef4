"""Own the way from ``argv`` to an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from anyio_bus.cli._exits import FAILED, INTERRUPTED, OK, READER_GONE, WRONG_USE, CommandError
from anyio_bus.cli._parser import Arguments, parse

__all__ = ("main",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``anyio-bus --help`` lists commands and codes.

    Args:
        argv: The arguments after the program's name; default those of this process.
    """
    try:
        code = _guarded(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        return READER_GONE
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _guarded(argv: Sequence[str] | None) -> int:
    try:
        _open_missing_fds()
        _escape_what_stdout_lacks()
        return _dispatch(parse(argv))
    except SystemExit as exc:  # argparse has said what it had to say
        return exc.code if isinstance(exc.code, int) else FAILED
    except CommandError as exc:
        return _fail(str(exc), exc.code)


def _dispatch(arguments: Arguments) -> int:
    if arguments.command == "worker":  # a worker loads no bus
        return _run_worker(arguments)
    from anyio_bus import BusError, InvalidArgumentError  # --help needs neither  # noqa: PLC0415

    command = import_module(f"anyio_bus.cli._{arguments.command.replace('-', '_')}")
    try:
        code: int = command.execute(arguments)
    except InvalidArgumentError as exc:
        return _fail(_as_options(str(exc)), WRONG_USE)
    except BusError as exc:
        return _fail(_as_options(str(exc)), FAILED)
    return code


def _as_options(text: str) -> str:
    """Name the option where an error of the library shows what to write in Python."""
    text = text.replace("Connect(token=...)", "--token-file PATH")
    before, in_python, _ = text.partition("give open_bus() a pool")
    return before + "give --config FILE" if in_python else text


def _run_worker(arguments: Arguments) -> int:
    module = import_module(f"anyio_bus.testing.workers.{arguments.name}")
    module.worker.run()
    return OK


def _fail(text: str, code: int) -> int:
    print(f"anyio-bus: {text}", file=sys.stderr)
    return code


def _open_missing_fds() -> None:
    """Keep 0, 1 and 2 from being given to the event loop if the caller closed them."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _escape_what_stdout_lacks() -> None:
    """Have stdout escape a name that its encoding does not have, as stderr does."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_stdout() -> None:
    """Nobody reads it any more: let the interpreter flush what is left of it into nothing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
