"""Run the command line: ``python -m anyio_bus`` is ``anyio-bus``."""

from __future__ import annotations

import sys

from anyio_bus.cli import main

if __name__ == "__main__":
    sys.exit(main())
