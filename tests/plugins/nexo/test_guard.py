"""What is printed never reaches the wire, whoever prints it and how."""

from __future__ import annotations

import io
import os
import sys
import threading

import pytest

from anyio_bus.plugins.nexo import (
    PluginAdapter,
    install_stdout_guard,
    is_stdout_guard_installed,
    stdout_guard,
    uninstall_stdout_guard,
)
from tests.plugins.nexo.kit import Plugin, plugin, result, run

# 5.8 and 3.4: what the existing guard lets through, or diverts as well
PRINTS = {
    "print": "print('stray')",
    "json": "print('{\"stray\":1}')",
    "number": "print('stray'); print(42); print('true'); print('NaN')",
    "frame": 'print(\'{"jsonrpc":"2.0","id":1,"result":"stray"}\')',
    "fd": "os.write(1, b'stray\\n')",
    "child": "subprocess.run(['echo', 'stray'])",
    "buffer": "sys.stdout.buffer.write(b'stray\\n'); sys.stdout.buffer.flush()",
    "__stdout__": "sys.__stdout__.write('stray\\n'); sys.__stdout__.flush()",
    "reconfigure": "sys.stdout.reconfigure(line_buffering=True); print('stray')",
    "partial": "print('stray', end='')",
    "flushed": "print('str', end='', flush=True); print('ay')",
    "logging": "import logging; logging.StreamHandler(sys.__stdout__).emit("
    "logging.makeLogRecord({'msg': 'stray'}))",
    "thread": "await anyio.to_thread.run_sync(print, 'stray')",
}


@pytest.mark.parametrize("code", PRINTS.values(), ids=PRINTS)
def test_what_is_printed_goes_to_stderr_with_a_mark(shared: Plugin, code: str) -> None:
    assert shared.run(code) is None
    assert shared.run("sys.stdout.flush(); print()") is None

    assert "[stdout-guard] " in shared.errors_until("stray")
    assert shared.alive()


def test_a_print_without_end_is_no_part_of_the_last_frame(fresh: Plugin) -> None:
    """5.5: it is written raw after the last frame."""
    said, errors = fresh.finish(run(5, "print('partial', end='')"))

    assert said == [result(5, None)]
    assert "[stdout-guard] partial" in errors


def test_lines_of_many_threads_stay_whole(fresh: Plugin) -> None:
    code = """
        def work(number):
            for at in range(200):
                print("line", number, at, "x" * 40)
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(anyio.to_thread.run_sync, work, number)
    """
    said, errors = fresh.finish(run(5, code))

    assert said == [result(5, None)]
    expected = {f"[stdout-guard] line {n} {at} {'x' * 40}" for n in range(8) for at in range(200)}
    assert set(errors.splitlines()) == expected


def test_prints_before_it_runs_do_not_reach_the_wire(loop: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with plugin(loop, "early", env=env) as process:
        said, errors = process.finish(run(5, "return 5"))

    assert [message.get("id") for message in said] == [5]
    assert "[stdout-guard] early" in errors
    assert "late" in errors  # printed after run_forever has returned


def test_the_guard_can_be_left_out(loop: str) -> None:
    with plugin(loop, "early", options={"enable_stdout_guard": False}) as process:
        out, _ = process.process.communicate(b"", timeout=10)

    assert out.splitlines() == [b"early", b"late"]


# -- sys.stdout alone ------------------------------------------------------------------------------


def replaced(monkeypatch: pytest.MonkeyPatch) -> tuple[io.StringIO, io.StringIO]:
    """Put streams in the places of stdout and stderr; pytest has its own there in each phase."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    return out, err


def test_the_text_guard_passes_frames_and_marks_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = replaced(monkeypatch)
    install_stdout_guard()
    install_stdout_guard()
    assert is_stdout_guard_installed()
    assert stdout_guard.original_stdout() is out
    print('{"a":1}')
    print()
    for stray in ("text", 42, "true", "NaN", [1]):
        print(stray)
    sys.stdout.write('{"b":')
    print("2}")
    sys.stdout.write("partial")
    sys.stdout.writelines(["", " line\n", "rest"])
    sys.stdout.flush()
    uninstall_stdout_guard()
    uninstall_stdout_guard()

    assert not is_stdout_guard_installed()
    assert sys.stdout is out
    assert out.getvalue() == '{"a":1}\n\n{"b":2}\n'
    strays = ["text", "42", "true", "NaN", "[1]", "partial line", "rest"]
    assert err.getvalue() == "".join(f"[stdout-guard] {text}\n" for text in strays)


def test_the_text_guard_leaves_alone_what_was_redirected_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replaced(monkeypatch)
    install_stdout_guard()
    other = io.StringIO()
    monkeypatch.setattr(sys, "stdout", other)
    uninstall_stdout_guard()

    assert sys.stdout is other


def test_the_text_guard_looks_like_the_stream_behind_it() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    guard = stdout_guard._GuardWriter(stream)

    assert guard.write(b"{}\n") == 3
    assert guard.write(bytearray(b"{}\n")) == 3
    assert guard.write("{}\n" * 2) == 6
    assert (guard.encoding, guard.buffer) == ("latin-1", stream.buffer)
    assert (guard.writable(), guard.readable(), guard.seekable()) == (True, False, False)
    assert stream.buffer.getvalue() == b"{}\n" * 4  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        stdout_guard._GuardWriter.__new__(stdout_guard._GuardWriter).encoding  # noqa: B018


def test_a_long_partial_line_costs_what_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """5.8: it is joined anew for each piece. So many pieces would take minutes."""
    out, err = replaced(monkeypatch)
    guard = stdout_guard._GuardWriter(out)
    for _ in range(300_000):
        guard.write("x" * 50)
    guard.flush_partial()

    assert len(err.getvalue()) == 300_000 * 50 + len("[stdout-guard] \n")


def test_an_adapter_that_never_runs_leaves_nothing_behind() -> None:
    """5.8: the guard is there from the constructor on, for ever."""
    before = sys.stdout
    threads = threading.active_count()
    PluginAdapter(manifest_toml='[plugin]\nid = "x"\nversion = "1"\n')

    assert sys.stdout is before
    assert not is_stdout_guard_installed()
    assert threading.active_count() == threads
