"""The project's checks; `nox -l` lists them, CONTRIBUTING.md says when to run which."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests", "lint", "types", "docs"]
nox.options.reuse_venv = "yes"

SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
PROJECT = nox.project.load_toml("pyproject.toml")
PACKAGE = "anyio_bus"


def _output(*command: str) -> str:
    """Return what the command prints, nothing if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _show_all_of_pyenv() -> None:
    """Let the shims of pyenv answer for each version that is installed, not only the chosen one."""
    if not shutil.which("pyenv"):
        return
    listed = _output("pyenv", "versions", "--bare")
    usable = [name for name in listed.split() if name.startswith(SUPPORTED)]
    os.environ["PYENV_VERSION"] = ":".join([*usable, "system"])


def _runs(version: str) -> bool:
    return (
        _output(f"python{version}", "-c", "import sys; print(*sys.version_info[:2], sep='.')")
        == version
    )


_show_all_of_pyenv()
PYTHONS = [version for version in SUPPORTED if _runs(version)] or [
    f"{sys.version_info.major}.{sys.version_info.minor}"
]
OLDEST, NEWEST = PYTHONS[0], PYTHONS[-1]


def _group(name: str) -> list[str]:
    return nox.project.dependency_groups(PROJECT, name)


def _files(*folders: str) -> list[str]:
    return [str(path) for folder in folders for path in sorted(Path(folder).rglob("*.py"))]


def _elsewhere(session: nox.Session) -> Path:
    """Return an empty folder of this session, outside of the checkout's import path."""
    place = Path(session.create_tmp()) / "elsewhere"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place.resolve()


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests and the examples of the docs, all loops."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session(python=OLDEST)
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml allows."""
    session.install("uv")
    session.run(
        *("uv", "pip", "install", "--quiet", "--python", session.virtualenv.location),
        *("--resolution", "lowest-direct", "-e", ".[test]"),
    )
    session.run("pytest", *session.posargs)


@nox.session(python=OLDEST)
def coverage(session: nox.Session) -> None:
    """Measure branches: all of _sansio, nine in ten of the rest (without arguments)."""
    session.install("-e", ".[test]")
    # The tests that run elsewhere have the kernel in C; here they have the one that is measured.
    env = {"COVERAGE_FILE": str(_elsewhere(session) / "coverage"), "ANYIO_BUS_BACKEND": "python"}
    pytest = str(Path(session.bin) / "pytest")
    # 1 means that a test failed: the tests are judged where they run without a tracer.
    session.run("coverage", "run", pytest, *session.posargs, env=env, success_codes=[0, 1])
    session.run("coverage", "combine", "--quiet", env=env)
    session.run("coverage", "report", f"--include={PACKAGE}/_sansio/*", "--fail-under=100", env=env)
    if not session.posargs:
        session.run("coverage", "report", f"--omit={PACKAGE}/_sansio/*", "--fail-under=90", env=env)


# 109: `timeout=` on calls is data, not a cancel scope. 122: it is about trio before 0.27.
ASYNC_RULES = "--anyio", "--enable=ASYNC,ASYNC900"  # naming an optional rule turns all of them on
NOWHERE = ("ASYNC109", "ASYNC122")
# 91x asks for a checkpoint on every path: what users await has one, the inner layers have fast
# paths without, on purpose. Tests and benchmarks have the rules that ruff knows of: all of them on
# all files take two minutes.
CHECKPOINTS = ("ASYNC910", "ASYNC911", "ASYNC912", "ASYNC913")
INNER = ("_backends", "_io", "_kernel")


def _startable(files: list[str]) -> str:
    """Name what takes a `task_status`: ASYNC113 finds a `start_soon` where `start` is meant."""
    functions = (
        node
        for file in files
        for node in ast.walk(ast.parse(Path(file).read_text()))
        if isinstance(node, ast.AsyncFunctionDef)
    )
    names = {
        function.name
        for function in functions
        for argument in (*function.args.args, *function.args.kwonlyargs)
        if argument.arg == "task_status"
    }
    return "--startable-in-context-manager=" + ",".join(sorted(names))


@nox.session(python=OLDEST)
def lint(session: nox.Session) -> None:
    """Check style, spelling, async habits and that every public name has its docstring."""
    session.install(*_group("lint"))
    session.run("ruff", "check", "--output-format=concise", ".")
    session.run("ruff", "format", "--check", ".")
    package = _files(PACKAGE)
    inner = [file for file in package if Path(file).parts[1] in INNER]
    outer = sorted({*package} - {*inner})
    rules = (*ASYNC_RULES, _startable(package))
    for files, without in ((outer, ()), (inner, CHECKPOINTS)):
        session.run("flake8-async", *rules, f"--disable={','.join(NOWHERE + without)}", *files)
    session.run("codespell")
    session.run("interrogate", "--quiet", PACKAGE)


@nox.session(python=OLDEST)
def types(session: nox.Session) -> None:
    """Check types with mypy (three platforms) and pyright; the public ones are complete."""
    session.install("-e", ".[cli,test]", *_group("types"))
    for platform in ("linux", "win32", "darwin"):
        session.run("mypy", "--platform", platform)
    session.run("mypy", "tests/typing/public_api.py")
    session.run("pyright", "--warnings")
    _judge_public_types(session)


def _judge_public_types(session: nox.Session) -> None:
    """Fail on a public name without a clear type; test workers and templates are programs."""
    command = "pyright", "--verifytypes", PACKAGE, "--ignoreexternal", "--outputjson"
    said = session.run(*command, silent=True, success_codes=[0, 1])
    report = json.loads(str(said))["typeCompleteness"]
    unclear = [
        symbol["name"]
        for symbol in report["symbols"]
        if symbol["isExported"]
        and not symbol["isTypeKnown"]
        and not any(part in symbol["name"] for part in (".testing.workers.", ".cli.templates."))
    ]
    session.log("%d public symbols, %d unclear", len(report["symbols"]), len(unclear))
    if unclear:
        session.error("no clear type: " + ", ".join(unclear))


@nox.session(python=OLDEST)
def gen_check(session: nox.Session) -> None:
    """Check that native/_kernel.c is what cffi makes of its sources; `-- write` makes it anew."""
    session.install(*_group("gen"))
    place = Path("native/_kernel.c") if session.posargs else _elsewhere(session) / "_kernel.c"
    sources = "native/_kernel.cdef.txt", "native/_kernel.csrc.c"
    session.run("cffi-gen-src", "read-sources", "anyio_bus._native", *sources, str(place))
    if place.read_text() != Path("native/_kernel.c").read_text():
        session.error("native/_kernel.c is stale: nox -s gen_check -- write")


def _check_trio_typing_sample(session: nox.Session, *requirements: str, options: str = "") -> None:
    sample = Path("tests/typing/trio_typing_sample.py").resolve()
    session.install(".[trio]", "trio-typing==0.10.0", *requirements)
    place = _elsewhere(session)
    config = place / "mypy.ini"
    config.write_text(f"[mypy]\nstrict = True\n{options}")
    with session.chdir(place):
        session.run("mypy", "--config-file", str(config), "--cache-dir", str(place), str(sample))
        session.run("python", str(sample))


# trio-typing 0.10.0 is its last release. Its `trio-stubs` take the place of trio's inline types
# for every program in whose environment it lies. Tried on Python 3.11 to 3.13 with trio 0.35:
# the stubs alone please every mypy up to 2.4; with the plugin mypy 1.10.1 is the last that works,
# 1.11.0 and 2.4.1 end in an internal error at trio-stubs/__init__.pyi.


@nox.session(python=OLDEST)
def trio_typing_stubs(session: nox.Session) -> None:
    """Type-check a program that has trio-typing installed, with the newest mypy."""
    _check_trio_typing_sample(session, "mypy>=2.4")


@nox.session(python=OLDEST)
def trio_typing_plugin(session: nox.Session) -> None:
    """Type-check the same program with the plugin of trio-typing, which ends at mypy 1.10."""
    _check_trio_typing_sample(session, "mypy<1.11", options="plugins = trio_typing.plugin\n")


@nox.session(python=NEWEST)
def docs(session: nox.Session) -> None:
    """Build the docs, warnings are errors, and the change log out of its fragments."""
    session.install("-e", ".[test]", *_group("docs"))  # the reference imports the pytest plugin
    place = _elsewhere(session)
    target = session.posargs[0] if session.posargs else str(place / "html")
    session.run(
        *("sphinx-build", "-n", "-W", "--keep-going", "-q", "-b", "html"),
        *("-d", str(place / "doctrees"), "docs", target),
    )
    session.run("towncrier", "build", "--draft", "--version", "next")


def _run_tests(
    session: nox.Session, place: Path, pytest: Path, *arguments: str, **env: str
) -> None:
    """Run the tests from a folder of their own, so that what is installed is tested."""
    built = shutil.ignore_patterns("__pycache__", "_build", "build")
    for name in ("tests", "docs", "kernel", "benchmarks"):
        shutil.copytree(name, place / name, ignore=built)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(name, place)
    with session.chdir(place):
        session.run(str(pytest), *arguments, env=env, external=True)


ECHO = ["worker", "echo"]
PARTS_IN_C = {f"{PACKAGE}/_bin/anyio-busd", f"{PACKAGE}/_native.abi3.so"}


def _files_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@nox.session(python=OLDEST)
def wheel(session: nox.Session) -> None:
    """Build sdist and wheel, and use the bare wheel as a newcomer would, then under the tests."""
    session.install("pip", *_group("build"))
    place = _elsewhere(session)
    session.run("python", "-m", "build", "--installer", "pip", "--outdir", str(place / "dist"))
    (from_sdist,) = (place / "dist").glob("*.whl")
    pure = "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-cache-dir"
    session.run(*pure, "--wheel-dir", str(place), ".", env={"ANYIO_BUS_NATIVE": "0"})
    (from_here,) = place.glob("*.whl")
    if odd := _files_of(from_sdist) ^ _files_of(from_here) ^ PARTS_IN_C:
        session.error(f"the wheel of the sdist is not that of the checkout: {sorted(odd)}")
    built = str(from_sdist)
    session.run("python", "-m", "venv", str(place / "bare"))
    python = str(place / "bare" / "bin" / "python")
    command = str(place / "bare" / "bin" / "anyio-bus")
    session.run(python, "-m", "pip", "install", "--quiet", built, external=True)
    config = place / "anyio-bus.json"
    config.write_text(json.dumps({"pools": [{"id": "echo", "command": command, "args": ECHO}]}))
    with session.chdir(place):
        for arguments in (["--version"], ["--help"], ["check", str(config)], ["demo"]):
            session.run(command, *arguments, external=True)
    session.run(python, "-m", "pip", "install", "--quiet", f"{built}[test]", external=True)
    _run_tests(session, place, place / "bare" / "bin" / "pytest", *session.posargs)


# The folder of a system in their sdist, by what Python calls it.
STDIO_BUS = {
    "linux-x86_64": "linux-amd64",
    "linux-aarch64": "linux-arm64",
    "darwin-x86_64": "darwin-amd64",
    "darwin-arm64": "darwin-arm64",
}


def _their_daemon(session: nox.Session, place: Path) -> dict[str, str]:
    """Return the variable that names the stdiobus daemon: the one that is set, or of their sdist."""
    if named := os.environ.get("STDIO_BUS"):
        return {"STDIO_BUS": named}
    fetch = "python", "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "stdiobus"
    session.run(*fetch, "--dest", str(place), *_group("parity"))
    (sdist,) = place.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    system = STDIO_BUS.get(f"{sys.platform}-{os.uname().machine}", "none")
    for daemon in place.glob(f"stdiobus-*/kernel/dist/{system}/stdio_bus"):
        return {"STDIO_BUS": str(daemon)}
    session.warn("LEFT OUT: their daemon, there is none for this system")
    return {}


@nox.session(python=OLDEST)
def parity(session: nox.Session) -> None:
    """Play the transcripts of the wire with the stdiobus client and the daemon of its sdist."""
    session.install("pip", "-e", ".[test]", *_group("parity"))
    env = _their_daemon(session, _elsewhere(session))
    session.run("pytest", *(session.posargs or ["-q", "tests/parity"]), env=env)


COMPILERS = ("c++", "c89", "c99", "cc", "clang", "cpp", "g++", "gcc", "tcc", "zig")
DAEMON = {"pools": [{"id": "echo", "command": "cat"}]}


def _without_compilers(place: Path) -> str:
    """Return a PATH on which everything is found that is found now, but no C compiler."""
    folder = place / "no-compiler"
    folder.mkdir()
    known = re.compile(rf"(?:.+-)?(?:{'|'.join(map(re.escape, COMPILERS))})(?:-[0-9.]+)?$")
    for directory in os.environ["PATH"].split(os.pathsep):
        for program in Path(directory).glob("*"):
            link = folder / program.name
            if not known.match(program.name) and not link.is_symlink():
                link.symlink_to(program)
    return str(folder)


def _install(
    session: nox.Session, place: Path, name: str, *settings: str, **env: str
) -> tuple[str, Path]:
    """Build a wheel in this environment, install it; return its tag and the folder of its scripts."""
    wheels, venv = place / f"{name}-wheels", place / name
    # Without the pip cache: it does not know what the environment says.
    options = ("--quiet", "--no-deps", "--no-cache-dir", "--wheel-dir", str(wheels), *settings)
    session.run("python", "-m", "pip", "wheel", *options, ".", env=env)
    (built,) = wheels.glob("*.whl")
    session.run("python", "-m", "venv", str(venv))
    python = str(venv / "bin" / "python")
    session.run(python, "-m", "pip", "install", "--quiet", f"{built}[native]", external=True)
    session.run(str(venv / "bin" / "anyio-bus"), "--version", external=True)
    return "-".join(built.stem.split("-")[2:]), venv / "bin"


NATIVE_REQUEST = """
import sys, anyio
from anyio_bus import Pool, open_bus

async def main():
    echo = Pool("echo", [sys.executable, "-m", "anyio_bus", "worker", "echo"])
    async with open_bus(echo, backend="native") as bus:
        answer = await bus.request("echo", {"message": "hello"})
    print(bus.statistics().backend, answer)

anyio.run(main)
"""


def _serves(session: nox.Session, scripts: Path) -> None:
    """Ask a worker something, through the kernel in C of this install."""
    session.run(str(scripts / "python"), "-I", "-c", NATIVE_REQUEST, external=True)
    session.run(str(scripts / "anyio-busd"), "--version", external=True)


def _judge_tag(session: nox.Session, name: str, tag: str, pattern: str) -> None:
    if not re.fullmatch(pattern, tag):
        session.error(f"{name}: the wheel is for {tag}, not for {pattern}")


def _refused(session: nox.Session, *command: str, code: int, words: str, **options: Any) -> None:
    """Run what has to fail with this exit code, and say these words."""
    said = session.run(*command, silent=True, success_codes=[code], **options)
    if words not in str(said):
        session.error(f"{' '.join(command)} does not say {words!r}:\n{said}")


@nox.session(python=OLDEST)
def native(session: nox.Session) -> None:
    """Install with all it takes, without Python's headers, without a compiler, and as asked."""
    session.install("pip")
    place = _elsewhere(session)
    bare = {"PATH": _without_compilers(place), "CC": "", "ANYIO_BUS_NATIVE": ""}
    config = place / "daemon.json"
    config.write_text(json.dumps(DAEMON))

    tag, scripts = _install(session, place, "native", ANYIO_BUS_NATIVE="1")
    _judge_tag(session, "native", tag, r"cp3\d+-abi3-(linux|macosx)\w+")
    _serves(session, scripts)

    hide_headers = f"--config-settings=cmake.define.Python_INCLUDE_DIR={place}"
    tag, scripts = _install(session, place, "daemon", hide_headers, ANYIO_BUS_NATIVE="")
    _judge_tag(session, "daemon", tag, r"py3-none-(linux|macosx)\w+")
    check = "--config", str(config), "--check-config"
    session.run(str(scripts / "anyio-busd"), *check, external=True)

    for name, env in (("pure", bare), ("asked", {"ANYIO_BUS_NATIVE": "0"})):
        tag, scripts = _install(session, place, name, **env)
        _judge_tag(session, name, tag, "py3-none-any")
        daemon = str(scripts / "anyio-busd")
        _refused(session, daemon, code=1, words="is without it", external=True)

    build = str(scripts / "anyio-bus"), "build-native"
    without = {"PATH": bare["PATH"], "CC": ""}
    _refused(session, *build, code=1, words="pip install ziglang", env=without, external=True)
    session.run(*build, external=True)
    _serves(session, scripts)

    wheel = "python", "-m", "pip", "wheel", "--no-deps", "--no-cache-dir", "--wheel-dir", str(place)
    asked = {**bare, "ANYIO_BUS_NATIVE": "1"}
    _refused(session, *wheel, ".", code=1, words="apt-get install gcc", env=asked)


@nox.session(python=OLDEST)
def pure(session: nox.Session) -> None:
    """Run the tests on an install without the parts in C, then build these with PyPI's compiler."""
    session.install("pip")
    place = _elsewhere(session)
    tag, scripts = _install(session, place, "pure", ANYIO_BUS_NATIVE="0")
    _judge_tag(session, "pure", tag, "py3-none-any")
    (built,) = (place / "pure-wheels").glob("*.whl")
    pip = str(scripts / "python"), "-m", "pip", "install", "--quiet"
    session.run(*pip, f"{built}[test]", external=True)
    # -rs says which tests were skipped, and why.
    _run_tests(session, place, scripts / "pytest", *(session.posargs or ["-q", "-rs"]))

    session.run(*pip, *_group("zig"), external=True)
    env = {"PATH": _without_compilers(place), "CC": ""}
    session.run(str(scripts / "anyio-bus"), "build-native", env=env, external=True)
    _serves(session, scripts)
    session.run(
        str(scripts / "python"), "-m", "pip", "uninstall", "-qy", "anyio-bus", external=True
    )
    if left := list(scripts.parent.glob("lib/*/site-packages/anyio_bus/*")):
        session.error(f"left behind by pip uninstall: {left}")


@nox.session(python=OLDEST)
def cross(session: nox.Session) -> None:
    """Link the daemon for macOS, where nobody has run it, and statically for Linux."""
    session.install(*_group("zig"))
    options = f"BUILD={_elsewhere(session)}", f"PYTHON={session.bin}/python"
    session.run("make", "-s", "-C", "kernel", *options, "macos", "static", external=True)


SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g"
# Python frees at its end what it likes; the C tests look for leaks (`make -C kernel valgrind`).
# A SIGSEGV that a test sends is to end a process as it would without it.
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:handle_segv=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
NOT_SANITIZED = [
    # They compare memory before and after, and a sanitizer keeps what was freed.
    "--deselect=tests/daemon/test_many_programs.py::test_nothing_crosses",
    "--deselect=tests/plugins/nexo/test_flow.py::"
    "test_a_flood_of_stuck_events_costs_bounded_memory_and_tools_still_work",
    # It starts a program without LD_PRELOAD.
    "--deselect=tests/cli/test_daemon_commands.py::test_doctor_says_which_engine_of_containers_works",
]


@nox.session(python=OLDEST)
def asan(session: nox.Session) -> None:
    """Run the tests with the extension and the daemon under gcc's sanitizers; `-- tests/bus`."""
    session.install("pip")
    place = _elsewhere(session)
    env = {"ANYIO_BUS_NATIVE": "1", "CC": "gcc", "CFLAGS": SANITIZE, "LDFLAGS": SANITIZE}
    _, scripts = _install(session, place, "asan", "--config-settings=install.strip=false", **env)
    alone = str(scripts / "python"), "-I", "-c", "import anyio_bus._native"
    _refused(session, *alone, code=1, words="ASan runtime", external=True)  # so it is sanitized
    (built,) = (place / "asan-wheels").glob("*.whl")
    pip = str(scripts / "python"), "-m", "pip", "install", "--quiet"
    session.run(*pip, f"{built}[test]", external=True)
    runtime = _output("gcc", "-print-file-name=libasan.so")
    (daemon,) = scripts.parent.glob(f"lib/*/site-packages/{PACKAGE}/_bin/anyio-busd")
    env = {"LD_PRELOAD": runtime, "ANYIO_BUSD": str(daemon), **SANITIZER_OPTIONS}
    arguments = session.posargs or ["-q", "-rs"]
    _run_tests(session, place, scripts / "pytest", *NOT_SANITIZED, *arguments, **env)


@nox.session(python=OLDEST)
def bench(session: nox.Session) -> None:
    """Run the quick benchmarks, five minutes; `-- --full`, `-- --list`, `-- --only NAME`."""
    session.install("pip", "-e", ".[native,trio,uvloop]", *_group("bench"))
    suite = "python", "benchmarks/suite.py", *session.posargs
    if {"--list", "--help", "-h"} & {*session.posargs}:
        session.run(*suite)
        return
    for folder in ("benchmarks/floor", "kernel"):
        session.run("make", "-s", "-C", folder, external=True)
    session.run(*suite, env=_their_daemon(session, _elsewhere(session)))
