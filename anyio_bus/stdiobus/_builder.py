"""Own the builder of both clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, final

from anyio_bus.stdiobus._client import AsyncStdioBus
from anyio_bus.stdiobus._sync import StdioBus

if TYPE_CHECKING:
    import os

    from anyio_bus.stdiobus.types import (
        BackendMode,
        BusConfig,
        DockerOptions,
        NativeOptions,
        SubprocessOptions,
    )

__all__ = ("StdioBusBuilder",)


@final
class StdioBusBuilder:
    """Puts the arguments of a client together, one call each; the last one of a name counts.

    It checks nothing itself: the client does, when it is built.
    """

    def __init__(self) -> None:
        self._arguments: dict[str, Any] = {}

    def _with(self, name: str, value: object) -> Self:
        self._arguments[name] = value
        return self

    def config(self, config: BusConfig) -> Self:
        """Set the pools."""
        return self._with("config", config)

    def config_path(self, path: str | os.PathLike[str]) -> Self:
        """Set the file with the pools."""
        return self._with("config_path", path)

    def backend(self, mode: BackendMode | str) -> Self:
        """Set where the kernel runs."""
        return self._with("backend", mode)

    def timeout_ms(self, timeout_ms: int) -> Self:
        """Set the milliseconds for an answer."""
        return self._with("timeout_ms", timeout_ms)

    def docker(self, options: DockerOptions) -> Self:
        """Set the options of the docker backend."""
        return self._with("docker", options)

    def subprocess(self, options: SubprocessOptions) -> Self:
        """Set the options of the subprocess backend."""
        return self._with("subprocess", options)

    def native(self, options: NativeOptions) -> Self:
        """Set the options of the native backend."""
        return self._with("native", options)

    def native_options(self, options: NativeOptions) -> Self:
        """Set the options of the native backend; another name of :meth:`native`."""
        return self.native(options)

    def build(self) -> AsyncStdioBus:
        """Make the asynchronous client.

        Raises:
            StdioBusError: As :class:`AsyncStdioBus`.
        """
        return AsyncStdioBus(**self._arguments)

    def build_sync(self) -> StdioBus:
        """Make the blocking client.

        Raises:
            StdioBusError: As :class:`StdioBus`.
        """
        return StdioBus(**self._arguments)
