"""Own where the C kernel of this process listens for other programs: the options, and their checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from anyio_bus._errors import InvalidArgumentError

if TYPE_CHECKING:
    from anyio_bus._backends.base import Backend
    from anyio_bus._config import BusConfig
    from anyio_bus._sansio.events import Deliver

__all__ = ("Door", "Native")

MOST_MODE = 0o777
MOST_POLL_S = 0.001  # a loop that does nothing else for longer is stuck


class Door(NamedTuple):
    """One address to listen at.

    Attributes:
        field: The option that names it.
        url: How it was written.
        path: The socket file; None for TCP.
        host: A numeric address, or "localhost".
        port: 0 where the system chooses.
        admin: Whether its clients may use the admin methods.
    """

    field: str
    url: str
    path: str | None
    host: str = ""
    port: int = 0
    admin: bool = False

    @property
    def loopback(self) -> bool:
        """Whether nobody on another machine can reach it."""
        import ipaddress  # as below  # noqa: PLC0415

        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback


class Native(msgspec.Struct, frozen=True, kw_only=True):
    """Options of ``backend="native"``: the C kernel inside this process, open to other programs.

    They connect with :class:`Connect`, or speak JSON-RPC, a line each; :attr:`Bus.listeners` says
    where. All of it is bound before the first worker is started, and closed when the bus has stopped.

    Args:
        listen: Where: ``unix:///path``, ``tcp://host:port``, or several of them. The host is an
            address or ``localhost``; port 0 lets the system choose one.
        admin_listen: The same for programs that may also resize pools, replace workers and tap them.
        token: What clients on TCP must show (``Connect(token=)``). Needed beyond loopback, and for
            ``admin_listen`` on TCP.
        unix_mode: The mode of the socket files of ``listen``; those of ``admin_listen`` have 0600.
        busy_poll_s: For how long, in seconds, at most 0.001, the bus looks for answers before its loop
            sleeps; 0: never. To sleep and to be woken takes some 30 us, in which a quick worker has
            answered. None: 30 us with asyncio and trio, which tell when they have something else to do;
            never with a loop that does not tell, such as uvloop, for which any other number makes the
            rest of the loop wait.
    """

    listen: str | Sequence[str] = ()
    admin_listen: str | Sequence[str] = ()
    token: str | None = None
    unix_mode: int = 0o600
    busy_poll_s: float | None = None

    def __post_init__(self) -> None:
        """Validate."""
        tcp = [door for door in self.doors() if door.path is None]
        if self.token is not None:
            if not isinstance(self.token, str) or not self.token or "\0" in self.token:
                raise _wrong(
                    "token", "a text is needed", "" if self.token == "" else type(self.token)
                )
            if not tcp:
                msg = "Native.token: it is for TCP, and there is no tcp:// to listen at"
                raise InvalidArgumentError(msg, field="token")
        for door in tcp:
            if self.token is None and not door.loopback:
                raise _refused(door, "is open beyond this machine: give a token=")
            if self.token is None and door.admin:
                raise _refused(door, "gives admin rights on TCP: give a token=")
        mode = self.unix_mode
        if isinstance(mode, bool) or not isinstance(mode, int) or not 0 < mode <= MOST_MODE:
            raise _wrong("unix_mode", "expected a mode in 0o001..0o777", mode)
        poll = self.busy_poll_s
        number = isinstance(poll, int | float) and not isinstance(poll, bool)
        if poll is not None and not (number and 0 <= poll <= MOST_POLL_S):
            raise _wrong("busy_poll_s", f"expected seconds in 0..{MOST_POLL_S}", poll)

    def open_with(self, config: BusConfig, deliver: Deliver) -> Backend:
        """Make the backend."""
        from anyio_bus._backends.native import open_native  # which knows this one  # noqa: PLC0415

        return open_native(config, deliver, self)

    def doors(self) -> list[Door]:
        """Return all addresses, those of ``listen`` first."""
        return [
            _door(field, url)
            for field, urls in (("listen", self.listen), ("admin_listen", self.admin_listen))
            for url in _each(urls)
        ]


def _each(urls: object) -> list[Any]:
    return list(urls) if isinstance(urls, Iterable) and not isinstance(urls, str) else [urls]


def _door(field: str, url: str) -> Door:
    """Read one address."""
    import ipaddress  # these load much that an idle bus does not need  # noqa: PLC0415
    from urllib.parse import urlsplit  # noqa: PLC0415

    if not isinstance(url, str) or "\0" in url:
        raise _wrong(field, "expected unix:///path or tcp://host:port", url)
    admin = field == "admin_listen"
    try:
        where = urlsplit(url)
        host, port = where.hostname, where.port
    except ValueError:  # half of brackets, or no number of a port
        raise _wrong(field, "expected unix:///path or tcp://host:port", url) from None
    if where.scheme == "unix" and where.path and url == f"unix://{where.path}":
        return Door(field, url, where.path, admin=admin)
    behind = where.path or where.query or where.fragment
    if where.scheme != "tcp" or not host or port is None or behind or "@" in where.netloc:
        raise _wrong(field, "expected unix:///path or tcp://host:port", url)
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise _wrong(field, "the host must be an address, or localhost", url) from None
    return Door(field, url, None, host, port, admin)


def _wrong(field: str, problem: str, value: object) -> InvalidArgumentError:
    return InvalidArgumentError(f"Native.{field}: {problem}, not {value!r}", field=field)


def _refused(door: Door, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"Native.{door.field}: {door.url} {why}", field=door.field)
