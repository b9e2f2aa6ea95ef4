"""What the package offers by name: one lazy table, complete, documented, and nothing else."""

from __future__ import annotations

import importlib
import inspect
import pickle
import subprocess
import sys

import pytest

import anyio_bus

PUBLIC_MODULES = [
    "anyio_bus",
    "anyio_bus.worker",
    "anyio_bus.plugins.nexo",
    "anyio_bus.plugins.nexo.methods",
    "anyio_bus.testing",
    "anyio_bus.testing.nexo",
    "anyio_bus.otel",
    "anyio_bus.stdiobus",
    "anyio_bus.sync",
]
NAMES = [
    (module, name)
    for module in PUBLIC_MODULES
    for name in sorted({*importlib.import_module(module).__all__})
]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_each_public_name_is_there_and_documented(module: str, name: str) -> None:
    thing = getattr(importlib.import_module(module), name)
    if inspect.isroutine(thing) or inspect.isclass(thing):
        assert (thing.__doc__ or "").strip()


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_public_names_stand_once(module: str) -> None:
    names = list(importlib.import_module(module).__all__)
    assert len(names) == len(set(names))


def test_dir_shows_what_all_lists() -> None:
    assert set(anyio_bus.__all__) <= set(dir(anyio_bus))


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        anyio_bus.no_such_name  # noqa: B018


def test_every_error_of_the_hierarchy_is_public() -> None:
    def below(cls: type) -> set[type]:
        return {cls}.union(*map(below, cls.__subclasses__()))

    ours = {cls.__name__ for cls in below(anyio_bus.BusError) if _is_ours(cls)}
    assert ours <= set(anyio_bus.__all__)


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "anyio_bus" and not cls.__name__.startswith("_")


def test_names_load_lazily() -> None:
    code = "import sys, anyio_bus; print(*[m for m in sys.modules if m.startswith('anyio_bus.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_public_classes_pickle_by_their_names() -> None:
    classes = [getattr(anyio_bus, name) for name in anyio_bus.__all__]
    for cls in filter(inspect.isclass, classes):
        assert pickle.loads(pickle.dumps(cls)) is cls
