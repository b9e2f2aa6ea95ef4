"""Answers ``initialize`` after a delay, everything else at once with the params.

The delay in seconds is ``delay_s`` of the params of ``initialize``, or the first argument, or
``SLOW_START_S`` of the environment, or 1.
"""

import json
import os
import sys
import time

default = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SLOW_START_S", "1")
for line in sys.stdin:
    request = json.loads(line)
    if "method" not in request or "id" not in request:
        continue
    params = request.get("params")
    if request["method"] == "initialize":
        time.sleep(float((params or {}).get("delay_s", default)))
    print(json.dumps({"id": request["id"], "result": params}), flush=True)
