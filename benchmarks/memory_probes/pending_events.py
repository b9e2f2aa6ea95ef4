"""10,000 tasks, each of which waits on an ``anyio.Event`` of its own."""

import anyio
from _probe import FILL, PENDING, print_memory, read_memory, run_probe


async def wait_for_ever() -> None:
    """Wait for what nobody sets."""
    await anyio.Event().wait()


async def main() -> None:
    """Start the tasks and say what they have added."""
    async with anyio.create_task_group() as tg:
        for _ in range(FILL):
            tg.start_soon(wait_for_ever)
        await anyio.wait_all_tasks_blocked()
        before = read_memory()
        for _ in range(PENDING):
            tg.start_soon(wait_for_ever)
        await anyio.wait_all_tasks_blocked()
        print_memory(since=before)
        tg.cancel_scope.cancel()


if __name__ == "__main__":
    run_probe(main)
