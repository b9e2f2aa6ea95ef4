"""Writes three lines to stderr and exits with status 3."""

import sys

for number in (1, 2, 3):
    print(f"crash_at_start: line {number}", file=sys.stderr)
sys.exit(3)
