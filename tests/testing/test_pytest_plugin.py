"""The pytest plugin in runs of its own: clean tests pass, leaking ones fail, on both loops."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

PLUGINS = ("--disable-plugin-autoload", "-p", "anyio", "-p", "anyio_bus.testing.pytest_plugin")

WORKER = '''
import os, sys, subprocess
import anyio, msgspec, pytest
from anyio_bus import BusConfig, Memory, Pool

ECHO = Pool("echo", [sys.executable, "-c", """
import sys
for line in sys.stdin:
    head, _, tail = line.partition('"method"')
    print(head + '"result":"pong"}', flush=True)
"""])

async def echo(receive, send):
    while data := await receive():
        for line in data.splitlines():
            key = msgspec.json.decode(line)["id"]
            await send(msgspec.json.encode({"id": key, "result": "pong"}) + b"\\n")
'''


def run(pytester: pytest.Pytester, code: str, *args: str) -> pytest.RunResult:
    pytester.makepyfile(WORKER + code)
    return pytester.runpytest_subprocess(*PLUGINS, *args, timeout=30)


CLEAN = """
@pytest.mark.anyio_bus(ECHO)
async def test_pools_by_position(bus):
    assert await bus.request("ping") == "pong"

@pytest.mark.anyio_bus(pools=[ECHO], timeout=10, backend="python")
async def test_pools_by_name_with_options(bus):
    assert await bus.request("ping") == "pong"
    assert bus.backend == "python"

@pytest.mark.anyio_bus(backend=Memory({"echo": echo}))
async def test_memory_needs_no_pools(bus):
    assert await bus.request("ping", pool="echo") == "pong"
    assert bus.backend == "memory"

@pytest.mark.parametrize("bus_backend", ["auto", Memory({"echo": echo})])
@pytest.mark.anyio_bus(ECHO)
async def test_any_backend_by_parameter(bus):
    assert await bus.request("ping") == "pong"

@pytest.mark.anyio_bus(ECHO)
async def test_the_test_may_stop_the_bus_itself(bus):
    await bus.stop()

@pytest.mark.anyio_bus(ECHO)
async def test_further_buses_close_in_any_order(bus, bus_host):
    first = await bus_host.open(ECHO)
    second = await bus_host.open(ECHO)
    await bus_host.aclose(first)
    assert await second.request("ping") == await bus.request("ping") == "pong"

@pytest.mark.anyio_bus(ECHO)
class TestInAClass:
    @pytest.mark.anyio_bus(timeout=1)
    async def test_the_closer_marker_adds_to_the_outer_one(self, bus):
        assert await bus.request("ping") == "pong"

@pytest.mark.anyio
async def test_the_check_alone(bus_leak_check):
    await anyio.sleep(0)

def test_the_check_alone_without_a_loop(bus_leak_check):
    pass
"""


def test_clean_tests_pass_on_both_loops(pytester: pytest.Pytester) -> None:
    result = run(pytester, CLEAN, "-Werror")
    result.assert_outcomes(passed=9 * 2 + 1)


CONFIGURED = """
@pytest.fixture(params=["pool", "pools", "config", "mapping", "path"])
def bus_config(request, tmp_path):
    mapping = {"pools": [{"id": "echo", "command": list(ECHO.argv)}]}
    path = tmp_path / "anyio-bus.json"
    path.write_bytes(msgspec.json.encode(mapping))
    forms = {
        "pool": ECHO, "pools": [ECHO], "config": BusConfig([ECHO]), "mapping": mapping, "path": path
    }
    return forms[request.param]

async def test_it(bus):
    assert await bus.request("ping") == "pong"
"""


def test_the_configuration_comes_from_a_fixture_in_any_form(pytester: pytest.Pytester) -> None:
    run(pytester, CONFIGURED).assert_outcomes(passed=5 * 2)


def test_the_configuration_is_found_as_open_bus_finds_it(pytester: pytest.Pytester) -> None:
    pytester.makefile(".json", **{"anyio-bus": '{"pools": [{"id": "found", "command": ["cat"]}]}'})
    code = """
async def test_it(bus):
    assert [worker.pool for worker in bus.workers()] == ["found"]
"""
    run(pytester, code).assert_outcomes(passed=2)


def test_a_wrong_configuration_is_an_error_that_names_the_field(pytester: pytest.Pytester) -> None:
    code = """
@pytest.mark.anyio_bus(config={"pools": []})
async def test_it(bus):
    pass
"""
    result = run(pytester, code)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*InvalidArgumentError: *pools*"])


LEAKING = """
async def stray():
    await anyio.sleep_forever()

def leave_a_task():
    if "trio" in sys.modules and sys.modules["trio"].lowlevel.in_trio_task():
        sys.modules["trio"].lowlevel.spawn_system_task(stray)
    else:
        import asyncio
        globals()["kept"] = asyncio.create_task(stray())

LEAKS = {
    "child": lambda: subprocess.Popen(["sleep", "1001"]),
    "grandchild": lambda: subprocess.run(["sh", "-c", "setsid sleep 1002 >/dev/null 2>&1 &"]),
    "descriptor": os.pipe,
    "task": leave_a_task,
}

@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr("anyio_bus.testing._leaks.SETTLE_S", 0.05)

@pytest.mark.parametrize("what", LEAKS)
@pytest.mark.anyio_bus(ECHO)
async def test_leaking(bus, what):
    await bus.request("ping")
    LEAKS[what]()

async def test_the_next_one_is_not_blamed(anyio_backend, bus_leak_check):
    pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_test_that_leaves_something_fails_and_the_next_one_does_not(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)  # there pytest prints each error twice
    result = run(pytester, LEAKING)
    result.assert_outcomes(passed=5 * 2, errors=4 * 2)
    text = result.stdout.str()
    assert text.count("the test left behind:") == 4 * 2
    for left in (
        r"process \d+: sleep 1001",
        r"process \d+: sleep 1002",
        r"fd \d+: pipe",
        "task .*stray",
    ):
        assert len(re.findall(left, text)) >= 2


def test_a_test_may_be_allowed_to_leave_something(pytester: pytest.Pytester) -> None:
    code = """
@pytest.mark.anyio_bus(ECHO, leak_check=False)
async def test_it(bus):
    os.pipe()
"""
    run(pytester, code).assert_outcomes(passed=2)


def test_the_marker_is_registered(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess(*PLUGINS, "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.anyio_bus(*pools*"])


def test_the_plugin_costs_nothing_where_it_is_not_used() -> None:
    code = "import sys, pytest, anyio_bus.testing.pytest_plugin; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"anyio", "msgspec", "trio", "anyio_bus._bus"} & set(loaded.stdout.split())
