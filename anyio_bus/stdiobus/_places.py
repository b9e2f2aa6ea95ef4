"""Own the table of backends: what each is to :func:`anyio_bus.open_bus`, and who may listen."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Literal, NamedTuple

from anyio_bus import Docker, Native, Subprocess
from anyio_bus.stdiobus.errors import InvalidArgumentError
from anyio_bus.stdiobus.types import (
    BackendMode,
    DockerOptions,
    ListenMode,
    NativeOptions,
    SubprocessOptions,
)

__all__ = ("Option", "Place", "find_place")

Option = Literal["auto", "python"] | Native | Subprocess | Docker


class Place(NamedTuple):
    """One backend.

    Attributes:
        name: What ``get_backend_type()`` says before the start.
        option: The ``backend=`` of :func:`anyio_bus.open_bus`.
        listen_mode: Where it listens for other programs.
    """

    name: str
    option: Option
    listen_mode: ListenMode = ListenMode.NONE

    @property
    def renumbers(self) -> bool:
        """Whether a worker's request has another id here than on its pipe: others may be there."""
        return self.listen_mode is not ListenMode.NONE or isinstance(self.option, Docker)


def find_place(
    backend: BackendMode | str,
    pools: Collection[str],
    native: NativeOptions | None,
    docker: DockerOptions | None,
    subprocess: SubprocessOptions | None,
) -> Place:
    """Return the backend that was asked for.

    ``"auto"`` is a kernel in this process, the one in C where it is there. Nobody gets a daemon or a
    container without asking for it.

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
        return _listener(mode, pools, native)
    if mode is BackendMode.DOCKER:
        return Place("docker", _container(docker or DockerOptions()))
    if mode is BackendMode.SUBPROCESS:
        path = None if subprocess is None else subprocess.binary_path
        return Place("subprocess", Subprocess(binary_path=path or None))
    if mode is BackendMode.NATIVE:
        return Place("native", Native())
    return Place(mode.value, "python" if mode is BackendMode.PYTHON else "auto")


def _listener(mode: BackendMode, pools: Collection[str], native: NativeOptions) -> Place:
    """Return the kernel in C with a listener: it alone has any."""
    if mode not in (BackendMode.AUTO, BackendMode.NATIVE):
        msg = f"native.listen_mode: backend {mode.value!r} cannot listen, only 'native' can"
        raise InvalidArgumentError(msg)
    if len(pools) > 1:
        msg = (
            "native.listen_mode: with several pools there are several kernels, and an address is of "
            "one; anyio_bus.open_bus(..., backend=Native(listen=...)) has all pools in one kernel"
        )
        raise InvalidArgumentError(msg)
    if native.listen_mode == ListenMode.UNIX:
        assert native.unix_path is not None  # validated
        url = f"unix://{os.path.abspath(native.unix_path)}"
    else:
        host = f"[{native.tcp_host}]" if ":" in native.tcp_host else native.tcp_host
        url = f"tcp://{host}:{native.tcp_port}"
    return Place("native", Native(listen=url), ListenMode(native.listen_mode))


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
