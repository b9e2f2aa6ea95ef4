"""The transcripts with the peers that our names come from: ``nox -s parity`` installs them.

``stdiobus`` is their client, over our daemon; ``STDIO_BUS`` names their daemon.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anyio_bus import stdiobus as ours
from tests.daemon import kit
from tests.parity.callers import calling, perform_by_calls
from tests.parity.script import SCRIPTS, Script
from tests.parity.stage import Client, WireClient, Workers, configuration, existing_daemon, perform
from tests.parity.test_facade import BY_CALLS

pytestmark = [
    # Their client leaves the pipes of its daemon to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("garbage_collected"),
]
VERSION = "2.2.1"
LITTLE_S = 1.0  # for what must not come
SOON_S = 0.25  # for their daemon to end: it does so by a signal alone, after 40 % of that

BY_BOTH = [s for s in SCRIPTS if not s.about.stdio_bus]
BY_US_ALONE = [s for s in SCRIPTS if s.about.stdio_bus]
BY_CALLS_OF_BOTH = [s for s in BY_CALLS if not s.about.stdio_bus]


def each(scripts: list[Script]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("script", scripts, ids=[script.name for script in scripts])


HAS_THEIRS = importlib.util.find_spec("stdiobus") is not None
if not HAS_THEIRS and "STDIO_BUS" not in os.environ:
    why = "NOT TESTED against the stdiobus client and daemon of others: nox -s parity brings them"
    pytest.skip(why, allow_module_level=True)


@pytest.fixture
def garbage_collected() -> Iterator[None]:
    """Collect what a test has dropped."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    """Return their client."""
    if not HAS_THEIRS:
        pytest.skip("NOT TESTED with the client of others: nox -s parity installs it")
    import stdiobus

    assert stdiobus.__version__ == VERSION
    return stdiobus


@pytest.fixture(scope="module")
def their_daemon() -> str:
    """Return their daemon."""
    named = os.environ.get("STDIO_BUS")
    if not named:
        pytest.skip("NOT TESTED with the daemon of others: nox -s parity brings it")
    return named


def over(api: ModuleType, path: str) -> dict[str, Any]:
    return {"backend": "subprocess", "subprocess": api.SubprocessOptions(binary_path=path)}


# --- their client, our daemon ---------------------------------------------------------------------


@each(BY_CALLS)
def test_their_client_over_our_daemon(script: Script, workers: Workers, theirs: ModuleType) -> None:
    perform_by_calls(script, workers, theirs, "asyncio", **over(theirs, kit.find_daemon()))


# --- their daemon ---------------------------------------------------------------------------------


def perform_over(
    path: str, script: Script, workers: Workers, patience_s: float = kit.PATIENCE_S
) -> None:
    """Perform a transcript over their daemon, by our own clients."""
    config = configuration(script.about, workers.command)
    with existing_daemon(path, config) as connect:
        workers.come(sum(pool["instances"] for pool in config["pools"]))
        clients: dict[str, Client] = {name: WireClient(connect()) for name in script.clients()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kit, "PATIENCE_S", patience_s)
            perform(script, workers, clients, exact=True)
    workers.assert_ended()


@each(BY_BOTH)
def test_their_daemon_does_the_same(script: Script, workers: Workers, their_daemon: str) -> None:
    perform_over(their_daemon, script, workers)


@each(BY_US_ALONE)
def test_their_daemon_differs_as_we_say(
    script: Script, workers: Workers, their_daemon: str
) -> None:
    with pytest.raises((AssertionError, OSError, pytest.fail.Exception)) as caught:
        perform_over(their_daemon, script, workers, LITTLE_S)
    assert script.about.stdio_bus
    (note,) = caught.value.__notes__
    step = re.match(r"[\w-]+, step (\d+): ", note)
    assert step, note
    assert int(step[1]) >= script.about.stdio_bus.step, note


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@each(BY_CALLS_OF_BOTH)
def test_our_client_over_their_daemon(
    script: Script, workers: Workers, their_daemon: str, loop: str, tmp_path: Path
) -> None:
    """Theirs is no kernel of ours, but it speaks on stdio what a worker does."""
    inner = configuration(script.about, workers.command)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(inner))
    outer = ours.BusConfig([ours.PoolConfig("p", their_daemon, ["--config", str(config)])])
    with calling(ours, outer, loop, stop_s=SOON_S) as caller:
        workers.come(sum(pool["instances"] for pool in inner["pools"]))
        perform(script, workers, {"a": caller}, exact=False)
    workers.assert_ended()
