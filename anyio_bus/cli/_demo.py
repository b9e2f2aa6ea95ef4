"""``anyio-bus demo``: what a bus does, on real processes, in a second or two."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from anyio_bus import Bus, Pool, WorkerInfo, WorkerLostError, __version__, open_bus
from anyio_bus.cli._exits import OK, CommandError
from anyio_bus.cli._loop import STOP_GRACE_S, is_there, quiet, run_in_loop
from anyio_bus.cli._parser import LOOPS
from anyio_bus.cli._show import Page

if TYPE_CHECKING:
    from anyio_bus.cli._parser import Arguments

__all__ = ("execute",)

LIMIT_S = 30.0  # for one loop: it takes well under a second on an idle machine
REQUESTS_PER_WORKER = 4
LOOK_EVERY_S = 0.001
LONG_S = 60.0  # of the requests that never end by themselves


def execute(arguments: Arguments) -> int:
    """Run the command.

    Raises:
        CommandError: It took too long.
        BusError: Something did not go as it should.
    """
    quiet()  # what it would warn of is what is shown
    page = Page()
    page.text(f"anyio-bus {__version__}, Python {platform.python_version()}, {sys.platform}")
    for loop in LOOPS if arguments.loop is None else (arguments.loop,):
        if arguments.loop is None and not is_there(loop):
            page.heading(loop)
            page.row("skipped", f"{loop} is not installed; pip install 'anyio-bus[{loop}]' gets it")
            continue
        page.heading(loop)
        code = run_in_loop(partial(_bounded, page, arguments.workers), loop)
        if code != OK:
            return code
    page.heading("next")
    page.row(
        "your own", 'anyio-bus request "python -m anyio_bus.testing.workers.echo" echo \'{"a": 1}\''
    )
    return OK


async def _bounded(page: Page, workers: int) -> int:
    with anyio.move_on_after(LIMIT_S) as limit:
        await _show(page, workers)
    if limit.cancelled_caught:
        msg = f"the demo took longer than {LIMIT_S:g} s; its workers have been ended"
        raise CommandError(msg)
    return OK


async def _show(page: Page, workers: int) -> None:
    echo = Pool("echo", [sys.executable, "-m", "anyio_bus.testing.workers.echo"], instances=workers)
    watch = _Watch()
    async with open_bus(echo, grace_s=STOP_GRACE_S) as bus:
        page.row("backend", _why(bus))
        await bus.wait_ready()
        named = ", ".join(f"pid {pid}" for pid in sorted(await _ask_at_once(bus, workers)))
        page.row(
            "started", f"{_count(workers, 'worker')} in {watch}, first answers included: {named}"
        )
        await _answer(bus, page, workers * REQUESTS_PER_WORKER)
        await _lose_a_worker(bus, page)
        await _cancel_a_request(bus, page)
        pids = [worker.pid for worker in bus.workers() if worker.pid is not None]
        watch = _Watch()
        await bus.stop(grace_s=STOP_GRACE_S)
        page.row("stopped", f"{_count(workers, 'worker')} in {watch}, {_left(pids)}")
        kernel = bus.statistics().kernel
    page.row(
        "in all",
        f"{kernel.messages_out} messages out, {kernel.messages_in} in; "
        f"{_count(kernel.worker_restarts, 'restart')}, {kernel.cancelled} cancelled",
    )


def _why(bus: Bus) -> str:
    if bus.backend == "python":
        return "python: the kernel runs in this process; there is no other in this version"
    return bus.backend


async def _answer(bus: Bus, page: Page, count: int) -> None:
    watch = _Watch()
    answered = await _ask_at_once(bus, count)
    took = str(watch)
    shares = ", ".join(f"{share} by pid {pid}" for pid, share in sorted(answered.items()))
    page.row("answered", f"{_count(count, 'request')} in {took}, side by side: {shares}")


async def _ask_at_once(bus: Bus, count: int) -> Counter[int]:
    """Send requests side by side; return how many each process answered."""
    answered: Counter[int] = Counter()

    async def ask() -> None:
        answered[await bus.request("pid", reply=int)] += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(ask)
    return answered


async def _lose_a_worker(bus: Bus, page: Page) -> None:
    """Kill a worker that has a request, show what its caller gets, and who takes over."""
    watch = _Watch()  # begins anew with the kill
    lost: list[tuple[WorkerLostError, str]] = []

    async def ask() -> None:
        try:
            await bus.request("sleep", {"seconds": LONG_S})
        except WorkerLostError as exc:
            lost.append((exc, str(watch)))
        await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        victim = await _busy_worker(bus)
        assert victim.pid is not None  # a busy worker has a process
        watch.restart()
        os.kill(victim.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    error, after = lost[0]
    text = f"pid {victim.pid}, with a request in flight; its caller knew after {after}:"
    page.row("killed", text, "red")
    page.more(f"{type(error).__name__}: {error}")
    page.more(f"pool={error.pool!r} worker={error.worker} signal={error.signal} sent={error.sent}")
    await bus.wait_ready()
    await _ask_at_once(bus, len(bus.workers()))  # one each, the successor's among them
    successor = next(w for w in bus.workers() if w.worker == victim.worker)
    page.row("restarted", f"pid {successor.pid} took its place: answers again after {watch}")


async def _cancel_a_request(bus: Bus, page: Page) -> None:
    """Cancel a request that runs; its worker is told, and says so in its late answer."""
    before = bus.statistics().kernel.late_answers
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bus.request, "sleep", {"seconds": LONG_S})
        worker = await _busy_worker(bus)
        watch = _Watch()
        tasks.cancel_scope.cancel("demo")
    await _until(lambda: bus.statistics().kernel.late_answers > before)
    text = f"a request of {LONG_S:g} s; pid {worker.pid} was told, and gave it up, in {watch}"
    page.row("cancelled", text)


async def _busy_worker(bus: Bus) -> WorkerInfo:
    """Wait until a worker has been given a request, all of it."""

    def busy() -> list[WorkerInfo]:
        return [w for w in bus.workers() if w.in_flight and not w.queued_bytes]

    await _until(busy)
    return busy()[0]


async def _until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells."""
    while True:
        await anyio.sleep(LOOK_EVERY_S)
        if condition():
            return


def _left(pids: list[int]) -> str:
    left = [str(pid) for pid in pids if _is_alive(pid)]
    return f"still there: {', '.join(left)}" if left else "no process left"


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":  # signal 0 is not a question there
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


class _Watch:
    """Measures, and says so with a unit."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._began = time.perf_counter()

    def __str__(self) -> str:
        seconds = time.perf_counter() - self._began
        return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
