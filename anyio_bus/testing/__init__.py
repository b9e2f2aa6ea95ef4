"""What tests of programs with a bus import: workers in memory, leak checks, the cancel sweep.

The fixtures of :mod:`anyio_bus.testing.pytest_plugin` come by themselves. The workers in
``anyio_bus.testing.workers`` are run as programs.

Names are loaded on first use: the plugin is loaded in every run of pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyio_bus.testing._leaks import LeakCheck as LeakCheck
    from anyio_bus.testing._leaks import LeakError as LeakError
    from anyio_bus.testing._memory import memory_pools as memory_pools
    from anyio_bus.testing._memory import memory_worker as memory_worker
    from anyio_bus.testing._memory import open_memory_bus as open_memory_bus
    from anyio_bus.testing._replay import Replay as Replay
    from anyio_bus.testing._replay import replay as replay
    from anyio_bus.testing._sweep import cancel_sweep as cancel_sweep

_MODULES = {
    "LeakCheck": "anyio_bus.testing._leaks",
    "LeakError": "anyio_bus.testing._leaks",
    "Replay": "anyio_bus.testing._replay",
    "cancel_sweep": "anyio_bus.testing._sweep",
    "memory_pools": "anyio_bus.testing._memory",
    "memory_worker": "anyio_bus.testing._memory",
    "open_memory_bus": "anyio_bus.testing._memory",
    "replay": "anyio_bus.testing._replay",
}

__all__ = tuple(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        msg = f"module 'anyio_bus.testing' has no attribute {name!r}"
        raise AttributeError(msg)
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
