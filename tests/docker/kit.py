"""What the tests of containers share: an engine that runs here, and an image of static programs."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from anyio_bus import Docker, Pool

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "kernel" / "build" / "static"
RUN = (
    f"anyio-bus-test-{uuid.uuid4().hex[:12]}"  # the label of our containers, the name of our image
)
BUILD_S = 300
ENGINE_S = 60
WAIT_S = 15  # for what takes half a second

# What podman takes to run as root where there is no systemd.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
IMAGE = """\
FROM localhost/{daemon}
COPY worker echo_worker /
COPY config.json /etc/anyio-bus.json
"""
OWN = {"pools": [{"id": "own", "command": "/echo_worker"}]}


class Engine(NamedTuple):
    """An engine that has built our image and run it."""

    path: str
    env: Mapping[str, str]
    image: str

    def run(self, *words: str, check: bool = True) -> str:
        """Run one of its commands; return what it prints."""
        return _run([self.path, *words], self.env, check=check)

    def containers(self, label: str = RUN) -> list[str]:
        """Return the names of our containers, running or not."""
        return self.run("ps", "-a", "--filter", f"label={label}", "--format", "{{.Names}}").split()

    async def until(self, condition: Callable[[list[str]], object], label: str = RUN) -> list[str]:
        """Wait until our containers are so; nothing else tells us."""
        with anyio.fail_after(WAIT_S):
            while not condition(names := self.containers(label)):  # noqa: ASYNC110
                await anyio.sleep(0.01)
        return names


def _run(command: list[str], env: Mapping[str, str], *, check: bool = True) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_S,
        env={**os.environ, **env},
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr}")
    return done.stdout


@functools.cache
def find_engine() -> Engine | str:
    """Return the first engine that works, once it has built the image; else why there is none."""
    if not shutil.which(os.environ.get("CC", "cc").split()[0]) or not shutil.which("make"):
        return "no C compiler here"
    problems = []
    for name in ("podman", "docker"):
        path = shutil.which(name)
        if path is None:
            problems.append(f"no {name} here")
            continue
        try:
            return _build(path)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as exc:
            problems.append(str(exc).strip())
    return "; ".join(problems)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="anyio-bus-containers-")  # until the tests are over


def _build(path: str) -> Engine:
    env = {}
    if os.geteuid() == 0 and "CONTAINERS_CONF" not in os.environ:
        conf = Path(_folder().name, "containers.conf")
        conf.write_text(CONTAINERS_CONF)
        env["CONTAINERS_CONF"] = str(conf)
    engine = Engine(path, env, f"localhost/{RUN}")
    engine.run("info")
    kernel = str(ROOT / "kernel")
    _run(["make", "-C", kernel, "build/static/anyio-busd", "build/static/worker"], {})
    with tempfile.TemporaryDirectory() as folder:
        floor = ["make", "-C", str(ROOT / "benchmarks" / "floor"), f"BUILD={folder}"]
        _run([*floor, "LDFLAGS=-static", f"{folder}/echo_worker"], {})
        shutil.copy(STATIC / "worker", folder)
        Path(folder, "config.json").write_text(json.dumps(OWN))
        Path(folder, "Containerfile").write_text(IMAGE.format(daemon=f"{RUN}-daemon"))
        ours = str(ROOT / "kernel" / "Containerfile")
        engine.run("build", "--tag", f"localhost/{RUN}-daemon", "--file", ours, str(STATIC))
        engine.run("build", "--tag", engine.image, "--pull=false", folder)
    engine.run("run", "--rm", "--pull=never", engine.image, "--version")
    return engine


def clean_up() -> None:
    """Remove the images, and what told the engine how to run."""
    engine = find_engine() if find_engine.cache_info().currsize else ""
    if isinstance(engine, Engine):
        find_engine.cache_clear()
        engine.run("rmi", "--force", engine.image, f"{engine.image}-daemon", check=False)
    if _folder.cache_info().currsize:
        _folder().cleanup()
        _folder.cache_clear()


def docker(**options: Any) -> Docker:
    """Return the backend of our image, in containers that are known as ours."""
    engine = find_engine()
    assert isinstance(engine, Engine)
    label = options.pop("label", RUN)
    options.setdefault("args", ())
    options["args"] = ("--label", label, *options["args"])
    options.setdefault("image", engine.image)
    return Docker(**{"engine": engine.path, "pull": "never"} | options)


def on_this_system() -> Docker:
    """Return the backend in a container that sees our files, so that workers in Python run there."""
    found = {"/usr", "/bin", "/lib", "/lib64", sys.prefix, sys.base_prefix, ROOT, "/tmp"}
    folders = sorted({str(Path(name)) for name in found if Path(name).exists()})
    mounts = [word for name in folders for word in ("--volume", f"{name}:{name}")]
    return docker(args=[*mounts, "--pid", "host"])


def echo(pool_id: str = "e", **options: Any) -> Pool:
    """Make a pool of workers that echo, or stream."""
    return Pool(pool_id, ["/echo_worker"], **options)


def worker(pool_id: str = "w", *arguments: str, **options: Any) -> Pool:
    """Make a pool of the worker of the kernel's tests."""
    return Pool(pool_id, ["/worker", *arguments], **options)
