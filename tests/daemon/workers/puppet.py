"""A worker that does what it is asked to, line by line, in plain Python: it starts in milliseconds.

    python -I -S puppet.py [--init ok|error|mute] [--born PATH] [--linger] [--ignore-term]

Each method is a function of the same name below; any other is answered with its params. What else
comes, and every line as it came, is kept for ``seen``.
"""

from __future__ import annotations

import json
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # without the import, which would double the time that it takes to start
    from typing import Any, TypeAlias

    Key: TypeAlias = Any
    Params: TypeAlias = dict[str, Any]

lines: list[str] = []
held: dict[str, Any] = {}
queue: list[Any] = []  # what came while it waited for the answer to a request of its own


def write_line(line: str) -> None:
    rest = line.encode() + b"\n"
    while rest:
        rest = rest[os.write(1, rest) :]


def answer(key: Key, result: object) -> None:
    write_line(json.dumps({"jsonrpc": "2.0", "id": key, "result": result}))


def read() -> Any:
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return None
    lines.append(line.decode())
    return json.loads(line)


def token_of(message: Any) -> object:
    return message.get("params", {}).get("_meta", {}).get("progressToken")


def fill_in(line: str, key: Key) -> str:
    """Put ids and tokens, as they came here, where a line names them: ``%id%``, ``%id:NAME%``."""
    line = line.replace("%id%", json.dumps(key))
    for name, message in held.items():
        line = line.replace(f"%id:{name}%", json.dumps(message["id"]))
        line = line.replace(f"%token:{name}%", json.dumps(token_of(message)))
    return line


# -- methods: each takes the id and the params -------------------------------------------------------


def hold(key: Key, params: Params) -> None:
    """Answer at ``release`` only."""


def release(key: Key, params: Params) -> None:
    """Answer what is held, by name or all of it, in that order; then this."""
    names = params.get("names", list(held))
    for name in names:
        answer(held.pop(name)["id"], {"held": name})
    answer(key, names)


def holding(key: Key, params: Params) -> None:
    answer(key, list(held))


def pid(key: Key, params: Params) -> None:
    answer(key, os.getpid())


def seen(key: Key, params: Params) -> None:
    """Return the lines that came since the last time."""
    answer(key, lines[:-1])
    lines.clear()


def say(key: Key, params: Params) -> None:
    """Write lines as they are, then answer."""
    for line in params["lines"]:
        write_line(fill_in(line, key))
    if params.get("answer", True):
        answer(key, "said")


def write(key: Key, params: Params) -> None:
    """Write text without a newline of its own; does not answer."""
    os.write(1, fill_in(params["text"], key).encode())


def ask(key: Key, params: Params) -> None:
    """Send a request and answer with the answer to it, whole."""
    write_line(json.dumps({"jsonrpc": "2.0", **params["request"]}))
    while True:
        message = read()
        if message is None:
            os._exit(0)
        if "method" not in message and message.get("id") == params["request"]["id"]:
            break
        queue.append(message)
    answer(key, message)


def stderr(key: Key, params: Params) -> None:
    rest = params["text"].encode() * params.get("times", 1)
    while rest:
        rest = rest[os.write(2, rest) :]
    answer(key, None)


def crash(key: Key, params: Params) -> None:
    os.write(2, params.get("stderr", "").encode())
    if "signal" in params:
        os.kill(os.getpid(), params["signal"])
    os._exit(params.get("code", 1))


def fds(key: Key, params: Params) -> None:
    """Return what is open here, but for the descriptor of this very listing."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{name}"
        if os.path.lexists(path):
            found[name] = os.readlink(path)
    answer(key, found)


def status(key: Key, params: Params) -> None:
    with open("/proc/self/status") as file:
        answer(key, dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line))


def ids(key: Key, params: Params) -> None:
    """Return pid, group and session of this process."""
    answer(key, [os.getpid(), os.getpgid(0), os.getsid(0)])


def env(key: Key, params: Params) -> None:
    answer(key, os.environ.get(params["name"]))


def big(key: Key, params: Params) -> None:
    answer(key, "x" * params["bytes"])


def flood(key: Key, params: Params) -> None:
    """Send notifications of this request, then answer with their number."""
    text = "x" * params.get("bytes", 0)
    for number in range(params["count"]):
        meta = {} if params.get("anonymous") else {"_meta": {"requestId": key}}
        write_line(json.dumps({"method": "flood", "params": {**meta, "n": number, "text": text}}))
    answer(key, params["count"])


def wait(key: Key, params: Params) -> None:
    """Read nothing until somebody opens a pipe for writing."""
    with open(params["path"], "rb"):
        pass
    answer(key, "waited")


def fork(key: Key, params: Params) -> None:
    """Make a child of this process that holds its pipes."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        signal.pause()
        os._exit(0)
    answer(key, child)


def hang_up(key: Key, params: Params) -> None:
    os.close(1)
    signal.pause()


def close_stdin(key: Key, params: Params) -> None:
    os.close(0)
    signal.pause()


def suspend(key: Key, params: Params) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    answer(key, "resumed")


METHODS = {
    name: value
    for name, value in globals().items()
    if callable(value) and name not in {"answer", "fill_in", "read", "token_of", "write_line"}
}


def take(message: Any) -> None:
    key = message.get("id")
    method = message.get("method")
    if method is None or "id" not in message:
        return
    if method == "initialize" and options["--init"] != "ok":
        if options["--init"] == "error":
            error = {"code": -32000, "message": "no good"}
            write_line(json.dumps({"jsonrpc": "2.0", "id": key, "error": error}))
        return
    params = message.get("params") or {}
    if method == "hold":
        held[params["name"]] = message
    if method in METHODS:
        METHODS[method](key, params)
    else:
        answer(key, message.get("params"))


def main() -> None:
    while True:
        message = queue.pop(0) if queue else read()
        if message is None:
            break
        take(message)
    if "--linger" in flags:
        while True:
            signal.pause()


options = {"--init": "ok", "--born": ""}
flags = set()
words = iter(sys.argv[1:])
for word in words:
    if word in options:
        options[word] = next(words)
    else:
        flags.add(word)
if __name__ == "__main__":
    signal.alarm(60)  # the last resort
    if "--ignore-term" in flags:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options["--born"]:
        with open(options["--born"], "a") as file:
            file.write(f"{os.getpid()}\n")
    main()
