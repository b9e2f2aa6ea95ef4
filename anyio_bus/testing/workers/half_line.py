"""Answers its first request with half a line, and exits."""

import json
import os
import sys

request = json.loads(sys.stdin.buffer.readline() or "{}")
line = json.dumps({"jsonrpc": "2.0", "id": request.get("id"), "result": request.get("params")})
os.write(1, line[: len(line) // 2].encode())
