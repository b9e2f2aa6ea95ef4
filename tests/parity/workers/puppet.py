"""A worker whose every line is told to the test, and which says what the test tells it to.

    python -I -S puppet.py SOCKET

What comes on stdin goes to the socket as it is; what comes from there goes to stdout. A line
``exit N`` ends it instead. It ends with its stdin, and with the test.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def main() -> None:
    test = socket.socket(socket.AF_UNIX)
    test.connect(sys.argv[1])
    poll = select.poll()
    for fd in (0, test.fileno()):
        poll.register(fd, select.POLLIN)
    told = b""
    while True:
        for fd, _ in poll.poll():
            data = os.read(fd, 65536)
            if not data:
                return
            if fd == 0:
                test.sendall(data)
                continue
            *lines, told = (told + data).split(b"\n")
            for line in lines:
                if line.startswith(b"exit "):
                    os._exit(int(line[5:]))
                write_all(1, line + b"\n")


if __name__ == "__main__":
    signal.alarm(60)  # the last resort
    main()
