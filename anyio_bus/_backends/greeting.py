"""Own how a link begins: what is asked of a kernel elsewhere before a bus relies on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import msgspec
from msgspec import UNSET

from anyio_bus._backends.reports import Status, decode_status
from anyio_bus._errors import ConnectionLostError, KernelCode, NotSupportedError
from anyio_bus._sansio.codec import decode_block, encode_request
from anyio_bus._sansio.lines import READ_BYTES, LineSplitter
from anyio_bus._sansio.messages import Message

if TYPE_CHECKING:
    from anyio_bus._backends.links import Link
    from anyio_bus._config import BusConfig

__all__ = ("GREETING_S", "check_remote", "greet")

GREETING_S = 10.0
GREETING_BYTES = 2**30  # of a report; it holds the last bytes of each worker's stderr
EXIT_S = 1.0
LAST_WORDS = 4  # reads of the stderr of a daemon that has ended
ADMIN = "anyio-bus:admin"
STATUS = "anyio-bus:status"
UNAUTHORIZED = "unauthorized"
EVENTS = ["worker_changed", "line_bad", "session", "source"]


class _Data(msgspec.Struct):
    reason: str = ""


class _Error(msgspec.Struct):
    code: int = 0
    message: str = "an error"
    data: _Data = msgspec.field(default_factory=_Data)


def check_remote(config: BusConfig, backend: str) -> None:
    """Refuse what a kernel elsewhere cannot do: its policies are that kernel's own.

    Raises:
        NotSupportedError: A pool asks for it.
    """
    fields = "spares", "health", "max_requests", "max_lifetime_s", "max_rss_bytes", "idle_timeout_s"
    for pool in config.pools:
        for name in fields:
            if getattr(pool, name):
                msg = f"backend={backend!r} cannot do Pool({pool.id!r}).{name}"
                raise NotSupportedError(msg, backend=backend)
        if pool.spawn not in ("auto", "posix"):
            msg = f"backend={backend!r}: Pool({pool.id!r}) asks for the {pool.spawn} spawner"
            raise NotSupportedError(msg, backend=backend)


async def greet(link: Link, limit_s: float = GREETING_S) -> tuple[Status, bytes]:
    """Introduce ourselves; return how the kernel stands, and what it said after that.

    Raises:
        ConnectionLostError: It does not answer as a kernel of ours would.
        NotSupportedError: The link is to be an admin's, and is not.

    Cancellation:
        The link is left open, and is of no use any more.
    """
    with anyio.move_on_after(limit_s):
        await _say(link)
        splitter = LineSplitter(GREETING_BYTES)
        while True:
            await anyio.wait_readable(link.read_fd)
            data = link.read(READ_BYTES)
            if data == b"":
                raise await _no_greeting(link)
            blocks = [block for block in splitter.feed(data or b"") if type(block) is bytes]
            lines = b"".join(blocks).splitlines(keepends=True)
            for number, line in enumerate(lines):
                status = _find_status(link, line)
                if status is not None:
                    return status, b"".join(lines[number + 1 :]) + splitter.rest()
    text = f"{link.name} does not answer as a kernel within {limit_s:g} s"
    raise ConnectionLostError(text, reason="no greeting", sent=False)


async def _say(link: Link) -> None:
    frames = [
        encode_request("anyio-bus:watch", "bus/watch", {"events": EVENTS}),
        encode_request(STATUS, "bus/status", {}),
    ]
    if link.admin:  # by a method that does nothing to those who have the right
        frames.insert(0, encode_request(ADMIN, "bus/tap", {"off": True}))
    if link.token is not None:
        frames.insert(0, encode_request("anyio-bus:auth", "bus/auth", {"token": link.token}))
    left = b"".join(frames)
    while True:
        try:
            left = left[link.write(left) :]
        except OSError:
            return  # it will be seen where we read
        if not left:
            return
        await anyio.wait_writable(link.write_fd)


def _find_status(link: Link, line: bytes) -> Status | None:
    """Return the report if this line is it; what came before that is in it."""
    for message in decode_block(line):
        if not isinstance(message, Message) or message.method is not UNSET:
            continue
        if message.error is not UNSET:
            raise _refusal(link, message)
        if message.id == STATUS:
            try:
                return decode_status(message.result)  # type: ignore[arg-type]
            except (msgspec.MsgspecError, TypeError) as exc:
                msg = f"{link.name} is not a kernel of anyio_bus: {exc}"
                raise ConnectionLostError(msg, reason="no kernel", sent=False) from None
    return None


def _refusal(link: Link, message: Message) -> ConnectionLostError | NotSupportedError:
    """Make an error of the kernel's; a refusal that no other try will change is permanent."""
    try:
        error = msgspec.json.decode(message.error, type=_Error)  # type: ignore[arg-type]
    except msgspec.MsgspecError:
        error = _Error()
    if message.id == ADMIN and error.code == KernelCode.METHOD_NOT_FOUND:
        msg = f"{link.name} is no admin listener (--admin-unix)"
        return NotSupportedError(msg, backend="connect")
    text = f"{link.name} refuses: {error.message}"
    # Without our id it is not about what we have said: it took us too long to say it.
    final = error.data.reason == UNAUTHORIZED and isinstance(message.id, str)
    if final and link.token is None:
        text = f"{link.name} asks for a token: Connect(token=...)"
    return ConnectionLostError(text, reason=error.message, sent=False, permanent=final)


async def _no_greeting(link: Link) -> ConnectionLostError:
    """Find out why a daemon has ended before it said anything."""
    await link.exit(EXIT_S)
    for _ in range(LAST_WORDS):
        if link.stderr_fd < 0 or not link.read_stderr():
            break
    why = link.why_lost()
    return ConnectionLostError(f"the kernel did not start: {why}", reason=why, sent=False)
