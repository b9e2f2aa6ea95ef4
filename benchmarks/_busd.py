"""What the programs about the daemon share: starting one, reading its process, talking to it."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
FLOOR = HERE / "floor" / "build"
BUILT_DAEMON = HERE.parent / "kernel" / "build" / "anyio-busd"
START_LIMIT_S = 10
STOP_LIMIT_S = 15

Message = dict[str, Any]


def find_daemon() -> str:
    """Return the daemon that ``ANYIO_BUSD`` names, else the one of this checkout."""
    named = os.environ.get("ANYIO_BUSD", str(BUILT_DAEMON))
    if found := shutil.which(named):
        return found
    raise SystemExit(f"no daemon: {named}; `make -C kernel` builds it, or name one with ANYIO_BUSD")


def find_floor(name: str) -> str:
    """Return a program of the floor."""
    if found := shutil.which(str(FLOOR / name)):
        return found
    raise SystemExit(f"no {name}: `make -C benchmarks/floor` builds it")


# --- a process, as /proc shows it ------------------------------------------------------------------


class Memory(NamedTuple):
    """Of ``smaps_rollup``, in bytes: resident, its share of it, and what is the process's alone."""

    rss: int
    pss: int
    private: int


class Reading(NamedTuple):
    """What a daemon holds at one moment; children are living or unreaped."""

    fds: int
    children: int
    rss: int


def memory_of(pid: int) -> Memory:
    """Read how much memory a process holds."""
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, amount, *_ = line.split()
        fields[name] = int(amount) * 1024
    private = fields["Private_Clean:"] + fields["Private_Dirty:"]
    return Memory(fields["Rss:"], fields["Pss:"], private)


def children_of(pid: int) -> dict[int, str]:
    """Return the state of every child of a process, by its pid."""
    found: dict[int, str] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid:
                found[int(stat.parent.name)] = state
    return found


def read_process(pid: int) -> Reading:
    """Read what a daemon holds."""
    fds = len(os.listdir(f"/proc/{pid}/fd"))
    return Reading(fds, len(children_of(pid)), memory_of(pid).rss)


# --- a daemon --------------------------------------------------------------------------------------


class Daemon:
    """A running daemon, its files in a folder of its own.

    Attributes:
        process: It; stdin and stdout are pipes with ``stdio``.
        socket: The path of its unix socket, for clients with admin rights.
        port: Its TCP port, 0 without one.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], folder: Path, socket_path: str, port: int
    ) -> None:
        self.process = process
        self.folder = folder
        self.socket = socket_path
        self.port = port

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def log(self) -> str:
        """Return what it wrote to stderr."""
        return (self.folder / "log").read_text(errors="replace")

    def read(self) -> Reading:
        """Read what it holds."""
        return read_process(self.pid)


def pool(name: str, *command: str, instances: int = 1, **more: object) -> Message:
    """Return the configuration of a pool."""
    return {"id": name, "command": command[0], "args": command[1:], "instances": instances, **more}


def make_config(pools: list[Message], limits: Mapping[str, object] | None = None) -> Message:
    """Return a configuration."""
    return {"pools": pools, "limits": dict(limits or {})}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_listens(process: subprocess.Popen[bytes], path: str, log: Path) -> None:
    ends_at = time.monotonic() + START_LIMIT_S
    while time.monotonic() < ends_at and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(path)
            return
        time.sleep(0.01)
    raise SystemExit(f"the daemon does not listen:\n{log.read_text(errors='replace')}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise RuntimeError("the daemon did not end in time after SIGTERM") from None


@contextlib.contextmanager
def serving(
    config: Message, *, program: str = "", stdio: bool = False, tcp: bool = False, ours: bool = True
) -> Iterator[Daemon]:
    """Run a daemon with a unix socket.

    Args:
        config: Its configuration.
        program: It, the daemon of this checkout by default.
        stdio: Serve pipes too.
        tcp: Serve a TCP port on this machine too.
        ours: False for a program that knows ``--unix`` but not ``--admin-unix``.
    """
    with tempfile.TemporaryDirectory(prefix="anyio-busd-") as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(config))
        path = str(folder / "s")
        command = [program or find_daemon(), "--config", str(folder / "config.json")]
        command += ["--admin-unix", path, "--log-level", "warning"] if ours else ["--unix", path]
        port = _free_port() if tcp else 0
        command += ["--tcp", f"127.0.0.1:{port}"] if tcp else []
        command += ["--stdio"] if stdio else []
        ends = subprocess.PIPE if stdio else subprocess.DEVNULL
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=ends, stdout=ends, stderr=log, bufsize=0)
        try:
            _wait_until_it_listens(process, path, folder / "log")
            yield Daemon(process, folder, path, port)
        except BaseException:
            process.kill()
            process.wait()
            raise
        _end(process)


# --- a client --------------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    """One connection: lines out, messages in; requests whose answers somebody waits for.

    Args:
        take: Gets every message that is no answer to ``ask``.
    """

    def __init__(self, take: Callable[[Message], None] | None = None) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._take = take or (lambda message: None)
        self._rest = b""
        self._asked: dict[str, asyncio.Future[Message]] = {}
        self._writer: asyncio.WriteTransport | None = None
        self._reader: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._reader = transport
        if isinstance(transport, asyncio.WriteTransport):
            self._writer = transport

    def attach(self, writer: asyncio.WriteTransport) -> None:
        """Write here, where it is not the other direction of what is read."""
        self._writer = writer

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            asked = self._asked.pop(message.get("id"), None) if self._asked else None
            if asked is None:
                self._take(message)
            elif not asked.done():
                asked.set_result(message)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(exc)

    def write(self, data: bytes) -> None:
        """Write lines; they are kept until the other side takes them."""
        assert self._writer is not None
        self._writer.write(data)

    def send(self, method: str, params: object = None, **top: object) -> None:
        """Write one request or notification."""
        self.write(line_of(method, params, **top))

    async def ask(self, method: str, params: object = None, **top: object) -> Message:
        """Write one request and return its answer, whatever it is."""
        ident = f"ask-{method}-{id(self)}-{time.monotonic_ns()}"
        self._asked[ident] = asyncio.get_running_loop().create_future()
        self.send(method, params, id=ident, **top)
        return await asyncio.wait_for(self._asked[ident], 60)

    async def status(self) -> Message:
        """Return the result of ``bus/status``."""
        result: Message = (await self.ask("bus/status", {}))["result"]
        return result

    def close(self) -> None:
        """End both directions."""
        for transport in (self._writer, self._reader):
            if transport is not None:
                transport.close()


def line_of(method: str, params: object = None, **top: object) -> bytes:
    """Return one message as a line; ``id`` makes it a request."""
    message = {"jsonrpc": "2.0", **top, "method": method, "params": params}
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


async def connect(daemon: Daemon, take: Callable[[Message], None] | None = None) -> Client:
    """Connect to a daemon's unix socket."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_unix_connection(lambda: Client(take), daemon.socket)
    return client


async def attach(daemon: Daemon, take: Callable[[Message], None] | None = None) -> Client:
    """Be the client on a daemon's stdin and stdout."""
    loop = asyncio.get_running_loop()
    process = daemon.process
    assert process.stdin is not None
    assert process.stdout is not None
    _, client = await loop.connect_read_pipe(lambda: Client(take), process.stdout)
    writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, process.stdin)
    client.attach(writer)
    return client
