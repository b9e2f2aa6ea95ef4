"""Own the choice of how this system spawns a process, for each pool."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from anyio_bus._errors import InvalidArgumentError, NotSupportedError
from anyio_bus._io.launch import check_launch

if TYPE_CHECKING:
    from anyio_bus._config import Pool
    from anyio_bus._io.process import Child, Spawner

__all__ = ("open_spawner",)


def open_spawner(pools: Iterable[Pool] = ()) -> Spawner:
    """Return what starts the processes of these pools: ``Pool.spawn``, or what this system has.

    ``ANYIO_BUS_SPAWNER`` says what ``"auto"`` means.

    Raises:
        InvalidArgumentError: The variable names none, or an option of a pool is wrong here.
        NotSupportedError: A pool asks for what its spawner cannot do.
    """
    auto = _auto()
    names = {pool.id: _checked(pool, auto) for pool in pools}
    made = {name: _make(name) for name in sorted(set(names.values()) or {auto})}
    if len(made) == 1:
        return made.popitem()[1]
    return _Spawners({pool: made[name] for pool, name in names.items()})


def _auto() -> str:
    default = "portable" if sys.platform == "win32" else "posix"
    name = os.environ.get("ANYIO_BUS_SPAWNER") or default
    if name in (default, "portable"):
        return name
    here = "portable" if default == "portable" else "posix or portable"
    msg = f"ANYIO_BUS_SPAWNER={name!r}: this system has {here}"
    raise InvalidArgumentError(msg, field="ANYIO_BUS_SPAWNER")


def _checked(pool: Pool, auto: str) -> str:
    name = auto if pool.spawn == "auto" else pool.spawn
    if name == "posix" and sys.platform == "win32":
        msg = f"Pool({pool.id!r}).spawn: this system has no posix spawner"
        raise NotSupportedError(msg)
    check_launch(pool, name)
    return name


def _make(name: str) -> Spawner:
    if name == "posix" and sys.platform != "win32":
        from anyio_bus._io.posix import PosixSpawner  # Unix only  # noqa: PLC0415

        return PosixSpawner()
    from anyio_bus._io.portable import PortableSpawner  # loads asyncio's subprocess parts  # noqa: PLC0415

    return PortableSpawner()


class _Spawners:
    """One spawner for each pool, where they differ.

    Owns:
        The spawners.
    """

    name = "mixed"

    def __init__(self, of_pool: Mapping[str, Spawner]) -> None:
        self._of_pool = of_pool

    async def spawn(self, pool: Pool) -> Child:
        return await self._of_pool[pool.id].spawn(pool)

    def close(self) -> None:
        for spawner in self._of_pool.values():  # closing one twice does nothing
            spawner.close()

    def abandon(self) -> None:
        for spawner in self._of_pool.values():
            spawner.abandon()
