"""Own the ways to a kernel that runs elsewhere: a daemon of our own, or one that is there already.

A link is a pair of fds that do not block, and what has to be ended with them. It is made before the
bus is, so that what goes wrong then is raised as it is.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any, ClassVar

import anyio
import msgspec

from anyio_bus._backends.reports import config_json
from anyio_bus._daemon import find_daemon
from anyio_bus._errors import ConnectionLostError, InvalidArgumentError, NotSupportedError
from anyio_bus._io.process import StderrRing

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from anyio_bus._config import BusConfig

__all__ = ("POLL_S", "Connect", "Link", "Subprocess", "connect_tcp", "dial", "spawn_daemon")

STDERR_BYTES = 16 * 1024  # of the daemon's log, kept for errors
POLL_S = 0.005  # how often an exit is looked for, once the daemon has closed its stdout
_READ_BYTES = 64 * 1024

logger = logging.getLogger("anyio_bus.kernel")
stderr_log = logging.getLogger("anyio_bus.stderr")


class Subprocess(msgspec.Struct, frozen=True, kw_only=True):
    """Options of ``backend="subprocess"``: the kernel is a daemon of this bus alone.

    Args:
        binary_path: The daemon; default the one that the environment variable ``ANYIO_BUSD`` names,
            the one in this package, the first on ``PATH``.
        args: More arguments for it.
        log_level: ``"debug"``, ``"info"``, ``"warning"`` or ``"error"``: what it logs.
    """

    remote: ClassVar[bool] = True
    binary_path: str | os.PathLike[str] | None = None
    args: Sequence[str] = ()
    log_level: str = "info"


def _split(url: str) -> SplitResult:
    from urllib.parse import urlsplit  # loads much that an idle bus does not need  # noqa: PLC0415

    return urlsplit(url)


class Connect(msgspec.Struct, frozen=True):
    """Options of a bus whose kernel is a daemon that runs already, shared with other programs.

    Args:
        url: ``unix:///path`` or ``tcp://host:port``.
        token: What a listener with a token file asks for.
        timeout_s: Seconds to connect and be let in.
        admin: Whether that is an admin listener: then the bus can resize pools, replace workers and
            tap them, as on a daemon of its own.
        reconnect: Whether a lost connection is made again, with growing pauses, until the daemon
            refuses the token, or is no admin's. What was in flight fails all the same: it may have
            been done.
    """

    remote: ClassVar[bool] = True
    has_pools: ClassVar[bool] = True
    url: str
    token: str | None = None
    timeout_s: float = 10.0
    admin: bool = False
    reconnect: bool = False

    def __post_init__(self) -> None:
        """Validate."""
        where = _split(self.url)
        try:
            whole = (where.scheme == "unix" and where.path and not where.netloc) or (
                where.scheme == "tcp" and where.hostname and where.port is not None
            )
        except ValueError:  # no number of a port
            whole = False
        if not whole:
            msg = f"Connect.url: expected unix:///path or tcp://host:port, not {self.url!r}"
            raise InvalidArgumentError(msg, field="url")


class Link:
    """Two fds to a kernel, which may be one.

    Owns:
        The fds: a socket, a process with its pipes, or both.
    """

    plain_level = logging.WARNING  # of a line of stderr that is no record of the daemon's

    def __init__(
        self,
        name: str,
        *,
        admin: bool,
        sock: socket.socket | None = None,
        process: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self.name = name
        self.backend = "connect" if process is None else "subprocess"
        self.admin = admin
        self.token: str | None = None
        self.ready = False  # the daemon's log has said so
        self.stderr = StderrRing(STDERR_BYTES)
        self.read_fd = self.write_fd = self.stderr_fd = -1
        self._process = process
        self._socket: socket.socket | None = None
        self._pipes: list[IO[bytes]] = []
        if process is not None:
            self.write_fd = self._open(process.stdin)
            self.read_fd = self._open(process.stdout)
            self.stderr_fd = self._open(process.stderr)
        if sock is not None:
            self.use(sock)

    def _open(self, pipe: IO[bytes] | None) -> int:
        if pipe is None:
            return -1
        self._pipes.append(pipe)
        if sys.platform != "win32":  # where reach() has refused
            os.set_blocking(pipe.fileno(), False)
        return pipe.fileno()

    def use(self, sock: socket.socket) -> None:
        """From now on read and write there."""
        self._socket = sock
        self.read_fd = self.write_fd = sock.fileno()

    @property
    def pid(self) -> int | None:
        """The process of our own daemon."""
        return None if self._process is None else self._process.pid

    def read(self, max_bytes: int) -> bytes | None:
        """Return some bytes, none at the end; None where there is nothing now."""
        try:
            return os.read(self.read_fd, max_bytes)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def write(self, data: bytes | memoryview) -> int:
        """Write what fits now.

        Raises:
            OSError: The other side is gone.
        """
        try:
            if self._socket is not None:
                return self._socket.send(data, getattr(socket, "MSG_NOSIGNAL", 0))
            return os.write(self.write_fd, data)
        except BlockingIOError:
            return 0

    def read_stderr(self) -> bool:
        """Take what the daemon has logged; False at its end."""
        try:
            data = os.read(self.stderr_fd, _READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for line in self.stderr.feed(data):
            self.ready = _log(line, self.plain_level) == "ready" or self.ready
        return bool(data)

    def exited(self) -> bool:
        """Tell whether our own daemon has ended, and reap it."""
        return self._process is None or self._process.poll() is not None

    async def exit(self, limit_s: float) -> None:
        """Wait until our own daemon has ended, but not for ever: it has closed its stdout."""
        with anyio.move_on_after(limit_s):
            while not self.exited():  # noqa: ASYNC110  # portable, and a matter of milliseconds
                await anyio.sleep(POLL_S)

    def why_lost(self) -> str:
        """Say in a few words why there is nothing more to read."""
        if self._process is None:
            return f"{self.name} has closed the connection"
        code = self._process.poll()
        if code is None:
            return "anyio-busd has closed its stdout"
        how = f"exited with {code}" if code >= 0 else f"was killed by signal {-code}"
        tail = self.stderr.tail(1024).strip()
        return f"anyio-busd {how}{': ' if tail else ''}{tail}"

    def end_now(self) -> None:
        """Kill our own daemon, which does not end by itself; its workers die with it."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def kill(self, reap_s: float) -> None:
        """Without the loop: end our own daemon, which takes its workers along; close the fds."""
        if self._process is not None and self._process.poll() is None:
            # Told twice it kills its workers; killed itself it could not.
            for end in (self._process.terminate, self._process.terminate, self._process.kill):
                end()
                last = end == self._process.kill
                limit = time.monotonic() + (reap_s if last else reap_s / 4)
                while self._process.poll() is None and time.monotonic() < limit:
                    time.sleep(POLL_S)
                if self._process.poll() is not None:
                    break
        self.close()

    def close(self) -> None:
        """Close the fds."""
        if self._socket is not None:
            self._socket.close()
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.close()


_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.DEBUG,  # what it says of its own life is a detail to this program
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_log_line = msgspec.json.Decoder(dict[str, Any])


def _log(line: str, plain_level: int) -> str:
    """Hand a line of the daemon's log to ours; return which event it tells of."""
    try:
        record = _log_line.decode(line)
        event, text = str(record["event"]), str(record["text"])
    except (msgspec.MsgspecError, KeyError, UnicodeError):
        logger.log(plain_level, "%s", line, extra={"event": "kernel"})
        return ""
    pool, worker = record.get("pool"), record.get("worker")
    if event == "worker_stderr":
        extra = {"event": "worker_stderr", "pool": pool, "worker": worker}
        stderr_log.info("%s/%s: %s", pool, worker, text, extra=extra)
    elif event != "bad_line":  # which comes as an event, too
        where = {"event": event} | ({} if worker is None else {"pool": pool, "worker": worker})
        logger.log(_LEVELS.get(str(record.get("level")), logging.INFO), "%s", text, extra=where)
    return event


def spawn_daemon(options: Subprocess, config: BusConfig) -> Link:
    """Start a daemon for this configuration; it says on its stdout when it serves.

    Raises:
        NotSupportedError: There is no daemon.
        ConnectionLostError: It cannot be started.
    """
    import tempfile  # loads much that an idle bus does not need  # noqa: PLC0415

    path = options.binary_path
    try:
        program = find_daemon() if path is None else os.fspath(path)
    except FileNotFoundError as exc:
        msg = f"backend='subprocess' needs the program anyio-busd: {exc}"
        raise NotSupportedError(msg, backend="subprocess") from None
    with tempfile.TemporaryFile() as file:
        file.write(config_json(config))
        file.seek(0)
        command = [program, "--stdio", "--config-fd", str(file.fileno())]
        command += ["--log-format", "json", "--log-level", options.log_level, *options.args]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[file.fileno()],
                start_new_session=True,  # Ctrl-C is for this program: it ends the daemon in its time
                bufsize=0,
            )
        except OSError as exc:
            msg = f"{program} cannot be started: {exc}"
            raise ConnectionLostError(msg, reason=str(exc), sent=False) from exc
    return Link("anyio-busd", admin=True, process=process)


async def dial(options: Connect) -> Link:
    """Connect to a daemon.

    Raises:
        ConnectionLostError: Nobody listens there, or not in time.

    Cancellation:
        What was opened is closed.
    """
    where = _split(options.url)
    try:
        with anyio.fail_after(options.timeout_s):
            if where.scheme == "unix" and sys.platform != "win32":
                sock = await _connect(socket.AF_UNIX, where.path)
            else:
                assert where.hostname is not None
                sock = await connect_tcp(where.hostname, where.port or 0)
    except (OSError, TimeoutError) as exc:
        why = str(exc) or f"not within {options.timeout_s:g} s"
        msg = f"{options.url}: cannot connect: {why}"
        raise ConnectionLostError(msg, reason=why, sent=False) from exc
    link = Link(options.url, admin=options.admin, sock=sock)
    link.token = options.token
    return link


async def connect_tcp(host: str, port: int) -> socket.socket:
    """Connect to one of a host's addresses.

    Raises:
        OSError: Nobody listens there.

    Cancellation:
        What was opened is closed.
    """
    error: OSError = OSError(f"{host} has no address")
    for family, _, _, _, address in await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            sock = await _connect(family, address)
        except OSError as exc:
            error = exc
        else:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise error


async def _connect(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(address)
        while code == errno.EAGAIN and isinstance(address, str):  # a socket file: its queue is full
            await anyio.sleep(POLL_S)
            code = sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            await anyio.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock
