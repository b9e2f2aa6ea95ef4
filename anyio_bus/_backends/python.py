"""Own the ``"python"`` backend: the Python kernel in the bus's own tasks, on real processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio_bus._io.spawners import open_spawner
from anyio_bus._kernel.kernel import Kernel

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend
    from anyio_bus._config import BusConfig
    from anyio_bus._sansio.events import Deliver

__all__ = ("open_python",)


def open_python(config: BusConfig, deliver: Deliver) -> Backend:
    """Make the backend; nothing is spawned before it runs."""
    return Kernel(config, open_spawner(config.pools), deliver)
