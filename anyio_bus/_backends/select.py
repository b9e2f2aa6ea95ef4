"""Own the choice of a backend from what ``open_bus(backend=...)`` was given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from anyio_bus._backends.memory import Memory, open_memory
from anyio_bus._backends.native import open_native, why_not_native
from anyio_bus._backends.python import open_python
from anyio_bus._errors import InvalidArgumentError

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend
    from anyio_bus._config import BusConfig
    from anyio_bus._sansio.events import Deliver

__all__ = ("BackendOption", "open_backend")

BackendOption: TypeAlias = Literal["auto", "native", "python"] | Memory


def open_backend(option: BackendOption, config: BusConfig, deliver: Deliver) -> Backend:
    """Make the backend that was asked for; ``"auto"`` is the best that is there.

    Raises:
        InvalidArgumentError: There is none of that name.
    """
    if isinstance(option, Memory):
        return open_memory(config, deliver, option)
    if option == "native":
        return open_native(config, deliver)
    if option == "auto" and why_not_native(config) is None:
        return open_native(config, deliver)
    if option in ("auto", "python"):
        return open_python(config, deliver)
    if str(option) == "memory":
        msg = "backend='memory' needs workers: Memory(workers={'pool': worker})"
    else:
        msg = f"backend={option!r}: there are 'auto', 'native', 'python' and Memory(...)"
    raise InvalidArgumentError(msg, field="backend")
