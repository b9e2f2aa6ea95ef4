"""Answers with the params; ignores SIGTERM and the end of its stdin."""

import json
import signal
import sys
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
if hasattr(signal, "alarm"):
    signal.alarm(60)  # the last resort
for line in sys.stdin:
    request = json.loads(line)
    if "method" in request and "id" in request:
        print(json.dumps({"id": request["id"], "result": request.get("params")}), flush=True)
time.sleep(60)
