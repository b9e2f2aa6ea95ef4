"""Writes 4 MiB to stderr before each answer."""

import json
import os
import signal
import sys

if hasattr(signal, "alarm"):
    signal.alarm(60)  # the last resort
for line in sys.stdin:
    request = json.loads(line)
    if "method" in request and "id" in request:
        rest = (b"e" * 1023 + b"\n") * 4096
        while rest:
            rest = rest[os.write(2, rest) :]
        print(json.dumps({"id": request["id"], "result": request.get("params")}), flush=True)
