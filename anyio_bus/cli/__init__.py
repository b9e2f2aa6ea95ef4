"""The ``anyio-bus`` command: try a bus, run one from a shell, check a configuration.

It needs nothing but the base install. With ``rich`` installed and a terminal on stdout the output
is prettier, and the same otherwise.
"""

from __future__ import annotations

from anyio_bus.cli._main import main

__all__ = ("main",)
