"""``anyio-bus pack``: one archive that starts where nothing else is installed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import anyio_bus
from anyio_bus.cli._exits import CommandError
from anyio_bus.cli._pack import (
    LEFT_OUT,
    Member,
    check_installed,
    list_files,
    members,
    read_plugin,
    read_requirements,
    write_archive,
)
from anyio_bus.cli._targets import TRIPLES, Target, parse_target, this_target
from anyio_bus.testing.nexo import open_host
from tests.cli.kit import cli, finish, interrupt, running, without

pytestmark = [
    pytest.mark.timeout(60),  # pip takes seconds
    pytest.mark.skipif(this_target() is None, reason="NOT TESTED: this Python is no target"),
]

MINOR = sys.version_info.minor
MANIFEST = """
[plugin]
id = "small"
version = "1.0.0"
name = "Small"
description = "Does nothing"
min_nexo_version = ">=0.1"

[plugin.entrypoint]
command = "./plugin.py"
"""
# Answers what the host asks, without any package.
PROGRAM = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    manifest = {"plugin": {"id": "small", "version": "1.0.0"}}
    result = {"manifest": manifest} if asked["method"] == "initialize" else {"ok": True}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
    if asked["method"] == "shutdown":
        break
"""


def write_plugin(folder: Path, program: str = PROGRAM, /, **files: str) -> Path:
    """Write a plugin; the names of files have ``_`` for their dot."""
    folder.mkdir(exist_ok=True)
    texts = {"nexo-plugin_toml": MANIFEST, "plugin_py": program, "requirements_txt": "", **files}
    for name, text in texts.items():
        (folder / ".".join(name.rsplit("_", 1))).write_text(text)
    return folder


def pack(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it with a folder for temporary files of its own, which has to be empty afterwards."""
    (cwd / "tmp").mkdir(exist_ok=True)
    env = {**os.environ, "TMPDIR": str(cwd / "tmp"), "PIP_NO_CACHE_DIR": "1"}
    done = cli("pack", *arguments, cwd=cwd, env=env, **options)
    assert os.listdir(cwd / "tmp") == []
    return done


def archives(folder: Path) -> list[str]:
    """Return what is there of archives, unfinished ones included."""
    return sorted(name for name in os.listdir(folder) if ".tar.gz" in name)


def write_wheel(folder: Path, name: str, tag: str, *needs: str, files: dict[str, Any]) -> None:
    """Write a wheel of files, which are paths or texts."""
    info = f"{name}-1.0.dist-info"
    required = "".join(f"Requires-Dist: {need}\n" for need in needs)
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{required}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{info}/RECORD": "",
    }
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-{tag}.whl", "w") as wheel:
        for path, content in files.items():
            data = content.read_bytes() if isinstance(content, Path) else content
            wheel.writestr(path, data)


def write_wheels_of_what_is_installed(folder: Path) -> None:
    """Make wheels of this package and of all that it needs, so that no index is asked."""
    here = Path(anyio_bus.__file__).parent
    ours = [path for path in here.rglob("*") if path.suffix in {".py", ".pyi", ".typed"}]
    files = {path.relative_to(here.parent).as_posix(): path for path in ours}
    write_wheel(folder, "anyio_bus", "py3-none-any", "anyio", "msgspec", files=files)
    needs = [name for name in ("idna", "typing_extensions") if find_spec(name)]
    for name in ("anyio", "msgspec", *needs):
        rows = importlib.metadata.files(name) or []
        files = {row.as_posix(): Path(str(row.locate())) for row in rows if row.suffix != ".pyc"}
        code = {row: path for row, path in files.items() if not re.search(r"\.\.|dist-info", row)}
        write_wheel(folder, name, "py3-none-any", *(needs if name == "anyio" else []), files=code)


def test_a_new_plugin_is_packed_and_serves_with_nothing_but_its_archive(tmp_path: Path) -> None:
    write_wheels_of_what_is_installed(tmp_path / "wheels")
    assert cli("new", "nexo-plugin", "word-count", cwd=tmp_path).returncode == 0
    (tmp_path / "word-count" / ".env").write_text("KEY=secret")
    options = ("--", "--no-index", "--find-links", "wheels")
    done = pack("word-count", *options, cwd=tmp_path)
    name = f"word_count-0.1.0-{this_target()}.tar.gz"
    assert (done.returncode, done.stdout) == (0, f"{name}\n"), done.stderr
    assert "left out: .env, test_plugin.py\n" in done.stderr
    assert "starting the packed plugin" in done.stderr
    again = pack("word-count", "--no-check", "--output", "again", *options, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again").read_bytes() == (tmp_path / name).read_bytes()

    unpacked, bin_ = tmp_path / "unpacked", tmp_path / "bin"
    with tarfile.open(tmp_path / name) as archive:
        names = archive.getnames()
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(unpacked)
    assert {"nexo-plugin.toml", "plugin.py", "vendor/anyio/__init__.py"} < {*names}
    assert not {".env", "test_plugin.py", "vendor/bin"} & {*names}
    bin_.mkdir()
    python = bin_ / f"python3.{MINOR}"  # without site-packages
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    env = {"PATH": f"{bin_}:/usr/bin:/bin"}

    async def main() -> None:
        async with open_host([str(unpacked / "plugin.py")], cwd="/", env=env) as host:
            assert await host.invoke("word_count_count", {"text": "a b c"}) == 3

    anyio.run(main)


def test_another_target_gets_its_wheels_and_what_its_markers_say(tmp_path: Path) -> None:
    target = Target(MINOR + 1, "aarch64-apple-darwin")
    for tag in (f"cp3{MINOR}-cp3{MINOR}-manylinux_2_17_x86_64", "cp311-abi3-macosx_11_0_arm64"):
        write_wheel(tmp_path / "wheels", "part", tag, files={"part.py": f"# {tag}"})
    for name in ("needed", "useless"):
        write_wheel(tmp_path / "wheels", name, "py3-none-any", files={f"{name}.py": "# any"})
    dependencies = [
        "part",
        f"needed; python_version == '3.{MINOR + 1}' and sys_platform == 'darwin'",
        f"useless; python_version == '3.{MINOR}' or platform_machine != 'arm64'",
    ]
    write_plugin(tmp_path / "small", pyproject_toml=f"[project]\ndependencies = {dependencies}")
    done = pack(
        *("small", "--target", str(target), "--", "--no-index", "--find-links", "wheels"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "was not started: it is for another machine" in done.stderr
    with tarfile.open(tmp_path / f"small-1.0.0-{target}.tar.gz") as archive:
        found = {name for name in archive.getnames() if name.startswith("vendor/")}
        part = archive.extractfile("vendor/part.py")
        assert part is not None
        assert part.read() == b"# cp311-abi3-macosx_11_0_arm64"
    assert {"vendor/part.py", "vendor/needed.py"} < found
    assert "vendor/useless.py" not in found


def test_dependencies_of_which_none_is_for_the_target_are_told(tmp_path: Path) -> None:
    write_plugin(tmp_path / "small", requirements_txt="part; python_version < '3'")
    done = pack("small", "--no-check", "--", "--no-index", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pip has installed nothing" in done.stderr


def test_what_pip_cannot_install_leaves_no_archive(tmp_path: Path) -> None:
    write_plugin(tmp_path / "small", requirements_txt="no-such-package\n")
    done = pack("small", "--", "--no-index", cwd=tmp_path)
    assert done.returncode == 1
    assert "no-such-package" in done.stderr
    assert "pip ended with 1" in done.stderr
    assert archives(tmp_path) == []


def test_what_follows_the_dashes_does_not_lead_packages_elsewhere(tmp_path: Path) -> None:
    write_wheel(tmp_path / "wheels", "part", "py3-none-any", files={"part.py": ""})
    write_plugin(tmp_path / "small", f"import part\n{PROGRAM}", requirements_txt="part")
    options = ("--no-index", "--find-links", "wheels", "--target", "elsewhere")
    done = pack("small", "--", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "elsewhere").exists()


def write_installed(vendor: Path, tag: str, origin: dict[str, Any]) -> None:
    """Write of a package what pip writes of one that comes from no index."""
    info = vendor / "part-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: {tag}\n")
    (info / "direct_url.json").write_text(json.dumps(origin))


@pytest.mark.parametrize("url", ["file:///part", "https://x/part-1.0.tar.gz"])
def test_what_was_compiled_here_is_not_packed_for_another_machine(tmp_path: Path, url: str) -> None:
    """pip builds what is named by its place even where it is told to take only wheels."""
    there = Target(MINOR + 1, TRIPLES[1])
    write_installed(tmp_path, f"cp3{MINOR}-cp3{MINOR}-linux_x86_64", {"url": url, "dir_info": {}})
    with pytest.raises(CommandError, match=r"part-1\.0 was compiled for this machine: for cp3"):
        check_installed(tmp_path, there)
    own = this_target()
    assert own is not None
    check_installed(tmp_path, own)


@pytest.mark.parametrize(
    ("tag", "url"),
    [("py3-none-any", "file:///part"), ("cp311-abi3-linux_x", "file:///part-1.0-cp311.whl")],
)
def test_pure_packages_and_wheels_by_their_place_are_packed_for_all(
    tmp_path: Path, tag: str, url: str
) -> None:
    write_installed(tmp_path, tag, {"url": url})
    check_installed(tmp_path, Target(MINOR + 1, TRIPLES[1]))


def test_an_editable_package_is_refused_as_its_files_would_stay_here(tmp_path: Path) -> None:
    write_installed(tmp_path, "py3-none-any", {"url": "file:///p", "dir_info": {"editable": True}})
    with pytest.raises(CommandError, match=r"part-1\.0 would not be in the archive.*file:///p"):
        check_installed(tmp_path, Target(MINOR, TRIPLES[0]))


def test_without_pip_it_says_how_to_get_it(tmp_path: Path) -> None:
    write_plugin(tmp_path / "small", requirements_txt="anyio\n")
    done = pack("small", cwd=tmp_path, command=without("pip"))
    assert done.returncode == 1
    assert done.stderr.startswith("anyio-bus: pip is not installed")


def test_a_plugin_that_lacks_a_package_leaves_no_archive_but_without_check(tmp_path: Path) -> None:
    """It is installed here, so that without the archive's own walls it would be found."""
    write_plugin(tmp_path / "small", f"import anyio\n{PROGRAM}")
    done = pack("small", cwd=tmp_path)
    assert done.returncode == 1
    assert "No module named 'anyio'" in done.stderr
    assert archives(tmp_path) == []
    assert pack("small", "--no-check", cwd=tmp_path).returncode == 0
    assert archives(tmp_path) == [f"small-1.0.0-{this_target()}.tar.gz"]


@pytest.mark.parametrize("what", ["pip", "plugin"])
def test_ctrl_c_leaves_nothing_and_an_older_archive_as_it_was(tmp_path: Path, what: str) -> None:
    """Whatever runs for it opens the other end of the fifo, and goes on to wait."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = f"import sys\nopen({str(fifo)!r}).close()\nsys.stdin.read()"
    needs = f"-r {fifo}" if what == "pip" else ""
    write_plugin(tmp_path / "small", program, requirements_txt=needs)
    (tmp_path / "small.tar.gz").write_text("older")
    (tmp_path / "tmp").mkdir()
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    with running("pack", "small", "--output", "small.tar.gz", cwd=tmp_path, env=env) as process:
        with fifo.open("w"):
            interrupt(process)
            code, _ = finish(process)
    assert code == 130
    assert archives(tmp_path) == ["small.tar.gz"]
    assert (tmp_path / "small.tar.gz").read_text() == "older"
    assert os.listdir(tmp_path / "tmp") == []


# --- what it makes of a folder --------------------------------------------------------------------


def test_what_is_no_part_of_a_plugin_is_left_out_and_named(tmp_path: Path) -> None:
    folder = write_plugin(tmp_path / "small")
    kept = ["data/words.txt", "helpers/__init__.py", "latest.py"]
    left = [".env", ".git/config", "a/server.KEY", "old.tar.gz", "tests/x.py", "helpers/test_a.py"]
    for name in (*kept, *left, "env/pyvenv.cfg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "passwd").symlink_to("/etc/passwd")
    os.mkfifo(folder / "fifo")
    files, left_out = list_files(folder)
    assert sorted(files) == sorted([*kept, "nexo-plugin.toml", "plugin.py", "requirements.txt"])
    named = {".env", ".git", "a/server.KEY", "old.tar.gz", "tests", "helpers/test_a.py"}
    assert {*left_out} == {*named, "env", "passwd", "fifo"}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"requirements.txt": "# none\n\n"}, []),
        ({"requirements.txt": "anyio"}, ["-r", "requirements.txt"]),
        ({"pyproject.toml": "[project]\nname = 'a'"}, []),
        ({"pyproject.toml": "[project]\ndependencies = ['a>1; x']"}, ["a>1; x"]),
        (
            {"pyproject.toml": "[project]\ndependencies = ['a']", "requirements.txt": "b"},
            ["a"],
        ),
        (
            {"pyproject.toml": "[tool.ruff]", "requirements.txt": "b"},
            ["-r", "requirements.txt"],
        ),
    ],
)
def test_dependencies_are_those_of_the_project_or_of_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], found: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        Path(name).write_text(text)
    assert read_requirements(Path()) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "an empty requirements.txt says that there are none"),
        ("[project]\ndynamic = ['dependencies']", "an empty requirements.txt"),
        ("[project]\ndynamic = 5", "an empty requirements.txt"),
        ("[project", "pyproject.toml: "),
        ("[project]\ndependencies = 'a'", "no list of texts"),
        ("[project]\ndependencies = ['--index-url=x']", "is no dependency"),
    ],
)
def test_dependencies_that_cannot_be_read_are_wrong_use(
    tmp_path: Path, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(CommandError, match=said) as caught:
        read_requirements(tmp_path)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('id = "small"', 'id = "Small"', "plugin.id has upper case"),
        ('version = "1.0.0"', 'version = "../1"', "no semantic version"),
        ("./plugin.py", "python3", "must be a Python file beside the manifest"),
        ("./plugin.py", "./../small/plugin.py", "is not in the archive"),
        ("./plugin.py", "./test_plugin.py", "is not in the archive: it is left out"),
        ("./plugin.py", "./missing.py", "is not in the archive: it is no file"),
    ],
)
def test_a_manifest_that_a_host_could_not_start_is_wrong_use(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    folder = write_plugin(tmp_path / "small", test_plugin_py="")
    (folder / "nexo-plugin.toml").write_text(MANIFEST.replace(old, new))
    with pytest.raises(CommandError, match=said) as caught:
        read_plugin(folder)
    assert caught.value.code == 2
    assert str(folder / "nexo-plugin.toml") in str(caught.value)


def test_a_manifest_that_is_a_link_is_wrong_use(tmp_path: Path) -> None:
    """It would be left out, and no host takes an archive without it."""
    folder = write_plugin(tmp_path / "small")
    (folder / "nexo-plugin.toml").rename(tmp_path / "shared.toml")
    (folder / "nexo-plugin.toml").symlink_to("../shared.toml")
    with pytest.raises(CommandError, match=r"nexo-plugin\.toml: links are left out") as caught:
        read_plugin(folder)
    assert caught.value.code == 2


@pytest.mark.parametrize("name", ["vendor", "_packed_plugin.py"])
def test_a_file_where_pack_writes_is_wrong_use(tmp_path: Path, name: str) -> None:
    folder = write_plugin(tmp_path / "small")
    (folder / name).mkdir()
    with pytest.raises(CommandError, match=f"{name}: what pack writes has that name"):
        read_plugin(folder)


def test_a_folder_without_a_manifest_and_an_output_nowhere_are_wrong_use(tmp_path: Path) -> None:
    done = pack("small", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "anyio-bus: small/nexo-plugin.toml: No such file or directory\n",
    )
    write_plugin(tmp_path / "small")
    done = pack("small", "--output", "no/where.tar.gz", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "anyio-bus: --output no/where.tar.gz: there is no folder no\n",
    )


def test_an_output_that_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """Root, in a container, would lose /dev/null."""
    write_plugin(tmp_path / "small")
    os.mkfifo(tmp_path / "fifo")
    done = pack("small", "--output", "fifo", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "anyio-bus: --output fifo: there is something that is no file\n",
    )
    assert (tmp_path / "fifo").is_fifo()


def test_an_output_that_ends_with_a_slash_is_a_folder(tmp_path: Path) -> None:
    write_plugin(tmp_path / "small")
    done = pack("small", "--output", "made/", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "anyio-bus: --output made/: there is no folder made\n",
    )
    assert not (tmp_path / "made").exists()


def test_what_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    write_plugin(tmp_path / "small")
    done = pack("small", "--output", "x" * 300, cwd=tmp_path)
    assert done.returncode == 1
    assert "File name too long" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(FileNotFoundError):  # no folder is passed over in silence
        list_files(tmp_path / "gone")


# --- what it writes -------------------------------------------------------------------------------


async def test_an_archive_is_made_of_names_and_contents_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made = []
    for mode, time in ((0o600, 1), (0o666, 2)):
        (tmp_path / "data").write_text("x" * 1000)
        (tmp_path / "data").chmod(mode)
        os.utime(tmp_path / "data", (time, time))
        path = tmp_path / f"{mode}.tar.gz"
        await write_archive(
            path, [Member("data", tmp_path / "data", False), Member("run", b"", True)]
        )
        made.append(path.read_bytes())
    assert made[0] == made[1]
    with tarfile.open(path) as archive:
        infos = archive.getmembers()
    assert [(info.name, info.mode, info.mtime) for info in infos] == [
        ("data", 0o644, 1700000000),
        ("run", 0o755, 1700000000),
    ]
    assert {(info.uid, info.gid, info.uname, info.gname) for info in infos} == {(0, 0, "", "")}


async def test_an_archive_that_is_cancelled_ends_within_a_large_file(tmp_path: Path) -> None:
    """Its 64 GB are holes; whole, they would take minutes and all memory."""
    with (tmp_path / "data").open("wb") as data:
        data.truncate(2**36)
    path = tmp_path / "archive"
    path.touch()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write_archive, path, [Member("data", tmp_path / "data", False)])
        with anyio.fail_after(10):
            while path.stat().st_size == 0:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


def test_what_cannot_be_packed_is_told_before_pip_has_worked(tmp_path: Path) -> None:
    write_plugin(tmp_path / "small", requirements_txt="no-such-package")
    env = {**os.environ, "SOURCE_DATE_EPOCH": "today"}
    done = cli("pack", "small", cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (
        2,
        "anyio-bus: SOURCE_DATE_EPOCH is no time: 'today'\n",
    )
    done = pack("small", "--output", "x" * 250, "--", "--no-index", cwd=tmp_path)
    assert done.returncode == 1
    assert "File name too long" in done.stderr
    assert "with pip" not in done.stderr


def test_an_older_archive_in_the_folder_is_left_out_and_a_source_is_not_replaced(
    tmp_path: Path,
) -> None:
    write_plugin(tmp_path / "small")
    for _ in range(2):
        done = pack("small", "--no-check", "--output", "small/old.tgz", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "left out: old.tgz\n" in done.stderr
    with tarfile.open(tmp_path / "small" / "old.tgz") as archive:
        assert "old.tgz" not in archive.getnames()
    done = pack("small", "--no-check", "--output", "small/plugin.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "anyio-bus: --output small/plugin.py: that is a file of the plugin\n",
    )
    assert (tmp_path / "small" / "plugin.py").read_text() == PROGRAM


def test_an_argument_that_no_program_can_get_is_one_line(tmp_path: Path) -> None:
    folder = write_plugin(tmp_path / "small")
    (folder / "nexo-plugin.toml").write_text(MANIFEST + r'args = ["\u0000"]')
    done = pack("small", cwd=tmp_path)
    assert done.returncode == 1
    assert "does not start and end as it should: embedded null byte\n" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_time_that_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with pytest.raises(CommandError, match="SOURCE_DATE_EPOCH is no time: 'today'"):
        await write_archive(tmp_path / "a", [])
    assert os.listdir(tmp_path) == []


def test_the_launcher_starts_a_program_in_a_folder_and_refuses_another_python(
    tmp_path: Path,
) -> None:
    folder = write_plugin(tmp_path / "small")
    (folder / "bin").mkdir()
    (folder / "bin" / "it.py").write_text("import near, far, sys; print(__name__, *sys.argv[1:])")
    (folder / "bin" / "near.py").touch()
    (folder / "nexo-plugin.toml").write_text(MANIFEST.replace("./plugin.py", "./bin/it.py"))
    vendor = tmp_path / "vendor"
    vendor.mkdir()
    (vendor / "far.py").touch()
    for minor in (MINOR, MINOR + 1):
        place = tmp_path / str(minor)
        for member in members(read_plugin(folder), Target(minor, TRIPLES[0]), vendor):
            (place / member.name).parent.mkdir(parents=True, exist_ok=True)
            content = member.content
            (place / member.name).write_bytes(
                content if isinstance(content, bytes) else content.read_bytes()
            )
    here, other = (
        subprocess.run(
            [sys.executable, tmp_path / str(minor) / "bin" / "it.py", "--option"],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        for minor in (MINOR, MINOR + 1)
    )
    assert (here.stdout, here.stderr) == ("__main__ --option\n", "")
    assert (other.returncode, other.stdout) == (1, "")
    assert f"is packed for cp3{MINOR + 1}-{TRIPLES[0]}" in other.stderr


def test_a_module_beside_the_program_can_import_it(tmp_path: Path) -> None:
    """Where the program was is the launcher, and to import that must not start the plugin again."""
    program = "import helper\nWORD = 'hello'\nif __name__ == '__main__':\n    print(helper.word())"
    helper = "def word():\n    import plugin\n    return plugin.WORD"
    write_plugin(tmp_path / "small", program, helper_py=helper)
    done = pack("small", "--no-check", "--output", "it.tar.gz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "it.tar.gz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path / "unpacked")
    command = [sys.executable, str(tmp_path / "unpacked" / "plugin.py")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("hello\n", "")


# --- targets --------------------------------------------------------------------------------------


def test_each_target_is_known_by_its_name_and_named_by_the_help() -> None:
    shown = cli("pack", "--help").stdout
    for triple in TRIPLES:
        assert str(parse_target(f"cp312-{triple}")) == f"cp312-{triple}"
        assert triple in shown
    for pattern in ("*.env", "*.key"):
        assert pattern in LEFT_OUT
        assert pattern in shown
    assert parse_target(None) == this_target() == parse_target(str(this_target()))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("", "the Python ''"),
        ("cp310-" + TRIPLES[0], "the Python 'cp310'"),
        ("cp313t-" + TRIPLES[0], "the Python 'cp313t'"),
        ("cp311", "the platform ''"),
        ("cp311-win", "the platform 'win'"),
        (TRIPLES[0], "the Python 'x86_64'"),
    ],
)
def test_a_target_that_is_not_known_is_wrong_use_and_the_known_ones_are_said(
    name: str, wrong: str
) -> None:
    with pytest.raises(CommandError, match=f"--target '{name}': {wrong} is not known") as caught:
        parse_target(name)
    assert caught.value.code == 2
    assert all(triple in str(caught.value) for triple in (*TRIPLES, str(this_target())))
