"""Own the contract between the bus and a kernel, wherever it runs.

Frames and events move in batches, and nothing here but :meth:`Backend.run` and
:meth:`Backend.stop` waits: a backend pushes what it has into ``deliver`` from its own task, so that
a message costs no hop between tasks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.abc

if TYPE_CHECKING:
    from anyio_bus._sansio.events import KernelStatistics, SessionInfo, WorkerInfo
    from anyio_bus._sansio.messages import RequestId
    from anyio_bus._sansio.routing import Route, Withdrawal
    from anyio_bus._sansio.tapping import Tap

__all__ = ("Backend",)


class Backend(Protocol):
    """A kernel, as the bus sees it.

    It is made with a function ``deliver(events)``, which it calls with each batch of events
    (:mod:`anyio_bus._sansio.events`) in the loop's thread. For each submitted request it delivers
    exactly one answer or one failure, unless the request is withdrawn.

    Synchronous methods raise ``Refused`` with the kernel's failure where they cannot do it.
    """

    name: str
    listeners: tuple[str, ...] | None
    """Where other programs connect; None where the kernel cannot listen."""

    @property
    def borrow(self) -> Callable[..., Awaitable[None]] | None:
        """``(pool, session, *, rebind)``: have a worker found for a session alone.

        None where the client chooses one itself, with :meth:`lease`.
        """
        ...

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Run until :meth:`stop` is done; started when the first workers are spawned."""

    def submit(self, frame: bytes, route: Route, key: RequestId) -> None:
        """Take a whole frame; ``key`` is the id in it if it is a request, else None."""

    def put_off(self, hand_over: Callable[[], None], /) -> bool:
        """Have a function called soon, where it pays to submit together what comes until then.

        Returns:
            Whether it will be called; if not, everything is to be submitted at once.
        """
        ...

    def submit_many(
        self, method: str, items: Sequence[object], route: Route, keys: list[RequestId], room: int
    ) -> int:
        """Take several requests of one method in one call, each with an id never used before.

        Args:
            method: Their method.
            items: The params of each.
            route: Where they go.
            keys: Their ids.
            room: So many bytes their frames may have together.

        Returns:
            The bytes of their frames, about; 0 if they were not taken. Then none was: each is to be
            submitted, for its own outcome.
        """
        ...

    def withdraw(self, key: RequestId, reason: str = "") -> Withdrawal:
        """Give up a request: after this there is neither answer nor failure for it."""
        ...

    def pause(self, worker: int) -> None:
        """Leave a worker's output unread."""

    def resume(self, worker: int) -> None:
        """Read a worker's output again."""

    def spawn(
        self,
        pool_id: str,
        *,
        session: str | None = None,
        rebind: bool = False,
        env: Mapping[str, str | None] | None = None,
        cwd: str | None = None,
    ) -> int:
        """Add a worker to a pool, or one leased to a session alone; return its number."""
        ...

    def resize(self, pool_id: str, instances: int, drain_s: float) -> None:
        """Spawn workers, or drain and retire the last ones, until there are so many."""

    def check_pool(self, pool_id: str) -> None:
        """Refuse, with the stored reason, if every worker of the pool is parked."""

    def hear(self, pool_id: str, on: bool) -> None:
        """Say whether somebody wants the notifications of a pool, as is taken for granted.

        What nobody wants need not come.
        """

    def drain(self, worker: int, drain_s: float, *, retire: bool = False) -> None:
        """Let a worker finish, then replace it, or end it for good if ``retire``."""

    def rest(self, worker: int) -> bool:
        """End an idle worker, until a request finds every other one busy; False if it is not idle."""
        ...

    def kill(self, worker: int, fault: str = "") -> None:
        """Kill a worker and start its successor; ``fault`` says what it did wrong, if it did."""

    def hold(self, worker: int) -> None:
        """Give a worker no work but what names it."""

    def release(self, worker: int) -> None:
        """End a hold or a lease."""

    def lease(self, worker: int, session: str, *, rebind: bool = False) -> None:
        """Keep a worker for one session, and its successor too if ``rebind``."""

    def end_session(self, session: str) -> None:
        """Forget a session; end its lease."""

    def find_session(self, session: str) -> SessionInfo | None:
        """Report a session; None where it is not known."""
        ...

    def tap(self, callback: Tap | None) -> None:
        """Show every line of every pipe to ``callback``, in batches, at once; None ends it."""

    @property
    def refresh(self) -> Callable[[], Awaitable[None]] | None:
        """Have the next reports be of now; None where they always are."""
        ...

    def workers(self) -> list[WorkerInfo]:
        """Report every worker slot."""
        ...

    def statistics(self) -> KernelStatistics:
        """Report the counters."""
        ...

    async def stop(self, grace_s: float, drain_s: float = 0.0) -> None:
        """End every worker within ``grace_s`` and wait for it; a shorter grace shortens a stop.

        What other programs have in flight may finish for ``drain_s`` first.
        """

    def kill_now(self, reap_s: float) -> None:
        """Without the loop: kill, reap and close what is left."""

    def abandon(self) -> None:
        """In a forked process: close every fd and touch nothing else."""
