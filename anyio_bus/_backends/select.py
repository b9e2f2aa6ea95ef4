"""Own the choice of a backend from what ``open_bus(backend=...)`` was given."""

from __future__ import annotations

import os
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

    ``ANYIO_BUS_BACKEND`` says what ``"auto"`` means.

    Raises:
        InvalidArgumentError: There is none of that name.
        NotSupportedError: It is not there, or cannot do what a pool asks for.
    """
    if isinstance(option, Memory):
        return open_memory(config, deliver, option)
    name = str(option)
    if option == "auto":
        name = os.environ.get("ANYIO_BUS_BACKEND") or "auto"
        if name == "auto":
            name = "native" if why_not_native(config) is None else "python"
    if name == "native":
        return open_native(config, deliver)
    if name == "python":
        return open_python(config, deliver)
    what = f"ANYIO_BUS_BACKEND={name!r}" if option == "auto" else f"backend={option!r}"
    if name == "memory":
        msg = f"{what} needs workers: Memory(workers={{'pool': worker}})"
    else:
        msg = f"{what}: there are 'auto', 'native', 'python' and Memory(...)"
    raise InvalidArgumentError(msg, field="backend")
