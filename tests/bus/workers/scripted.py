"""A worker that does as its requests say; run it as a program, or in process as `serve`.

It needs nothing but the standard library, so that it starts quickly and its wire is not ours.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

LOG_LINES = 2000  # of what it was sent, kept for "log"


class Died(Exception):
    """The worker was told to die; the arguments are its exit code and its last words."""


class Script:
    """What the worker does with each line, as bytes in and bytes out."""

    def __init__(self) -> None:
        self.flooding = False
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.held: list[tuple[Any, Any]] = []

    def feed(self, line: bytes) -> bytes:
        """Take one line; return what is to be written for it."""
        text = line.decode()
        message = json.loads(text)
        method = message.get("method")
        act = getattr(self, f"do_{method}".replace("/", "_"), None)
        if act is None:
            self.log.append(text)  # an answer, a cancel frame, or something to look at
            return b""
        if method != "log":
            self.log.append(text)
        id_, params = message.get("id"), message.get("params")
        result = act(id_, params)
        if isinstance(result, bytes):
            return result
        return b"" if id_ is None else answer(id_, result)

    def do_echo(self, _id: Any, params: Any) -> Any:
        return params

    def do_log(self, _id: Any, _params: Any) -> Any:
        """Answer with every line so far but those that ask for this."""
        return list(self.log)

    def do_session_new(self, _id: Any, _params: Any) -> Any:
        """Make a session, as an agent does."""
        return {"sessionId": os.urandom(8).hex()}

    def do_session_prompt(self, _id: Any, params: Any) -> Any:
        """Answer with the session that is prompted."""
        return params["sessionId"]

    def do_session_load(self, _id: Any, _params: Any) -> Any:
        """Say that a session is back."""
        return {}

    def do_place(self, _id: Any, params: Any) -> Any:
        """Answer with the working directory and a variable."""
        return [os.getcwd(), os.environ.get(params["name"])]

    def do_pid(self, _id: Any, _params: Any) -> Any:
        return os.getpid()

    def do_hold(self, id_: Any, params: Any) -> bytes:
        """Say that it came (an unhandled notification), and answer at "release"."""
        self.held.append((id_, params))
        return line_of({"method": "holding"})

    def do_mute(self, _id: Any, _params: Any) -> bytes:
        """Never answer, and say nothing."""
        return b""

    def do_release(self, id_: Any, params: Any) -> bytes:
        """Answer what is held, in order or reversed, and then the release itself."""
        held, self.held = self.held, []
        if params and params.get("reversed"):
            held.reverse()
        out = b"".join(answer(key, value) for key, value in held)
        return out + (b"" if id_ is None else answer(id_, len(held)))

    def do_say(self, id_: Any, params: Any) -> bytes:
        """Write these lines as they are; $ID is the id of the request, \\u00ff the byte 255."""
        key = json.dumps(id_)
        lines = [line.replace("$ID", key).encode("latin-1") + b"\n" for line in params["lines"]]
        return b"".join(lines)

    def do_blow(self, id_: Any, params: Any) -> bytes:
        """Write a line with so many bytes of text: the answer, or before it what is none."""
        text = "x" * params["bytes"]
        match params.get("shape"):
            case "id last":
                return line_of({"jsonrpc": "2.0", "result": text, "id": id_})
            case "id hidden":
                return line_of({"result": [text], "id": id_, "more": [text]})
            case "notification":
                return line_of({"method": "note", "params": [text]}) + answer(id_, "done")
            case "long method":
                return line_of({"method": text, "id": "long"}) + answer(id_, "done")
            case "request":  # of the worker's own, which may have the same id as one of ours
                note = line_of({"method": "ask", "params": [text], "id": id_})
                return note + answer(id_, "done")
        return answer(id_, text)

    def do_stall(self, _id: Any, params: Any) -> Any:
        """Read nothing until the FIFO of this name has a writer."""
        with open(params["fifo"], "rb", buffering=0):
            return "stalled"

    def do_warn(self, _id: Any, params: Any) -> Any:
        """Write text to stderr."""
        sys.stderr.buffer.write(params["text"].encode())
        sys.stderr.flush()

    def do_append(self, _id: Any, params: Any) -> Any:
        """Add a line to a file, and answer with what it says: proof of how often it ran."""
        with open(params["file"], "ab", buffering=0) as file:
            file.write(b"%d\n" % params["value"])
        return params["value"]

    def do_leave_unended(self, id_: Any, params: Any) -> bytes:
        """Die over a last line without its newline: so much text, or the whole answer."""
        last = answer(id_, "unended")[:-1] if params.get("answer") else b"x" * params["bytes"]
        raise Died(0, last)

    def do_flood(self, _id: Any, _params: Any) -> bytes:
        """Write notifications for ever, a batch at a time."""
        self.flooding = True
        return b""

    def do_die(self, _id: Any, params: Any) -> bytes:
        raise Died((params or {}).get("code", 3), b"")


def line_of(message: object) -> bytes:
    """Make one line of a message."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def answer(id_: Any, result: Any) -> bytes:
    """Make the line of a successful response."""
    return line_of({"jsonrpc": "2.0", "id": id_, "result": result})


async def serve(
    receive: Callable[[], Awaitable[bytes]], send: Callable[[bytes], Awaitable[None]]
) -> None:
    """Be the same worker as an async function, for the memory backend."""
    script = Script()
    parts: list[bytes] = []  # of the line that is not yet ended
    while data := await receive():
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*parts, lines[0]])
            parts.clear()
        parts.append(rest)
        out = b"".join([script.feed(line) for line in lines])
        if out:
            await send(out)


def main() -> None:
    """Serve stdin until it ends."""
    script = Script()
    try:
        for line in sys.stdin.buffer:
            out = script.feed(line.rstrip(b"\n"))
            if out:
                write(out)
            while script.flooding:
                write(line_of({"method": "flood"}) * 1000)
    except Died as died:
        code, last = died.args
        write(last)
        print("told to die", file=sys.stderr, flush=True)
        os._exit(code)


def write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
