"""Own the session boundary: :func:`open_bus`, where everything of a bus begins and ends."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from anyio_bus._backends.select import closed_on_error, reach
from anyio_bus._bus.blocks import entered_as
from anyio_bus._bus.bus import Bus
from anyio_bus._bus.calls import check_seconds, check_timeout
from anyio_bus._bus.forks import abandon_in_fork
from anyio_bus._bus.observing import check_telemetry
from anyio_bus._config import BusConfig, Limits, Pool, find_config, load_config
from anyio_bus._errors import BusInternalError, InvalidArgumentError

if TYPE_CHECKING:
    from anyio_bus._backends.remote import Reached
    from anyio_bus._backends.select import BackendOption
    from anyio_bus._bus.calls import Ids
    from anyio_bus._bus.observing import Telemetry

__all__ = ("open_bus",)


def _config(
    pools: tuple[Pool | BusConfig, ...],
    config: BusConfig | Mapping[str, Any] | str | os.PathLike[str] | None,
    limits: Limits | None,
) -> BusConfig:
    """Make one configuration of what :func:`open_bus` was given."""
    if pools and isinstance(pools[0], BusConfig) and len(pools) == 1 and config is None:
        config = pools[0]
        pools = ()
    for pool in pools:
        if not isinstance(pool, Pool):
            raise _no_pool(pool)
    if pools and config is not None:
        msg = "open_bus() takes pools or config=, not both"
        raise InvalidArgumentError(msg, field="config")
    if pools:
        return BusConfig(pools, limits or Limits())  # type: ignore[arg-type]  # checked above
    if isinstance(config, str | os.PathLike):
        config = load_config(config)
    elif isinstance(config, Mapping):
        config = BusConfig.from_mapping(dict(config))
    elif config is None:
        config = find_config()
    if not isinstance(config, BusConfig):
        msg = f"config= takes a BusConfig, a mapping or a path, not {type(config).__name__}"
        raise InvalidArgumentError(msg, field="config")
    return config if limits is None else BusConfig(config.pools, limits)


def _no_pool(given: object) -> InvalidArgumentError:
    msg = f"open_bus() takes Pool objects, not {type(given).__name__}"
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping):
        msg += "; write open_bus(*pools)"
    return InvalidArgumentError(msg, field="pools")


async def _reach(
    pools: tuple[Pool | BusConfig, ...],
    config: BusConfig | Mapping[str, Any] | str | os.PathLike[str] | None,
    limits: Limits | None,
    backend: BackendOption,
) -> tuple[BusConfig, BackendOption | Reached]:
    """Find the configuration and, where it is elsewhere, the kernel: a daemon may have the pools."""
    own = getattr(backend, "has_pools", False) and not pools and config is None
    wanted = None if own else _config(pools, config, limits)
    reached = await reach(backend, wanted)
    if reached is not None:
        with closed_on_error(reached):
            return reached.config(wanted, limits), reached
    assert wanted is not None  # else a daemon has them
    return wanted, backend


def _furnish(
    bus: Bus,
    handlers: Mapping[str, Callable[..., Any]] | None,
    record_tap: str | os.PathLike[str] | None,
) -> None:
    """Give a bus what it is to have from the start."""
    try:
        bus._handlers.add_all(handlers or {})
        bus._taps.record_all(record_tap)
    except BaseException:
        bus._life.kill_now()  # it may listen already
        raise


@entered_as("async with open_bus(...) as bus:")
@asynccontextmanager
async def open_bus(
    *pools: Pool | BusConfig,
    config: BusConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    backend: BackendOption = "auto",
    timeout: float | None = 60.0,
    handlers: Mapping[str, Callable[..., Any]] | None = None,
    drain_s: float = 0.0,
    grace_s: float = 5.0,
    telemetry: Telemetry | None = None,
    ids: Ids = "number",
    record_tap: str | os.PathLike[str] | None = None,
) -> AsyncIterator[Bus]:
    """Open a bus: start its workers, and end all of them when the block is left.

    Args:
        *pools: The pools. Without any, and without ``config``, the configuration is found as
            :func:`~anyio_bus.find_config` says.
        config: A :class:`BusConfig`, a mapping in the schema of a configuration file, or its path.
        limits: The bounds; default those of ``config``, else :class:`Limits`.
        backend: Where the kernel runs: ``"native"`` or ``Native(listen=...)`` (the C kernel in this
            process), ``"python"``,
            ``"subprocess"`` or ``Subprocess(...)`` (a daemon of its own), ``Connect(url)`` (a daemon
            that is there already), ``Docker(image)`` (a daemon in a container of its own),
            ``Memory(...)``, or ``"auto"``: native where it is there, else python.
            With ``Connect`` and ``Docker`` a bus without pools and ``config`` has those of the daemon.
        timeout: Default timeout of requests in seconds; None for no limit.
        handlers: What answers the requests of workers: pattern -> function, as for
            :meth:`Bus.add_handler`.
        drain_s: Seconds for what is in flight when the block is left.
        grace_s: Seconds for the workers to end then; see :meth:`Bus.stop`.
        telemetry: An :class:`anyio_bus.otel.Telemetry`, for spans and metrics of its requests.
        ids: What the ids of requests are to their workers: ``"number"`` (1, 2, ...) or ``"text"``
            (unlike those of any other bus).
        record_tap: A file for all that goes through the pipes, from the first handshake on, as
            :meth:`Bus.record_tap` writes it.

    Yields:
        The running bus. The first workers are spawned; :meth:`Bus.wait_ready` waits for them.

    Raises:
        InvalidArgumentError: The configuration is wrong; the message names the field.
        NotSupportedError: The backend is not there, or cannot do what a pool asks for.
        ConnectionLostError: The kernel is elsewhere, and cannot be reached.
        BusInternalError: A bug of ours; please report it.

    The body's own exception comes out bare; so does a KeyboardInterrupt or SystemExit that a handler
    raised, which ends the block.

    Cancellation:
        Leaves the block by the same stop, within ``grace_s`` and a second.
    """
    check_timeout(timeout)
    check_seconds("drain_s", drain_s)
    check_seconds("grace_s", grace_s)
    check_telemetry(telemetry)
    found, kernel = await _reach(pools, config, limits, backend)
    with closed_on_error(kernel):
        bus = Bus._create(found, kernel, timeout, telemetry, ids)
        _furnish(bus, handlers, record_tap)
    body_error: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            try:
                with abandon_in_fork(bus._life):
                    await tasks.start(bus._life.run)
                    bus._life.protect()
                    await anyio.lowlevel.checkpoint_if_cancelled()
                    try:
                        with bus._life.body_scope:
                            yield bus
                    except Exception as exc:  # the body's own; raised bare at the end  # noqa: BLE001
                        body_error = exc
                    except BaseExceptionGroup as exc:
                        # On trio the body's own tasks give their errors and Cancelled together.
                        errors = exc.split(anyio.get_cancelled_exc_class())[1]
                        if not isinstance(errors, Exception):
                            raise
                        body_error = exc
            finally:
                try:
                    with anyio.move_on_after(drain_s + grace_s + 1, shield=True):
                        await bus._life.stop(drain_s, grace_s)
                finally:
                    bus._life.kill_now()
                    bus._taps.end()
    except anyio.get_cancelled_exc_class():
        error = bus._life.fault or body_error
        if error is None:
            raise
        raise error from None  # noqa: ASYNC104  # on trio it would be lost here
    except BaseExceptionGroup as group:
        raise _internal_error(group, body_error) from group
    if bus._life.fault is not None:
        raise bus._life.fault from body_error
    if body_error is not None:
        raise body_error


def _internal_error(
    group: BaseExceptionGroup[BaseException], body_error: BaseException | None
) -> BaseException:
    """Tell a bug of ours from what merely passes through: Ctrl-C, exits and their like."""
    passing = group.subgroup(
        lambda exc: (
            not isinstance(exc, (Exception, BaseExceptionGroup, anyio.get_cancelled_exc_class()))
        )
    )
    while passing is not None:
        first = passing.exceptions[0]
        if not isinstance(first, BaseExceptionGroup):
            return first
        passing = first
    msg = "a bug of anyio_bus; please report it with the traceback below"
    error = BusInternalError(msg)
    if body_error is not None:
        error.add_note(f"the body of the block raised {body_error!r}")
    return error
