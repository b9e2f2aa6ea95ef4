"""Never reads its stdin, ignores its end, and lives on."""

import signal
import time

if hasattr(signal, "alarm"):
    signal.alarm(60)  # the last resort
time.sleep(60)
