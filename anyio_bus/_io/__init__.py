"""The AnyIO edges: the running loop, child processes, and this process's own stdio."""
