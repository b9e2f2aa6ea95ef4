"""What is the case only where the kernel is elsewhere: a daemon of the bus's own, or a shared one."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from anyio_bus import (
    Bus,
    BusConfig,
    Connect,
    ConnectionLostError,
    InvalidArgumentError,
    Limits,
    NotSupportedError,
    Pool,
    Probe,
    SessionLostError,
    Subprocess,
    TransportError,
    UnknownPoolError,
    WorkerStartError,
    WorkerState,
    open_bus,
)
from anyio_bus._daemon import find_daemon
from tests.bus.support import DONE, begin, held, log, methods, need_native, scripted, until
from tests.contract.places import daemon

WAIT_S = 10


@pytest.fixture(autouse=True)
def there() -> None:
    try:
        find_daemon()
    except FileNotFoundError as exc:
        pytest.skip(f"*** NOT TESTED: {exc} ***")


def daemon_of(bus: Bus) -> int:
    pid: int = bus._backend._link.pid  # type: ignore[attr-defined]
    return pid


def is_alive(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- a daemon of its own --------------------------------------------------------------------------


async def test_the_daemon_and_its_workers_end_with_the_block() -> None:
    async with open_bus(scripted(instances=2), backend="subprocess") as bus:
        await bus.wait_ready()
        pids = [daemon_of(bus), *(info.pid for info in bus.workers())]
        assert all(map(is_alive, pids))
    assert not any(map(is_alive, pids))


async def test_a_daemon_that_is_killed_fails_what_is_in_flight_and_all_that_follows() -> None:
    async with (
        open_bus(scripted(), backend="subprocess") as bus,
        anyio.create_task_group() as tasks,
    ):
        await bus.wait_ready()
        worker = bus.workers()[0].pid
        call = begin(tasks, lambda: bus.request("hold"))
        await held(bus, 1)
        os.kill(daemon_of(bus), signal.SIGKILL)
        with pytest.raises(ConnectionLostError, match="killed by signal 9") as caught:
            await call.wait()
        assert caught.value.sent
        with pytest.raises(ConnectionLostError, match="killed by signal 9") as caught:
            await bus.request("echo")
        assert not caught.value.sent
        with pytest.raises(ConnectionLostError):
            await bus.wait_ready()
        await until(lambda: not is_alive(worker))


async def test_a_pool_that_was_parked_before_we_came_says_why() -> None:
    crashing = Pool("bad", [sys.executable, "-I", "-S", "-c", "raise RuntimeError('no luck')"])
    limits = Limits(restart_delay_s=0.01, restart_delay_max_s=0.02, start_attempts=2)
    with daemon(BusConfig((crashing,), limits)) as url:
        async with open_bus(backend=Connect(url)) as bus:
            await until(lambda: bus.workers()[0].state is WorkerState.PARKED)
        async with open_bus(backend=Connect(url)) as bus:
            with pytest.raises(WorkerStartError, match="bad") as caught:
                await bus.wait_ready()
            assert (caught.value.exit_code, "no luck" in caught.value.stderr_tail) == (1, True)


async def test_a_program_that_is_no_daemon_is_told_with_its_last_words(tmp_path: Path) -> None:
    program = tmp_path / "daemon"
    program.write_text("#!/bin/sh\necho 'no luck today' >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(ConnectionLostError, match="exited with 3: no luck today") as caught:
        async with open_bus(scripted(), backend=Subprocess(binary_path=program)):
            pass
    assert not caught.value.sent


@pytest.mark.parametrize("answer", ["not JSON", '{"id":"anyio-bus:status","result":5}'])
async def test_what_does_not_answer_as_a_kernel_is_no_kernel(
    tmp_path: Path, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyio_bus._backends.remote.GREETING_S", 0.3)
    program = tmp_path / "daemon"
    program.write_text(f"#!/bin/sh\necho '{answer}'\nexec cat >/dev/null\n")
    program.chmod(0o755)
    with pytest.raises(ConnectionLostError, match=r"does not answer|is not a kernel"):
        async with open_bus(scripted(), backend=Subprocess(binary_path=program)):
            pass


async def test_a_missing_program_is_named_and_so_is_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConnectionLostError, match="/no/such/daemon cannot be started"):
        async with open_bus(scripted(), backend=Subprocess(binary_path="/no/such/daemon")):
            pass
    monkeypatch.setenv("ANYIO_BUSD", "/no/such/daemon")
    with pytest.raises(NotSupportedError, match="ANYIO_BUSD names /no/such/daemon"):
        async with open_bus(scripted(), backend="subprocess"):
            pass


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"spares": 1}, "spares"),
        ({"health": Probe("ping", every_s=1, timeout_s=1)}, "health"),
        ({"max_requests": 5}, "max_requests"),
        ({"idle_timeout_s": 5}, "idle_timeout_s"),
        ({"max_lifetime_s": 5}, "max_lifetime_s"),
        ({"max_rss_bytes": 2**30}, "max_rss_bytes"),
        ({"spawn": "portable"}, "spawner"),
    ],
)
async def test_what_it_cannot_do_is_refused_before_anything_starts(
    options: dict[str, Any], name: str
) -> None:
    with pytest.raises(NotSupportedError, match=name) as caught:
        async with open_bus(scripted(**options), backend="subprocess"):
            pass
    assert caught.value.backend == "subprocess"


async def test_workers_of_ones_own_are_refused() -> None:
    async with open_bus(scripted(), backend="subprocess") as bus:
        with pytest.raises(NotSupportedError, match="env="):
            async with bus.session(exclusive=True, env={"A": "1"}):
                pass
        assert await bus.request("echo", [1]) == [1]


async def test_stderr_of_workers_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool("w", [sys.executable, "-c", "import sys; print('hello there', file=sys.stderr)"])
    with caplog.at_level(logging.INFO, "anyio_bus.stderr"):
        async with open_bus(pool, backend="subprocess"):
            await until(lambda: "w/0: hello there" in caplog.text)


async def test_ten_megabytes_pass_in_both_directions() -> None:
    text = "x" * 10_000_000
    async with open_bus(scripted(), backend="subprocess") as bus:
        assert await bus.request("echo", [text]) == [text]


async def test_answers_that_no_worker_waits_for_harm_nobody() -> None:
    async with open_bus(scripted(), backend="subprocess") as bus:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await bus.request("hold", timeout=0.02)
        await bus.send(b'{"method":"release"}', worker=bus.workers()[0].worker)
        await bus.request("echo")
        await bus.refresh()
        assert bus.statistics().kernel.live_requests == 0


# --- a daemon that others use ---------------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[str]:
    with daemon(BusConfig((scripted(instances=2),), Limits())) as url:
        yield url


async def test_the_pools_are_those_of_the_daemon(shared: str) -> None:
    async with open_bus(backend=Connect(shared)) as bus:
        assert bus.backend == "connect"
        assert await bus.request("echo", [1], pool="w") == [1]
        await bus.wait_ready()
        assert len(bus.workers()) == 2


async def test_a_pool_that_is_not_there_is_named(shared: str) -> None:
    with pytest.raises(UnknownPoolError, match="no pool 'other'; there are: w") as caught:
        async with open_bus(Pool("other", ["-"]), backend=Connect(shared)):
            pass
    assert caught.value.pool == "other"


async def test_what_a_pool_says_that_is_not_ours_harms_nobody() -> None:
    changed = {"lines": ['{"method":"notifications/tools/list_changed"}']}  # told to everybody
    pools = scripted(), scripted("far", cancel="mcp")
    with daemon(BusConfig(pools, Limits())) as url:
        async with (
            open_bus(backend=Connect(url)) as whole,
            open_bus(scripted(), backend=Connect(url)) as part,
        ):
            await whole.notify("say", changed, pool="far")
            await until(lambda: part.statistics().unhandled == 1)
            async with part.stream("mute"):
                await whole.notify("say", changed, pool="far")
                await until(lambda: part.statistics().unhandled == 2)
                async with part.subscribe() as notes:
                    await whole.notify("say", changed, pool="far")
                    assert (await notes.receive()).pool == "far"
            assert await part.request("echo", [1]) == [1]
            assert part.statistics().unattributed == 0


async def test_two_programs_share_workers_and_nothing_else(shared: str) -> None:
    async with open_bus(backend=Connect(shared)) as one, open_bus(backend=Connect(shared)) as two:
        heard: dict[str, list[Any]] = {"one": [], "two": []}
        one.on_notification(heard["one"].append, "*")
        two.on_notification(heard["two"].append, "*")
        async with one.session(id="s") as session:
            for number in range(20):
                assert await session.request("echo", [number]) == [number]
                assert await two.request("echo", [-number]) == [-number]
            worker = session.worker
        async with two.session(id="s", exclusive=True) as session:
            assert session.worker in {worker, 1 - (worker or 0)}
            assert await session.request("say", {"lines": ['{"method":"news"}', DONE]})
    assert (len(heard["one"]), len(heard["two"])) == (0, 1)


async def test_one_that_leaves_takes_its_requests_along_and_the_other_goes_on(shared: str) -> None:
    async with open_bus(backend=Connect(shared)) as stays:
        async with open_bus(backend=Connect(shared)) as leaves, anyio.create_task_group() as tasks:
            call = begin(tasks, lambda: leaves.request("hold"))
            await until(lambda: leaves.statistics().kernel.live_requests == 1)
            await leaves.stop()
            with pytest.raises(anyio.ClosedResourceError):
                await call.wait()
        await until(lambda: stays.statistics().kernel.live_requests == 0)
        assert await stays.request("echo", [1]) == [1]


async def test_a_daemon_that_ends_is_told_to_its_clients() -> None:
    with daemon(BusConfig((scripted(),), Limits())) as url:
        async with open_bus(backend=Connect(url, admin=True)) as bus:
            bus._backend._admin("bus/stop", {"drain_s": 0, "grace_s": 1}, "")  # type: ignore[attr-defined]
            await until(lambda: bus._backend._lost is not None)  # type: ignore[attr-defined]
            with pytest.raises(ConnectionLostError, match="closed the connection"):
                await bus.request("echo")


async def test_a_lost_daemon_is_reached_again_where_that_is_wanted(tmp_path: Path) -> None:
    config = BusConfig((scripted(),), Limits())
    stack = contextlib.AsyncExitStack()
    with daemon(config, tmp_path) as url:
        bus = await stack.enter_async_context(open_bus(backend=Connect(url, reconnect=True)))
        session = await stack.enter_async_context(bus.session())
        assert await session.request("echo", [1]) == [1]
    async with stack:
        await until(lambda: bus._backend._lost is not None)  # type: ignore[attr-defined]
        with pytest.raises(ConnectionLostError) as caught:
            await bus.request("echo")
        assert not caught.value.sent
        assert session.lost
        with daemon(config, tmp_path):
            await until(lambda: [info.state for info in bus.workers()] == ["ready"])
            assert await bus.request("echo", [2]) == [2]
            with pytest.raises(SessionLostError, match="closed the connection"):
                await session.request("echo")
            assert await session.request("echo", [3]) == [3]


@pytest.mark.parametrize(
    ("then", "why"),
    [
        ({"token": "another"}, "the token is wrong"),
        ({"token": "mine", "listen": "--tcp"}, "is no admin listener"),
    ],
)
async def test_one_that_is_refused_when_it_comes_back_is_told_for_good(
    tmp_path: Path, then: dict[str, str], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = BusConfig((scripted(),), Limits())
    stack = contextlib.AsyncExitStack()
    with daemon(config, tmp_path, "--admin-tcp 127.0.0.1:0", "mine") as url:
        options = Connect(url, token="mine", admin=True, reconnect=True)
        bus = await stack.enter_async_context(open_bus(backend=options))
        session = await stack.enter_async_context(bus.session())
        assert await session.request("echo", [1]) == [1]
    where = url.removeprefix("tcp://")
    flag = then.get("listen", "--admin-tcp")
    async with stack:
        await until(lambda: bus._backend._lost is not None)  # type: ignore[attr-defined]
        with pytest.raises(ConnectionLostError) as caught:
            await bus.request("echo")
        assert not caught.value.permanent
        with daemon(config, tmp_path, f"{flag} {where}", then["token"]):
            await until(lambda: "kernel_refused" in events(caplog))
            calls: list[Callable[[], Any]] = [
                lambda: bus.request("echo"),
                lambda: bus.notify("echo"),
                lambda: session.request("echo"),
                bus.wait_ready,
                bus.refresh,
                bus.session(exclusive=True).__aenter__,
            ]
            for call in calls:
                with pytest.raises(ConnectionLostError, match=why) as caught:
                    await call()
                assert (caught.value.permanent, caught.value.sent) == (True, False)
            assert session.lost
            assert all(why in info.reason for info in bus.workers())
    assert events(caplog).count("kernel_refused") == 1


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "event", "") for record in caplog.records]


async def test_what_is_no_refusal_for_good_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyio_bus._backends.wire.RECONNECT_S", 0.01)
    config = BusConfig((scripted(),), Limits())
    stack = contextlib.AsyncExitStack()
    with daemon(config, tmp_path) as url:
        bus = await stack.enter_async_context(open_bus(backend=Connect(url, reconnect=True)))
    async with stack:
        greeted = []
        listener = await anyio.create_unix_listener(tmp_path / "socket")
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, lambda stream: refuse(stream, greeted))
            await until(lambda: len(greeted) == len(REFUSALS))
            tasks.cancel_scope.cancel()
        (tmp_path / "socket").unlink()
        with daemon(config, tmp_path):
            await until(lambda: [info.state for info in bus.workers()] == ["ready"])
            assert await bus.request("echo", [2]) == [2]


REFUSALS = [
    b"",
    b'{"id":null,"error":{"code":-32600,"message":"late","data":{"reason":"unauthorized"}}}\n',
    b'{"id":"anyio-bus:watch","error":{"code":-32053,"message":"full","data":7}}\n',
    b'{"id":"anyio-bus:status","result":"no kernel"}\n',
]


async def refuse(stream: anyio.abc.SocketStream, greeted: list[bytes]) -> None:
    """Answer as something else would, each time in another way."""
    async with stream:
        with contextlib.suppress(anyio.BrokenResourceError):
            await stream.send(REFUSALS[len(greeted) % len(REFUSALS)])
        greeted.append(b"")


async def test_one_with_other_pools_gets_what_is_for_another_pool_no_more(tmp_path: Path) -> None:
    stack = contextlib.AsyncExitStack()
    with daemon(BusConfig((scripted(),), Limits()), tmp_path) as url:
        bus = await stack.enter_async_context(open_bus(backend=Connect(url, reconnect=True)))
    async with stack:
        await until(lambda: bus._backend._lost is not None)  # type: ignore[attr-defined]
        with daemon(BusConfig((scripted("other"),), Limits()), tmp_path):
            await until(lambda: [info.pool for info in bus.workers()] == ["other"])
            with pytest.raises(UnknownPoolError):
                await bus.request("echo")


async def test_what_is_for_admins_is_refused_to_others(shared: str) -> None:
    async with open_bus(backend=Connect(shared)) as bus:
        refused: list[Callable[[], Any]] = [
            lambda: bus.resize("w", 3),
            lambda: bus.restart_worker(0),
            lambda: bus.send(b'{"method":"note"}', worker=0),
        ]
        for act in refused:
            with pytest.raises(NotSupportedError, match="backend='connect' cannot") as caught:
                await act()
            assert caught.value.backend == "connect"
    async with open_bus(backend=Connect(shared, admin=True)) as bus:
        await bus.resize("w", 3)
        await until(lambda: len(bus.workers()) == 3)
        assert methods(await log(bus)) == []


async def test_nobody_there_is_told(tmp_path: Path) -> None:
    for url in (f"unix://{tmp_path}/none", "tcp://127.0.0.1:1"):
        with pytest.raises(ConnectionLostError, match=f"{url}: cannot connect: ") as caught:
            async with open_bus(backend=Connect(url)):
                pass
        assert not caught.value.sent


# --- over TCP, with a token -----------------------------------------------------------------------


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.fixture(params=["127.0.0.1", "[::1]"])
def guarded(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a daemon that asks for the token "s\u00e9cret"."""
    if request.param == "[::1]" and not has_ipv6():
        pytest.skip("*** NOT TESTED: this machine has no IPv6 ***")
    config = BusConfig((scripted(),), Limits())
    with daemon(config, None, f"--tcp {request.param}:0", "s\u00e9cret") as url:
        yield url


async def test_the_right_token_lets_in(guarded: str) -> None:
    async with open_bus(backend=Connect(guarded, token="s\u00e9cret")) as bus:
        assert await bus.request("echo", [1]) == [1]


@pytest.mark.parametrize("admin", [False, True])
@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("secret", "refuses: the token is wrong"),
        ("", "refuses: the token is wrong"),
        (None, "asks for a token: Connect(token=...)"),
    ],
)
async def test_without_the_right_token_nobody_gets_in(
    guarded: str, token: str | None, why: str, admin: bool
) -> None:
    with pytest.raises(ConnectionLostError, match=re.escape(f"{guarded} {why}")) as caught:
        async with open_bus(backend=Connect(guarded, token=token, admin=admin, reconnect=True)):
            pass
    assert (caught.value.permanent, caught.value.sent) == (True, False)


@pytest.mark.parametrize(
    "url", ["", "unix://", "unix://host/path", "tcp://host", "tcp://host:x", "http://a:1", "/a"]
)
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"Connect\.url") as caught:
        Connect(url)
    assert caught.value.field == "url"


# --- what a review has found ----------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["subprocess", "native"])
async def test_a_worker_cannot_speak_for_the_kernel(backend: Any) -> None:
    lines = [
        '{"method":"bus/event","params":[1]}',
        '{"method":"bus/event","params":{"event":"worker_changed","worker":0,"state":"bogus"}}',
        '{"method":"bus/event","params":{"event":"worker_changed","worker":0,"state":"stopped"}}',
        '{"method":"bus/event","params":{"event":"source","pool":"x","worker":7,"bus":"guess"}}',
        '{"method":"bus/frame","params":{}}',
        '{"id":"anyio-bus:1","result":5}',
    ]
    if backend == "native":
        need_native()
    async with open_bus(scripted(), backend=backend) as bus:
        heard: list[Any] = []
        bus.on_notification(heard.append, "*")
        assert await bus.request("say", {"lines": [*lines, DONE]}) == "done"
        assert await bus.request("echo", [1]) == [1]
        assert [info.state for info in bus.workers()] == ["ready"]
        assert [note.method for note in heard] == ["bus/event"] * 4 + ["bus/frame"]


async def test_leases_that_were_given_up_wait_for_nothing() -> None:
    async with open_bus(scripted(), backend="subprocess") as bus:
        async with bus.session(exclusive=True):
            for _ in range(3):
                with anyio.move_on_after(0.02):
                    async with bus.session(id="same", exclusive=True):
                        pass
        async with bus.session(id="same", exclusive=True) as session:
            assert await session.request("echo", [1]) == [1]
        await bus.refresh()
        assert not bus._backend._asked  # type: ignore[attr-defined]


async def test_a_daemon_that_dies_in_a_stop_leaves_nobody_waiting() -> None:
    async with open_bus(scripted(), backend="subprocess", grace_s=5) as bus:
        async with bus.session(exclusive=True), anyio.create_task_group() as tasks:
            call = begin(tasks, lambda: bus.session(exclusive=True).__aenter__())
            await anyio.wait_all_tasks_blocked()
            os.kill(daemon_of(bus), signal.SIGSTOP)
            stopped = begin(tasks, bus.stop)
            await anyio.wait_all_tasks_blocked()
            os.kill(daemon_of(bus), signal.SIGKILL)
            await stopped.wait()
            with pytest.raises(TransportError):
                await call.wait()


async def test_a_daemon_that_hangs_does_not_hold_up_a_stop() -> None:
    async with open_bus(scripted(), backend="subprocess") as bus:
        await bus.wait_ready()
        worker = bus.workers()[0].pid
        os.kill(daemon_of(bus), signal.SIGSTOP)
        await bus.stop(grace_s=0.1)
    await until(lambda: not is_alive(worker))


async def test_a_lease_is_lost_with_its_daemon_for_good(tmp_path: Path) -> None:
    config = BusConfig((scripted(),), Limits())
    stack = contextlib.AsyncExitStack()
    with daemon(config, tmp_path) as url:
        bus = await stack.enter_async_context(open_bus(backend=Connect(url, reconnect=True)))
        session = await stack.enter_async_context(bus.session(exclusive=True))
    async with stack:
        await until(lambda: bus._backend._lost is not None)  # type: ignore[attr-defined]
        with daemon(config, tmp_path):
            await until(lambda: [info.state for info in bus.workers()] == ["ready"])
            for _ in range(2):
                with pytest.raises(SessionLostError):
                    await session.request("echo")


async def test_a_daemon_may_come_back_with_more_pools(tmp_path: Path) -> None:
    stack = contextlib.AsyncExitStack()
    with daemon(BusConfig((scripted(),), Limits()), tmp_path) as url:
        bus = await stack.enter_async_context(open_bus(backend=Connect(url, reconnect=True)))
        with pytest.raises(NotSupportedError):
            async with bus.tap():
                pass
        assert await bus.request("echo", [1]) == [1]
    async with stack:
        await until(lambda: bus._backend._lost is not None)  # type: ignore[attr-defined]
        with daemon(BusConfig((scripted(), scripted("other")), Limits()), tmp_path):
            await until(lambda: len(bus.workers()) == 2)
            assert await bus.request("echo", [2], pool="w") == [2]


async def test_a_session_of_an_agent_goes_on_elsewhere_where_that_is_wanted() -> None:
    async with open_bus(scripted(session="acp"), backend="subprocess") as bus:
        async with bus.session(id="k", rebind=True) as session:
            await session.request("echo", [1])
            with pytest.raises(TransportError):
                await session.request("die")
            assert await session.request("echo", [2]) == [2]


async def test_reports_of_a_kernel_that_is_gone_are_refused() -> None:
    async with open_bus(scripted(), backend="subprocess") as bus:
        os.kill(daemon_of(bus), signal.SIGKILL)
        await until(lambda: bus._backend._lost is not None)  # type: ignore[attr-defined]
        with pytest.raises(ConnectionLostError):
            await bus.refresh()
