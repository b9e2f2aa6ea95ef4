"""Writes lines that are no messages, before and between good answers."""

import json
import os
import sys

GARBAGE = (
    b"Welcome to garbage 1.0!\n"
    b"\xff\xfe invalid UTF-8\n"
    b'{"jsonrpc":"2.0","method":"\xff"}\n'
    b"NUL \x00 inside\n"
    b"\x00\n"
    b"null\n"
    b"[]\n"
    b'[{"jsonrpc":"2.0","id":1,"result":1}]\n'
    b'"text"\n'
    b"42\n"
    b"{}\n"
    b'{"jsonrpc":"2.0"}\n'
    b'{"jsonrpc":"2.0","id":1,"result":\n'
    b"\n"
    b"   \r\n"
)

os.write(1, GARBAGE)
for line in sys.stdin:
    request = json.loads(line)
    if "method" in request and "id" in request:
        answer = {"jsonrpc": "2.0", "id": request["id"], "result": request.get("params")}
        os.write(1, json.dumps(answer).encode() + b"\n" + GARBAGE)
