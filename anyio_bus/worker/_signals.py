"""Own the signals that stop a worker process."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import anyio

__all__ = ("stop_signals",)

logger = logging.getLogger("anyio_bus.worker")


@contextmanager
def stop_signals() -> Iterator[AsyncIterator[object] | None]:
    """Receive SIGTERM and SIGINT inside the block; None where this thread or loop cannot.

    One that the parent wanted ignored (``nohup``, a shell's background job) stays ignored.
    """
    wanted = [
        number
        for number in (signal.SIGTERM, signal.SIGINT)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    with ExitStack() as stack:
        received: AsyncIterator[object] | None = None
        if threading.current_thread() is not threading.main_thread():
            text = "not in the main thread: SIGTERM and SIGINT are not handled"
            logger.warning(text, extra={"event": "signals_unhandled"})
        elif wanted:
            try:
                received = stack.enter_context(anyio.open_signal_receiver(*wanted))
            except (NotImplementedError, RuntimeError, ValueError) as exc:
                text = "this loop does not handle SIGTERM and SIGINT: %r"
                logger.warning(text, exc, extra={"event": "signals_unhandled"})
        yield received
