"""``anyio-bus check``: validate a configuration, list its pools, start nothing."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

from anyio_bus import Pool, load_config
from anyio_bus.cli._exits import FAILED, OK

if TYPE_CHECKING:
    from anyio_bus.cli._parser import Arguments

__all__ = ("execute",)


def execute(arguments: Arguments) -> int:
    """Run the command.

    Raises:
        InvalidArgumentError: The file cannot be read, or a field is wrong.
    """
    config = load_config(arguments.config, strict=True)
    count = len(config.pools)
    print(f"{arguments.config}: valid, {count} pool{'s' * (count > 1)}")
    width = max(len(pool.id) for pool in config.pools)
    for pool in config.pools:
        workers = f"{pool.instances} worker{'s' * (pool.instances > 1)}"
        if pool.spares:
            workers += f" + {pool.spares} spare{'s' * (pool.spares > 1)}"
        print(f"  {pool.id:<{width}}  {workers:<10}  {shlex.join(pool.argv)}")
    missing = [pool for pool in config.pools if not _is_there(pool)]
    for pool in missing:
        where = f" from {pool.cwd!r}" if pool.cwd is not None else ""
        print(f"anyio-bus: pool {pool.id!r}: {pool.argv[0]!r} is not found{where}", file=sys.stderr)
    return FAILED if missing else OK


def _is_there(pool: Pool) -> bool:
    """Tell whether a worker of the pool could be executed: looked up as exec does it."""
    program = pool.argv[0]
    if os.path.dirname(program):
        return shutil.which(os.path.join(pool.cwd or "", program)) is not None
    path = {**os.environ, **pool.env}.get("PATH")
    return shutil.which(program, path=path) is not None
