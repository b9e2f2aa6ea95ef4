"""A bus in a container: what it does there, and that nothing of it is ever left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from anyio_bus import (
    Bus,
    ConnectionLostError,
    InvalidArgumentError,
    NotSupportedError,
    open_bus,
    stdiobus,
)
from tests.bus.support import begin
from tests.docker.kit import ROOT, RUN, WAIT_S, Engine, docker, echo, worker

TRIES = 5  # podman loses the words of a container that ends at once, about one in a hundred times

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.timeout(60)]


def link_of(bus: Bus) -> Any:
    return bus._backend._link  # type: ignore[attr-defined]


async def received(bus: Bus) -> None:
    """Wait until the worker has what was sent before: it has this as well."""
    with anyio.fail_after(WAIT_S):
        assert await bus.request("any") == "done"


# --- what it does ---------------------------------------------------------------------------------


async def test_requests_and_streams_go_through_a_container(engine: Engine) -> None:
    async with open_bus(echo(instances=2), backend=docker()) as bus:
        assert bus.backend == bus.statistics().backend == "docker"
        assert await bus.request("echo", {"a": 1}) == {"a": 1}
        async with bus.stream("stream", {"count": 3}) as stream:
            assert len([chunk async for chunk in stream]) == 3
        assert len(engine.containers()) == 1
    assert not engine.containers()


async def test_two_buses_have_a_container_each(engine: Engine) -> None:
    async with (
        open_bus(worker(env={"WHO": "one"}), backend=docker()) as one,
        open_bus(worker(env={"WHO": "two"}), backend=docker()) as two,
    ):
        for bus, who in ((one, "one"), (two, "two")):
            assert await bus.request("env", {"text": "WHO"}) == who
        assert len(engine.containers()) == 2


async def test_the_bus_is_the_admin_of_its_daemon() -> None:
    async with open_bus(echo(), backend=docker()) as bus:
        await bus.resize("e", 2)
        await bus.refresh()
        assert len(bus.workers()) == 2
        async with bus.tap() as frames:
            await bus.request("echo", {"seen": True})
            assert b'"seen"' in (await frames.receive()).frame
        await bus.restart_worker(0)
        await bus.wait_ready()


async def test_without_pools_the_image_has_its_own() -> None:
    async with open_bus(backend=docker()) as bus:
        assert [info.pool for info in bus.workers()] == ["own"]
        assert await bus.request("echo", {"a": 1}, pool="own") == {"a": 1}


async def test_a_configuration_may_be_longer_than_a_pipe_is() -> None:
    long = "x" * 100_000
    env = dict.fromkeys("ABC", long)
    async with open_bus(worker(env=env), backend=docker()) as bus:
        assert await bus.request("env", {"text": "C"}) == long[:500]


async def test_variables_and_arguments_reach_the_container(engine: Engine) -> None:
    options = docker(
        env={"A": "1", "B": "x=y z"}, args=["--hostname", "boxed"], name_prefix="my.box"
    )
    async with open_bus(worker(), backend=options) as bus:
        assert await bus.request("env", {"text": "A"}) == "1"
        assert await bus.request("env", {"text": "B"}) == "x=y z"
        (name,) = engine.containers()
        assert name.startswith("my.box-")
        assert engine.run("inspect", "--format", "{{.Config.Hostname}}", name).strip() == "boxed"


async def test_the_port_is_on_loopback_and_asks_for_a_token_that_is_nowhere_to_be_seen(
    engine: Engine,
) -> None:
    async with open_bus(worker(), backend=docker()) as bus:
        link = link_of(bus)
        (name,) = engine.containers()
        address, _, port = engine.run("port", name, "8765/tcp").strip().rpartition(":")
        assert address == "127.0.0.1"
        async with await anyio.connect_tcp("127.0.0.1", int(port)) as stream:
            await stream.send(b'{"jsonrpc":"2.0","id":1,"method":"bus/status"}\n')
            assert b"unauthorized" in await stream.receive()
        token = link.token.encode()
        for pid in (link.pid, os.getpid()):
            for what in ("cmdline", "environ"):
                assert token not in Path(f"/proc/{pid}/{what}").read_bytes()
        assert token.decode() not in engine.run("inspect", name)
        assert await bus.request("env", {"text": "TOKEN"}) is None


async def test_the_stdiobus_client_has_a_container_for_each_pool(engine: Engine) -> None:
    own = stdiobus.DockerOptions(
        image=engine.image,
        pull_policy="never",
        engine_path=engine.path,
        extra_args=["--label", RUN],
        env={"A": "1"},
    )
    pools = [stdiobus.PoolConfig(id=name, command="/worker") for name in "pq"]
    config = stdiobus.BusConfig(pools=pools)
    async with stdiobus.AsyncStdioBus(config, backend="docker", docker=own) as bus:
        assert bus.get_backend_type() == "docker"
        assert [await bus.request("env", {"text": "A"}, pool_id=name) for name in "pq"] == [
            "1",
            "1",
        ]
        names = engine.containers()
        assert len(names) == 2
        assert all(name.startswith("stdiobus-") for name in names)


# --- its end ----------------------------------------------------------------------------------------


async def test_it_is_gone_after_an_error_of_the_block(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_bus(echo(), backend=docker()):
            raise ZeroDivisionError
    assert not engine.containers()


async def test_it_is_gone_after_a_cancellation_of_the_block(engine: Engine) -> None:
    with anyio.CancelScope() as scope:
        async with open_bus(worker(), backend=docker(), grace_s=2) as bus:
            async with anyio.create_task_group() as tasks:
                begin(tasks, lambda: bus.request("hold"))
                await received(bus)
                scope.cancel()
    assert scope.cancelled_caught
    assert not engine.containers()


async def test_it_is_gone_where_a_worker_ignores_every_wish(engine: Engine) -> None:
    async with open_bus(worker("w", "stubborn"), backend=docker(), grace_s=0.5) as bus:
        await bus.wait_ready()
    assert not engine.containers()


async def test_it_is_gone_where_its_daemon_hangs(engine: Engine) -> None:
    async with open_bus(echo(), backend=docker(), grace_s=0.2):
        (name,) = engine.containers()
        pid = int(engine.run("inspect", "--format", "{{.State.Pid}}", name))
        os.kill(pid, signal.SIGSTOP)
    assert not engine.containers()


async def test_it_is_gone_wherever_its_start_was_cancelled(engine: Engine) -> None:
    """From before the engine was started to after the container serves: about 0.3 s."""
    for tenths in range(6):
        with anyio.move_on_after(tenths * 0.06):
            async with open_bus(echo(), backend=docker()):
                await anyio.lowlevel.checkpoint()
        assert not engine.containers()


async def test_it_is_gone_where_no_bus_comes_of_it(engine: Engine) -> None:
    """It serves by then, and is ended without the loop."""
    with pytest.raises(InvalidArgumentError, match="handler"):
        async with open_bus(echo(), backend=docker(), handlers={"x": 5}):  # type: ignore[dict-item]
            pass
    assert not engine.containers()


async def test_an_engine_that_is_killed_fails_what_is_in_flight(engine: Engine) -> None:
    async with (
        open_bus(worker(), backend=docker(), grace_s=2) as bus,
        anyio.create_task_group() as tasks,
    ):
        call = begin(tasks, lambda: bus.request("hold"))
        await received(bus)
        os.kill(link_of(bus).pid, signal.SIGKILL)
        with pytest.raises(ConnectionLostError, match="was killed by signal 9") as caught:
            await call.wait()
        assert caught.value.sent
        assert not engine.containers()
        with pytest.raises(ConnectionLostError) as caught:
            await bus.request("echo")
        assert not caught.value.sent


async def test_a_container_that_is_removed_fails_what_is_in_flight(engine: Engine) -> None:
    async with (
        open_bus(worker(), backend=docker(), grace_s=2) as bus,
        anyio.create_task_group() as tasks,
    ):
        call = begin(tasks, lambda: bus.request("hold"))
        await received(bus)
        (name,) = engine.containers()
        await anyio.run_process([engine.path, "rm", "--force", "--time", "0", name])
        with pytest.raises(ConnectionLostError):
            await call.wait()


PROGRAM = """
import sys

import anyio

from anyio_bus import Docker, Pool, open_bus


async def main():
    backend = Docker(sys.argv[1], engine=sys.argv[2], pull="never", args=["--label", sys.argv[3]])
    print("starts", flush=True)
    async with open_bus(Pool("w", ["/worker", "stubborn"]), backend=backend) as bus:
        await bus.wait_ready()
        print("serves", flush=True)
        await bus.request("hold")


anyio.run(main, backend=sys.argv[4])
"""


@pytest.mark.parametrize("when", ["it starts", "it serves"])
async def test_it_ends_with_a_program_that_is_killed(
    engine: Engine, when: str, anyio_backend: tuple[str, Any]
) -> None:
    label = f"killed-{uuid.uuid4().hex}"
    command = [sys.executable, "-c", PROGRAM, engine.image, engine.path, label, anyio_backend[0]]
    async with await anyio.open_process(command, stderr=subprocess.DEVNULL, cwd=ROOT) as program:
        assert program.stdout is not None
        said = b""
        with anyio.fail_after(WAIT_S):
            while b"starts" not in said or (when == "it serves" and b"serves" not in said):
                said += await program.stdout.receive()
        if when == "it starts":
            await engine.until(bool, label)
        program.kill()
        await program.wait()
    await engine.until(lambda names: not names, label)


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ({"image": "localhost/no-such-image"}, 125, "no-such-image"),
        ({"args": ["--no-such-flag"]}, 125, "no-such-flag"),
        ({"args": ["--entrypoint", "/no-such"]}, 127, "no-such"),
        ({"args": ["--entrypoint", "/echo_worker"]}, 2, "usage: echo_worker"),
    ],
)
async def test_a_container_that_does_not_come_to_serve_says_why(
    engine: Engine, options: dict[str, Any], code: int, said: str
) -> None:
    for _ in range(TRIES):
        with pytest.raises(ConnectionLostError, match=f"exited with {code}: ") as caught:
            async with open_bus(echo(), backend=docker(**options)):
                pass
        assert not caught.value.sent
        assert not engine.containers()
        if "it said nothing" not in str(caught.value):
            break
    assert said in str(caught.value)


async def test_a_worker_that_cannot_start_in_the_image_says_so() -> None:
    pool = echo(ready={"method": "initialize"}, cwd="/no/such/folder")
    async with open_bus(pool, backend=docker()) as bus:
        with pytest.raises(Exception, match="/no/such/folder"):
            await bus.request("echo")


async def test_an_image_without_a_configuration_cannot_do_without_pools(engine: Engine) -> None:
    for _ in range(TRIES):
        with pytest.raises(ConnectionLostError, match="exited with 1: ") as caught:
            async with open_bus(backend=docker(config="/no/such")):
                pass
        if "it said nothing" not in str(caught.value):
            break
    assert "/no/such: No such file" in str(caught.value)
    assert not engine.containers()


async def test_a_container_that_takes_too_long_is_given_up(engine: Engine) -> None:
    with pytest.raises(ConnectionLostError, match=r"did not serve within 0.05 s"):
        async with open_bus(echo(), backend=docker(timeout_s=0.05)):
            pass
    assert not engine.containers()


async def test_a_port_that_is_not_published_is_told(engine: Engine) -> None:
    with pytest.raises(ConnectionLostError, match="published no port"):
        async with open_bus(echo(), backend=docker(args=["--network", "host"])):
            pass
    assert not engine.containers()


async def test_what_a_kernel_elsewhere_cannot_do_is_refused_before_anything_starts() -> None:
    with pytest.raises(NotSupportedError, match=r"'docker' cannot do Pool\('e'\)\.spares"):
        async with open_bus(echo(spares=1), backend=docker()):
            pass
