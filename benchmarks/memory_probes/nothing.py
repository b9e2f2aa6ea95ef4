"""Nothing at all, against which a probe that says what it has added is compared."""

from _probe import print_memory, read_memory, run_probe


async def main() -> None:
    """Add nothing."""
    print_memory(since=read_memory())


if __name__ == "__main__":
    run_probe(main)
