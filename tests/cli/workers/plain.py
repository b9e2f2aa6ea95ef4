"""A worker of few lines for the tests of the command line; runs with ``python -I -S``."""

import json
import os
import sys
from typing import Any

notes = 0


def answer(message: dict[str, Any], method: str, params: Any) -> dict[str, Any]:
    if method == "members":
        return {"result": sorted(message)}
    if method == "pid":
        return {"result": os.getpid()}
    if method == "notes":
        return {"result": notes}
    if method == "environ":
        return {"result": os.environ.get(params[0])}
    if method == "fail":
        return {"error": {"code": 42, "message": "no such thing", "data": {"why": "because"}}}
    return {"result": params}


for line in sys.stdin:
    message = json.loads(line)
    method, params = message["method"], message.get("params")
    if method == "crash":
        print("first line\nlast words", file=sys.stderr, flush=True)
        os._exit(3)
    if "id" not in message:
        notes += 1
    elif method != "hang":
        print(json.dumps({"id": message["id"], **answer(message, method, params)}), flush=True)
