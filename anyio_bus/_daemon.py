"""Find the daemon, a program in C, and become it: the console script ``anyio-busd``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ("find_daemon", "main")

NAME = "anyio-busd"
REMEDY = (
    "this install of anyio-bus is without it. `anyio-bus build-native` builds it, with a C compiler "
    "of this machine or of `pip install ziglang`; or name one with the environment variable "
    "ANYIO_BUSD"
)


def find_daemon() -> str:
    """Return the path of the daemon.

    The one that the environment variable ``ANYIO_BUSD`` names, else the one that was installed with
    this package, else the first on ``PATH``.

    Raises:
        FileNotFoundError: There is none; the text says why, and how to get one.
    """
    import shutil  # loads much that an idle bus does not need  # noqa: PLC0415

    named = os.environ.get("ANYIO_BUSD")
    if named:
        if found := shutil.which(named):
            return found
        raise FileNotFoundError(f"ANYIO_BUSD names {named}, which is no program")
    if found := shutil.which(NAME, path=str(Path(__file__).with_name("_bin"))):
        return found
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if (found := shutil.which(NAME, path=folder)) and not _is_launcher(found):
            return found
    raise FileNotFoundError(f"it is not there: {REMEDY}")


def _is_launcher(program: str) -> bool:
    """Tell the script that runs :func:`main` from the program that it is to find."""
    with open(program, "rb") as file:
        return b"anyio_bus._daemon" in file.read(4096)


def main() -> None:
    """Become the daemon, with the arguments of this process."""
    try:
        program = find_daemon()
    except FileNotFoundError as error:
        sys.exit(f"{NAME}: {error}")
    os.execv(program, [NAME, *sys.argv[1:]])
