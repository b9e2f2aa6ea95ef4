"""Writes notifications as fast as it can, and answers nothing."""

import os
import signal

if hasattr(signal, "alarm"):
    signal.alarm(60)  # the last resort
block = b'{"jsonrpc":"2.0","method":"flood","params":{"text":"water"}}\n' * 1000
try:
    while True:
        rest = block
        while rest:
            rest = rest[os.write(1, rest) :]
except BrokenPipeError:
    pass
