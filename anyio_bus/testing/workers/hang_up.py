"""Answers with the params; closes its stdout at the request ``hang_up``, and lives on."""

import json
import os
import signal
import sys
import time

if hasattr(signal, "alarm"):
    signal.alarm(60)  # the last resort
for line in sys.stdin:
    request = json.loads(line)
    if request.get("method") == "hang_up":
        os.close(1)
        time.sleep(60)
    if "method" in request and "id" in request:
        print(json.dumps({"id": request["id"], "result": request.get("params")}), flush=True)
