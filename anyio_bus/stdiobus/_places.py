"""Own the table of backends: which there are, in which order ``"auto"`` tries them, and what to say."""

from __future__ import annotations

from typing import Literal, NamedTuple

from anyio_bus import Docker
from anyio_bus.stdiobus.errors import InvalidArgumentError, StdioBusError, TransportError
from anyio_bus.stdiobus.types import BackendMode, DockerOptions, ListenMode, NativeOptions

__all__ = ("Place", "find_place")

_NOT_YET = "is not part of this version of anyio_bus: use backend='auto' or 'python', which"
_WHAT_PYTHON_IS = "run the same pools on the kernel inside this process"


class Place(NamedTuple):
    """One backend.

    Attributes:
        name: What ``get_backend_type()`` says.
        option: The ``backend=`` of :func:`anyio_bus.open_bus`; None where it is not there.
        error: What asking for it raises where it is not there.
        at_start: Whether that is raised by ``start()``, as by the existing client.
        why: What is missing, and what to do about it.
    """

    name: str
    option: Literal["python"] | Docker | None
    error: type[StdioBusError] = TransportError
    at_start: bool = True
    why: str = ""

    def missing(self) -> StdioBusError:
        """Return the error of asking for it."""
        return self.error(f"backend {self.name!r} {self.why}")


# In the order of "auto". A backend that comes to anyio_bus gets its option here, and is found.
_PLACES = (
    Place("subprocess", None, why=f"(the daemon as a child) {_NOT_YET} {_WHAT_PYTHON_IS}"),
    Place(
        "native",
        None,
        InvalidArgumentError,
        at_start=False,
        why=f"(the kernel in C) {_NOT_YET} {_WHAT_PYTHON_IS}",
    ),
    Place("python", "python"),
)


def find_place(
    backend: BackendMode | str, native: NativeOptions | None, docker: DockerOptions | None
) -> Place:
    """Return the backend that was asked for; for ``"auto"`` the first one that is there.

    Nobody gets a container without asking for it.

    Raises:
        InvalidArgumentError: There is none of that name, or it cannot listen as it is to.
    """
    try:
        mode = BackendMode(backend)
    except ValueError:
        names = ", ".join(mode.value for mode in BackendMode)
        msg = f"backend must be one of {names}, not {backend!r}"
        raise InvalidArgumentError(msg) from None
    if native is not None and native.listen_mode != ListenMode.NONE:
        if mode not in (BackendMode.AUTO, BackendMode.NATIVE):
            msg = f"native.listen_mode: backend {mode.value!r} cannot listen, only 'native' can"
            raise InvalidArgumentError(msg)
        mode = BackendMode.NATIVE
    if mode is BackendMode.AUTO:
        return next(place for place in _PLACES if place.option is not None)
    if mode is BackendMode.DOCKER:
        return Place("docker", _container(docker or DockerOptions()))
    place = next(place for place in _PLACES if place.name == mode.value)
    if place.option is None and not place.at_start:
        raise place.missing()
    return place


def _container(options: DockerOptions) -> Docker:
    """Return the options as our own; the default engine may be either of those that there are."""
    return Docker(
        options.image,
        engine=None if options.engine_path in ("", "docker") else options.engine_path,
        pull="missing" if options.pull_policy == "if-missing" else options.pull_policy,  # type: ignore[arg-type]  # validated
        args=tuple(options.extra_args),
        env=options.env,
        name_prefix=options.container_name_prefix,
        timeout_s=options.startup_timeout_sec,
    )
