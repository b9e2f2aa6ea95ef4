"""The kernel in Python: it supervises worker processes and decides the fate of every request."""
