"""A worker that does what it is asked to, and tells what happens to it over a socket.

    python puppet.py [--report PATH] [--ignore eof,term] [--at-eof METHOD] [--say METHOD] [ARGUMENT...]

Each method is a function of the same name below. With --report it connects to PATH and writes a
line for everything that reaches it: its pid, the method of each message, "eof" and "term".
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # without the import, which would double the time that it takes to start
    from typing import Any, NoReturn, TypeAlias

    Key: TypeAlias = object
    Params: TypeAlias = dict[str, Any]

held: list[object] = []
options = {"--report": "", "--ignore": "", "--at-eof": "", "--say": ""}


def write(message: dict[str, object]) -> None:
    frame = json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"
    while frame:
        frame = frame[os.write(1, frame) :]


def connect(path: str, first_line: str) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(path)
    stream.sendall(first_line.encode() + b"\n")
    return stream


def report(line: str) -> None:
    if reports is not None:
        reports.sendall(line.encode() + b"\n")


def sleep_for_ever(_key: Key = None, _params: Params | None = None) -> NoReturn:
    while True:
        signal.pause()


# -- methods: each takes the id and the params of its message ----------------------------------------


def echo(key: Key, params: Params) -> None:
    write({"id": key, "result": params})


def refuse(key: Key, params: Params) -> None:
    write({"id": key, "error": {"code": -32000, "message": "not today"}})


def pid(key: Key, params: Params) -> None:
    write({"id": key, "result": os.getpid()})


def gate(key: Key, params: Params) -> None:
    """Answer when the one to whom it reports allows it."""
    assert reports is not None
    reports.recv(1)
    echo(key, params)


def hold(key: Key, params: Params) -> None:
    held.append(key)


def release(key: Key, params: Params) -> None:
    for waiting in held:
        write({"id": waiting, "result": "released"})
    held.clear()
    write({"id": key, "result": None})


def die(key: Key, params: Params) -> None:
    os.write(2, params.get("stderr", "").encode())
    if "signal" in params:
        os.kill(os.getpid(), params["signal"])
    os._exit(params.get("code", 0))


def shut(key: Key, params: Params) -> None:
    """Close one of its pipes and live on."""
    os.close(params["fd"])
    if params.get("answer"):
        echo(key, params)
    sleep_for_ever()


def shout(key: Key, params: Params) -> None:
    """Write to stderr, in lines, and answer."""
    line = b"x" * 1023 + b"\n"
    for _ in range(params["kib"]):
        os.write(2, line)
    echo(key, params)


def mute(key: Key, params: Params) -> None:
    """Close stderr and go on."""
    os.close(2)
    echo(key, params)


def chatter(key: Key, params: Params) -> None:
    """Write much to stdout: a pipe that nobody reads would hold it up."""
    for _ in range(1024):
        write({"method": "chatter", "params": {"text": "x" * 1024}})
    report("chattered")


def born_with() -> dict[str, str]:
    """Return the environment as it was at exec, whatever this interpreter has made of it."""
    with open("/proc/self/environ", "rb") as file:
        variables = file.read().split(b"\0")[:-1]
    return dict(os.fsdecode(variable).split("=", 1) for variable in variables)


def look(key: Key, params: Params) -> None:
    """Say what it was born with."""
    fds = {int(fd) for fd in os.listdir("/proc/self/fd")}
    mine = {fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}")}
    if reports is not None:
        mine.discard(reports.fileno())
    result = {
        "argv": [os.fsencode(argument).hex() for argument in sys.argv[1:]],
        "cwd": os.getcwd(),
        "env": born_with(),
        "fds": sorted(mine),
        "pipes": [os.readlink(f"/proc/self/fd/{fd}").partition(":")[0] for fd in (0, 1, 2)],
        "pid": os.getpid(),
        "sid": os.getsid(0),
        "pgid": os.getpgid(0),
    }
    write({"id": key, "result": result})


def fork(key: Key, params: Params) -> None:
    """Leave behind a child that holds the pipes, ignores SIGTERM, and is connected to ``path``."""
    if os.fork() == 0:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        stream = connect(params["path"], f"grandchild {os.getpid()}")
        if reports is not None:
            reports.close()
        if params.get("session"):
            os.setsid()
        write({"id": key, "result": os.getpid()})
        stream.recv(1)
        os._exit(0)


# -- main ------------------------------------------------------------------------------------------


def on_term(_number: int, _frame: object) -> None:
    report("term")
    if "term" not in options["--ignore"]:
        os._exit(0)


def parse() -> None:
    arguments = sys.argv[1:]
    while arguments and arguments[0] in options:
        options[arguments[0]] = arguments[1]
        arguments = arguments[2:]


def main() -> None:
    for line in sys.stdin.buffer:
        message = json.loads(line)
        report(message.get("method", "answer"))
        method = globals().get(message.get("method"))
        if method is not None:
            method(message.get("id"), message.get("params") or {})
    report("eof")
    if options["--at-eof"]:
        globals()[options["--at-eof"]](None, {})
    if "eof" in options["--ignore"]:
        sleep_for_ever()


parse()
reports = connect(options["--report"], f"pid {os.getpid()}") if options["--report"] else None
if reports is not None:
    signal.signal(signal.SIGTERM, on_term)
if options["--say"]:
    write({"method": options["--say"]})
main()
