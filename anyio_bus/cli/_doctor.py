"""``anyio-bus doctor``: what this machine can do, found out by doing it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from anyio_bus import BusError, Pool, __version__, open_bus
from anyio_bus._daemon import find_daemon
from anyio_bus.cli._exits import FAILED, OK
from anyio_bus.cli._loop import STOP_GRACE_S, quiet, run_in_loop
from anyio_bus.cli._show import Page

if TYPE_CHECKING:
    from anyio_bus.cli._parser import Arguments

__all__ = ("execute",)

BACKENDS: tuple[Any, ...] = ("native", "python", "subprocess")
LOOPS = ("asyncio", "trio")
LIMIT_S = 10.0
ENGINES = ("docker", "podman")
PROGRAMS = {
    "cc": "builds the parts in C",
    "podman": "runs containers",
    "docker": "runs containers",
    "node": "runs agents and servers from npm",
    "npx": "gets them",
}
SETTINGS = ("ANYIO_BUS_BACKEND", "ANYIO_BUS_CONFIG", "ANYIO_BUS_SPAWNER", "ANYIO_BUSD")


def execute(_arguments: Arguments) -> int:
    """Run the command."""
    quiet()
    page = Page()
    page.heading("Versions")
    page.row("anyio-bus", __version__)
    page.row("Python", f"{platform.python_version()} on {platform.platform()}")
    for name in ("anyio", "msgspec", "trio", "uvloop", "cffi", "rich"):
        _version(page, name)
    page.heading("Backends, each with one worker and one request")
    good = [_try(page, backend) for backend in BACKENDS]
    page.row("docker", *_containers())
    page.heading("Programs")
    _daemon(page)
    for name, use in PROGRAMS.items():
        found = shutil.which(name)
        page.row(name, found or f"not there; {use}", "green" if found else "yellow")
    settings = [name for name in SETTINGS if name in os.environ]
    if settings:
        page.heading("Environment")
    for name in settings:
        page.text(f"  {name}={os.environ[name]}")
    return OK if any(good) else FAILED


def _version(page: Page, name: str) -> None:
    try:
        page.row(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        page.row(name, "not installed", "yellow")


def _daemon(page: Page) -> None:
    try:
        page.row("anyio-busd", find_daemon())
    except FileNotFoundError as exc:
        page.row("anyio-busd", str(exc), "yellow")


def _containers() -> tuple[str, str]:
    """Ask the engines of containers whether they work; which image there is nobody knows."""
    problems = []
    for name in ENGINES:
        try:
            asked = [name, "info"]
            done = subprocess.run(asked, capture_output=True, timeout=LIMIT_S, check=False)
        except FileNotFoundError:
            problems.append(f"there is no {name}")
        except (OSError, subprocess.TimeoutExpired) as exc:
            problems.append(f"{name}: {exc}")
        else:
            if done.returncode == 0:
                also = f", and engine={name!r} ({problems[0]})" if problems else ""
                return f"yes: {name} works; it needs an image with anyio-busd{also}", "green"
            said = done.stderr.decode(errors="replace").split("\n")
            problems.append(f"{name}: {next((line for line in said if line.strip()), 'fails')}")
    return f"no: {'; '.join(problems)}", "yellow"


def _try(page: Page, backend: Any) -> bool:
    """Open a bus on each loop that is there, and ask its worker once."""
    took = []
    for loop in LOOPS:
        if importlib.util.find_spec(loop) is None:
            continue
        start = time.perf_counter()

        async def once() -> int:
            echo = Pool("echo", [sys.executable, "-m", "anyio_bus", "worker", "echo"])
            async with open_bus(
                echo, backend=backend, timeout=LIMIT_S, grace_s=STOP_GRACE_S
            ) as bus:
                await bus.request("echo", {"message": "hello"})
            return OK

        try:
            run_in_loop(once, loop)
        except BusError as exc:
            page.row(str(backend), f"no: {exc}", "yellow")
            return False
        took.append(f"{loop} {1000 * (time.perf_counter() - start):.0f} ms")
    page.row(str(backend), f"yes: {', '.join(took)} from start to stop")
    return True
