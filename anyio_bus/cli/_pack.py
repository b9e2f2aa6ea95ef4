"""``anyio-bus pack``: make the archive of a nexo plugin, with its dependencies, for one target.

It is written beside its place and gets its name when it is whole; where it is for this machine,
when the plugin in it has been started.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import os
import posixpath
import re
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from anyio_bus.cli._exits import OK, WRONG_USE, CommandError
from anyio_bus.cli._loop import run_in_loop
from anyio_bus.cli._targets import Target, parse_target, this_target
from anyio_bus.cli._tool import run_tool
from anyio_bus.plugins.nexo import ManifestError, read_manifest
from anyio_bus.testing.nexo import PluginFailure, open_host

if TYPE_CHECKING:
    from anyio_bus.cli._parser import Arguments

__all__ = ("execute",)

MANIFEST = "nexo-plugin.toml"
VENDOR = "vendor"  # the dependencies, beside the manifest
MOVED = "_packed_"  # stands before the name of the program, whose place the launcher takes
PIP_LIMIT_S = 1800.0  # large wheels on slow lines

# By the name of a file or folder, at any depth. The last row may be secrets.
LEFT_OUT = (
    *(".*", "__pycache__", "*.py[co]", "*.egg-info", "node_modules", "venv", "build", "dist"),
    *("tests", "test_*.py", "*_test.py", "conftest.py", "*.tar.gz"),
    *("*.env", "*.key", "*.pem", "*.p12", "*.pfx", "id_rsa", "id_ecdsa", "id_ed25519"),
)
# Of what pip installs: these name paths of this machine.
VENDOR_LEFT_OUT = ("bin/*", "*.dist-info/RECORD", "*.dist-info/direct_url.json", "*.pyc")

LAUNCHER = '''\
#!/usr/bin/env python3.{minor}
"""Starts {program} beside it, with the packages of the archive; by `anyio-bus pack`."""

import os
import runpy
import sys

if sys.version_info[:2] != (3, {minor}):
    sys.exit("this plugin is packed for {target}, and this is Python " + sys.version.split()[0])
here = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [here, os.path.normpath(os.path.join(here, {vendor!r}))]
# By the name that this file has: to import it is to import the program.
globals().update(runpy.run_path(os.path.join(here, {program!r}), run_name=__name__))
'''

NO_PIP = (
    "pip is not installed in this Python, and the dependencies are installed by it: "
    "`python -m ensurepip` brings it, in an environment of uv `uv pip install pip`"
)
NO_DEPENDENCIES = (
    "{}: there is neither [project] with dependencies in pyproject.toml nor a requirements.txt; "
    "an empty requirements.txt says that there are none"
)


class Plugin(NamedTuple):
    """A plugin as its folder has it.

    Attributes:
        program: What the host starts, relative to the folder.
        files: What goes into the archive, by its name there.
        left_out: What does not.
        requirements: The dependencies, as pip takes them.
    """

    id: str
    version: str
    program: str
    arguments: list[str]
    env: dict[str, str]
    files: dict[str, Path]
    left_out: list[str]
    requirements: list[str]


def execute(arguments: Arguments) -> int:
    """Run the command."""
    target = parse_target(arguments.target)
    packing_time()  # what is wrong with it is told first
    try:
        plugin = read_plugin(Path(arguments.folder))
        output = _output(arguments.output, f"{plugin.id}-{plugin.version}-{target}.tar.gz")
        plugin = _without(output, plugin)
        if plugin.requirements and importlib.util.find_spec("pip") is None:
            raise CommandError(NO_PIP)
        here = " (this machine)" if target == this_target() else ""
        _say(f"packing {plugin.id} {plugin.version} for {target}{here}")
        if plugin.left_out:
            _say(f"left out: {', '.join(plugin.left_out)}")
        operation = partial(_pack, plugin, target, output, arguments.pip, check=arguments.start)
        code = run_in_loop(operation, "asyncio")
    except OSError as exc:
        raise CommandError(str(exc)) from None
    if code == OK:
        print(output)
    return code


async def _pack(
    plugin: Plugin, target: Target, output: Path, options: Sequence[str], *, check: bool
) -> int:
    with tempfile.TemporaryDirectory(prefix="anyio-bus-pack-") as name:
        folder = Path(name)
        with _unfinished(output) as archive:
            if plugin.requirements:
                await _install(plugin.requirements, target, folder, options)
            files = members(plugin, target, folder / VENDOR)
            await write_archive(archive, files)
            if not check or target != this_target():
                why = "--no-check" if not check else "it is for another machine"
                _say(f"the packed plugin was not started: {why}")
            else:
                await _check(archive, plugin, folder / "unpacked")
            await anyio.lowlevel.checkpoint()  # the last at which a signal leaves all as it was
            archive.replace(output)
    return OK


# --- what there is --------------------------------------------------------------------------------


def read_plugin(folder: Path) -> Plugin:
    """Read the folder of a plugin.

    Raises:
        CommandError: It is none, or it cannot be packed; the text says why.
    """
    text = _read(folder / MANIFEST)
    try:
        document = read_manifest(text, strict=True)
    except ManifestError as exc:
        raise CommandError(f"{folder / MANIFEST}: {exc}", WRONG_USE) from None
    found = document["plugin"]
    files, left_out = list_files(folder)
    if MANIFEST not in files:
        raise CommandError(f"{folder / MANIFEST}: links are left out of the archive", WRONG_USE)
    entrypoint = found.get("entrypoint", {})
    program = _program(folder, entrypoint.get("command"), files)
    for name in (VENDOR, moved(program)):
        if (folder / name).exists():
            raise CommandError(f"{folder / name}: what pack writes has that name", WRONG_USE)
    arguments, env = entrypoint.get("args", []), entrypoint.get("env", {})
    requirements = read_requirements(folder)
    return Plugin(
        found["id"], found["version"], program, arguments, env, files, left_out, requirements
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise CommandError(f"{path}: {reason}", WRONG_USE) from None


def list_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the files of a plugin by their names in the archive, and what is left out of it."""
    files: dict[str, Path] = {}
    left_out: list[str] = []
    for place, folders, names in os.walk(folder, onerror=_fail):
        skipped = {name for name in folders if _is_left_out(Path(place, name))}
        folders[:] = sorted({*folders} - skipped)
        for name in sorted(skipped | {*names}):
            path = Path(place, name)
            key = path.relative_to(folder).as_posix()
            if name in skipped or _is_left_out(path):
                left_out.append(key)
            else:
                files[key] = path
    return files, left_out


def _fail(error: OSError) -> NoReturn:
    raise error


def _is_left_out(path: Path) -> bool:
    """Links lead out of the folder, and sockets and pipes are no content."""
    name = path.name.lower()
    return (
        any(fnmatchcase(name, pattern) for pattern in LEFT_OUT)
        or path.is_symlink()
        or not (path.is_file() or path.is_dir())
        or (path / "pyvenv.cfg").exists()
    )


def _program(folder: Path, command: object, files: dict[str, Path]) -> str:
    if not isinstance(command, str) or not re.fullmatch(r"\./[\w./-]+\.py", command):
        msg = (
            f"{folder / MANIFEST}: plugin.entrypoint.command must be a Python file beside the "
            f"manifest, such as './plugin.py', not {command!r}: the host looks there for what "
            "begins with './' only"
        )
        raise CommandError(msg, WRONG_USE)
    program = posixpath.normpath(command)
    if program not in files:
        there = (folder / command).is_file()
        why = "left out (a link, or a name of what is)" if there else "no file"
        msg = f"plugin.entrypoint.command {command!r} is not in the archive: it is {why}"
        raise CommandError(f"{folder / MANIFEST}: {msg}", WRONG_USE)
    return program


def moved(program: str) -> str:
    """Return where the program is in the archive: the launcher has its place."""
    folder, name = posixpath.split(program)
    return posixpath.join(folder, MOVED + name)


def read_requirements(folder: Path) -> list[str]:
    """Return the dependencies of a plugin, as pip takes them.

    Raises:
        CommandError: They are not listed, or the list cannot be read.
    """
    path, listed = folder / "pyproject.toml", folder / "requirements.txt"
    project: Any = None
    if path.exists():
        try:
            project = tomllib.loads(_read(path)).get("project")
        except tomllib.TOMLDecodeError as exc:
            raise CommandError(f"{path}: {exc}", WRONG_USE) from None
    if not isinstance(project, dict):
        project = {"dynamic": ["dependencies"]}
    found = project.get("dependencies")
    if found is None and listed.exists():
        lines = (line.strip() for line in _read(listed).splitlines())
        return ["-r", str(listed)] if any(line and line[0] != "#" for line in lines) else []
    dynamic = project.get("dynamic", [])
    if found is None and (not isinstance(dynamic, list) or "dependencies" in dynamic):
        raise CommandError(NO_DEPENDENCIES.format(folder), WRONG_USE)
    found = found or []
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise CommandError(f"{path}: project.dependencies is no list of texts", WRONG_USE)
    for text in found:
        if not re.match(r"\s*[0-9A-Za-z]", text):  # pip would take it for an option
            raise CommandError(f"{path}: {text!r} is no dependency", WRONG_USE)
    return found


def _output(named: str | None, name: str) -> Path:
    output = Path(named or ".")
    if output.is_dir() or (named or "").endswith("/"):
        output /= name
    if not output.parent.is_dir():
        raise CommandError(f"--output {named}: there is no folder {output.parent}", WRONG_USE)
    if output.exists() and not output.is_file():  # a device, such as /dev/null, is not replaced
        raise CommandError(f"--output {output}: there is something that is no file", WRONG_USE)
    return output


def _without(output: Path, plugin: Plugin) -> Plugin:
    """Leave an older archive out, whatever its name.

    Raises:
        CommandError: It is what the archive is made of.
    """
    if not output.exists():
        return plugin
    older = [name for name, path in plugin.files.items() if output.samefile(path)]
    if {plugin.program, MANIFEST} & {*older}:
        raise CommandError(f"--output {output}: that is a file of the plugin", WRONG_USE)
    files = {name: path for name, path in plugin.files.items() if name not in older}
    return plugin._replace(files=files, left_out=[*plugin.left_out, *older])


# --- the archive ----------------------------------------------------------------------------------


class Member(NamedTuple):
    """A file of the archive."""

    name: str
    content: Path | bytes
    executable: bool


async def _install(
    requirements: list[str], target: Target, folder: Path, options: Sequence[str]
) -> None:
    _say("installing the dependencies with pip")
    common = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-user", "--no-compile")
    place = f"--target={folder / VENDOR}"  # after the options: there may be another in them
    command = [*target.pip_install(), *common, *options, place, *requirements]
    code = await run_tool(command, "pip", folder, limit_s=PIP_LIMIT_S)
    if code != 0:
        msg = (
            f"pip ended with {code}, as said above; no archive is written. What follows -- goes to "
            "pip, as in `-- --find-links FOLDER`"
        )
        raise CommandError(msg)
    if not any((folder / VENDOR).glob("*")):
        _say("pip has installed nothing: no dependency is for this target")
    check_installed(folder / VENDOR, target)


def check_installed(vendor: Path, target: Target) -> None:
    """Check what pip did not take from an index: the folders, archives and URLs of requirements.

    Raises:
        CommandError: A package is not in the archive, or was compiled here for another machine.
    """
    for path in sorted(vendor.glob("*.dist-info/direct_url.json")):
        package = path.parent.name.removesuffix(".dist-info")
        origin = json.loads(path.read_bytes())
        if origin.get("dir_info", {}).get("editable"):
            msg = (
                f"{package} would not be in the archive: it is editable (-e), from {origin['url']}"
            )
            raise CommandError(msg)
        built = not origin["url"].endswith(".whl")
        if built and target != this_target() and not _is_portable(path.with_name("WHEEL")):
            msg = (
                f"{package} was compiled for this machine: for {target} there must be a wheel of it"
            )
            raise CommandError(msg)


def _is_portable(wheel: Path) -> bool:
    """Return whether a package fits all platforms, by what it says of itself."""
    return any(re.match("Tag: .*-none-any$", line) for line in wheel.read_text().splitlines())


def members(plugin: Plugin, target: Target, vendor: Path) -> list[Member]:
    """Return the files of the archive, in order."""
    found = [
        Member(moved(name) if name == plugin.program else name, path, _is_executable(path))
        for name, path in plugin.files.items()
    ]
    launcher = LAUNCHER.format(
        minor=target.minor,
        target=target,
        program=posixpath.basename(moved(plugin.program)),
        vendor=posixpath.relpath(VENDOR, posixpath.dirname(plugin.program) or "."),
    )
    found.append(Member(plugin.program, launcher.encode(), executable=True))
    for path in vendor.rglob("*"):
        name = path.relative_to(vendor).as_posix()
        if path.is_file() and not any(fnmatchcase(name, pattern) for pattern in VENDOR_LEFT_OUT):
            found.append(Member(f"{VENDOR}/{name}", path, _is_executable(path)))
    return sorted(found, key=lambda member: member.name)


def _is_executable(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o100)


class _File(io.FileIO):
    """A file that is read in a thread of anyio's until its task is cancelled: some are large."""

    def read(self, size: int | None = -1, /) -> bytes:
        anyio.from_thread.check_cancelled()
        return super().read(size)


async def write_archive(path: Path, files: list[Member]) -> None:
    """Write an archive whose bytes come of names and contents alone.

    Raises:
        CommandError: ``SOURCE_DATE_EPOCH`` is no time.
    """
    await anyio.to_thread.run_sync(_write, path, files)


def _write(path: Path, files: list[Member]) -> None:
    mtime = packing_time()
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for member in files:
            content = member.content
            with io.BytesIO(content) if isinstance(content, bytes) else _File(content) as source:
                info = tarfile.TarInfo(member.name)
                info.size = source.seek(0, os.SEEK_END)
                info.mtime = mtime
                info.mode = 0o755 if member.executable else 0o644
                source.seek(0)
                archive.addfile(info, source)


def packing_time() -> int:
    """Return the time that all files of an archive have.

    Raises:
        CommandError: ``SOURCE_DATE_EPOCH`` is no time.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or "0"
    if not re.fullmatch(r"\d{1,10}", epoch, re.ASCII):
        raise CommandError(f"SOURCE_DATE_EPOCH is no time: {epoch!r}", WRONG_USE)
    return int(epoch)


@contextmanager
def _unfinished(output: Path) -> Iterator[Path]:
    """Give a file for the archive until it is whole; then nothing has its name any more."""
    path = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        path.touch()  # what cannot be written is told before pip has worked for it
        yield path
    finally:
        path.unlink(missing_ok=True)


# --- the check ------------------------------------------------------------------------------------


async def _check(archive: Path, plugin: Plugin, folder: Path) -> None:
    """Start the plugin as a host does, with nothing but what is in the archive.

    Raises:
        CommandError: It does not start, or it does not end.
    """
    _say("starting the packed plugin")
    await anyio.to_thread.run_sync(_unpack, archive, folder)
    # Without site-packages: what the archive lacks is not to be found there.
    command = [sys.executable, "-I", "-S", str(folder / plugin.program), *plugin.arguments]
    env = {**os.environ, **plugin.env}
    try:
        async with open_host(command, plugin_id=plugin.id, env=env, cwd=str(folder.parent)):
            pass
    except (AssertionError, EOFError, PluginFailure, TimeoutError, ValueError) as exc:
        reason = exc.message if isinstance(exc, PluginFailure) else str(exc)
        msg = f"the packed plugin does not start and end as it should: {reason}".rstrip()
        raise CommandError(f"{msg}\n(--no-check packs it without starting it)") from None


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # from 3.11.4 on
        for member in packed:
            anyio.from_thread.check_cancelled()
            packed.extract(member, folder)


def _say(text: str) -> None:
    print(f"anyio-bus: {text}", file=sys.stderr, flush=True)
