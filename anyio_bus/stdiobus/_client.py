"""Own the asynchronous client."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, final

import anyio
import anyio.lowlevel
import msgspec

import anyio_bus
from anyio_bus.stdiobus._inbox import Inbox, NotificationSubscription
from anyio_bus.stdiobus._keeper import END_GRACE_S, Keeper
from anyio_bus.stdiobus._places import Place, find_place
from anyio_bus.stdiobus._streams import StreamRequest, collected
from anyio_bus.stdiobus._translation import translating
from anyio_bus.stdiobus._wire import configs_of, envelope_of, new_session_id
from anyio_bus.stdiobus.errors import (
    InvalidArgumentError,
    InvalidStateError,
    NegotiationFailedError,
)
from anyio_bus.stdiobus.types import (
    BackendMode,
    BusConfig,
    BusState,
    BusStats,
    DockerOptions,
    HelloParams,
    HelloResult,
    ListenMode,
    MessageHandler,
    NativeOptions,
    OverflowPolicy,
    RequestOptions,
    SubprocessOptions,
)

if TYPE_CHECKING:
    import os
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

__all__ = ("AsyncStdioBus",)

STOP_TIMEOUT_S = 30.0
_COUNTED = (
    *("messages_in", "messages_out", "bytes_in", "bytes_out"),
    *("worker_restarts", "routing_errors"),
)
_COUNTED_OF_CLIENTS = (*_COUNTED, "client_connects", "client_disconnects")


class _Call(NamedTuple):
    """Where one call goes and what its frame says."""

    bus: anyio_bus.Bus
    session: str
    envelope: dict[str, object] | None
    timeout_s: float


def _check_options(
    *,
    config: BusConfig | None,
    config_path: str | os.PathLike[str] | None,
    backend: BackendMode | str,
    timeout_ms: float,
    docker: DockerOptions | None,
    subprocess: SubprocessOptions | None,
    native: NativeOptions | None,
) -> tuple[dict[str, anyio_bus.BusConfig], Place]:
    """Check what a client is made with; return its configurations and its backend."""
    if (config is None) == (config_path is None):
        msg = "exactly one of config and config_path must be given"
        raise InvalidArgumentError(msg)
    _milliseconds("timeout_ms", timeout_ms)
    with translating():
        try:
            for options in (docker, native):
                if options is not None:
                    options.validate()
            configs = configs_of(config, config_path, subprocess)
            place = find_place(backend, configs, native, docker, subprocess)
        except anyio_bus.BusError:
            raise
        except ValueError as exc:
            if isinstance(exc, InvalidArgumentError):
                raise
            raise InvalidArgumentError(str(exc)) from exc
    return configs, place


def _milliseconds(name: str, value: Any) -> float:
    """Return milliseconds as seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        msg = f"{name} must be milliseconds, more than 0, not {value!r}"
        raise InvalidArgumentError(msg)
    return value / 1000


@final
class AsyncStdioBus:
    """The client: a configuration's workers, started and stopped by any task, on asyncio or trio.

    Exactly one of ``config`` and ``config_path`` is given.

    Owns:
        The task that holds the buses open.

    Args:
        config: The pools.
        config_path: A JSON file in the kernel's schema.
        backend: Where the kernel runs: a ``BackendMode`` or its text.
        timeout_ms: Milliseconds for an answer, where a call does not say.
        docker: Options of that backend.
        subprocess: Options of that backend; ``env`` reaches the workers on any.
        native: Options of that backend.

    Raises:
        InvalidArgumentError: An argument is wrong.
        TransportError: There is no file ``config_path``.
    """

    def __init__(
        self,
        config: BusConfig | None = None,
        *,
        config_path: str | os.PathLike[str] | None = None,
        backend: BackendMode | str = BackendMode.AUTO,
        timeout_ms: int = 30000,
        docker: DockerOptions | None = None,
        subprocess: SubprocessOptions | None = None,
        native: NativeOptions | None = None,
    ) -> None:
        self._configs, self._place = _check_options(
            config=config,
            config_path=config_path,
            backend=backend,
            timeout_ms=timeout_ms,
            docker=docker,
            subprocess=subprocess,
            native=native,
        )
        self._timeout_ms = timeout_ms
        limits = next(iter(self._configs.values())).limits  # those of all pools
        self._limit = limits.max_frame_bytes  # of joined text as well
        self._session = new_session_id()
        self._agent_session: str | None = None
        self._state = BusState.CREATED
        self._inbox = Inbox(renumbered=self._place.renumbers)
        self._keeper: Keeper | None = None

    def __repr__(self) -> str:
        """Show the state and the pools."""
        return f"<AsyncStdioBus {self.get_state().name}: pools {', '.join(self._configs)}>"

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the workers; return when they are spawned. A bus is started once.

        Raises:
            InvalidStateError: It was started before, or is stopped meanwhile.
            NotSupportedError: The backend is not there.
            InvalidArgumentError: The address to listen at is taken.

        Cancellation:
            What was started is stopped again.
        """
        if self._state is not BusState.CREATED:
            msg = f"Bus was started already: it is {self._state.name}"
            raise InvalidStateError(msg)
        self._state = BusState.STARTING
        handlers = {"*": self._inbox.questions.serve}
        self._keeper = Keeper(self._configs, self._place.option, self._session, handlers)
        try:
            with translating():
                await self._keeper.open()
        except BaseException:
            self._end()
            raise
        if self._state is not BusState.STARTING:
            msg = "Bus was stopped while it started"
            raise InvalidStateError(msg)
        self._state = BusState.RUNNING
        self._inbox.open(self._keeper.buses)

    async def stop(self, timeout_sec: float = STOP_TIMEOUT_S) -> None:
        """Fail what is in flight, end the workers, and return when none is left.

        Stopping it again does nothing, or makes the stop shorter.

        Args:
            timeout_sec: Seconds for the workers, together: stdin closed at once, SIGTERM to the
                group after 40 % of it, SIGKILL after 80 %.

        Raises:
            InvalidArgumentError: ``timeout_sec`` is no number of seconds.

        Cancellation:
            The wait ends; the stop goes on.
        """
        if isinstance(timeout_sec, bool) or not isinstance(timeout_sec, int | float):
            msg = f"timeout_sec must be seconds, not {timeout_sec!r}"
            raise InvalidArgumentError(msg)
        if not 0 <= timeout_sec < float("inf"):
            msg = f"timeout_sec must be 0 or more, not {timeout_sec!r}"
            raise InvalidArgumentError(msg)
        keeper = self._keeper
        if keeper is None:
            self._end()
            await anyio.lowlevel.checkpoint()
            return
        if self._state is not BusState.STOPPED:
            self._state = BusState.STOPPING
        keeper.ask_to_stop(float(timeout_sec))
        await keeper.wait_closed()
        self._end()

    def _end(self) -> None:
        self._state = BusState.STOPPED
        self._inbox.end()

    def destroy(self) -> None:
        """Release everything; what still runs is killed, without waiting for it."""
        if self._keeper is not None:
            self._keeper.ask_to_stop(0.0)
        self._end()

    async def __aenter__(self) -> AsyncStdioBus:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; within five seconds where the block was cancelled."""
        cancelled = isinstance(exc, anyio.get_cancelled_exc_class())
        grace_s = END_GRACE_S if cancelled else STOP_TIMEOUT_S
        try:
            with anyio.move_on_after(grace_s + 1, shield=True):
                await self.stop(grace_s)  # noqa: ASYNC102
        finally:
            self.destroy()
        await anyio.lowlevel.checkpoint_if_cancelled()

    async def connect(
        self, params: HelloParams | None = None, *, pool_id: str | None = None
    ) -> HelloResult | None:
        """Start, and greet a worker if ``params`` are given; return its answer then.

        Args:
            params: As for :meth:`hello`.
            pool_id: As for :meth:`request`.

        Raises:
            StdioBusError: As :meth:`start` and :meth:`hello`.

        Cancellation:
            As :meth:`start` and :meth:`request`.
        """
        await self.start()
        return None if params is None else await self.hello(params, pool_id=pool_id)

    async def hello(
        self, params: HelloParams | None = None, *, pool_id: str | None = None
    ) -> HelloResult:
        """Greet the worker with ``stdio_bus/hello``; its session becomes ``agent_session_id``.

        Args:
            params: What to ask for.
            pool_id: As for :meth:`request`.

        Raises:
            NegotiationFailedError: The answer is none of a hello.
            StdioBusError: As :meth:`request`.

        Cancellation:
            As :meth:`request`.
        """
        asked = (params or HelloParams()).to_dict()
        answer = await self.request("stdio_bus/hello", asked, pool_id=pool_id)
        try:
            result = HelloResult.from_dict(answer)
        except (AttributeError, TypeError) as exc:
            msg = f"the worker's answer to the hello is not one: {answer!r}"
            raise NegotiationFailedError(msg, answer) from exc
        self._agent_session = result.session_id
        return result

    # -- calls --------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        params: Any = None,
        *,
        timeout_ms: float | None = None,
        session_id: str | None = None,
        options: RequestOptions | None = None,
        pool_id: str | None = None,
    ) -> Any:
        """Send a request; return its result, with the text of its chunks where it is an object.

        Args:
            method: The method.
            params: The params; left out when empty.
            timeout_ms: Milliseconds for the answer.
            session_id: The session, which keeps to one worker; default the client's own.
            options: The same and more; an argument goes before its option.
            pool_id: The pool; needed where there are several and ``options.agent_id`` names none.

        Raises:
            TimeoutError: No answer came in time.
            TransportError: The worker died, or the bus was stopped.
            UnavailableError: No worker of the pool comes up.
            InvalidStateError: The bus does not run.
            StdioBusError: What the worker answered with, by its code.

        Cancellation:
            Always a checkpoint. The request is withdrawn and its worker told.
        """
        named = options or RequestOptions()
        await anyio.lowlevel.checkpoint_if_cancelled()
        call = self._call(named, timeout_ms, session_id, pool_id)
        return await collected(partial(_open, call, method, params), method, self._limit)

    def stream_request(
        self,
        method: str,
        params: Any = None,
        *more: Any,
        timeout_ms: float | None = None,
        session_id: str | None = None,
        options: RequestOptions | None = None,
        pool_id: str | None = None,
    ) -> StreamRequest:
        """Send a request; iterate over its chunk events and its one result event.

        Any number may run at once. Close it (``aclose()``) or drop it to cancel the request early.

        Args:
            method: The method. Where the second argument is text, this one names the pool, and
                method and params follow it.
            params: As for :meth:`request`, and so are the other arguments.
            *more: The params, where the first argument names a pool.
            timeout_ms: Milliseconds for the result.
            session_id: As for :meth:`request`.
            options: As for :meth:`request`.
            pool_id: As for :meth:`request`.
        """
        if isinstance(params, str):
            pool_id, method = method, params
            params = more[0] if more else None
        elif more:
            msg = "params: a third argument needs a pool, a method and params, in this order"
            raise InvalidArgumentError(msg)
        named = options or RequestOptions()

        def begin() -> AbstractAsyncContextManager[anyio_bus.Stream[Any]]:
            call = self._call(named, timeout_ms, session_id, pool_id)
            return _open(call, method, params)

        return StreamRequest(begin, method, self._limit)

    async def notify(
        self,
        method: str,
        params: Any = None,
        *,
        options: RequestOptions | None = None,
        pool_id: str | None = None,
    ) -> None:
        """Send a notification; there is no answer.

        Args:
            method: The method.
            params: The params; left out when empty.
            options: Session, agent, identity and audit.
            pool_id: As for :meth:`request`.

        Raises:
            StdioBusError: It cannot be sent.

        Cancellation:
            Always a checkpoint, before anything is sent.
        """
        call = self._call(options or RequestOptions(), None, None, pool_id)
        with translating(method):
            await call.bus.notify(
                method, params or None, session=call.session, envelope=call.envelope
            )

    def send(self, message: str | bytes) -> bool:
        """Send a prepared JSON-RPC message as it is; return whether it was taken.

        What answers a request of a worker goes to that worker. The answer to a request that is sent
        so is shown to the handlers of messages alone.

        Args:
            message: One JSON object. With several pools its ``pool`` says where it goes.

        Raises:
            InvalidArgumentError: It is no JSON-RPC message.
        """
        if self.get_state() is not BusState.RUNNING or self._keeper is None:
            return False
        try:
            decoded = msgspec.json.decode(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError, TypeError) as exc:
            msg = f"message is not JSON: {exc}"
            raise InvalidArgumentError(msg) from exc
        if not isinstance(decoded, dict):
            msg = f"message must be a JSON object, not {message!r}"
            raise InvalidArgumentError(msg)
        if "method" not in decoded:
            return self._inbox.questions.answer(decoded)
        bus = self._bus(decoded.get("pool"), None)
        try:
            bus.send_nowait(message)
        except anyio_bus.InvalidArgumentError as exc:
            raise InvalidArgumentError(str(exc)) from exc
        except anyio_bus.BusError:
            return False
        return True

    def _call(
        self,
        options: RequestOptions,
        timeout_ms: float | None,
        session_id: str | None,
        pool_id: str | None,
    ) -> _Call:
        """Put together what a call says, in the order of precedence."""
        state = self.get_state()
        if state is not BusState.RUNNING:
            msg = f"Bus not running: it is {state.name}"
            raise InvalidStateError(msg)
        timeout = timeout_ms or options.timeout_ms or self._timeout_ms
        return _Call(
            self._bus(pool_id, options.agent_id),
            session_id or options.session_id or self._session,
            envelope_of(options),
            _milliseconds("timeout_ms", timeout),
        )

    def _bus(self, pool_id: Any, agent_id: str | None) -> anyio_bus.Bus:
        """Return the bus of a pool."""
        assert self._keeper is not None  # it runs
        buses = self._keeper.buses
        if pool_id is None and len(buses) == 1:
            return next(iter(buses.values()))
        if pool_id is None and agent_id in buses:
            return buses[agent_id]
        if pool_id in buses:
            return buses[pool_id]
        names = ", ".join(map(repr, buses))
        if pool_id is None:
            msg = f"pool_id must be given: there are several pools ({names})"
        else:
            msg = f"pool_id: there is no pool {pool_id!r}, but {names}"
        raise InvalidArgumentError(msg)

    # -- what workers send --------------------------------------------------------------------

    def on_message(self, handler: MessageHandler) -> None:
        """Call a function with every line that a worker writes, as text.

        A request of a worker waits for its answer by :meth:`send` where there is such a function;
        where there is none it is answered with -32601.
        """
        self._inbox.on_message(handler)

    def on_notification(self, handler: MessageHandler) -> None:
        """Call a function with every notification, as JSON text."""
        self._inbox.on_notification(handler)

    def subscribe_notifications(
        self, *, max_queue: int = 256, overflow: OverflowPolicy | str = OverflowPolicy.DROP
    ) -> NotificationSubscription:
        """Return an iterator over the notifications from here on.

        Args:
            max_queue: Most notifications that wait for the reader.
            overflow: What happens when more come.

        Raises:
            InvalidArgumentError: An argument is wrong.
        """
        return self.subscribe(max_queue=max_queue, overflow_policy=overflow)

    def subscribe(
        self,
        pool_id: str | None = None,
        *,
        overflow_policy: OverflowPolicy | str = OverflowPolicy.DROP_OLDEST,
        max_queue: int = 256,
    ) -> NotificationSubscription:
        """Return an iterator over the notifications of a pool, or of all.

        Args:
            pool_id: The pool; None for all.
            overflow_policy: What happens when more come than are read.
            max_queue: Most notifications that wait for the reader.

        Raises:
            InvalidArgumentError: An argument is wrong.
        """
        if pool_id is not None and pool_id not in self._configs:
            names = ", ".join(map(repr, self._configs))
            msg = f"pool_id: there is no pool {pool_id!r}, but {names}"
            raise InvalidArgumentError(msg)
        subscription = NotificationSubscription(self._inbox, pool_id, max_queue, overflow_policy)
        self._inbox.join(subscription)
        return subscription

    def unsubscribe(self, subscription: NotificationSubscription) -> None:
        """End a subscription, after what it holds."""
        subscription.close()

    # -- what it says about itself ------------------------------------------------------------

    @property
    def client_session_id(self) -> str:
        """The client's own session, which its calls are in where they do not say."""
        return self._session

    @property
    def agent_session_id(self) -> str | None:
        """The worker's own name for the session; None before the hello."""
        return self._agent_session

    def get_state(self) -> BusState:
        """Return where the bus stands."""
        if self._state is BusState.RUNNING and self._keeper is not None and self._keeper.over:
            self._end()  # the event loop is ending
        return self._state

    def is_running(self) -> bool:
        """Return whether it runs."""
        return self.get_state() is BusState.RUNNING

    def get_stats(self) -> BusStats:
        """Return what the kernel has counted; clients are those of a listener.

        Where the kernel is in another process that is its last report; each look asks for the next.
        """
        stats = BusStats()
        for bus in self._opened():
            kernel = bus.statistics().kernel
            for name in _COUNTED_OF_CLIENTS if bus.listeners else _COUNTED:
                setattr(stats, name, getattr(stats, name) + getattr(kernel, name))
        return stats

    def get_backend_type(self) -> str:
        """Return the backend in use, which ``"auto"`` becomes with the start.

        ``"python"`` is the kernel inside this process, in Python.
        """
        buses = self._opened()
        return buses[0].backend if buses else self._place.name

    def get_listen_mode(self) -> ListenMode:
        """Return where the kernel listens for other programs."""
        return self._place.listen_mode

    def get_worker_count(self) -> int:
        """Return the number of worker processes."""
        if self.get_state() is BusState.STOPPED:
            return 0
        workers = [info for bus in self._opened() for info in bus.workers()]
        return sum(info.pid is not None for info in workers)

    def get_client_count(self) -> int:
        """Return the number of other programs that are connected."""
        return sum(bus.statistics().clients for bus in self._opened() if bus.listeners)

    def _opened(self) -> list[anyio_bus.Bus]:
        return [] if self._keeper is None else list(self._keeper.buses.values())


def _open(
    call: _Call, method: str, params: Any
) -> AbstractAsyncContextManager[anyio_bus.Stream[Any]]:
    return call.bus.stream(
        method,
        params or None,
        session=call.session,
        envelope=call.envelope,
        timeout=call.timeout_s,
    )
