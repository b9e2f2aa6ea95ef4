"""The host for tests: it drops what the real one would, and names what the contract forbids."""

from __future__ import annotations

import sys
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from anyio_bus.plugins.nexo import Event, PluginAdapter
from anyio_bus.testing.nexo import PluginFailure, open_host, topic_fits
from tests.plugins.nexo.kit import PROGRAMS

MANIFEST = '[plugin]\nid = "demo"\nversion = "1"\n'

# A plugin that says what it is told: each line of its argument, then what it answers `shutdown`.
PARROT = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "initialize":
        print(sys.argv[1], flush=True)
    elif message.get("method") == "shutdown":
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"ok": True}}), flush=True)
        break
"""
READY = '{"jsonrpc":"2.0","id":1,"result":{"manifest":{"plugin":{"id":"demo"}}}}'


def parrot(*lines: str) -> list[str]:
    return [sys.executable, "-c", PARROT, "\n".join([READY, *lines])]


@pytest.mark.parametrize(
    ("pattern", "topic", "fits"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*", "a", False),
        ("*.b", "a.b", True),
        ("a.>", "a", False),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c", True),
        (">", "a.b", True),
        ("a.>", "b.c", False),
        ("a.*", "a.", False),
        (">", "a..b", False),
    ],
)
def test_topics_fit_patterns_segment_by_segment(pattern: str, topic: str, fits: bool) -> None:
    assert topic_fits(pattern, topic) is fits


async def test_events_that_the_host_would_drop_are_kept_with_the_reason() -> None:
    adapter = PluginAdapter(manifest_toml=MANIFEST)
    good = {"id": "7b0c6c0e-9a8e-4d52-9c1e-2f1f6f5f3a10", "timestamp": "2026-11-21T01:02:03Z"}
    good |= {"topic": "a.b", "source": "demo", "payload": None}
    bad: list[tuple[Any, str]] = [
        ({}, "no topic or no event"),
        ({"topic": "", "event": good}, "no topic or no event"),
        ({"topic": "a.b", "event": 5}, "no topic or no event"),
        ({"topic": "other", "event": good}, "is not allowed"),
        ({"topic": "a.b", "event": {**good, "id": "x"}}, "no UUID"),
        ({"topic": "a.b", "event": {**good, "session_id": 5}}, "no UUID"),
        ({"topic": "a.b", "event": {**good, "timestamp": "2026-11-21T01:02:03"}}, "RFC 3339"),
    ]
    bad += [
        ({"topic": "a.b", "event": {k: v for k, v in good.items() if k != name}}, f"event.{name}")
        for name in good
    ]
    async with open_host(adapter, allowed=["a.*"]) as host:
        for params, _ in bad:
            await adapter.broker.notify("broker.publish", params)
        await adapter.broker.publish("a.b", Event("a.b"))
        await host.next_published()

    assert [params for params, _ in host.dropped] == [params for params, _ in bad]
    for (_, reason), (_, said) in zip(host.dropped, bad, strict=True):
        assert said in reason


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("stray text", "no JSON on the wire"),
        ('{"jsonrpc":"2.0","method":"m","params":NaN}', "no JSON on the wire"),
        ("[]", "no JSON-RPC 2.0"),
        ('{"method":"m"}', "no JSON-RPC 2.0"),
        ('{"jsonrpc":"2.0","id":77,"result":1}', "an answer to nothing"),
        ('{"jsonrpc":"2.0","id":null,"result":1}', "an answer to nothing"),
        ('{"jsonrpc":"2.0","id":1,"result":1,"error":null}', "either result or error"),
        ('{"jsonrpc":"2.0","id":"x","method":"memory.recall"}', "must be a whole number"),
    ],
)
async def test_what_the_contract_forbids_fails_the_test(line: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        async with open_host(parrot(line)):
            pass


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("{}", "plugin.id is None"),
        ('{"manifest":{"plugin":{"id":"other"}}}', "'other' is not 'demo'"),
        ('{"manifest":{"plugin":{"id":"demo"}},"tools":[{"name":"x"}]}', "tool"),
        (
            '{"manifest":{"plugin":{"id":"demo"}},'
            '"tools":[{"name":"x","description":"","input_schema":{}}]}',
            "not in extends.tools",
        ),
        ("[]", "plugin.id is None"),
        ("null", "plugin.id is None"),
        ('{"manifest":[]}', "plugin.id is None"),
        ('{"manifest":{"plugin":{"id":"demo"}},"tools":5}', "tools is no list: 5"),
        ('{"manifest":{"plugin":{"id":"demo"}},"tools":[5]}', "tool 5"),
        ('{"manifest":{"plugin":{"id":"demo","extends":{"tools":5}}}}', "tools is no list: 5"),
    ],
)
async def test_a_greeting_that_the_host_would_not_take_fails_the_test(
    result: str, said: str
) -> None:
    command = parrot()
    command[-1] = f'{{"jsonrpc":"2.0","id":1,"result":{result}}}'
    with pytest.raises(AssertionError, match=said):
        async with open_host(command, plugin_id="demo"):
            pass


@pytest.mark.parametrize("rest", ['"error":5', '"error":{"message":"x"}', '"error":null', '"x":1'])
async def test_an_answer_that_is_none_fails_the_test(rest: str) -> None:
    command = parrot()
    command[-1] = f'{{"jsonrpc":"2.0","id":1,{rest}}}'
    with pytest.raises(AssertionError, match=r"initialize: .*(error)"):
        async with open_host(command):
            pass


async def test_what_a_plugin_said_is_told_when_it_does_not_answer() -> None:
    waits = "import sys; print('no id'); print('I wait', file=sys.stderr); sys.stdin.read()"
    async with open_host([sys.executable, "-uc", waits], initialize=False) as host:
        with anyio.fail_after(5):
            while not (host.stderr and host.violations):
                with pytest.raises(TimeoutError, match=r"has not come in 0\.01 s"):
                    await host.request("ask", timeout=0.01)
        with pytest.raises(TimeoutError, match=r"no JSON on the wire(?s:.)*stderr: I wait"):
            await host.request("ask", timeout=0.01)
        await host.close_input()
        host.violations.clear()


async def test_a_flood_of_what_a_plugin_said_is_cut() -> None:
    floods = "import sys; print('no id\\n' * 10_000); sys.exit('begins' + 'x' * 1_000_000 + 'ends')"
    with pytest.raises(EOFError, match=r"no JSON on the wire(?s:.)*xends") as caught:
        async with open_host([sys.executable, "-c", floods]):
            pass
    assert "begins" not in str(caught.value)
    assert len(str(caught.value)) < 12_000


async def test_a_plugin_that_ends_or_never_starts_is_told_with_its_stderr() -> None:
    with pytest.raises(EOFError, match="no wish to live"):
        async with open_host([sys.executable, "-c", "import sys; sys.exit('no wish to live')"]):
            pass
    with pytest.raises(EOFError, match="has ended with 3, and the answer to initialize"):
        async with open_host([sys.executable, "-c", "import sys; sys.exit(3)"]):
            pass
    with pytest.raises(FileNotFoundError):
        async with open_host(["/no/such/program"]):
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="there are no groups to kill")
async def test_what_a_plugin_leaves_behind_is_killed() -> None:
    """The suite fails a test that leaves a process."""
    child = "import sys, time; print('runs', file=sys.stderr, flush=True); time.sleep(1000)"
    starts = (
        "import subprocess\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], stdin=-3, stdout=-3)  # DEVNULL\n"
    )
    command = parrot()
    command[2] = PARROT.replace("for line", f"{starts}for line", 1)
    with anyio.fail_after(5):
        async with open_host(command) as host:
            while "runs" not in host.stderr:
                await anyio.lowlevel.checkpoint()
    assert host.returncode == 0


async def test_what_the_test_raises_comes_out_as_it_is_and_the_plugin_is_gone() -> None:
    command = [sys.executable, str(PROGRAMS / "bare.py"), "asyncio"]
    with pytest.raises(KeyError, match="mine"):
        async with open_host(command):
            raise KeyError("mine")


async def test_a_plugin_process_ends_with_its_input_as_well() -> None:
    command = [sys.executable, str(PROGRAMS / "bare.py"), "asyncio"]
    async with open_host(command) as host:
        await host.close_input()
    assert host.returncode == 0


async def test_a_silent_plugin_is_not_waited_for() -> None:
    async def silent(_params: Any) -> None:
        await anyio.sleep_forever()

    adapter = PluginAdapter(manifest_toml=MANIFEST, drain_s=0.1)
    adapter.on_request("silent", silent)
    async with open_host(adapter) as host:
        with pytest.raises(TimeoutError):
            await host.request("silent", timeout=0.01)
        with pytest.raises(TimeoutError):
            await host.next_published(0.01)
        with pytest.raises(TimeoutError):
            await host.next_notification(0.01)
        with pytest.raises(PluginFailure, match="method not found"):
            await host.request("none")
        await host.shutdown()
        with pytest.raises(EOFError):
            await host.next_published()
