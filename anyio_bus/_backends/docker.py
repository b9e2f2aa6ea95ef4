"""Own the daemon of a bus in a container: its start, the way to it, and that nothing of it is left.

``ENGINE run -i`` is our child, and its stdin is the daemon's. Configuration and token go through
there, so that nobody else sees them; and as its end ends the daemon, the container does not outlive
this program, however that ends. Frames go over a port that is published on loopback.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Literal

import anyio
import msgspec

from anyio_bus._backends.greeting import LAST_WORDS, greet
from anyio_bus._backends.links import POLL_S, Link, connect_tcp
from anyio_bus._backends.reports import Status, config_json
from anyio_bus._errors import ConnectionLostError, InvalidArgumentError, NotSupportedError

if TYPE_CHECKING:
    from anyio_bus._config import BusConfig

__all__ = ("Container", "Docker", "open_container")

ENGINES = ("docker", "podman")
PORT = 8765  # inside the container
END_S = 2.0  # for the container to end by itself, once it is let go; then for each harder way
REMOVE_S = 10.0  # for the engine to remove it
REMOVALS = 3  # an engine that is still busy with a container refuses
ENGINE_FAILED = 125  # the exit code of an engine that could not begin
TAIL_BYTES = 2048  # of the log, in errors

logger = logging.getLogger("anyio_bus.kernel")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_GONE = re.compile(r"no such container|no container with name", re.IGNORECASE)


class Docker(msgspec.Struct, frozen=True):
    """Options of a bus whose kernel is a daemon in a container, which ends with the bus.

    The engine runs on this machine, the image begins with ``anyio-busd`` (its entry point), and the
    network of the container lets a port be published.

    Args:
        image: The image.
        engine: The command line program of docker or podman; default ``docker``, else ``podman``,
            whichever is on ``PATH``.
        pull: Whether the image is fetched: ``"missing"`` where it is not there, ``"always"``,
            ``"never"``.
        args: More arguments for ``docker run``, which stand in the list of processes.
        env: Variables of the container, which stand there as well. Those of a pool do not.
        config: The configuration inside the image, for a bus without pools.
        name_prefix: How the name of the container begins.
        timeout_s: Seconds until it serves; fetching the image is part of them.
    """

    remote: ClassVar[bool] = True
    has_pools: ClassVar[bool] = True
    image: str
    engine: str | os.PathLike[str] | None = None
    pull: Literal["missing", "always", "never"] = "missing"
    args: Sequence[str] = ()
    env: Mapping[str, str] = {}
    config: str = "/etc/anyio-bus.json"
    name_prefix: str = "anyio-bus"
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        """Validate."""
        if not isinstance(self.image, str) or not re.fullmatch(r"[^\s-]\S*", self.image):
            raise _wrong("image", "the name of an image is needed", self.image)
        if self.pull not in ("missing", "always", "never"):
            raise _wrong("pull", "expected 'missing', 'always' or 'never'", self.pull)
        if isinstance(self.args, str) or not all(map(_is_word, self.args)):
            raise _wrong("args", "a list of texts is needed", self.args)
        for name, value in self.env.items():
            if not (name and _is_word(name) and _is_word(value)) or "=" in name:
                raise _wrong("env", "expected names and values of variables", name)
        if not self.config.startswith("/"):
            raise _wrong("config", "an absolute path is needed", self.config)
        if not _NAME.fullmatch(self.name_prefix):
            raise _wrong("name_prefix", "expected letters, digits, _ . and -", self.name_prefix)
        if not self.timeout_s > 0:
            raise _wrong("timeout_s", "must be greater than 0", self.timeout_s)


def _is_word(word: object) -> bool:
    return isinstance(word, str) and "\0" not in word


def _wrong(field: str, problem: str, value: object) -> InvalidArgumentError:
    return InvalidArgumentError(f"Docker.{field}: {problem}, not {value!r}", field=field)


class Container(Link):
    """The way to the daemon in a container.

    Owns:
        The container, the process of the engine's command line that holds it, and the socket.
    """

    plain_level = logging.DEBUG  # what the engine says of its pull; errors quote it

    def __init__(self, engine: str, name: str, process: subprocess.Popen[bytes]) -> None:
        super().__init__("anyio-busd", admin=True, process=process)
        self.backend = "docker"
        self.container = name
        self._engine = engine
        self._run = process
        self._removal = ("rm", "-f", "-v", name)
        self._removed = False

    # -- its start ----------------------------------------------------------------------------

    async def tell(self, data: bytes) -> None:
        """Write to the stdin of the daemon; where that ends before, its log says why."""
        while data:
            await anyio.wait_writable(self.write_fd)
            try:
                data = data[self.write(data) :]
            except OSError:
                return

    async def wait_ready(self) -> None:
        """Follow the log until the daemon serves.

        Raises:
            ConnectionLostError: It will not: the container has ended, or never began.
        """
        while not self.ready:
            await anyio.wait_readable(self.stderr_fd)
            if not self.read_stderr():
                await super().exit(END_S)
                raise _failed("the container did not start", self.why_lost())

    async def connect(self) -> None:
        """Connect to the port that the engine has published, once it takes connections.

        Raises:
            ConnectionLostError: There is none.
        """
        code, said = await self._engine_does("port", self.container, f"{PORT}/tcp")
        number = said.partition("\n")[0].rpartition(":")[2].strip()
        if code != 0 or not number.isdecimal():
            raise _failed(f"{self._engine} has published no port", said.strip())
        while not self.exited():
            with suppress(OSError):
                self.use(await connect_tcp("127.0.0.1", int(number)))
                return
            await anyio.sleep(POLL_S)
        raise _failed("the container has ended", self.why_lost())

    def late(self, limit_s: float) -> ConnectionLostError:
        """Say that this took too long."""
        return _failed(f"the container did not serve within {limit_s:g} s", self._tail())

    # -- its end ------------------------------------------------------------------------------

    def read_stderr(self) -> bool:
        """Take what the daemon has logged; at its end the engine is gone, and with it the link."""
        more = super().read_stderr()
        if not more:
            self._hang_up()
        return more

    def why_lost(self) -> str:
        """Say in a few words why there is nothing more to read."""
        code = self._run.poll()
        if code is None:
            return f"the daemon in container {self.container} has closed the connection"
        for _ in range(LAST_WORDS):
            if not self.read_stderr():
                break
        how = f"exited with {code}" if code >= 0 else f"was killed by signal {-code}"
        return f"{self._engine} run {self.container} {how}: {self._tail()}"

    def _tail(self) -> str:
        return self.stderr.tail(TAIL_BYTES).strip() or "it said nothing"

    async def exit(self, limit_s: float) -> None:
        """Wait until the container has ended, but not for ever; see that it is gone."""
        await super().exit(max(limit_s, END_S))
        await self.remove()

    def end_now(self) -> None:
        """Tell the daemon to end: by the signal that kills its workers, if it was told before."""
        if self._run.poll() is None:
            self._run.terminate()

    async def remove(self) -> None:
        """End what still runs; remove the container.

        Cancellation:
            Not cancelled: every wait in it is bounded.
        """
        with anyio.CancelScope(shield=True):
            self._let_go()
            for end in (None, self._run.terminate, self._run.kill):
                if self.exited():
                    break
                if end is not None:
                    end()
                await super().exit(END_S)
            for left in reversed(range(REMOVALS)):
                if self._removed:
                    break
                code, said = await self._engine_does(*self._removal)
                self._take_removal(code, said, again=left > 0)
                if not self._removed and left:
                    await anyio.sleep(END_S / 10)

    def kill(self, reap_s: float) -> None:
        """Without the loop: end and remove the container, close the fds."""
        if not self._removed:
            self._let_go()
            limit = time.monotonic() + END_S
            while not self.exited() and time.monotonic() < limit:
                time.sleep(POLL_S)
            if not self.exited():
                self._run.kill()
                with suppress(subprocess.TimeoutExpired):
                    self._run.wait(reap_s)
            try:
                done = subprocess.run(
                    [self._engine, *self._removal],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=REMOVE_S,
                    start_new_session=True,
                    check=False,
                )
                self._take_removal(done.returncode, done.stdout.decode(errors="replace"))
            except (OSError, subprocess.TimeoutExpired) as exc:
                self._take_removal(-1, str(exc))
            self._removed = True  # or it was said that it is not
        self.close()

    def _let_go(self) -> None:
        """Close the daemon's stdin, which ends it, and the socket, which ends what it does for us."""
        if self._run.stdin is not None:
            with suppress(OSError):
                self._run.stdin.close()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # not closed: a task may wait for it
                self._socket.shutdown(socket.SHUT_RDWR)

    def _take_removal(self, code: int, said: str, *, again: bool = False) -> None:
        """Note whether the container is gone, by what the engine has said; say it where it is not."""
        self._removed = code == 0 or _GONE.search(said) is not None
        if not self._removed and not again and self._run.poll() != ENGINE_FAILED:
            extra = {"event": "container_left"}
            logger.error("container %s may be left: %s", self.container, said.strip(), extra=extra)

    async def _engine_does(self, *words: str) -> tuple[int, str]:
        """Run a command of the engine; return its exit code and what it said."""
        with anyio.move_on_after(REMOVE_S):
            try:
                done = await anyio.run_process(
                    [self._engine, *words],
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.STDOUT,
                    check=False,
                    start_new_session=True,  # Ctrl-C is for this program
                )
            except OSError as exc:
                return -1, str(exc)
            return done.returncode, done.stdout.decode(errors="replace")
        return -1, f"{words[0]} took more than {REMOVE_S:g} s"


def _failed(what: str, why: str) -> ConnectionLostError:
    return ConnectionLostError(f"{what}: {why}", reason=why, sent=False)


def _find_engine(wanted: str | os.PathLike[str] | None) -> str:
    import shutil  # loads much that an idle bus does not need  # noqa: PLC0415

    names = ENGINES if wanted is None else (os.fspath(wanted),)
    for name in names:
        if found := shutil.which(name):
            return found
    what = f"{names[0]} is no program" if wanted is not None else "none is on PATH"
    msg = f"backend='docker' needs an engine of containers, {' or '.join(ENGINES)}: {what}"
    raise NotSupportedError(msg, backend="docker")


def _run(options: Docker, own: bool) -> Container:
    engine = _find_engine(options.engine)
    name = f"{options.name_prefix}-{os.getpid()}-{os.urandom(6).hex()}"
    command = [engine, "run", "--interactive", "--rm", "--name", name, f"--pull={options.pull}"]
    command += ["--publish", f"127.0.0.1::{PORT}", "--log-driver", "none"]
    command += ["--stop-timeout", f"{END_S:.0f}"]  # podman's rm gives a hanging daemon that long
    command += [word for key, value in options.env.items() for word in ("--env", f"{key}={value}")]
    command += [*options.args, options.image]
    command += ["--config", "-" if own else options.config, "--token-file", "-"]
    command += ["--admin-tcp", f"0.0.0.0:{PORT}", "--end-with-stdin", "--log-format", "json"]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as exc:
        msg = f"{engine} cannot be started: {exc}"
        raise ConnectionLostError(msg, reason=str(exc), sent=False) from exc
    return Container(engine, name, process)


async def open_container(
    options: Docker, config: BusConfig | None
) -> tuple[Container, tuple[Status, bytes]]:
    """Start a daemon in a container and greet it; without a configuration it has the image's own.

    Raises:
        NotSupportedError: There is no engine.
        ConnectionLostError: It does not come to serve; what was begun is removed.

    Cancellation:
        What was begun is removed, within seconds.
    """
    container = _run(options, config is not None)
    container.token = os.urandom(32).hex()
    lines = [container.token.encode(), b""]
    if config is not None:
        lines.insert(0, config_json(config))
    try:
        with anyio.move_on_after(options.timeout_s):
            error = await _begin(container, b"\n".join(lines))
            if error is not None:
                raise error
            await container.connect()
            return container, await greet(container, options.timeout_s)
        raise container.late(options.timeout_s)
    except BaseException:
        await container.remove()  # noqa: ASYNC102
        container.close()
        raise


async def _begin(container: Container, said: bytes) -> ConnectionLostError | None:
    """Say to the daemon what it is to be, and wait until it is; return why not."""
    error = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(container.tell, said)
        try:
            await container.wait_ready()
        except ConnectionLostError as exc:  # bare, not in a group
            error = exc
        tasks.cancel_scope.cancel("it serves, or will not")
    return error
