"""``anyio-bus serve``: become the daemon, with a configuration as every command finds it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from anyio_bus import find_config, load_config
from anyio_bus._daemon import find_daemon
from anyio_bus.cli._exits import FAILED, WRONG_USE, CommandError

if TYPE_CHECKING:
    from anyio_bus.cli._parser import Arguments

__all__ = ("execute",)


def execute(arguments: Arguments) -> NoReturn:
    """Run the command.

    Raises:
        InvalidArgumentError: The configuration is wrong.
        CommandError: The daemon is not there, or there is nothing to listen on.
    """
    path = arguments.config or os.environ.get("ANYIO_BUS_CONFIG") or _nearest()
    load_config(path, strict=arguments.strict)
    options = [
        *(f"--unix={place}" for place in arguments.unix or ()),
        *(f"--tcp={place}" for place in arguments.tcp or ()),
        *(f"--admin-unix={place}" for place in arguments.admin_unix or ()),
    ]
    if not options:
        msg = "serve needs a place to listen on: --unix PATH or --tcp HOST:PORT"
        raise CommandError(msg, WRONG_USE)
    if arguments.token_file is not None:
        options.append(f"--token-file={arguments.token_file}")
    if arguments.verbose:
        options.append("--log-level=debug")
    try:
        program = find_daemon()
    except FileNotFoundError as exc:
        msg = f"serve needs the program anyio-busd: {exc}"
        raise CommandError(msg, FAILED) from exc
    os.execv(program, ["anyio-busd", "--config", path, *options])


def _nearest() -> str:
    """Return the nearest configuration that the daemon can read.

    Raises:
        InvalidArgumentError: There is no configuration.
        CommandError: It is not JSON.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "anyio-bus.json").is_file():
            return str(folder / "anyio-bus.json")
    find_config()  # says where it was looked for
    msg = "serve needs a configuration in JSON: --config FILE"
    raise CommandError(msg, WRONG_USE)
