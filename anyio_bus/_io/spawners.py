"""Own the choice of how this system spawns a process."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from anyio_bus._errors import InvalidArgumentError

if TYPE_CHECKING:
    from anyio_bus._io.process import Spawner

__all__ = ("open_spawner",)


def open_spawner() -> Spawner:
    """Return the spawner for this system, or the one that ``ANYIO_BUS_SPAWNER`` forces.

    Raises:
        InvalidArgumentError: The variable names none.
    """
    default = "portable" if sys.platform == "win32" else "posix"
    name = os.environ.get("ANYIO_BUS_SPAWNER") or default
    if name == "posix" and sys.platform != "win32":
        from anyio_bus._io.posix import PosixSpawner  # Unix only  # noqa: PLC0415

        return PosixSpawner()
    if name == "portable":
        from anyio_bus._io.portable import PortableSpawner  # loads asyncio's subprocess parts  # noqa: PLC0415

        return PortableSpawner()
    msg = (
        f"ANYIO_BUS_SPAWNER={name!r}: this system has posix or portable"
        if default == "posix"
        else (f"ANYIO_BUS_SPAWNER={name!r}: this system has portable")
    )
    raise InvalidArgumentError(msg, field="ANYIO_BUS_SPAWNER")
