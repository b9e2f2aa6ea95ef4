"""A plugin process under pressure: floods, a host that does not read, odd places for its streams."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.plugins.nexo.kit import Plugin, event, invoke, plugin, result, run
from tests.worker.kit import line, request

SHUTDOWN = request(2, "shutdown", {})
STUCK = event("code", "await anyio.sleep_forever()")


def resident_kib(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def write_all(process: Plugin, data: bytes) -> threading.Thread:
    """Write from a thread: the plugin may pause."""
    thread = threading.Thread(target=process.write, args=(data,))
    thread.start()
    return thread


# -- 5.6: one task for each event, without a limit -------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_flood_of_stuck_events_costs_bounded_memory_and_tools_still_work(loop: str) -> None:
    options = {"max_concurrency": 8, "max_queued": 100, "drain_s": 0.4}
    with plugin(loop, options=options) as process:
        process.write(*[STUCK] * 200)
        assert process.alive()
        before = resident_kib(process.process.pid)
        noted = line(event("t" * 70_000, 1))  # the log must not hold all of it: nobody reads it
        writer = write_all(process, noted + line(STUCK) * 20_000)
        assert process.alive()
        writer.join()
        assert process.alive()

        assert resident_kib(process.process.pid) - before < 6000  # the other one: 3 to 4 kB each
        before = resident_kib(process.process.pid)
        held = line(run(5, "await anyio.sleep_forever()"))
        process.write((held + line(STUCK) * 250) * 100)
        assert process.ask(SHUTDOWN)["error"]["code"] == -33404
        assert resident_kib(process.process.pid) - before < 3000  # not all that came with them
        assert [process.read()["id"] for _ in range(100)] == [5] * 99 + [2]


def test_a_burst_is_waited_for_and_nothing_of_it_is_dropped(loop: str) -> None:
    with plugin(loop, options={"max_concurrency": 2, "max_queued": 10}) as process:
        code = "await anyio.sleep(0.0005)\nawait broker.publish('t', Event('t'))"
        writer = write_all(process, line(event("code", code)) * 400)
        for _ in range(400):
            process.published()
        writer.join()

        _, errors = process.finish()
        assert "dropped" not in errors


def test_answers_to_calls_get_through_a_flood_that_waits_for_them(loop: str) -> None:
    """Every lane waits for an answer that stands behind thousands of events."""
    options = {"max_concurrency": 4, "max_queued": 10}
    with plugin(loop, options=options) as process:
        code = "await broker.memory_recall(agent_id='a', query='q')\nshared['log'].append(1)"
        process.write(*[event("code", code)] * 4)
        keys = [process.read()["id"] for _ in range(4)]
        answers = b"".join(line(result(key, {"entries": []})) for key in keys)
        process.write(line(event("other", 1)) * 5000 + answers)
        assert process.run("while len(shared['log']) < 4: await anyio.sleep(0.001)\nreturn 1") == 1
        assert process.end() == 0


# -- 5.6: writes that block ------------------------------------------------------------------------


def test_a_host_that_does_not_read_holds_up_publishers_and_nothing_else(loop: str) -> None:
    with plugin(loop, options={"drain_s": 0.4}) as process:
        code = """
            while True:
                await broker.publish("t", Event("t", "", "x" * 1000))
                shared["log"].append(1)
        """
        process.write(event("code", code))
        count = "shared['at_shutdown'] = \"os.write(2, b'ended %d\\\\n' % len(shared['log']))\""
        process.write(run(5, count))
        while process.read().get("id") != 5:
            pass
        process.process.terminate()

        said = process.errors_until("ended")
        assert int(said.split()[1]) < 10_000
        assert process.process.wait(10) == 0


def test_a_host_that_answers_on_its_reading_thread_does_not_deadlock(loop: str) -> None:
    code = """
        async def one():
            await broker.memory_recall(agent_id="a" * 100, query="q" * 100)
        async with anyio.create_task_group() as tasks:
            for _ in range(2000):
                tasks.start_soon(one)
        return "all"
    """
    with plugin(loop) as process:
        process.write(run(5, code))
        for _ in range(2000):
            process.write(result(process.read()["id"], {"entries": []}))

        assert process.read() == result(5, "all")
        assert process.end() == 0


def test_a_stderr_that_nobody_reads_holds_up_nothing(loop: str) -> None:
    code = """
        for number in range(5000):
            print("stray", number, "x" * 50)
        return "printed"
    """
    with plugin(loop) as process:
        assert process.run("raise ValueError('x' * 300_000)")["code"] == -33403
        assert process.run(code) == "printed"
        process.write(b"nonsense\n" * 50)
        assert process.run("raise KeyError")["code"] == -33403
        process.write(event("code", "raise KeyError"))
        assert process.alive()
        process.errors_until("stray 0 ")  # now somebody reads, so there is room again
        reader = threading.Thread(target=process.errors_until, args=("lines are lost",))
        reader.start()
        assert process.run("print('after')") is None
        reader.join()
        assert process.ask(SHUTDOWN) == result(2, {"ok": True})
        assert process.process.wait(10) == 0


# -- 5.6: other places than pipes ------------------------------------------------------------------


def test_one_socket_can_be_stdin_and_stdout(loop: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, plugin(loop, stdin=theirs, stdout=theirs) as process:
        theirs.close()
        ours.sendall(line(run(5, "return 'x' * 800_000")))
        file = ours.makefile("rb")
        with file:
            assert json.loads(file.readline()) == result(5, "x" * 800_000)
            ours.sendall(line(SHUTDOWN))
            assert json.loads(file.readline()) == result(2, {"ok": True})
            assert file.read() == b""
        assert process.process.wait(10) == 0


# -- 5.7: other threads, other loops ---------------------------------------------------------------


@pytest.mark.parametrize("where", ["thread", "no-signals", "own-loop", "own-run"])
def test_the_adapter_runs_where_signals_cannot_be_had(loop: str, where: str) -> None:
    with plugin(loop, "elsewhere", options={"where": where}) as process:
        assert process.ask(request(5, "custom", {"a": 1})) == result(5, {"a": 1})
        assert process.ask(SHUTDOWN) == result(2, {"ok": True})
        rest, errors = process.finish()

    assert rest == []
    assert process.process.returncode == 0
    assert errors.count("SIGTERM") == (1 if where in {"thread", "no-signals"} else 0)
    assert "Traceback" not in errors


def test_an_adapter_runs_once(loop: str) -> None:
    with plugin(loop, "elsewhere", options={"where": "twice"}) as process:
        assert process.ask(SHUTDOWN) == result(2, {"ok": True})
        _, errors = process.finish()

    assert "PluginAdapter.run() already invoked" in errors


def test_uvloop_serves_as_well() -> None:
    with plugin("uvloop") as process:
        process.write(event("echo", 1), invoke(5, "demo_add", {"a": 1}))
        assert {process.read().get("id") for _ in range(2)} == {None, 5}
        assert process.ask(SHUTDOWN) == result(2, {"ok": True})
        assert process.process.wait(10) == 0


def test_importing_the_sdk_loads_neither_the_bus_nor_a_loop() -> None:
    code = "import sys, anyio_bus.plugins.nexo; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    modules = set(loaded.decode().split())
    unwanted = {"asyncio", "trio", "json", "anyio_bus._bus", "anyio_bus._backends"}
    assert not modules & unwanted
