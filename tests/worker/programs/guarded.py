"""A worker whose handlers do what must not reach the wire: ``guarded.py LOOP``."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading

import anyio

from anyio_bus.worker import Context, Worker

LOOPS = {
    "asyncio": ("asyncio", None),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", None),
}

worker = Worker(drain_s=float(os.environ.get("DRAIN_S", "5")))
if "EARLY" in os.environ:
    print("printed before the worker runs, never flushed")


@worker.method("echo", inline=True)
def echo(params: object) -> object:
    return params


@worker.method("print")
def stray_print(text: str) -> None:
    print(text)


@worker.method("write")
def write(text: str) -> int:
    return os.write(1, text.encode())


@worker.method("old_stdout")
def old_stdout(text: str) -> None:
    stdout.write(text)
    stdout.flush()


@worker.method("puts")
def puts(text: str) -> None:
    libc = ctypes.CDLL(None)
    libc.puts(text.encode())
    libc.fflush(None)


@worker.method("shell")
def shell(command: str) -> int:
    return subprocess.run(["sh", "-c", command], check=False).returncode


@worker.method("input")
def read_input() -> str:
    return sys.stdin.read() + os.read(0, 100).decode()


@worker.method("hold")
async def hold(context: Context) -> None:
    """Tell that it runs, and hang."""
    await context.notify("holding")
    await anyio.sleep_forever()


@worker.method("finish_on_cancel")
async def finish_on_cancel(context: Context) -> str:
    try:
        await hold(context)
    except anyio.get_cancelled_exc_class():  # noqa: ASYNC103
        return "finished"  # noqa: ASYNC104
    return ""


@worker.method("wait_for_answer")
async def wait_for_answer(context: Context) -> object:
    return await context.request("question")


@worker.method("stuck")
def stuck(context: Context) -> None:
    """Hang in a thread, where nothing can interrupt it."""
    anyio.from_thread.run(context.notify, "holding")
    threading.Event().wait()


@worker.method("interrupt")
async def interrupt() -> None:
    raise KeyboardInterrupt


@worker.method("exit")
async def leave() -> None:
    sys.exit(7)


@worker.method("big")
def big(size: int) -> str:
    return "x" * size


stdout = sys.stdout
if __name__ == "__main__":
    backend, options = LOOPS[sys.argv[1]]
    worker.run(backend, options)
