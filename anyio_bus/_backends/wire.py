"""Own the backends whose kernel is elsewhere, at the other end of a link: ``docs/design/wire.md``.

The kernel there decides the fate of every request; this end only keeps what must be known at once:
which requests are live, which workers and sessions there are, and where the next line comes from.
Only when the link is lost does it settle requests itself.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec
from msgspec import UNSET, Raw

from anyio_bus._backends.flushing import Flusher
from anyio_bus._backends.hearing import Hearing
from anyio_bus._backends.mirror import Mirror
from anyio_bus._backends.outflow import Outflow
from anyio_bus._backends.reports import Status, decode_status
from anyio_bus._errors import ConnectionLostError, Failure, KernelCode, NotSupportedError
from anyio_bus._io.loop import Bell, current_loop
from anyio_bus._sansio.codec import (
    decode_block,
    decode_lines,
    encode_notification,
    encode_request,
    encode_requests,
)
from anyio_bus._sansio.events import (
    Deliver,
    Failed,
    KernelEvent,
    KernelStatistics,
    SessionInfo,
    WorkerInfo,
)
from anyio_bus._sansio.lines import READ_BYTES, LineSplitter, Oversize, next_read_bytes
from anyio_bus._sansio.messages import BadLine, Message, RequestId
from anyio_bus._sansio.profiles import cancel_frame
from anyio_bus._sansio.routing import Refused, Route, Withdrawal

if TYPE_CHECKING:
    from anyio_bus._backends.links import Link
    from anyio_bus._config import BusConfig
    from anyio_bus._sansio.tapping import Tap

__all__ = ("Wire",)

READS = 4  # of one fd before others have their turn
ENVELOPE_BYTES = 8192  # a line of the kernel is that much longer than a worker's at most
EXIT_S = 1.0  # for a daemon that has closed its stdout
RECONNECT_S = 0.1  # the first pause before another try; it doubles
RECONNECT_MOST_S = 5.0
STOP_SPARE_S = 0.5  # beyond the grace, for a daemon that has to end itself
FLUSH_S = 0.2  # for the last words to a daemon that goes on without us
PREFIXES = 4096  # beginnings of frames that are remembered, one for each session in use

logger = logging.getLogger("anyio_bus.kernel")

_GONE = Failure(
    code=KernelCode.SHUTTING_DOWN, message="bus is stopped", reason="shutting down", sent=False
)
_CROWDED = Failure(
    code=KernelCode.OVERLOADED,
    message="too much waits to be written to the kernel",
    reason="max_output_bytes",
    sent=False,
)
_REBIND = encode_notification("bus/next", {"rebind": True})
_encode = msgspec.json.encode


class Wire:
    """A kernel at the other end of a link, as a backend.

    Owns:
        The link, with our own daemon where it leads to one.

    Args:
        link: The link, greeted.
        greeting: What :func:`greet` returned.
        config: Pools and limits, as far as this end needs them.
        deliver: Takes each batch of events, at once.
        reach: Makes and greets another link, once this one is lost; None: it stays lost.
    """

    def __init__(
        self,
        link: Link,
        greeting: tuple[Status, bytes],
        config: BusConfig,
        deliver: Deliver,
        reach: Callable[[], Awaitable[tuple[Link, tuple[Status, bytes]]]] | None = None,
    ) -> None:
        self.name = link.backend
        self.listeners: tuple[str, ...] | None = None
        self._link = link
        self._deliver = deliver
        self._reach = reach
        self._loop = current_loop()
        self._single = greeting[0].single
        self._max_bytes = config.limits.max_output_bytes
        self._read_bytes = READ_BYTES
        self._splitter = LineSplitter(config.limits.max_frame_bytes + ENVELOPE_BYTES)
        self._live: dict[RequestId, str] = {}  # requests without an outcome -> their pool
        self._asked: dict[str, Callable[[Message], None]] = {}
        self._last_asked = 0
        self._refreshing = False
        self._late = 0  # answers to requests that were withdrawn here
        self._prefixes: dict[tuple[str, str | None], bytes] = {}
        self._lost: Failure | None = None
        self._outflow = Outflow(link)
        self._flusher = Flusher(self._loop, self._outflow.write)
        self._send, self._flush = self._outflow.add, self._flusher.ask
        self.put_off = self._flusher.put_off
        self._scope = anyio.CancelScope()
        self._over = Bell()
        self._stopping = self._done = self._closed = False
        status, self._unread = greeting
        self._mirror = Mirror(status)
        self._hearing = Hearing(self._mirror, self._live, self._take_own, status.bus)

    # -- running ------------------------------------------------------------------------------

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Run until stopped, or the link is lost."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._flusher.run)
                tasks.start_soon(self._outflow.run)
                if self._link.stderr_fd >= 0:
                    tasks.start_soon(
                        self._loop.serve_readable, self._link.stderr_fd, self._link.read_stderr
                    )
                unread, self._unread = self._unread, b""
                self._take(unread)
                task_status.started()
                with self._scope:
                    while not self._stopping:
                        await self._loop.serve_readable(self._link.read_fd, self._step)
                        await self._lose()
                        await self._come_back()
                await self._link.exit(EXIT_S)
                tasks.cancel_scope.cancel("kernel stopped")
        finally:
            self._done = True
            self._fail_asked()
            self._over.ring()

    def _step(self) -> bool:
        """Take what has come; False at the end."""
        for _ in range(READS):
            size, data = self._read_bytes, self._link.read(self._read_bytes)
            if data is None:
                return True
            if not data:
                return False
            self._take(data)
            if self._closed:
                return False
            self._read_bytes = next_read_bytes(size, len(data))
            if len(data) < size:
                return True
        return True

    async def _lose(self) -> None:
        """The kernel is gone: what it owed us fails, and so does all that is asked from now on."""
        if self._link.pid is not None:
            await self._link.exit(EXIT_S)
        if self._stopping:
            return
        why = self._link.why_lost()
        self._lost = Failure(
            code=KernelCode.CONNECTION_LOST,
            message=f"the kernel is lost: {why}",
            reason=why,
            sent=False,
            permanent=self._reach is None,
        )
        logger.error("the kernel is lost: %s", why, extra={"event": "kernel_lost"})
        in_flight = msgspec.structs.replace(self._lost, sent=True)
        events: list[KernelEvent] = [Failed(key, in_flight) for key in self._live]
        self._live.clear()
        self._fail_asked()
        self._refreshing = False
        self._outflow.lose()
        events += self._mirror.lose(self._lost)
        self._hand_over(events)

    async def _come_back(self) -> None:
        """Reach the kernel again, where that is wanted and not refused; else wait for the stop."""
        pause_s = RECONNECT_S
        while not self._stopping:
            if self._reach is None:
                await self._over.wait()
                continue
            await anyio.sleep(pause_s * (0.5 + 0.5 * random.random()))
            pause_s = min(2 * pause_s, RECONNECT_MOST_S)
            try:
                link, (status, unread) = await self._reach()
            except (ConnectionLostError, NotSupportedError) as exc:
                if isinstance(exc, NotSupportedError) or exc.permanent:
                    self._give_up(exc)
                else:
                    logger.debug("not yet: %s", exc, extra={"event": "kernel_away"})
                continue
            self._link.close()
            self._link, self._lost = link, None
            self._outflow.use(link)
            self._splitter.close()
            self._hearing.begin(status.bus)
            self._single = status.single
            self._prefixes.clear()
            logger.info("the kernel is back: %s", link.name, extra={"event": "kernel_back"})
            self._hand_over(self._mirror.come_back(status))
            if self._hearing.tap is not None and not self._stopping:
                self.tap(self._hearing.tap)
            self._take(unread)
            return

    def _give_up(self, why: Exception) -> None:
        """The kernel will not have us back: say so to everybody, and try no more."""
        self._reach = None
        logger.error("the kernel is lost for good: %s", why, extra={"event": "kernel_refused"})
        self._lost = Failure(
            code=KernelCode.CONNECTION_LOST,
            message=f"the kernel is lost for good: {why}",
            reason=str(why),
            sent=False,
            permanent=True,
        )
        self._hand_over(self._mirror.lose(self._lost))

    def _fail_asked(self) -> None:
        """There will be no answers to questions of our own."""
        asked, self._asked = self._asked, {}
        for then in asked.values():
            then(Message(error=Raw(b"{}")))

    async def stop(self, grace_s: float, drain_s: float = 0.0) -> None:
        """End our own daemon and its workers within ``grace_s``, or leave one that others use.

        There is nobody for whom ``drain_s`` would be.
        """
        self._stopping = True
        self._over.ring()
        if not self._done and not self._closed:
            if self._link.pid is not None and self._lost is None:
                self._refreshing = False
                self._refresh()  # the last report
                self._send(
                    encode_notification("bus/stop", {"drain_s": 0, "grace_s": min(grace_s, 1e9)})
                )
                self._outflow.write()
            else:
                with anyio.move_on_after(min(FLUSH_S, grace_s)), suppress(Refused):
                    await self.refresh()  # the last report; once it is here all else was read, too
                self._fail_asked()
                self._scope.cancel("bus stopped")
        with anyio.move_on_after(min(grace_s, 1e9) + STOP_SPARE_S):
            while not self._done:
                await self._over.wait()
        if not self._done:
            self._link.end_now()
            self._scope.cancel("the kernel does not end")
        while not self._done:
            await self._over.wait()

    def kill_now(self, reap_s: float) -> None:
        """Without the loop: end our own daemon, close the fds."""
        if self._closed:
            return
        self._close()
        for fd in {self._link.read_fd, self._link.write_fd, self._link.stderr_fd} - {-1}:
            self._loop.forget_readable(fd)
        self._link.kill(reap_s)

    def abandon(self) -> None:
        """In a forked process: close every fd, touch nothing else."""
        self._close()
        self._link.close()

    def _close(self) -> None:
        self._closed = True
        self._outflow.close()

    # -- what the kernel says -----------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        events: list[KernelEvent] = []
        for block in self._splitter.feed(data):
            if isinstance(block, Oversize):
                extra = {"event": "kernel"}
                logger.warning("the kernel wrote a line of %d bytes", block.size, extra=extra)
                continue
            try:
                messages: list[Any] = decode_lines(block)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                messages = [m for m in decode_block(block) if not isinstance(m, BadLine)]
            self._flusher.batch = len(messages)
            self._hearing.sort(messages, events)
        self._hand_over(events)

    def _hand_over(self, events: list[KernelEvent]) -> None:
        flusher = self._flusher
        if events:
            flusher.delivering = True
            try:
                self._deliver(events)
            finally:
                flusher.delivering = False
        if flusher.owes and not self._closed:
            flusher.owes = False
            self._outflow.write()

    def _take_own(self, message: Message) -> None:
        """Take an answer that no call waits for."""
        then = self._asked.pop(message.id, None)  # type: ignore[arg-type]
        if then is not None:
            then(message)
        else:
            self._late += 1

    # -- frames towards the kernel ------------------------------------------------------------

    def _check_open(self) -> None:
        if self._lost is not None:
            raise Refused(self._lost)
        if self._closed or self._stopping:
            raise Refused(_GONE)

    def _prefix(self, route: Route) -> bytes:
        """Return how a frame begins that goes this way."""
        name = route.pool, route.session
        prefix = self._prefixes.get(name)
        if prefix is None:
            pool = b"" if self._single == route.pool else b'"pool":%b,' % _encode(route.pool)
            session = b""
            if route.session is not None:
                session = b'"sessionId":%b,' % _encode(route.session)
            prefix = b"{%b%b" % (pool, session)
            if len(self._prefixes) >= PREFIXES:
                self._prefixes.clear()
            self._prefixes[name] = prefix
        return prefix

    def submit(self, frame: bytes, route: Route, key: RequestId) -> None:
        """Take a frame to the kernel. ``key`` is its id if it is a request, else None.

        Raises:
            Refused: It cannot be taken; nothing of it was sent.
        """
        self._check_open()
        if route.session is not None:
            self._mirror.check_session(route.session, rebind=route.rebind)
        if self._outflow.size > self._max_bytes * (1 if key is not None else 2):
            raise Refused(_CROWDED)
        if route.worker is not None and not _finds_its_way(frame):
            if not self._link.admin:
                raise self._cannot("choose a worker that others use")
            self._mirror.known(route.worker)
            how = {"worker": route.worker, "probe": route.probe}
            self._send(encode_notification("bus/next", how))
        if route.rebind and route.session is not None:
            self._send(_REBIND)
        if key is not None:
            self._live[key] = route.pool
        self._send(frame if route.worker is not None else self._prefix(route) + frame[1:])
        self._flush()

    def submit_many(
        self, method: str, items: Sequence[object], route: Route, keys: list[RequestId], room: int
    ) -> int:
        """Take several requests at once; 0 if none was, and each is to be submitted."""
        if self._lost is not None or self._closed or self._stopping or route.rebind:
            return 0
        if self._outflow.size > self._max_bytes or route.worker is not None:
            return 0
        if route.session is not None:
            return 0
        frames = encode_requests(keys, method, items, route.envelope)
        if len(frames) > room or frames.count(b"\n") != len(keys):
            return 0
        prefix = self._prefix(route)
        if prefix != b"{":
            frames = prefix + frames[1:].replace(b"\n{", b"\n" + prefix)
        self._live.update(dict.fromkeys(keys, route.pool))
        self._send(frames)
        self._flush()
        return len(frames)

    def withdraw(self, key: RequestId, reason: str = "") -> Withdrawal:
        """Give up a request: the kernel is told."""
        if self._live.pop(key, None) is None:
            return Withdrawal.UNKNOWN
        frame = cancel_frame("mcp", key, reason)  # the one with a reason; the kernel knows each
        if frame is not None and self._lost is None and not self._closed:
            self._send(frame)
            self._flush()
        return Withdrawal.CANCELLED

    # -- questions of our own -----------------------------------------------------------------

    def _ask(self, method: str, params: Mapping[str, Any], then: Callable[[Message], None]) -> str:
        self._last_asked += 1
        key = f"anyio-bus:{self._last_asked}"
        self._asked[key] = then
        self._send(encode_request(key, method, params))
        self._flush()
        return key

    def _admin(self, method: str, params: Mapping[str, Any], what: str) -> None:
        self._check_open()
        if not self._link.admin:
            raise self._cannot(what)
        self._ask(method, params, _ignore)

    def _cannot(self, what: str) -> NotSupportedError:
        return NotSupportedError(f"backend={self.name!r} cannot {what}", backend=self.name)

    async def borrow(self, pool: str, session: str, *, rebind: bool) -> None:
        """Have the kernel find a worker for a session alone.

        Raises:
            Refused: It cannot.

        Cancellation:
            The kernel is told: what it finds later is given back.
        """
        self._check_open()
        waiter = self._loop.waiter()
        key = self._ask(
            "bus/session",
            {"pool": pool, "id": session, "exclusive": True, "rebind": rebind, "wait_s": 1e9},
            lambda answer: self._loop.wake(waiter, answer),
        )
        try:
            answer = await waiter
        except BaseException:
            frame = cancel_frame("mcp", key)
            if key in self._asked and frame is not None and self._lost is None:
                self._asked[key] = _ignore  # what crosses this is ended with the session
                self._send(frame)
                self._flush()
            raise
        if answer.error is not UNSET:
            raise Refused(self._hearing.own_error(answer.error) or self._lost or _GONE)
        self._mirror.leased.add(session)

    # -- primitives ---------------------------------------------------------------------------

    def _do(self, action: str, worker: int, **more: object) -> None:
        """Have our own daemon do something with a worker."""
        self._check_open()
        if not self._link.admin or (action == "pause" and self._link.pid is None):
            raise self._cannot(f"{action} a worker that others use")
        self._mirror.known(worker)
        self._ask("bus/worker", {"worker": worker, "do": action, **more}, _ignore)

    def pause(self, worker: int) -> None:
        """Leave a worker's output unread."""
        self._do("pause", worker)

    def resume(self, worker: int) -> None:
        """Read a worker's output again."""
        self._do("resume", worker)

    def spawn(
        self,
        pool_id: str,
        *,
        session: str | None = None,
        rebind: bool = False,
        env: Mapping[str, str | None] | None = None,
        cwd: str | None = None,
    ) -> int:
        """Not possible: the kernel's configuration says which workers there are."""
        raise self._cannot("start a worker for a session (env=, cwd=)")

    def resize(self, pool_id: str, instances: int, drain_s: float) -> None:
        """Have a pool resized."""
        params = {"pool": pool_id, "instances": instances, "drain_s": min(drain_s, 1e9)}
        self._admin("bus/resize", params, "resize a pool that others use")

    def hear(self, pool_id: str, on: bool) -> None:
        """Nothing depends on it: each notification is handed over."""

    def check_pool(self, pool_id: str) -> None:
        """Refuse, with the reason, if every slot of the pool is parked."""
        if self._lost is not None:
            raise Refused(self._lost)
        failure = self._mirror.parked(pool_id)
        if failure is not None:
            raise Refused(failure)

    def drain(self, worker: int, drain_s: float, *, retire: bool = False) -> None:
        """Have a worker replaced once it has finished."""
        info = self._mirror.known(worker)
        if retire:
            raise self._cannot("end a worker for good")
        params = {"pool": info.pool, "worker": worker, "drain_s": min(drain_s, 1e9)}
        self._admin("bus/restart", params, "restart a worker that others use")

    def rest(self, worker: int) -> bool:
        """Not possible."""
        raise self._cannot(f"let worker {worker} rest")

    def kill(self, worker: int, fault: str = "") -> None:
        """Have a worker killed; its successor starts."""
        self._do("kill", worker, fault=fault[:200])

    def hold(self, worker: int) -> None:
        """Give a worker no work but what names it."""
        self._do("hold", worker)

    def release(self, worker: int) -> None:
        """End a hold or a lease."""
        self._do("release", worker)

    def lease(self, worker: int, session: str, *, rebind: bool = False) -> None:
        """Not possible: see :meth:`borrow`."""
        raise self._cannot(f"choose worker {worker} for a lease")

    def end_session(self, session: str) -> None:
        """Forget a session; end its lease."""
        info = self._mirror.forget_session(session)
        if info is not None:
            self._prefixes.pop((info.pool, session), None)
        if self._lost is None and not self._closed and not self._stopping:
            self._ask("bus/session_end", {"id": session}, _ignore)

    def find_session(self, session: str) -> SessionInfo | None:
        """Report a session of this bus; None where it is not known."""
        return self._mirror.sessions.get(session)

    def tap(self, callback: Tap | None) -> None:
        """Show every line of every pipe to ``callback``; None ends it."""
        gone = self._closed or self._stopping or self._lost is not None
        if callback is not None or (self._hearing.tap is not None and not gone):
            self._admin("bus/tap", {"off": callback is None}, "show what goes through its pipes")
        self._hearing.tap = callback

    # -- reports ------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Ask for a report, so that the next look sees what happened since the last one."""
        if self._refreshing or self._lost is not None or self._closed or self._done:
            return
        self._refreshing = True

        def take(answer: Message) -> None:
            self._refreshing = False
            self._take_status(answer)

        self._ask("bus/status", {}, take)

    async def refresh(self) -> None:
        """Have the next reports be of now."""
        if self._lost is not None:
            await anyio.lowlevel.checkpoint()
            raise Refused(self._lost)
        if self._closed or self._done:
            await anyio.lowlevel.checkpoint()
            return
        waiter = self._loop.waiter()
        self._ask("bus/status", {}, lambda answer: self._loop.wake(waiter, answer))
        self._take_status(await waiter)

    def _take_status(self, answer: Message) -> None:
        if answer.result is UNSET:
            return
        try:
            self._mirror.take_status(decode_status(answer.result))
        except (msgspec.MsgspecError, ValueError) as exc:
            extra = {"event": "kernel"}
            logger.warning("the kernel's report is not understood: %s", exc, extra=extra)

    def workers(self) -> list[WorkerInfo]:
        """Report every slot: its state as it stands, its counts as of the last report."""
        self._refresh()
        return list(self._mirror.workers.values())

    def statistics(self) -> KernelStatistics:
        """Return the counters of the last report."""
        self._refresh()
        late = self._mirror.statistics.late_answers + self._late
        now = {"workers": 0, "live_requests": 0, "queued_requests": 0, "sessions": 0}
        return msgspec.structs.replace(
            self._mirror.statistics, late_answers=late, **(now if self._done else {})
        )


def _finds_its_way(frame: bytes) -> bool:
    """Tell what finds its worker by an id in it from what may be sent to any worker."""
    message = decode_lines(frame)[0]
    return message.method is UNSET or message.method == "bus/credit"


def _ignore(_answer: Message) -> None:
    return
