"""The kernel of this process serves other programs as well, and keeps all of them apart."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from anyio_bus import (
    Bus,
    BusStoppedError,
    ClientChanged,
    Connect,
    ConnectionLostError,
    HandlerContext,
    InvalidArgumentError,
    Memory,
    Native,
    Notification,
    NotSupportedError,
    Pool,
    StreamOverflowError,
    TransportError,
    open_bus,
)
from anyio_bus._backends.native import lib
from anyio_bus._daemon import find_daemon
from tests.bus.support import DONE, WAIT_S, begin, log, scripted, until
from tests.bus.workers.scripted import serve

pytestmark = pytest.mark.skipif(lib is None, reason="no extension")

STREAMING = Path(__file__).parent / "workers" / "streaming.py"
LOCAL = "tcp://127.0.0.1:0"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="bus-") as name:
        yield Path(name)


def streaming() -> Pool:
    return Pool("s", [sys.executable, str(STREAMING)])


@asynccontextmanager
async def host(*pools: Pool, **options: Any) -> AsyncIterator[Bus]:
    """Open a bus that listens, by default with one scripted worker on a port of loopback."""
    options.setdefault("listen", LOCAL)
    grace_s = options.pop("grace_s", 2)
    native = Native(**options)
    async with open_bus(*(pools or (scripted(),)), backend=native, grace_s=grace_s) as bus:
        await bus.wait_ready()
        yield bus


class Plain:
    """A program that knows nothing of this library: lines of JSON on a socket."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self._read = BufferedByteReceiveStream(stream)

    async def send(self, **message: Any) -> None:
        await self._stream.send(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    async def receive(self) -> Any:
        with anyio.fail_after(WAIT_S):
            return json.loads(await self._read.receive_until(b"\n", 2**20))

    async def ask(self, method: str, params: Any = None, id: Any = 1) -> Any:  # noqa: A002
        """Send a request and return the next line."""
        await self.send(id=id, method=method, params=params or {})
        return await self.receive()

    async def leave(self) -> None:
        """Go without a word."""
        await self._stream.aclose()


@asynccontextmanager
async def plain(url: str) -> AsyncIterator[Plain]:
    scheme, _, where = url.partition("://")
    stream: anyio.abc.SocketStream
    if scheme == "unix":
        stream = await anyio.connect_unix(where)
    else:
        address, _, port = where.rpartition(":")
        stream = await anyio.connect_tcp(address, int(port))
    async with stream:
        yield Plain(stream)


# --- who gets what --------------------------------------------------------------------------------


async def test_the_host_and_twenty_clients_use_the_same_ids_at_once() -> None:
    async with host(scripted(instances=2), listen=LOCAL) as bus:
        (url,) = bus.listeners
        got: dict[int, list[Any]] = {}

        async def be(name: int) -> None:
            async with plain(url) as client:
                for number in range(10):
                    await client.send(id=number, method="echo", params=[name, number])
                answers = [await client.receive() for _ in range(10)]
            got[name] = sorted((answer["id"], answer["result"]) for answer in answers)

        async with anyio.create_task_group() as tasks:
            for name in range(20):
                tasks.start_soon(be, name)
            ours = [begin(tasks, lambda n=n: bus.request("echo", ["host", n])) for n in range(20)]
            async with bus.map("echo", [["map", n] for n in range(100)]) as results:
                assert [result async for result in results] == [["map", n] for n in range(100)]
            assert [await call.wait() for call in ours] == [["host", n] for n in range(20)]
        assert got == {name: [(n, [name, n]) for n in range(10)] for name in range(20)}
        kernel = bus.statistics().kernel
        assert (kernel.stray_answers, kernel.late_answers, kernel.bad_lines) == (0, 0, 0)
        assert kernel.client_connects == 20


async def test_streams_of_the_host_and_of_others_go_on_at_once() -> None:
    async with host(streaming()) as bus, open_bus(backend=Connect(bus.listeners[0])) as other:
        seen: dict[str, list[Any]] = {}

        async def follow(end: Bus, tag: str) -> None:
            params = {"chunks": 2000, "size": 100, "tag": tag}
            async with end.stream("count", params, max_buffer_bytes=20_000) as stream:
                seen[tag] = [chunk.params async for chunk in stream]
                assert await stream.result() == {"chunks": 2000}

        async with anyio.create_task_group() as tasks:
            for end, tag in ((bus, "a"), (other, "b"), (bus, "c"), (other, "d")):
                tasks.start_soon(follow, end, tag)
        for tag in "abcd":
            assert [p["n"] for p in seen[tag]] == list(range(2000))
            assert {p["tag"] for p in seen[tag]} == {tag}
        assert bus.statistics().unattributed == 0


async def test_chunks_of_a_plain_client_bear_its_own_id() -> None:
    async with host(streaming()) as bus, plain(bus.listeners[0]) as client:
        await client.send(id="mine", method="count", params={"chunks": 3})
        lines = [await client.receive() for _ in range(4)]
        assert [line["params"]["_meta"]["requestId"] for line in lines[:3]] == ["mine"] * 3
        assert (lines[3]["id"], lines[3]["result"]) == ("mine", {"chunks": 3})


ASK = '{"jsonrpc":"2.0","id":"q","method":"ask","params":{"_meta":{"requestId":$ID}}}'


async def test_a_request_of_a_worker_reaches_the_one_for_whom_it_works() -> None:
    async with (
        host() as bus,
        open_bus(backend=Connect(bus.listeners[0])) as other,
        plain(bus.listeners[0]) as client,
    ):
        for end, name in ((bus, "host"), (other, "other")):
            end.add_handler("ask", lambda name=name: name)
        for end, name in ((bus, "host"), (other, "other"), (bus, "host")):
            assert await end.request("say", {"lines": [ASK, DONE]}) == "done"
            await until_answered(bus, name)

        await client.send(id=1, method="say", params={"lines": [ASK, DONE]})
        question = await client.receive()
        assert (question["method"], question["params"]) == ("ask", {"_meta": {"requestId": 1}})
        assert (await client.receive())["result"] == "done"
        await client.send(id=question["id"], result="plain")
        await until_answered(bus, "plain")


async def until_answered(bus: Bus, result: str) -> None:
    """Wait until a worker has got this answer under its own id."""
    with anyio.fail_after(WAIT_S):
        while True:
            answers = [m for m in await log(bus) if "result" in m]
            if answers and answers[-1]["result"] == result:
                assert answers[-1]["id"] == "q"
                return


async def test_a_worker_s_request_is_cancelled_where_it_is_served() -> None:
    cancel = '{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"q"}}'
    async with host() as bus, open_bus(backend=Connect(bus.listeners[0])) as other:
        started, ended = anyio.Event(), anyio.Event()

        async def ask(context: HandlerContext) -> None:
            started.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

        bus.add_handler("ask", ask)
        other.add_handler("ask", ask)
        for end in (bus, other):
            assert await end.request("say", {"lines": [ASK, DONE]}) == "done"
            with anyio.fail_after(WAIT_S):
                await started.wait()
                await end.notify("say", {"lines": [cancel]})
                await ended.wait()
            started, ended = anyio.Event(), anyio.Event()


async def test_a_cancel_of_one_is_not_that_of_another_with_the_same_id() -> None:
    async with host(streaming()) as bus, plain(bus.listeners[0]) as client:
        await client.send(id=1, method="endless", params={})  # the host's first id is 1 as well
        assert (await client.receive())["method"] == "chunk"
        async with bus.stream("endless") as stream:
            await anext(stream)
        await until_cancelled(bus, 1)
        assert (await client.receive())["method"] == "chunk"
        await client.send(method="$/cancelRequest", params={"id": 1})
        while "id" not in (line := await client.receive()):
            pass
        assert (line["id"], line["error"]["code"]) == (1, -32800)
        await until_cancelled(bus, 2)


async def until_cancelled(bus: Bus, count: int) -> None:
    """Wait until the worker has heard of so many cancels."""
    with anyio.fail_after(WAIT_S):
        while len(cancelled := await bus.request("cancelled")) < count:
            pass
    assert cancelled == ["endless"] * count


async def test_a_session_is_of_the_program_that_began_it() -> None:
    async with host(scripted(instances=2)) as bus:
        async with open_bus(backend=Connect(bus.listeners[0])) as other, other.session(id="s") as s:
            pid = await s.request("pid")
            assert {await bus.request("pid", session="s") for _ in range(4)} == {pid}
            note = '{"jsonrpc":"2.0","method":"news","sessionId":"s"}'
            ours: list[Notification] = []
            theirs: list[Notification] = []
            bus.on_notification(ours.append)
            other.on_notification(theirs.append)
            assert await bus.request("say", {"lines": [note, DONE]}, session="s") == "done"
            await until(lambda: theirs)
            assert (theirs[0].method, theirs[0].session, ours) == ("news", "s", [])
            async with bus.session(id="own") as own:
                assert await own.request("echo", [1]) == [1]
        await until(lambda: bus.statistics().kernel.sessions == 0)


async def test_a_tap_of_the_host_shows_what_others_say() -> None:
    async with host() as bus, plain(bus.listeners[0]) as client, bus.tap() as frames:
        assert (await client.ask("echo", {"a": 1}))["result"] == {"a": 1}
        with anyio.fail_after(WAIT_S):
            assert (await frames.receive()).method == "echo"
            assert (await frames.receive()).kind == "response"


# --- coming and going -----------------------------------------------------------------------------


async def test_one_that_vanishes_takes_its_requests_along_and_is_told() -> None:
    async with host() as bus:
        seen: list[ClientChanged] = []
        remove = bus.on_client(seen.append)
        async with plain(bus.listeners[0]) as client:
            await client.send(id=1, method="hold")
            await until(lambda: bus.statistics().kernel.live_requests == 1)
            assert bus.statistics().clients == 1
            await client.leave()
        # Over TCP it looks half-closed until it is written to.
        await bus.notify("release")
        await until(lambda: bus.statistics().clients == 0)
        came, left = seen
        assert (came.client, came.state, came.reason) == (left.client, "connected", "")
        assert came.peer.startswith("127.0.0.1:")
        assert (left.state, left.peer) == ("gone", "")
        assert left.reason
        assert bus.statistics().kernel.client_disconnects == 1

        remove()
        remove()
        async with plain(bus.listeners[0]) as client:
            assert (await client.ask("echo", [1]))["result"] == [1]
        assert len(seen) == 2
        assert await bus.request("echo", [1]) == [1]


async def test_what_vanishes_from_a_socket_file_is_cancelled_at_once(folder: Path) -> None:
    async with host(listen=f"unix://{folder}/s") as bus:
        async with plain(bus.listeners[0]) as client:
            await client.send(id=1, method="hold")
            await until(lambda: bus.statistics().kernel.live_requests == 1)
        await until(lambda: bus.statistics().kernel.live_requests == 0)
        assert "$/cancelRequest" in [message["method"] for message in await log(bus)]


async def test_a_callback_that_raises_costs_that_event(caplog: pytest.LogCaptureFixture) -> None:
    async with host() as bus:
        seen: list[ClientChanged] = []

        def fail(_event: ClientChanged) -> None:
            raise ValueError("no luck today")

        bus.on_client(fail)
        bus.on_client(seen.append)
        async with plain(bus.listeners[0]) as client:
            assert (await client.ask("echo", [1]))["result"] == [1]
        await until(lambda: len(seen) == 2)
        with pytest.raises(InvalidArgumentError, match="callable"):
            bus.on_client(5)  # type: ignore[arg-type]
    raised = [r for r in caplog.records if getattr(r, "event", "") == "callback_raised"]
    assert len(raised) == 2
    assert all("no luck today" in (record.exc_text or str(record.exc_info)) for record in raised)


async def test_who_comes_and_goes_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "anyio_bus.kernel"):
        async with host() as bus:
            async with plain(bus.listeners[0]):
                await until(lambda: bus.statistics().clients == 1)
            await until(lambda: bus.statistics().clients == 0)
    events = [getattr(record, "event", "") for record in caplog.records]
    assert [event for event in events if event.startswith("client")] == [
        "client_came",
        "client_left",
    ]


# --- the end --------------------------------------------------------------------------------------


async def test_a_stop_fails_what_others_have_in_flight_and_closes_the_door(folder: Path) -> None:
    seen: list[ClientChanged] = []
    async with host(listen=f"unix://{folder}/s") as bus, anyio.create_task_group() as tasks:
        bus.on_client(seen.append)
        async with (
            open_bus(backend=Connect(bus.listeners[0])) as other,
            plain(bus.listeners[0]) as client,
        ):
            call = begin(tasks, lambda: other.request("mute"))
            await client.send(id=1, method="mute")
            await until(lambda: bus.statistics().kernel.live_requests == 2)
            await bus.stop()
            assert (await client.receive())["error"]["code"] == -32055
            with pytest.raises(TransportError):
                await call.wait()
            assert not (folder / "s").exists()
            with pytest.raises(anyio.IncompleteRead):
                await client.receive()
        assert bus.statistics().clients == 0
        assert [event.state for event in seen] == ["connected"] * 2 + ["gone"] * 2


async def test_what_others_have_in_flight_may_finish_while_it_drains() -> None:
    async with host() as bus, anyio.create_task_group() as tasks, plain(bus.listeners[0]) as client:
        await client.send(id=1, method="hold", params=["mine"])
        assert (await client.receive())["method"] == "holding"
        tasks.start_soon(lambda: bus.stop(drain_s=WAIT_S))
        while (await client.ask("echo", id="x")).get("error", {}).get("code") != -32055:
            pass  # what is new is refused from now on
        worker = bus.workers()[0]
        assert worker.in_flight == 1
        await client.send(method="release", params={})
        assert await client.receive() == {"jsonrpc": "2.0", "id": 1, "result": ["mine"]}


@pytest.mark.parametrize("how", ["handlers", "cancelled", "body"])
async def test_the_socket_file_goes_however_it_ends(folder: Path, how: str) -> None:
    native = Native(listen=f"unix://{folder}/s", admin_listen=f"unix://{folder}/a")
    bad: Any = {"x": 5} if how == "handlers" else {}
    with anyio.CancelScope() as scope:
        if how == "cancelled":
            scope.cancel()
        try:
            async with open_bus(scripted(), backend=native, handlers=bad):
                assert (folder / "s").exists()
                assert (folder / "a").exists()
                raise ZeroDivisionError
        except (ZeroDivisionError, InvalidArgumentError):
            pass
    assert os.listdir(folder) == []


async def test_a_file_that_took_its_place_is_somebody_else_s(folder: Path) -> None:
    async with host(listen=f"unix://{folder}/s"):
        (folder / "s").unlink()
        (folder / "s").write_text("mine")
    assert (folder / "s").read_text() == "mine"


async def test_whoever_is_left_finds_the_bus_stopped() -> None:
    async with host() as bus:
        at = bus.listeners
    assert bus.listeners == at
    with pytest.raises(BusStoppedError):
        bus.on_client(print)
    with pytest.raises(ConnectionLostError):
        async with open_bus(backend=Connect(at[0])):
            pass


# --- where ----------------------------------------------------------------------------------------


async def test_it_is_bound_where_it_says(folder: Path) -> None:
    urls = [LOCAL, f"unix://{folder}/s", "tcp://localhost:0"]
    async with host(listen=urls, admin_listen=f"unix://{folder}/a") as bus:
        assert [url.rpartition(":")[0] for url in bus.listeners[::2]] == [
            "tcp://127.0.0.1"
        ] * 2 or (bus.listeners[2].startswith("tcp://[::1]:"))
        assert bus.listeners[1::2] == (f"unix://{folder}/s", f"unix://{folder}/a")
        for url in bus.listeners[:2]:
            async with open_bus(backend=Connect(url)) as other:
                assert await other.request("echo", [1]) == [1]
                with pytest.raises(NotSupportedError, match="others use"):
                    await other.resize("w", 2)
        async with open_bus(backend=Connect(bus.listeners[3], admin=True)) as other:
            await other.resize("w", 2)
            await until(lambda: len(bus.workers()) == 2)


@pytest.mark.parametrize(("mode", "found"), [(None, 0o600), (0o660, 0o660)])
async def test_a_socket_file_has_the_mode_that_is_asked_for(
    folder: Path, mode: int | None, found: int
) -> None:
    more = {} if mode is None else {"unix_mode": mode}
    paths = {"listen": f"unix://{folder}/s", "admin_listen": f"unix://{folder}/a"}
    async with host(**paths, **more):
        assert stat.S_IMODE((folder / "s").stat().st_mode) == found
        assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o600


async def test_a_token_is_asked_for_on_tcp_alone(folder: Path) -> None:
    async with host(listen=[LOCAL, f"unix://{folder}/s"], token="sesame") as bus:
        tcp, unix = bus.listeners
        async with open_bus(backend=Connect(tcp, token="sesame")) as other:
            assert await other.request("echo", [1]) == [1]
        async with open_bus(backend=Connect(unix)) as other:
            assert await other.request("echo", [2]) == [2]
        for token in (None, "wrong"):
            with pytest.raises(ConnectionLostError, match=r"token|unauthorized"):
                async with open_bus(backend=Connect(tcp, token=token)):
                    pass
        async with plain(tcp) as client:
            assert (await client.ask("echo"))["error"]["data"]["reason"] == "unauthorized"
        assert await bus.request("echo", [3]) == [3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"listen": "/path"}, "unix:///path or tcp://host:port"),
        ({"listen": "unix://path/s"}, "unix:///path or tcp://host:port"),
        ({"listen": "unix:///path?x"}, "unix:///path or tcp://host:port"),
        ({"listen": "unix:///pa\0th"}, "unix:///path or tcp://host:port"),
        ({"listen": "tcp://127.0.0.1"}, "unix:///path or tcp://host:port"),
        ({"listen": "tcp://127.0.0.1:99999"}, "unix:///path or tcp://host:port"),
        ({"listen": 5}, "unix:///path or tcp://host:port"),
        ({"listen": "tcp://[::1"}, "unix:///path or tcp://host:port"),
        ({"listen": "tcp://127.0.0.1:0?x"}, "unix:///path or tcp://host:port"),
        ({"listen": "tcp://127.0.0.1:0#x"}, "unix:///path or tcp://host:port"),
        ({"listen": "tcp://127.0.0.1:http"}, "unix:///path or tcp://host:port"),
        ({"listen": "tcp://me@127.0.0.1:1"}, "unix:///path or tcp://host:port"),
        ({"listen": "tcp://127.0.0.1:1/x"}, "unix:///path or tcp://host:port"),
        ({"listen": "tcp://:1"}, "unix:///path or tcp://host:port"),
        ({"listen": [5]}, "unix:///path or tcp://host:port"),
        ({"listen": "tcp://example.org:1"}, "an address, or localhost"),
        ({"listen": "tcp://0.0.0.0:0"}, "open beyond this machine: give a token="),
        ({"listen": "tcp://[::]:0"}, "open beyond this machine: give a token="),
        ({"admin_listen": "tcp://127.0.0.1:0"}, "admin rights on TCP: give a token="),
        ({"listen": LOCAL, "token": ""}, "a text is needed"),
        ({"listen": LOCAL, "token": 5}, "a text is needed"),
        ({"listen": "unix:///s", "token": "x"}, "for TCP"),
        ({"listen": "unix:///s", "unix_mode": 0}, "expected a mode"),
        ({"listen": "unix:///s", "unix_mode": 0o1777}, "expected a mode"),
        ({"listen": "unix:///s", "unix_mode": True}, "expected a mode"),
    ],
)
def test_what_is_no_address_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        Native(**options)
    assert caught.value.field in options
    assert str(caught.value).startswith(f"Native.{caught.value.field}: ")


async def test_a_taken_address_is_refused_and_left_alone(folder: Path) -> None:
    (folder / "file").write_text("mine")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "stale"))
    async with host(listen=[LOCAL, f"unix://{folder}/s"]) as bus:
        tcp, unix = bus.listeners
        taken = {
            tcp: "in use",
            unix: "listens there already",
            f"unix://{folder}/file": "is no socket",
            f"unix://{folder}/none/s": "No such file",
            f"unix://{folder}/{'x' * 200}": "a unix path has",
        }
        for url, why in taken.items():
            with pytest.raises(InvalidArgumentError, match=why) as caught:
                async with open_bus(scripted(), backend=Native(listen=[LOCAL, url])):
                    pass
            assert caught.value.field == "listen"
            assert isinstance(caught.value.__cause__, OSError)
        async with plain(unix) as client:
            assert (await client.ask("echo", [1]))["result"] == [1]
        assert (folder / "file").read_text() == "mine"
        async with host(listen=f"unix://{folder}/stale") as second:
            assert await second.request("echo", [1]) == [1]


# --- what others cannot do ------------------------------------------------------------------------


async def test_other_backends_do_not_listen_and_say_so() -> None:
    backends: list[Any] = ["python", Memory({"w": serve})]
    try:
        find_daemon()
        backends.append("subprocess")
    except FileNotFoundError:
        pass
    for backend in backends:
        async with open_bus(scripted(), backend=backend) as bus:
            assert bus.listeners == ()
            with pytest.raises(NotSupportedError, match=r"Native\(listen=") as caught:
                bus.on_client(print)
            assert caught.value.backend == bus.backend
    async with open_bus(scripted(), backend=Native()) as bus:  # as "native"
        assert (bus.backend, bus.listeners, bus.statistics().clients) == ("native", (), 0)
        bus.on_client(print)
        assert await bus.request("echo", [1]) == [1]


async def test_where_there_is_no_native_kernel_it_cannot_listen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANYIO_BUS_SPAWNER", "portable")
    with pytest.raises(NotSupportedError, match="portable"):
        async with open_bus(scripted(), backend=Native(listen=LOCAL)):
            pass


async def test_a_slow_reader_of_the_host_makes_no_worker_wait() -> None:
    """Others may use that worker: the stream ends, where it would pause a worker of its own."""
    note = json.dumps({"jsonrpc": "2.0", "method": "chunk", "params": {"text": "x" * 1000}})
    async with host() as bus, plain(bus.listeners[0]) as client:
        params = {"lines": [note] * 100 + [DONE]}
        async with bus.stream("say", params, max_buffer_bytes=5000) as stream:
            await until(lambda: bus.statistics().kernel.live_requests == 0)
            with pytest.raises(StreamOverflowError):
                async for _ in stream:
                    pass
        assert (await client.ask("echo", [1]))["result"] == [1]
