"""``anyio-bus build-native``: make the parts in C for an install that came without them.

Their sources are in every install. What a compiler makes of them takes its place only when it has
been tried in a process of its own, and then at once.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio
import anyio.lowlevel

import anyio_bus
from anyio_bus import __version__
from anyio_bus.cli._exits import FAILED, OK, WRONG_USE, CommandError
from anyio_bus.cli._loop import run_in_loop
from anyio_bus.cli._show import Page
from anyio_bus.cli._tool import run_tool

if TYPE_CHECKING:
    from anyio_bus.cli._parser import Arguments

__all__ = ("execute",)

PACKAGE = Path(anyio_bus.__file__).parent
SOURCES = PACKAGE / "_csrc", PACKAGE.parent  # in a checkout they are beside the package

COMPILERS = ("cc", "gcc", "clang")
COMPILE_LIMIT_S = 300.0  # a file takes less than a second; the first with zig, half a minute
TRY_LIMIT_S = 30.0

# As native/CMakeLists.txt has them.
OPTIONS = ("-std=c11", "-D_GNU_SOURCE=", "-DNDEBUG", "-O2", "-fPIC", "-fvisibility=hidden")
MODULE = ("-shared", *(("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()))

TRY_MODULE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("anyio_bus._native", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.ffi.string(module.lib.abk_version()).decode())
"""

NO_COMPILER = (
    "there is no C compiler. `pip install ziglang` brings one from PyPI; or install that of the "
    'system ("apt-get install gcc libc6-dev", "dnf install gcc", "apk add gcc musl-dev", '
    '"xcode-select --install")'
)
NO_HEADERS = (
    "Python.h is not in {}. Install the headers of this Python "
    '("apt-get install python3-dev", "dnf install python3-devel", "apk add python3-dev"), or use '
    "one that comes with them, such as that of uv or of pyenv"
)
NO_CFFI = "cffi is not installed, without which it cannot run: pip install 'anyio-bus[native]'"


class Part(NamedTuple):
    """A file that is made of the sources."""

    name: str
    place: str
    sources: str  # beside those of the kernel
    options: tuple[str, ...]
    tried_by: tuple[str, ...]  # before its path

    @property
    def path(self) -> Path:
        """Its place in this install."""
        return PACKAGE / self.place


def _module() -> Part:
    headers = {sysconfig.get_path(name) for name in ("include", "platinclude")}
    options = (*MODULE, "-DPy_LIMITED_API=0x030b0000", *(f"-I{path}" for path in sorted(headers)))
    tried_by = sys.executable, "-P", "-c", TRY_MODULE
    return Part("extension", "_native.abi3.so", "native/_kernel.c", options, tried_by)


DAEMON = Part("daemon", "_bin/anyio-busd", "kernel/daemon/*.c", (), ())


def execute(arguments: Arguments) -> int:
    """Run the command."""
    if sys.platform == "win32":
        raise CommandError("the parts in C are for Linux and other Unix systems, not for Windows")
    parts = (_module(), DAEMON)
    why = _why_no_module()
    if arguments.check:
        return _show(parts, why, arguments.compiler)
    wanted = [part for part in parts if arguments.force or not _is_there(part)]
    if not wanted:
        print("the parts in C are there and work; --force builds them again")
        return OK
    buildable = [part for part in wanted if part is DAEMON or why is None]
    if buildable:
        compiler = _find_compiler(arguments.compiler)
        with _workshop() as folder:
            operation = partial(_build, buildable, compiler, Path(folder))
            if code := run_in_loop(operation, "asyncio"):
                return code
    if why is not None:
        raise CommandError(f"the extension module was not built: {why}")
    print('backend="native" is there now; `anyio-bus doctor` tries it')
    return OK


# --- what there is --------------------------------------------------------------------------------


def _show(parts: Sequence[Part], why: str | None, named: str | None) -> int:
    page = Page()
    good = True
    for part in parts:
        state = _try(part, part.path) if part.path.exists() else "not there"
        works = state == __version__
        good = good and works
        page.row(part.name, f"{part.path} works" if works else state, "green" if works else "red")
    try:
        page.row("compiler", shlex.join(_find_compiler(named)))
    except CommandError as exc:
        page.row("compiler", str(exc), "yellow")
    page.row("needs", why or "all that the extension needs is there", "yellow" if why else "green")
    return OK if good else FAILED


def _is_there(part: Part) -> bool:
    return part.path.exists() and _try(part, part.path) == __version__


def _try(part: Part, path: Path) -> str:
    """Run it in a process of its own; return its version, or else what went wrong."""
    command = [*part.tried_by, str(path), *(["--version"] if part is DAEMON else [])]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TRY_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    said = (done.stdout if done.returncode == 0 else done.stderr).split("\n")
    last = next((line for line in reversed(said) if line.strip()), f"ended with {done.returncode}")
    return last.removeprefix("anyio-busd ")


def _why_no_module() -> str | None:
    """Say why the extension cannot be built or loaded here; None where it can."""
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "it is for CPython with its stable ABI, which this Python has not"
    headers = sysconfig.get_path("include")
    if not Path(headers, "Python.h").exists():
        return NO_HEADERS.format(headers)
    return None if importlib.util.find_spec("_cffi_backend") else NO_CFFI


def _find_compiler(named: str | None) -> list[str]:
    """Return the command that compiles.

    Raises:
        CommandError: There is none, or the one that was asked for is no program.
    """
    for label, asked in (("--compiler", named), ("CC", os.environ.get("CC"))):
        if asked:
            return _split(label, asked)
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise CommandError(NO_COMPILER)


def _split(label: str, asked: str) -> list[str]:
    if shutil.which(asked):  # a path may have spaces
        return [asked]
    words: list[str] = []
    with suppress(ValueError):  # an open quote
        words = shlex.split(asked)
    if not words or not shutil.which(words[0]):
        raise CommandError(f"{label} names {asked!r}, which is no program here", WRONG_USE)
    return words


# --- the build ------------------------------------------------------------------------------------


def _workshop() -> tempfile.TemporaryDirectory[str]:
    """Make a folder on the file system that the parts go to, and find out that one may write."""
    try:
        return tempfile.TemporaryDirectory(prefix=".build-native-", dir=PACKAGE)
    except OSError as exc:
        text = (
            f"cannot write to {PACKAGE} ({exc.strerror}). Run this as whoever installed anyio-bus, "
            "or install it in a virtual environment of yours"
        )
        raise CommandError(text) from None


async def _build(parts: Sequence[Part], compiler: list[str], folder: Path) -> int:
    """Make the parts in the folder, try them, and put them in their places."""
    sources = _find_sources()
    kernel = _list(sources, "kernel/src/*.c")
    folders = [f"-I{sources / 'kernel' / name}" for name in ("include", "src")]
    command = [*compiler, *OPTIONS, *folders]
    _say(f"compiling with {shlex.join(compiler)}")
    objects = [str(folder / f"{Path(file).stem}.o") for file in kernel]
    for file, made in zip(kernel, objects, strict=True):  # one at a time: the first error is enough
        await _run([*command, "-c", "-o", made, file], folder)
    for part in parts:
        made = str(_product(part, folder))
        files = _list(sources, part.sources)
        await _run([*command, *part.options, "-o", made, *files, *objects], folder)
        said = await anyio.to_thread.run_sync(_try, part, _product(part, folder))
        if said != __version__:
            raise CommandError(f"the {part.name} was built but does not work: {said}")
    await anyio.lowlevel.checkpoint()  # the last at which a signal leaves all as it was
    _put_in_place(parts, folder)
    return OK


def _find_sources() -> Path:
    for place in SOURCES:
        if Path(place, "kernel", "src").is_dir():
            return place
    raise CommandError(f"the sources in C are not in {SOURCES[0]}: install anyio-bus again")


def _list(sources: Path, pattern: str) -> list[str]:
    return [str(file) for file in sorted(sources.glob(pattern))]


def _product(part: Part, folder: Path) -> Path:
    return folder / Path(part.place).name


async def _run(command: list[str], folder: Path) -> None:
    code = await run_tool(command, "the compiler", folder, limit_s=COMPILE_LIMIT_S)
    if code != 0:
        raise CommandError(f"the compiler ended with {code}, as said above; nothing has changed")


def _put_in_place(parts: Sequence[Part], folder: Path) -> None:
    try:
        for part in parts:
            part.path.parent.mkdir(exist_ok=True)
            _product(part, folder).replace(part.path)
            _say(f"wrote {part.path}")
        _tell_pip([part.path for part in parts])
    except OSError as exc:
        raise CommandError(str(exc)) from None


def _tell_pip(paths: Sequence[Path]) -> None:
    """Add files to the list of what this install is, so that they leave with it.

    Else the next version would find what was built of this one.
    """
    record = _find_record()
    if record is None:
        return
    rows = {row[0]: row for row in csv.reader(record.read_text().splitlines())}
    rows |= {row[0]: row for row in map(_row, paths)}
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows.values())
    new = record.with_name(f".RECORD.{os.getpid()}")
    new.write_text(text.getvalue())
    new.replace(record)


def _find_record() -> Path | None:
    """Return the list; None where this package was not installed, or is in a checkout."""
    try:
        files = importlib.metadata.files("anyio-bus") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = {str(file): Path(str(file.locate())) for file in files}
    me = paths.get(f"{PACKAGE.name}/__init__.py")
    if me is None or me.resolve() != (PACKAGE / "__init__.py").resolve():
        return None
    return next((path for path in paths.values() if path.name == "RECORD"), None)


def _row(path: Path) -> list[str]:
    data = path.read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    name = (Path(PACKAGE.name) / path.relative_to(PACKAGE)).as_posix()
    return [name, f"sha256={digest}", str(len(data))]


def _say(text: str) -> None:
    print(f"anyio-bus: {text}", file=sys.stderr, flush=True)
