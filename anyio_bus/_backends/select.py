"""Own the choice of a backend from what ``open_bus(backend=...)`` was given.

Each is loaded when it is chosen, so that a bus costs the memory of the one that it has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from anyio_bus._errors import InvalidArgumentError

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend
    from anyio_bus._backends.docker import Docker
    from anyio_bus._backends.links import Connect, Subprocess
    from anyio_bus._backends.listening import Native
    from anyio_bus._backends.memory import Memory
    from anyio_bus._backends.remote import Reached
    from anyio_bus._config import BusConfig
    from anyio_bus._sansio.events import Deliver

__all__ = ("BackendOption", "closed_on_error", "open_backend", "reach")

_Name: TypeAlias = Literal["auto", "native", "python", "subprocess"]
BackendOption: TypeAlias = "_Name | Memory | Subprocess | Connect | Docker | Native"


@contextmanager
def closed_on_error(option: BackendOption | Reached) -> Iterator[None]:
    """End a kernel that was reached if no bus comes of it."""
    try:
        yield
    except BaseException:
        close = getattr(option, "close", None)  # only what was reached has one
        if close is not None:
            close()
        raise


async def reach(option: BackendOption, config: BusConfig | None) -> Reached | None:
    """Reach the kernel where that is elsewhere; None where it is not.

    Raises:
        NotSupportedError: There is no daemon to be started, or it cannot do what a pool asks for.
        ConnectionLostError: It cannot be reached.

    Cancellation:
        What was begun is ended.
    """
    name = os.environ.get("ANYIO_BUS_BACKEND") if option == "auto" else option
    if name != "subprocess" and not getattr(option, "remote", False):
        return None
    from anyio_bus._backends import links, remote  # noqa: PLC0415

    wanted: Any = links.Subprocess() if name == "subprocess" else option
    return await remote.reach(wanted, config)


def open_backend(option: BackendOption | Reached, config: BusConfig, deliver: Deliver) -> Backend:
    """Make the backend that was asked for; ``"auto"`` is the best that is there.

    ``ANYIO_BUS_BACKEND`` says what ``"auto"`` means.

    Raises:
        InvalidArgumentError: There is none of that name.
        NotSupportedError: It is not there, or cannot do what a pool asks for.
    """
    open_with: Callable[[BusConfig, Deliver], Backend] | None = getattr(option, "open_with", None)
    if open_with is not None:
        return open_with(config, deliver)
    name = str(option)
    if option == "auto":
        name = os.environ.get("ANYIO_BUS_BACKEND") or "auto"
    if name in {"auto", "native"}:
        from anyio_bus._backends import native  # noqa: PLC0415

        if name == "native" or native.why_not_native(config) is None:
            return native.open_native(config, deliver)
    if name in {"auto", "python"}:
        from anyio_bus._backends.python import open_python  # noqa: PLC0415

        return open_python(config, deliver)
    what = f"ANYIO_BUS_BACKEND={name!r}" if option == "auto" else f"backend={option!r}"
    raise _no_such(what, name)


def _no_such(what: str, name: str) -> InvalidArgumentError:
    if name == "memory":
        msg = f"{what} needs workers: Memory(workers={{'pool': worker}})"
    elif name == "connect":
        msg = f"{what} needs to know where: Connect('unix:///path')"
    elif name == "docker":
        msg = f"{what} needs an image: Docker('image')"
    else:
        msg = (
            f"{what}: there are 'auto', 'native', 'python', 'subprocess', Subprocess(...), "
            "Native(...), Connect(...), Docker(...) and Memory(...)"
        )
        if name.startswith(("unix://", "tcp://")):
            msg += f"; for a daemon: Connect({name!r})"
    return InvalidArgumentError(msg, field="backend")
