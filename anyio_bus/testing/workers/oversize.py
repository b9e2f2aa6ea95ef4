"""Answers ``big {bytes, id_last}`` with a string of so many bytes, its id first or last.

Other requests are answered with their params.
"""

import json
import sys

for line in sys.stdin:
    request = json.loads(line)
    if "method" not in request or "id" not in request:
        continue
    params = request.get("params")
    answer = {"jsonrpc": "2.0", "id": request["id"], "result": params}
    if request["method"] == "big":
        answer["result"] = "x" * params["bytes"]
        if params.get("id_last"):
            answer["id"] = answer.pop("id")
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
