"""Own the thread that an event loop and a bus live in, and what other threads wait for there."""

from __future__ import annotations

import atexit
import importlib.util
import math
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel

from anyio_bus import BusInternalError, BusStoppedError, InvalidArgumentError, InvalidStateError

if TYPE_CHECKING:
    from anyio_bus import Bus

__all__ = ("Reply", "Runner", "check_no_loop")

T = TypeVar("T")
LOOPS = ("asyncio", "uvloop", "trio")
MARGIN_S = 10  # for what is bounded by others, on a busy machine; then something is stuck
READERS_S = 1  # that what is left to be read has to be fetched after the bus has stopped


class Reply:
    """One outcome that one thread waits for; a wait can be interrupted at any point."""

    __slots__ = ("_queue", "over")

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self.over: bool = False

    def set(self, value: object = None) -> None:
        """Hand over the outcome; the first one counts."""
        if not self.over:
            self.over = True
            self._queue.put((value, None))

    def fail(self, error: BaseException) -> None:
        """Hand over an error; the first outcome counts."""
        if not self.over:
            self.over = True
            self._queue.put((None, error))

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the outcome, once, and return it or raise the error.

        Raises:
            TimeoutError: It did not come in time.
        """
        try:
            value, error = self._queue.get(timeout=timeout)
        except Empty:
            msg = f"nothing came within {timeout:g} s"
            raise TimeoutError(msg) from None
        if error is not None:
            raise error
        return value


class Resident(Protocol):
    """What lives in a task of the runner until its thread leaves it, or the bus is over."""

    def finish(self) -> None:
        """The bus has stopped: fetch what can still be read, and end."""


def check_no_loop() -> None:
    """Refuse to block a thread in which an event loop runs.

    Raises:
        InvalidStateError: One runs in this one.
    """
    try:
        anyio.lowlevel.current_token()
    except RuntimeError:
        return
    name = threading.current_thread().name
    msg = (
        f"this call would block the event loop that runs in thread {name!r}:"
        " use `async with open_bus(...)` there"
    )
    raise InvalidStateError(msg)


def backend_of(loop: str) -> tuple[str, dict[str, Any]]:
    """Return AnyIO's name and options of an event loop.

    Raises:
        InvalidArgumentError: There is no such loop.
    """
    if loop not in LOOPS:
        msg = f"loop must be one of {', '.join(map(repr, LOOPS))}, not {loop!r}"
        raise InvalidArgumentError(msg, field="loop")
    if loop != "asyncio" and importlib.util.find_spec(loop) is None:
        msg = f"loop={loop!r} is not installed: pip install 'anyio-bus[{loop}]'"
        raise InvalidArgumentError(msg, field="loop")
    return ("trio", {}) if loop == "trio" else ("asyncio", {"use_uvloop": loop == "uvloop"})


class Runner:
    """A thread with an event loop and one bus.

    Owns:
        The thread, the loop, and the tasks of what other threads have open.

    Args:
        loop: Its name.
        open_bus: Opens the bus.
        last_s: Seconds within which the bus ends by itself once its block is left.
    """

    def __init__(
        self, loop: str, open_bus: Callable[[], AbstractAsyncContextManager[Bus]], last_s: float
    ) -> None:
        check_no_loop()
        self._backend = backend_of(loop)
        self._open_bus = open_bus
        self._last_s = last_s
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=f"anyio-bus-{loop}", daemon=True)
        self._opened = Reply()
        self._over = threading.Lock()  # held until the thread's last act
        self._over.acquire()
        self._dead = False
        self._given_up = False
        self._error: BaseException | None = None
        self._waiting: set[Reply] = set()
        self._residents: dict[Resident, None] = {}
        self._token: Any = None
        self._scope: anyio.CancelScope
        self._leave: anyio.Event
        self._empty: anyio.Event  # no resident is left, and none will come
        self.bus: Bus
        self.start_soon: Callable[..., Any]
        self.handler_threads: anyio.CapacityLimiter  # the bus itself bounds the handlers

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        backend, options = self._backend
        try:
            anyio.run(self._main, backend=backend, backend_options=options)
        except BaseException as exc:  # raised where the block is left  # noqa: ASYNC103, BLE001
            self._error = self._error or exc
        self._dead = True
        error = self._error or BusStoppedError("bus is stopped")
        self._opened.fail(error)
        for reply in list(self._waiting):
            reply.fail(BusStoppedError("bus is stopped"))
        self._over.release()

    async def _main(self) -> None:
        self._scope = anyio.CancelScope()
        self._leave = anyio.Event()
        self._empty = anyio.Event()
        self.handler_threads = anyio.CapacityLimiter(math.inf)
        self._token = anyio.lowlevel.current_token()
        if self._given_up:
            return  # noqa: ASYNC910  # the loop ends with this
        with self._scope:
            async with anyio.create_task_group() as tasks:
                self.start_soon = tasks.start_soon
                await self._hold_bus()
                for resident in list(self._residents):
                    resident.finish()
                if self._residents:
                    with anyio.move_on_after(READERS_S):
                        await self._empty.wait()
                tasks.cancel_scope.cancel("the block was left")

    async def _hold_bus(self) -> None:  # noqa: ASYNC910  # a bus has them
        try:
            async with self._open_bus() as self.bus:
                self._opened.set()
                await self._leave.wait()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as exc:  # raised where the block is left  # noqa: ASYNC103, BLE001
            self._error = exc

    def live(self, resident: Resident) -> None:
        """Note what has a task of its own; called in the loop."""
        self._residents[resident] = None

    def gone(self, resident: Resident) -> None:
        """Its task has ended; called in the loop."""
        self._residents.pop(resident, None)
        if not self._residents and self._leave.is_set():
            self._empty.set()

    # -- for other threads --------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread and open the bus."""
        atexit.register(self._at_exit)
        try:
            self._thread.start()
            self._opened.wait()
        except BaseException:
            self._give_up()
            raise

    def _give_up(self) -> None:
        """End the thread before its bus is open."""
        self._given_up = True
        if self._token is not None:
            with suppress(RuntimeError):  # the loop has ended already
                anyio.from_thread.run_sync(self._scope.cancel, token=self._token)
        self._join(MARGIN_S)
        atexit.unregister(self._at_exit)

    def end(self) -> None:
        """Leave the bus's block and wait until the thread has ended; Ctrl-C shortens it.

        Raises:
            BaseException: The fault that the bus ended with.
        """
        atexit.unregister(self._at_exit)
        if os.getpid() != self._pid:  # a fork: there is no such thread here
            return
        interrupt: BaseException | None = None
        limit_s = self._last_s + MARGIN_S
        while True:
            try:
                self.ask_to_leave()
                ended = self._join(limit_s)
                break
            except BaseException as exc:  # noqa: ASYNC103, BLE001  # the first is raised below
                interrupt = interrupt or exc
                limit_s = MARGIN_S
                with suppress(BusStoppedError):
                    self.post(self._hurry)
        if interrupt is not None:
            raise interrupt
        if not ended:
            msg = "the bus's thread does not end: something blocks its event loop"
            raise BusInternalError(msg)
        if self._error is not None:
            raise self._error

    def ask_to_leave(self) -> None:
        """Leave the bus's block; does not wait."""
        if os.getpid() == self._pid:
            with suppress(BusStoppedError):
                self.post(self._leave.set)

    def _hurry(self) -> None:
        self._leave.set()
        self.start_soon(_stop_at_once, self.bus)

    def _join(self, limit_s: float) -> bool:
        if not self._over.acquire(timeout=limit_s):
            return False
        self._over.release()
        self._thread.join()
        return True

    def _at_exit(self) -> None:
        """The program ends inside the block, say in another thread: leave nothing behind."""
        with suppress(BaseException):
            if self._opened.over:
                self.end()
            else:
                self._give_up()

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have the loop call a function soon.

        Raises:
            InvalidStateError: This is a forked process.
            BusStoppedError: The thread has ended.
        """
        self.bus.from_thread.post(function, *args)

    def wait(self, reply: Reply, timeout: float | None = None) -> Any:
        """Wait for what was posted before to have an outcome.

        Raises:
            TimeoutError: It has none in time; it goes on.
            BusStoppedError: The thread has ended.
        """
        self._waiting.add(reply)
        try:
            if self._dead:
                reply.fail(BusStoppedError("bus is stopped"))
            return reply.wait(timeout)
        finally:
            self._waiting.discard(reply)

    def run(self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Run an async function in a task of the bus."""
        return self.bus.from_thread.run(function, *args, **kwargs)

    def run_sync(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a plain function in the loop."""
        return self.bus.from_thread.run_sync(function, *args, **kwargs)

    def do(self, function: Callable[[], object]) -> None:
        """Call a plain function in the loop, from any thread, its own too; nothing after its end."""
        with suppress(BusStoppedError):
            if threading.current_thread() is self._thread:
                function()
            else:
                self.run_sync(function)


async def _stop_at_once(bus: Bus) -> None:
    await bus.stop(grace_s=0)
