"""A whole program that sends one request by hand."""

import json
import subprocess
import sys

PIPE = subprocess.PIPE
with subprocess.Popen(sys.argv[1:], stdin=PIPE, stdout=PIPE) as worker:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":1}}\n')
    worker.stdin.flush()
    assert json.loads(worker.stdout.readline())["result"] == {"a": 1}
