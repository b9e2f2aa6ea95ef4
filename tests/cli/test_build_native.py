"""`anyio-bus build-native`: a pure install gets its parts in C, or keeps what it has."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

import anyio_bus
from tests.cli.kit import COMMAND, finish, interrupt, running, without

pytestmark = [
    pytest.mark.timeout(120),  # compiling takes seconds of one core
    pytest.mark.skipif(sys.platform == "win32", reason="the parts in C are not for Windows"),
]

HERE = Path(anyio_bus.__file__).parent
PARTS = "_native.abi3.so", "_bin/anyio-busd"
MISSING = [
    name
    for name, there in (
        ("C compiler", any(map(shutil.which, ("cc", "gcc", "clang")))),
        ("Python.h", Path(sysconfig.get_path("include"), "Python.h").exists()),
        ("cffi", find_spec("cffi")),
    )
    if not there
]

REQUEST = """
import sys
import anyio
from anyio_bus import Pool, open_bus

async def main():
    echo = Pool("echo", [sys.executable, "-m", "anyio_bus", "worker", "echo"])
    for backend in "native", "subprocess":
        async with open_bus(echo, backend=backend) as bus:
            print(bus.statistics().backend, await bus.request("echo", {"n": 1}))

anyio.run(main)
"""


def make_pure_install(site: Path) -> Path:
    """Copy the package as a pure wheel has it, sources and list of files included."""
    package = site / "anyio_bus"
    built = shutil.ignore_patterns("_native*.so", "_bin", "_csrc", "__pycache__")
    shutil.copytree(HERE, package, ignore=built)
    sources = HERE / "_csrc" if (HERE / "_csrc").exists() else HERE.parent
    for name in ("kernel/src", "kernel/include", "kernel/daemon"):
        shutil.copytree(sources / name, package / "_csrc" / name)
    (package / "_csrc" / "native").mkdir()
    shutil.copy(sources / "native" / "_kernel.c", package / "_csrc" / "native")
    info = site / "anyio_bus-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: anyio-bus\nVersion: 0\n")
    (info / "RECORD").write_text(
        "anyio_bus/__init__.py,,\nanyio_bus-0.dist-info/METADATA,,\n"
        "anyio_bus-0.dist-info/RECORD,,\n"
    )
    return package


class Install:
    """A pure install in a folder of its own."""

    def __init__(self, site: Path) -> None:
        self.package = make_pure_install(site)
        self.env = {name: text for name, text in os.environ.items() if name != "ANYIO_BUSD"}
        self.env |= {"PYTHONPATH": str(site), "CC": ""}
        self.record = site / "anyio_bus-0.dist-info" / "RECORD"

    def python(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env={**self.env, **env},
            cwd=self.package.parent,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def build(
        self, *options: str, command: tuple[str, ...] = COMMAND, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return self.python(*command, "build-native", *options, **env)

    def files(self) -> set[str]:
        """Return what a build may add or leave."""
        found = self.package.rglob("*")
        names = {str(path.relative_to(self.package)) for path in found if path.is_file()}
        return {name for name in names if not name.endswith((".py", ".pyc", ".c", ".h"))}


@pytest.fixture
def pure(tmp_path: Path) -> Install:
    """Return an install of the test's own."""
    return Install(tmp_path)


@pytest.mark.skipif(bool(MISSING), reason=f"NOT TESTED: there is no {' and no '.join(MISSING)}")
def test_a_pure_install_gets_both_parts_and_serves_with_them(pure: Install) -> None:
    before = pure.files()
    asked = pure.build("--check")
    assert (asked.returncode, asked.stdout.count("not there")) == (1, 2), asked.stderr

    done = pure.build()
    assert done.returncode == 0, done.stderr
    assert "compiling with" in done.stderr
    assert pure.files() - before == set(PARTS)
    served = pure.python(sys.executable, "-c", REQUEST)
    assert served.stdout.split("\n")[:2] == ["native {'n': 1}", "subprocess {'n': 1}"], served

    rows = {row[0]: row for row in csv.reader(pure.record.read_text().splitlines())}
    for name in PARTS:  # so that pip takes them away with the package
        digest = hashlib.sha256((pure.package / name).read_bytes()).digest()
        code = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        assert rows[f"anyio_bus/{name}"][1] == f"sha256={code}"
    assert {"anyio_bus/__init__.py", "anyio_bus-0.dist-info/RECORD"} < rows.keys()

    assert pure.build("--check").returncode == 0
    again = pure.build(PATH="")
    assert (again.returncode, again.stderr) == (0, "")
    assert "--force" in again.stdout


def make_compiler(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_an_interrupted_build_leaves_nothing(pure: Install, tmp_path: Path) -> None:
    before = pure.files()
    slow = make_compiler(tmp_path / "slow", 'touch "$TMPDIR/half"; sleep 1000 & echo now >&2; wait')
    with running("build-native", "--compiler", slow, env=pure.env, cwd=tmp_path) as process:
        assert process.stderr is not None
        while process.stderr.readline() not in {b"now\n", b""}:
            pass
        assert pure.files() != before
        interrupt(process)
        assert finish(process) == (130, "")
    assert pure.files() == before


def test_a_compiler_that_fails_changes_nothing(pure: Install, tmp_path: Path) -> None:
    before = pure.files()
    failing = make_compiler(tmp_path / "failing", "echo this is bad C >&2; exit 3")
    done = pure.build("--compiler", failing)
    assert done.returncode == 1
    assert done.stderr.count("this is bad C") == 1
    assert "the compiler ended with 3, as said above; nothing has changed" in done.stderr
    assert pure.files() == before


def test_what_does_not_work_is_not_put_in_its_place(pure: Install, tmp_path: Path) -> None:
    before = pure.files()
    useless = 'while [ "$1" != -o ]; do shift; done; echo exit 7 >"$2"; chmod +x "$2"'
    done = pure.build("--compiler", make_compiler(tmp_path / "useless", useless))
    assert done.returncode == 1
    assert "was built but does not work" in done.stderr
    assert pure.files() == before


@pytest.mark.parametrize(
    ("options", "env"),
    [(("--compiler", "no-such-cc"), {}), ((), {"CC": 'gcc "'}), ((), {"CC": "/no/such/cc -m32"})],
)
def test_a_named_compiler_must_be_a_program(
    pure: Install, options: tuple[str, ...], env: dict[str, str]
) -> None:
    done = pure.build(*options, **env)
    assert done.returncode == 2
    assert (options or tuple(env))[0] in done.stderr
    assert "which is no program here" in done.stderr


def test_without_a_compiler_it_says_where_one_is(pure: Install, tmp_path: Path) -> None:
    done = pure.build(command=without("ziglang"), PATH=str(tmp_path))
    assert done.returncode == 1
    assert "pip install ziglang" in done.stderr


def test_without_cffi_or_headers_it_says_how_to_get_them(pure: Install) -> None:
    asked = pure.build("--check", command=without("_cffi_backend"))
    assert asked.returncode == 1
    expected = "Python.h" if "Python.h" in MISSING else "pip install 'anyio-bus[native]'"
    assert expected in asked.stdout
    hide = "import sys, sysconfig; sysconfig.get_path = lambda name: '/nowhere'"
    run = "from anyio_bus.cli import main; sys.exit(main())"
    asked = pure.build("--check", command=(sys.executable, "-c", f"{hide}; {run}"))
    assert asked.returncode == 1
    assert "Python.h is not in /nowhere" in asked.stdout
    assert "apt-get install python3-dev" in asked.stdout


def test_where_one_may_not_write_it_says_so_before_it_compiles(pure: Install) -> None:
    # Not by permissions, which are nothing to root.
    hide = "import sys, pathlib, anyio_bus.cli._build_native as it; it.PACKAGE = pathlib.Path"
    run = "('/dev/null'); from anyio_bus.cli import main; sys.exit(main())"
    done = pure.build("--compiler", "true", command=(sys.executable, "-c", hide + run))
    assert done.returncode == 1
    assert done.stderr.startswith("anyio-bus: cannot write to /dev/null (")
    assert "virtual environment" in done.stderr


def test_the_parts_in_c_have_the_version_of_the_package(pure: Install) -> None:
    header = (pure.package / "_csrc" / "kernel" / "include" / "abk.h").read_text()
    assert re.findall(r'ABK_VERSION "(.+)"', header) == [anyio_bus.__version__]
