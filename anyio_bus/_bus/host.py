"""Own buses whose lives do not nest: one task group holds them all, any task opens and closes them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, final

import anyio
import anyio.abc
import anyio.lowlevel

from anyio_bus._bus.opening import open_bus
from anyio_bus._errors import InvalidStateError

if TYPE_CHECKING:
    from types import TracebackType

    from anyio_bus._bus.bus import Bus

__all__ = ("BusHost",)


class _Hosted:
    """One bus in the host: its closing and what came of it."""

    def __init__(self) -> None:
        self.close = anyio.Event()
        self.closed = anyio.Event()
        self.error: Exception | None = None


@final
class BusHost:
    """Holds any number of buses that may be opened and closed by any task, in any order.

    ::

        async with BusHost() as host:
            first = await host.open(Pool("a", argv))
            second = await host.open(Pool("b", argv))
            await host.aclose(first)          # not the last that was opened

    A bus belongs to the host's own task group, never to the task that asked for it. What is still
    open when the block is left is closed. The body's own exception comes out bare.

    Owns:
        The buses and the tasks that they live in.
    """

    def __init__(self) -> None:
        self._stack: AsyncExitStack | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._hosted: dict[Bus, _Hosted] = {}  # one that failed stays until somebody asks why

    async def __aenter__(self) -> BusHost:
        """Start hosting."""
        if self._tasks is not None:
            msg = "this BusHost is already open"
            raise InvalidStateError(msg)
        self._stack = AsyncExitStack()
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """Close every bus that is left."""
        for hosted in self._hosted.values():
            hosted.close.set()
        stack, self._stack = self._stack, None
        assert stack is not None  # __aenter__ made it
        own = isinstance(exc, Exception)  # the body's own comes out bare
        try:
            if not own:
                return await stack.__aexit__(kind, exc, trace)  # noqa: ASYNC102
            await stack.aclose()  # noqa: ASYNC102  # the buses in it bound themselves
        except anyio.get_cancelled_exc_class():  # noqa: ASYNC103
            if not own:  # on trio the body's own would be lost here
                raise
        finally:
            self._tasks = None
        return None  # noqa: ASYNC910  # leaving the task group was one

    async def open(self, *args: Any, **options: Any) -> Bus:
        """Open a bus; arguments as :func:`~anyio_bus.open_bus`.

        Raises:
            InvalidStateError: The host is not open.
            InvalidArgumentError: The configuration is wrong.

        Cancellation:
            The bus that was being opened is closed again.
        """
        if self._tasks is None or self._stack is None:
            msg = "this BusHost is not open: use `async with BusHost() as host:`"
            raise InvalidStateError(msg)
        opened: Bus | Exception = await self._tasks.start(self._keep, args, options)
        if isinstance(opened, Exception):
            raise opened
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()  # else it may be seen while it stops
        except anyio.get_cancelled_exc_class():
            if opened in self._hosted:
                self._hosted[opened].close.set()
            raise
        return opened

    async def aclose(self, bus: Bus) -> None:
        """Close one bus, from any task; closing it again does nothing.

        Raises:
            BusError: The fault that the bus ended with.

        Cancellation:
            The wait ends; the closing goes on.
        """
        hosted = self._hosted.get(bus)
        if hosted is None:
            await anyio.lowlevel.checkpoint()
            return
        hosted.close.set()
        await hosted.closed.wait()
        self._hosted.pop(bus, None)
        if hosted.error is not None:
            raise hosted.error

    async def _keep(  # noqa: ASYNC910  # a bus of its own has them
        self,
        args: tuple[Any, ...],
        options: dict[str, Any],
        *,
        task_status: anyio.abc.TaskStatus[Any],
    ) -> None:
        """Hold one bus open in this task, until it is closed."""
        hosted = _Hosted()
        bus: Bus | None = None
        try:
            async with open_bus(*args, **options) as bus:
                self._hosted[bus] = hosted
                task_status.started(bus)
                if self._stack is None:  # the host's block was left meanwhile
                    hosted.close.set()
                await hosted.close.wait()
        except Exception as exc:  # one bus's fault is not the host's  # noqa: BLE001
            hosted.error = exc
            if bus is None:
                task_status.started(exc)
        finally:
            if bus is not None and hosted.error is None:
                del self._hosted[bus]
            hosted.closed.set()
