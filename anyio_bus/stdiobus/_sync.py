"""Own the blocking client: the asynchronous one on an event loop in a thread of its own."""

from __future__ import annotations

import atexit
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, final

from anyio_bus.stdiobus._client import STOP_TIMEOUT_S, AsyncStdioBus
from anyio_bus.stdiobus._home import Home
from anyio_bus.stdiobus.errors import InvalidStateError
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
    RequestOptions,
    SubprocessOptions,
)

if TYPE_CHECKING:
    import os
    from types import TracebackType

__all__ = ("StdioBus",)

T = TypeVar("T")


@final
class StdioBus:
    """The blocking client; its arguments are those of :class:`AsyncStdioBus`.

    Its event loop runs in a thread from the start to the stop, so notifications come when they
    come. Handlers are called in that thread, where :meth:`send` may be called and no call that
    waits. Any thread may use it.

    Owns:
        The thread, from :meth:`start` to :meth:`stop` or :meth:`destroy`.
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
        self._bus = AsyncStdioBus(
            config,
            config_path=config_path,
            backend=backend,
            timeout_ms=timeout_ms,
            docker=docker,
            subprocess=subprocess,
            native=native,
        )
        self._home: Home | None = None

    def __repr__(self) -> str:
        """Show the state and the pools."""
        return repr(self._bus).removeprefix("<Async").join(("<", ""))

    def _wait(self, function: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
        """Run a method of the client in its thread and wait for it; Ctrl-C cancels it."""
        home = self._home
        if home is None:
            msg = f"Bus not running: it is {self.get_state().name}"
            raise InvalidStateError(msg)
        return home.wait(partial(function, *args, **options))

    def _run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a method that does not wait, where the bus runs."""
        home = self._home
        return function(*args) if home is None else home.run(partial(function, *args))

    def start(self) -> None:
        """Start the workers; as :meth:`AsyncStdioBus.start`.

        Raises:
            StdioBusError: As there.
        """
        if self._home is not None or self._bus.get_state() is not BusState.CREATED:
            msg = f"Bus was started already: it is {self.get_state().name}"
            raise InvalidStateError(msg)
        self._home = Home()
        atexit.register(self.destroy)  # for programs that end without a stop
        try:
            self._home.open()
            self._wait(self._bus.start)
        except BaseException:
            self.destroy()
            raise

    def stop(self, timeout_sec: float = STOP_TIMEOUT_S) -> None:
        """Stop the workers; as :meth:`AsyncStdioBus.stop`. Ctrl-C ends the wait only.

        Raises:
            InvalidArgumentError: As there.
        """
        if self._home is None:
            self._bus.destroy()
            return
        self._wait(self._bus.stop, timeout_sec)
        self._close()

    def destroy(self) -> None:
        """Release everything; what still runs is killed."""
        try:
            self._run(self._bus.destroy)
        finally:
            self._close()

    def _close(self) -> None:
        home, self._home = self._home, None
        atexit.unregister(self.destroy)
        if home is not None:
            home.close()

    def __enter__(self) -> StdioBus:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; at once where the wait for that is interrupted."""
        try:
            self.stop()
        finally:
            self.destroy()

    def connect(
        self, params: HelloParams | None = None, *, pool_id: str | None = None
    ) -> HelloResult | None:
        """Start, and greet a worker if ``params`` are given.

        Raises:
            StdioBusError: As :meth:`AsyncStdioBus.connect`.
        """
        self.start()
        return None if params is None else self.hello(params, pool_id=pool_id)

    def hello(
        self, params: HelloParams | None = None, *, pool_id: str | None = None
    ) -> HelloResult:
        """Greet the worker; as :meth:`AsyncStdioBus.hello`.

        Raises:
            StdioBusError: As there.
        """
        return self._wait(self._bus.hello, params, pool_id=pool_id)

    def request(
        self,
        method: str,
        params: Any = None,
        *,
        timeout_ms: float | None = None,
        session_id: str | None = None,
        options: RequestOptions | None = None,
        pool_id: str | None = None,
    ) -> Any:
        """Send a request and return its result; as :meth:`AsyncStdioBus.request`.

        Raises:
            StdioBusError: As there.
        """
        return self._wait(
            self._bus.request,
            method,
            params,
            timeout_ms=timeout_ms,
            session_id=session_id,
            options=options,
            pool_id=pool_id,
        )

    def notify(
        self,
        method: str,
        params: Any = None,
        *,
        options: RequestOptions | None = None,
        pool_id: str | None = None,
    ) -> None:
        """Send a notification; as :meth:`AsyncStdioBus.notify`.

        Raises:
            StdioBusError: As there.
        """
        self._wait(self._bus.notify, method, params, options=options, pool_id=pool_id)

    def send(self, message: str | bytes) -> bool:
        """Send a prepared message; as :meth:`AsyncStdioBus.send`."""
        return self._run(self._bus.send, message)

    def on_message(self, handler: MessageHandler) -> None:
        """Call a function with every line that a worker writes, in the bus's thread."""
        self._run(self._bus.on_message, handler)

    def on_notification(self, handler: MessageHandler) -> None:
        """Call a function with every notification, in the bus's thread."""
        self._run(self._bus.on_notification, handler)

    @property
    def client_session_id(self) -> str:
        """The client's own session, which its calls are in where they do not say."""
        return self._bus.client_session_id

    @property
    def agent_session_id(self) -> str | None:
        """The worker's own name for the session; None before the hello."""
        return self._bus.agent_session_id

    def get_state(self) -> BusState:
        """Return where the bus stands."""
        return self._bus.get_state()

    def is_running(self) -> bool:
        """Return whether it runs."""
        return self.get_state() is BusState.RUNNING

    def get_stats(self) -> BusStats:
        """Return what the kernel has counted."""
        return self._run(self._bus.get_stats)

    def get_backend_type(self) -> str:
        """Return the backend in use."""
        return self._bus.get_backend_type()

    def get_listen_mode(self) -> ListenMode:
        """Return where the kernel listens for other programs."""
        return self._bus.get_listen_mode()

    def get_worker_count(self) -> int:
        """Return the number of worker processes."""
        return self._run(self._bus.get_worker_count)

    def get_client_count(self) -> int:
        """Return the number of other programs that are connected."""
        return self._run(self._bus.get_client_count)
