"""Own the targets of ``anyio-bus pack``: their names, and what pip is told of them."""

from __future__ import annotations

import json
import platform
import re
import sys
import sysconfig
from typing import NamedTuple

from anyio_bus.cli._exits import WRONG_USE, CommandError

__all__ = ("TRIPLES", "Target", "parse_target", "this_target")

_MINOR = 11  # of the oldest Python that anyio_bus runs on
_PYTHON = re.compile(r"cp3(\d\d)", re.ASCII)

# The oldest systems that wheels are taken for: Debian 10, RHEL 8, Alpine 3.13, macOS 13.
_GLIBC, _OLDEST_GLIBC = 28, 5
_GNU = (*(f"manylinux_2_{minor}" for minor in range(_GLIBC, _OLDEST_GLIBC - 1, -1)),)
_GNU += ("manylinux2014", "manylinux2010", "manylinux1", "linux")
_MUSL = ("musllinux_1_2", "musllinux_1_1", "musllinux_1_0", "linux")
_MACOS = ("macosx_13_0",)  # pip adds what is older

# The triples, with the platforms of wheels, the system and the machine as Python calls them.
_KNOWN = {
    "x86_64-unknown-linux-gnu": (_GNU, "linux", "x86_64"),
    "aarch64-unknown-linux-gnu": (_GNU, "linux", "aarch64"),
    "x86_64-unknown-linux-musl": (_MUSL, "linux", "x86_64"),
    "aarch64-unknown-linux-musl": (_MUSL, "linux", "aarch64"),
    "x86_64-apple-darwin": (_MACOS, "darwin", "x86_64"),
    "aarch64-apple-darwin": (_MACOS, "darwin", "arm64"),
}
TRIPLES = tuple(_KNOWN)

# pip chooses wheels for another target, but asks the Python that it runs on what a marker such as
# `python_version < "3.13"` says. Here it is told of the target in that as well.
_PIP_ELSEWHERE = """
import json, runpy, sys
from pip._vendor.packaging import markers
there = {**markers.default_environment(), **json.loads(sys.argv.pop(1))}
markers.default_environment = lambda: dict(there)
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


class Target(NamedTuple):
    """A CPython on a platform."""

    minor: int
    triple: str

    def __str__(self) -> str:
        return f"cp3{self.minor}-{self.triple}"

    def pip_install(self) -> list[str]:
        """Return the command that installs packages for it, from wheels if it is elsewhere."""
        here = [sys.executable, "-P", "-m", "pip", "install"]
        return here if self == this_target() else self._pip_elsewhere()

    def _pip_elsewhere(self) -> list[str]:
        platforms, _, machine = _KNOWN[self.triple]
        markers = json.dumps(self._markers())
        return [
            *(sys.executable, "-P", "-c", _PIP_ELSEWHERE, markers, "install"),
            *("--only-binary=:all:", "--implementation=cp", f"--python-version=3.{self.minor}"),
            f"--abi=cp3{self.minor}",
            *(f"--platform={name}_{machine}" for name in platforms),
        ]

    def _markers(self) -> dict[str, str]:
        _, system, machine = _KNOWN[self.triple]
        return {
            "implementation_name": "cpython",
            "implementation_version": f"3.{self.minor}.0",
            "os_name": "posix",
            "platform_machine": machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": system.capitalize(),
            "platform_version": "",
            "python_full_version": f"3.{self.minor}.0",
            "python_version": f"3.{self.minor}",
            "sys_platform": system,
        }


def this_target() -> Target | None:
    """Return the target that this Python is; None if it is none of them."""
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return None
    libc = "gnu" if platform.libc_ver()[0] == "glibc" else "musl"
    for triple, (_, system, machine) in _KNOWN.items():
        fits = sys.platform == system and platform.machine() == machine
        if fits and (system != "linux" or triple.endswith(libc)):
            return Target(sys.version_info.minor, triple)
    return None


def parse_target(name: str | None) -> Target:
    """Return the target of a name; None stands for this machine's.

    Raises:
        CommandError: There is no such target.
    """
    here = this_target()
    if name is None:
        if here is None:
            msg = f"this Python is no target; --target names one: {_names()}"
            raise CommandError(msg, WRONG_USE)
        return here
    python, _, triple = name.partition("-")
    found = _PYTHON.fullmatch(python)
    if found is None or int(found[1]) < _MINOR:
        wrong = f"the Python {python!r}"
    elif triple not in _KNOWN:
        wrong = f"the platform {triple!r}"
    else:
        return Target(int(found[1]), triple)
    hint = "" if here is None else f" (this machine's is {here})"
    msg = f"--target {name!r}: {wrong} is not known{hint}; it is {_names()}"
    raise CommandError(msg, WRONG_USE)


def _names() -> str:
    return f"cp3{_MINOR} or that of a later CPython, '-', and one of {', '.join(TRIPLES)}"
