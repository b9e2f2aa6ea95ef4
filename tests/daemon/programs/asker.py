"""A program that shares a daemon with others: it keeps requests in flight and checks what it gets.

    python -I -S asker.py SOCKET NAME IN_FLIGHT

Its name stands in everything that it asks, and has to stand in everything that it gets. It says so in
one line on stderr, and exits with 1, if it gets anything else. Every program uses the same ids. At the
end of stdin it asks no more, waits for the answers, writes how many there were, and exits with 0.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # without the import, which would double the time that it takes to start
    from typing import Any


class Asker:
    def __init__(self, path: str, name: str, in_flight: int) -> None:
        self.name = name
        self.pending: dict[int, str] = {}
        self.noted: set[int] = set()
        self.answered = self.next = 0
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.connect(path)
        self.ask(in_flight)

    def ask(self, count: int) -> None:
        frames = [self.frame() for _ in range(count)]
        self.stream.sendall(b"".join(json.dumps(frame).encode() + b"\n" for frame in frames))

    def frame(self) -> dict[str, Any]:
        """Return the next request.

        One in four has a notification before its answer, which names the request, or the session.
        """
        key = self.next = self.next + 1
        top: dict[str, Any] = {"jsonrpc": "2.0", "id": key}
        if key % 2:
            top["sessionId"] = f"{self.name}-{key % 16}"
        if key % 4:
            self.pending[key] = "echo"
            return {**top, "method": "echo", "params": {"who": self.name, "n": key}}
        self.pending[key] = "say"
        note: dict[str, Any] = {"method": "note", "params": {"who": self.name, "n": key}}
        if key % 8:
            note["params"]["_meta"] = {"requestId": "%id%"}
        else:
            note["sessionId"] = top["sessionId"] = f"{self.name}-0"
        line = json.dumps(note).replace('"%id%"', "%id%")
        return {**top, "method": "say", "params": {"lines": [line]}}

    def take(self, line: bytes) -> None:
        message = json.loads(line)
        if message.get("method") == "note":
            params = message["params"]
            key = params["n"]
            self.check(params["who"] == self.name, line)
            self.check(params.get("_meta", {"requestId": key})["requestId"] == key, line)
            self.check(self.pending.get(key) == "say" and key not in self.noted, line)
            self.noted.add(key)
            return
        kind = self.pending.pop(message.get("id"), "")
        if kind == "say":
            self.check(message.get("result") == "said", line)
            self.check(message["id"] in self.noted, line)
            self.noted.discard(message["id"])
        else:
            expected = {"who": self.name, "n": message.get("id")}
            self.check(kind == "echo" and message.get("result") == expected, line)
        self.answered += 1

    def check(self, right: bool, line: bytes) -> None:
        if not right:
            os.write(2, b"%s got %s\n" % (self.name.encode(), line))
            os._exit(1)

    def run(self) -> None:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self.stream, select.POLLIN)
        rest = b""
        going = True
        while going or self.pending:
            for fd, _ in poll.poll():
                if fd == 0:
                    going = False
                    poll.unregister(0)
                    continue
                data = self.stream.recv(65536)
                self.check(bool(data), b"the end")
                *lines, rest = (rest + data).split(b"\n")
                before = self.answered
                for line in lines:
                    self.take(line)
                if going:
                    self.ask(self.answered - before)
        print(self.answered)


if __name__ == "__main__":
    signal.alarm(60)  # the last resort
    Asker(sys.argv[1], sys.argv[2], int(sys.argv[3])).run()
