"""The build backend of this project: scikit-build-core, for which no compiler is no error.

The parts in C are the daemon and, where there are Python's headers, the extension module with the
same kernel. The environment variable ``ANYIO_BUS_NATIVE`` says what an install has of them: unset,
what can be built here, else it is pure Python; ``1``, all of them, or it fails and says what is
missing; ``0``, none.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

from scikit_build_core import build as _builder

Config = dict[str, list[str] | str]
Build = Callable[[str, Config | None, str | None], str]

PACKAGE = "anyio_bus"
FAILED = "the build failed, as shown above"
# The extension keeps to the stable ABI of Python 3.11; without it a wheel is for any Python.
ALL_PARTS: Config = {"cmake.define.ANYIO_BUS_EXTENSION": "ON", "wheel.py-api": "cp311"}
COMPILERS = "cc", "gcc", "clang"
WANTED = os.environ.get("ANYIO_BUS_NATIVE", "")
REMEDY = """
anyio-bus: ANYIO_BUS_NATIVE=1 asks for the parts in C, and they cannot be built: {}.
A C compiler and Python's headers are needed ("apt-get install gcc libc6-dev python3-dev" on Debian,
"dnf install gcc python3-devel" on Fedora, "apk add gcc musl-dev python3-dev" on Alpine,
"xcode-select --install" on macOS), and CMake where pip may not fetch it from PyPI. Without
ANYIO_BUS_NATIVE the install has what can be built.
"""


def _why_pure() -> str | None:
    """Say why there is no point in trying to build the parts in C, if there is none."""
    if WANTED == "0":
        return "ANYIO_BUS_NATIVE is 0"
    if sys.platform == "win32":
        return "they are for Linux and other Unix systems"
    if not os.environ.get("CC") and not any(map(shutil.which, COMPILERS)):
        return "no C compiler was found"
    return None


def _pure(config: Config | None, reason: str) -> Config:
    """Return the settings of a pure build; end here where that is not what was asked for."""
    if WANTED == "1":
        sys.exit(REMEDY.format(reason))
    print(f"anyio-bus: pure Python, without the parts in C: {reason}", flush=True)
    print("anyio-bus: `anyio-bus build-native` adds them to an install", flush=True)
    return _without_c(config)


def _without_c(config: Config | None) -> Config:
    return {**(config or {}), "wheel.cmake": "false"}


def _make(build: Build, directory: str, config: Config | None) -> str:
    """Make something with the parts in C, or else without.

    What was prepared before is not handed on: it may say that they are there.
    """
    reason = _why_pure()
    for parts in (ALL_PARTS, {}) if reason is None and WANTED != "1" else (ALL_PARTS,):
        if reason is not None and reason != FAILED:
            break
        try:
            return build(directory, {**(config or {}), **parts}, None)
        except (Exception, SystemExit):  # the latter where CMake has failed  # noqa: BLE001
            traceback.print_exc()
            reason = FAILED
            if parts and WANTED != "1":
                print(
                    "anyio-bus: without the extension module, which the above is about", flush=True
                )
    return build(directory, _pure(config, reason or FAILED), None)


def build_wheel(
    wheel_directory: str,
    config_settings: Config | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build a wheel."""
    return _make(_builder.build_wheel, wheel_directory, config_settings)


def build_editable(
    wheel_directory: str,
    config_settings: Config | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Put the parts in C in their places in the checkout, and build a wheel that points there.

    The editable installs of scikit-build-core come with a finder of modules, which every start of
    Python would load, and which pytest warns of where the package is a plugin, as this one is.
    """
    with tempfile.TemporaryDirectory() as folder:
        _build_in_place(folder, config_settings)
        path = Path(folder, "anyio_bus.pth")
        path.write_text(f"{Path.cwd()}\n")
        config: Config = {
            **_without_c(config_settings),
            "wheel.exclude": [f"{PACKAGE}/"],
            f"wheel.force-include.{path}": path.name,
        }
        return _builder.build_wheel(wheel_directory, config)


def _build_in_place(folder: str, config: Config | None) -> None:
    if WANTED == "0":
        for product in (*Path(PACKAGE).glob("_native*.so"), *Path(PACKAGE, "_bin").glob("*")):
            product.unlink()
    settings: Config = {**(config or {}), "wheel.exclude": ["*.py", "py.typed", "_csrc/"]}
    built = _make(_builder.build_wheel, folder, settings)
    with zipfile.ZipFile(Path(folder, built)) as wheel:
        for item in wheel.infolist():
            if item.filename.startswith(f"{PACKAGE}/"):
                _replace(Path(item.filename), wheel.read(item), item.external_attr >> 16)


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Write a file at once: other environments may use the one that is there."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_bytes(data)
    new.chmod(mode & 0o777)
    new.replace(path)


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Config | None = None
) -> str:
    """Make the metadata of a wheel alone."""
    prepare = _builder.prepare_metadata_for_build_wheel
    return _make(
        lambda place, config, _: prepare(place, config), metadata_directory, config_settings
    )


def prepare_metadata_for_build_editable(
    metadata_directory: str, config_settings: Config | None = None
) -> str:
    """Make the metadata of an editable install alone."""
    config = _without_c(config_settings)
    return _builder.prepare_metadata_for_build_wheel(metadata_directory, config)


def get_requires_for_build_wheel(config_settings: Config | None = None) -> list[str]:
    """Ask for CMake and Ninja where they are missing and of use."""
    reason = _why_pure()
    config = config_settings if reason is None else _pure(config_settings, reason)
    return _builder.get_requires_for_build_wheel(config)


get_requires_for_build_editable = get_requires_for_build_wheel
build_sdist = _builder.build_sdist
get_requires_for_build_sdist = _builder.get_requires_for_build_sdist
