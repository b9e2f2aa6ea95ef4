"""Which pool, which session and which worker a line goes to."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import kit
from tests.daemon.kit import Client, Daemon, config, pool


@pytest.fixture(scope="module")
def pools() -> Iterator[Daemon]:
    """Pools with each profile of sessions, on stdio and a unix socket."""
    yield from kit.running(
        config(
            pool("top", instances=2),
            pool("stripped", envelope="strip", instances=2),
            pool("acp", session="acp", cancel="acp", instances=2),
            pool("path", session="params.thread.id", instances=2),
            pool("ring", balance="round_robin", instances=3),
        ),
        unix=True,
    )


@pytest.fixture
def some(pools: Daemon) -> Iterator[Client]:
    with pools.connect() as client:
        client.until_workers("ready", 11)
        yield client


@pytest.mark.parametrize("top", [{}, {"pool": ""}, {"pool": 7}, {"pool": "nowhere"}])
def test_request_without_a_known_pool_is_answered_with_32052(
    some: Client, top: kit.Message
) -> None:
    """W6."""
    error = some.fail("echo", **top)
    assert error["code"] == -32052
    assert error["data"]["source"] == "anyio-bus"


def test_pool_is_optional_where_there_is_one(client: Client) -> None:
    assert client.call("echo", [1]) == [1]
    assert client.call("echo", [1], pool="p") == [1]
    assert client.fail("echo", pool="q")["code"] == -32052


def test_error_names_the_random_id_of_the_kernel(some: Client) -> None:
    name = some.status()["bus"]
    assert some.fail("echo", pool="nowhere")["data"]["bus"] == name


def test_known_session_says_the_pool(some: Client) -> None:
    pid = some.call("pid", pool="top", sessionId="known")
    assert some.call("pid", sessionId="known") == pid
    assert some.fail("pid", sessionId="unknown")["code"] == -32052


def test_envelope_is_kept_or_stripped_as_the_pool_says(some: Client) -> None:
    """``keep`` is the default of a configuration file."""
    for name, kept in (("top", True), ("stripped", False)):
        key = f"envelope-{name}"
        some.call("seen", pool=name, sessionId=key)
        some.call("echo", {}, pool=name, sessionId=key, agentId="a", _ext=1)
        line = some.call("seen", pool=name, sessionId=key)[0]
        assert ('"pool"' in line, '"sessionId"' in line) == (kept, kept), line
        assert '"agentId"' in line
        assert '"_ext"' in line


@pytest.mark.parametrize("kind", ["request", "notification", "both"])
def test_session_stays_with_its_worker(some: Client, kind: str) -> None:
    """Whoever begins it: a request or a notification."""
    key = f"sticky-{kind}"
    if kind != "request":
        some.notify("begin", {}, pool="ring", sessionId=key)
    pids = {some.call("pid", pool="ring", sessionId=key) for _ in range(7)}
    assert len(pids) == 1


@pytest.mark.parametrize("session", ["", None, 7, ["x"]])
def test_session_that_is_no_text_is_none(some: Client, session: object) -> None:
    pids = {some.call("pid", pool="ring", sessionId=session) for _ in range(3)}
    assert len(pids) == 3


def test_session_names_are_compared_decoded(some: Client) -> None:
    pid = some.call("pid", pool="ring", sessionId="ab")
    for n in range(3):
        some.send(rb'{"id":"e%d","method":"pid","pool":"ring","sessionId":"\u0061b"}' % n)
        assert some.result(f"e{n}") == pid


def test_session_stands_at_the_path_of_the_pool(some: Client) -> None:
    first = some.call("pid", {"thread": {"id": "t"}}, pool="path")
    for _ in range(4):
        assert some.call("pid", {"thread": {"id": "t"}}, pool="path") == first
    others = {some.call("pid", {"thread": {"id": 7}}, pool="path") for _ in range(4)}
    assert len(others) == 2  # no text: no session


@pytest.mark.parametrize("name", ["path", "acp"])
def test_session_at_the_top_is_stronger_than_the_one_at_the_path(some: Client, name: str) -> None:
    def params(session: str) -> kit.Message:
        return {"thread": {"id": session}} if name == "path" else {"sessionId": session}

    pid = some.call("pid", pool=name, sessionId=f"{name}-top")
    for number in range(4):
        said = params(f"{name}-{number}")
        assert some.call("pid", said, pool=name, sessionId=f"{name}-top") == pid
    assert some.call("pid", params(f"{name}-top"), pool=name, sessionId="") == pid


def test_session_new_of_acp_ties_what_its_result_names(some: Client) -> None:
    # A puppet answers session/new with its params: the session that we give it.
    some.call("session/new", {"sessionId": "acp-1"}, pool="acp")
    pid = some.call("pid", {"sessionId": "acp-1"}, pool="acp")
    for _ in range(4):
        assert some.call("pid", {"sessionId": "acp-1"}, pool="acp") == pid


def test_new_session_of_acp_is_the_askers(pools: Daemon, some: Client) -> None:
    """The worker speaks of the session in the very moment after its answer."""
    with pools.connect() as stranger:
        some.start("session/new", {"sessionId": "mine"}, id="new", pool="acp")
        some.result("new")
        line = '{"method":"session/update","params":{"sessionId":"mine"}}'
        stranger.call("say", {"sessionId": "mine", "lines": [line]}, pool="acp")
        assert some.incoming("session/update")["params"] == {"sessionId": "mine"}
        stranger.assert_quiet()


def test_request_goes_to_the_least_busy_worker(some: Client) -> None:
    """W19: not in turn whoever is busy."""
    key = some.start("hold", {"name": "busy"}, pool="top", sessionId="busy")
    busy = some.call("pid", pool="top", sessionId="busy")
    for _ in range(6):
        assert some.call("pid", pool="top") != busy
    some.call("release", pool="top", sessionId="busy")
    some.result(key)
    assert len({some.call("pid", pool="top") for _ in range(2)}) == 2  # ties in turn


def test_round_robin_goes_in_turn(some: Client) -> None:
    pids = [some.call("pid", pool="ring") for _ in range(6)]
    assert pids[:3] == pids[3:]
    assert len(set(pids)) == 3


def test_alternating_pools_each_go_in_turn(some: Client) -> None:
    """W19: no cursor is shared between pools."""
    pairs = [(some.call("pid", pool="top"), some.call("pid", pool="ring")) for _ in range(6)]
    assert len({pid for pid, _ in pairs}) == 2
    assert len({pid for _, pid in pairs}) == 3


def wait_stopped(pid: int) -> None:
    deadline = kit.Deadline()
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        deadline.left(f"the suspension of process {pid}")


def test_suspended_worker_does_not_get_the_share_of_a_working_one() -> None:
    """W12, W19: SIGSTOP."""
    with Daemon(config(pool(instances=2))) as daemon:
        client = daemon.stdio
        client.until_workers("ready", 2)
        stuck = client.start("suspend")
        assert len({client.call("pid") for _ in range(10)}) == 1
        (worker,) = (w for w in client.workers() if w["in_flight"] == 1)
        wait_stopped(worker["pid"])
        os.kill(worker["pid"], signal.SIGCONT)
        assert client.result(stuck) == "resumed"


def test_no_request_overtakes_another_of_its_session(client: Client) -> None:
    for n in range(100):
        client.start("echo", n, id=f"o{n}", sessionId="ordered")
    assert [client.read()["id"] for _ in range(100)] == [f"o{n}" for n in range(100)]


def test_two_clients_take_turns_at_a_busy_pool() -> None:
    """Fairness: one that queued a thousand requests does not keep another waiting for all of them."""
    with Daemon(config(pool(max_in_flight=1)), unix=True) as daemon:
        greedy, modest = daemon.connect(), daemon.connect()
        gate = kit.Gate(daemon)
        greedy.start("wait", {"path": gate.path}, id="gate")
        for n in range(1000):
            greedy.start("echo", n, id=n)
        greedy.call("bus/status")
        for n in range(3):
            modest.start("echo", n, id=n)
        modest.call("bus/status")
        gate.open()
        for n in range(3):
            modest.result(n)
        served = modest.workers()[0]["served"]
        for n in range(1000):
            greedy.result(n)
        assert served < 1000
