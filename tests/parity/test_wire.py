"""The transcripts over the daemon, by clients that speak the wire: in Python, in C, on Node."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.daemon import kit
from tests.parity.script import CLIENTS, SCRIPTS, Script
from tests.parity.stage import (
    Client,
    ProgramClient,
    WireClient,
    Workers,
    configuration,
    perform,
)


def each(scripts: list[Script]) -> pytest.MarkDecorator:
    """Make a test of each of these transcripts."""
    assert scripts
    return pytest.mark.parametrize("script", scripts, ids=[script.name for script in scripts])


def does(script: Script, *deeds: str) -> bool:
    """Tell whether a client does one of these in a transcript."""
    return any(step.does in deeds for step in script.steps if step.who in CLIENTS)


IN_JSON = [s for s in SCRIPTS if not does(s, "sends text")]
# Over TCP a client that is gone looks like one that asks for nothing more, until it is written to.
OVER_TCP = [s for s in SCRIPTS if not does(s, "goes")]
# Over stdio there is one client, and the daemon ends with it.
OVER_STDIO = [s for s in SCRIPTS if s.clients() == ["a"] and not does(s, "ends", "goes")]


@contextlib.contextmanager
def over_daemon(script: Script, workers: Workers, **options: bool) -> Iterator[kit.Daemon]:
    """Run the daemon with a transcript's pools; in the end all of its workers are gone."""
    config = configuration(script.about, workers.command)
    with kit.Daemon(config, **options) as daemon:
        workers.come(sum(pool["instances"] for pool in config["pools"]))
        yield daemon
        assert daemon.stop() == 0
        workers.assert_ended()


@each(SCRIPTS)
def test_daemon_on_a_socket(script: Script, workers: Workers) -> None:
    with over_daemon(script, workers, unix=True) as daemon:
        clients: dict[str, Client] = {
            name: WireClient(daemon.connect()) for name in script.clients()
        }
        perform(script, workers, clients, exact=True)


@each(OVER_TCP)
def test_daemon_over_tcp_with_clients_in_c(
    script: Script, workers: Workers, c_client: list[str]
) -> None:
    with over_daemon(script, workers, tcp=True) as daemon:
        by_programs(script, workers, [*c_client, "tcp", str(daemon.port())], exact=True)


@each(IN_JSON)
def test_daemon_on_a_socket_with_clients_on_node(
    script: Script, workers: Workers, node_client: list[str]
) -> None:
    with over_daemon(script, workers, unix=True) as daemon:
        by_programs(script, workers, [*node_client, "unix", daemon.unix_path], exact=False)


def by_programs(script: Script, workers: Workers, command: list[str], *, exact: bool) -> None:
    """Perform a transcript with a program for each client."""
    programs = {name: ProgramClient(command, exact=exact) for name in script.clients()}
    try:
        perform(script, workers, {**programs}, exact=exact)
    finally:
        for program in programs.values():
            program.close()


@each(OVER_STDIO)
def test_daemon_over_stdio(script: Script, workers: Workers) -> None:
    with over_daemon(script, workers) as daemon:
        perform(script, workers, {"a": WireClient(daemon.stdio)}, exact=True)


@each(SCRIPTS)
def test_transcripts_are_about_something(script: Script) -> None:
    """A file that plays nothing would pass everywhere."""
    seen = [step for step in script.steps if step.does == "gets"]
    assert seen
    assert script.clients()
