"""Answers with the params; closes its stdin at the request ``close_stdin``, and lives on.

The request is answered when stdin is closed.
"""

import json
import os
import signal
import sys
import time

if hasattr(signal, "alarm"):
    signal.alarm(60)  # the last resort
for line in sys.stdin:
    request = json.loads(line)
    closing = request.get("method") == "close_stdin"
    if closing:
        os.close(0)
    if "method" in request and "id" in request:
        print(json.dumps({"id": request["id"], "result": request.get("params")}), flush=True)
    if closing:
        time.sleep(60)
