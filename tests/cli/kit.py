"""What the tests of the command line share: the command as a process of its own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "anyio_bus")
WORKER = (sys.executable, "-I", "-S", str(Path(__file__).parent / "workers" / "plain.py"))
WORKER_LINE = shlex.join(WORKER)
LOOPS = ("asyncio", "trio")
LIMIT_S = 18  # below the limit of a test: a process that hangs is ended and shown


def without(module: str, *args: str) -> tuple[str, ...]:
    """Return a command line that runs the command as if a module were not installed."""
    hide = f"import sys; sys.modules[{module!r}] = None"
    run = "from anyio_bus.cli import main; sys.exit(main())"
    return (sys.executable, "-c", f"{hide}; {run}", *args)


def cli(
    *args: str, stdin: str | bytes | None = "", command: tuple[str, ...] = COMMAND, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    text = stdin.decode() if isinstance(stdin, bytes) else stdin
    return subprocess.run(
        [*command, *args],
        input=text,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        **options,
    )


@contextmanager
def _signals_heeded() -> Iterator[None]:
    """A shell mutes SIGINT for what it runs in the background, and a child inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def running(
    *args: str, command: tuple[str, ...] = COMMAND, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command inside the block, with pipes; it is killed if it outlives the block."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with _signals_heeded():
        process = subprocess.Popen(
            [*command, *args], start_new_session=True, **{**pipes, **options}
        )
    try:
        with process:
            yield process
    finally:
        process.kill()


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Wait for its end; return its exit code and its stderr."""
    _, errors = process.communicate(timeout=LIMIT_S)
    return process.returncode, (errors or b"").decode()


def send(process: subprocess.Popen[bytes], *lines: str) -> None:
    """Write lines to its stdin."""
    assert process.stdin is not None
    process.stdin.write("".join(f"{line}\n" for line in lines).encode())
    process.stdin.flush()


def close_stdin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None


def answer(process: subprocess.Popen[bytes]) -> Any:
    """Read one line of its stdout."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Send it what Ctrl-C sends."""
    os.kill(process.pid, signal.SIGINT)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def write_config(folder: Path, /, **pools: dict[str, Any]) -> str:
    """Write a configuration with these pools of the plain worker; return its path."""
    listed = [{"id": name, "command": list(WORKER), **options} for name, options in pools.items()]
    path = folder / "bus.json"
    path.write_text(json.dumps({"pools": listed}))
    return str(path)
