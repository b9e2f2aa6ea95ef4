"""Has a child of its own that holds all its pipes open.

``grandchild`` answers with the child's pid; ``exit`` ends this process and leaves the child behind.
"""

import json
import os
import signal
import sys
import time

assert sys.platform != "win32", "there is no fork()"


def answer(request: dict[str, object], result: object) -> None:
    """Write one answer."""
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)


child = os.fork()
signal.alarm(60)  # the last resort, for both
if child == 0:
    time.sleep(60)
    os._exit(0)
for line in sys.stdin:
    request = json.loads(line)
    if request.get("method") == "exit":
        sys.exit(0)
    if "method" in request and "id" in request:
        grandchild = request["method"] == "grandchild"
        answer(request, child if grandchild else request.get("params"))
