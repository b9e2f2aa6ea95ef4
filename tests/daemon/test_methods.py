"""What the kernel answers itself (kernel.md, "Methods of the kernel itself")."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.daemon import kit
from tests.daemon.kit import Client, Daemon, config, pool


@pytest.fixture(scope="module")
def both() -> Iterator[Daemon]:
    yield from kit.running(unix=True, admin=True)


@pytest.fixture
def admin(both: Daemon) -> Iterator[Client]:
    with both.connect_admin() as client:
        yield client


@pytest.fixture
def plain(both: Daemon) -> Iterator[Client]:
    with both.connect() as client:
        yield client


def test_status_tells_of_pools_workers_and_counters(plain: Client) -> None:
    """W23."""
    plain.until_workers("ready")
    status = plain.status()
    assert status["backend"] == "native"
    assert status["state"] == "running"
    assert status["version"]
    (report,) = status["pools"]
    assert (report["id"], report["instances"]) == ("p", 1)
    (worker,) = report["workers"]
    assert worker["pid"] == plain.call("pid")
    assert (worker["worker"], worker["state"], worker["generation"]) == (0, "ready", 1)
    counters = (
        "messages_in messages_out bytes_in bytes_out stderr_bytes bad_lines late_answers"
        " stray_answers withdrawn cancelled worker_restarts routing_errors"
        " workers live_requests queued_requests sessions"
    )
    assert set(counters.split()) <= set(status["statistics"])


def test_counters_count(plain: Client) -> None:
    before = plain.statistics()
    plain.call("echo")
    plain.call("stderr", {"text": "12345\n"})
    plain.fail("echo", pool="nowhere")
    plain.until(lambda s: s["statistics"]["stderr_bytes"] == before["stderr_bytes"] + 6)
    after = plain.statistics()
    assert after["messages_in"] == before["messages_in"] + 2
    assert after["messages_out"] == before["messages_out"] + 2
    assert after["bytes_in"] > before["bytes_in"]
    assert after["bytes_out"] > before["bytes_out"]
    assert after["routing_errors"] == before["routing_errors"] + 1


def test_unknown_method_of_the_kernel_is_answered_with_32601(plain: Client) -> None:
    assert plain.fail("bus/nothing")["code"] == -32601
    plain.notify("bus/nothing")
    plain.assert_quiet()


@pytest.mark.parametrize("method", ["bus/restart", "bus/resize", "bus/tap"])
def test_admin_methods_are_refused_to_others(plain: Client, method: str) -> None:
    """W23: -32601, as if they were not there."""
    assert plain.fail(method, {"pool": "p", "instances": 2})["code"] == -32601
    assert len(plain.workers()) == 1


def test_reserved_methods_may_be_passed_on() -> None:
    with Daemon(config(reserved_methods=False)) as daemon:
        assert daemon.stdio.call("bus/status", {"my": "own"}) == {"my": "own"}


def test_stdio_has_admin_rights() -> None:
    with Daemon() as daemon:
        assert daemon.stdio.call("bus/resize", {"pool": "p", "instances": 2}) == {}
        daemon.stdio.until_workers("ready", 2)


def test_watch_tells_of_workers_clients_and_bad_lines(both: Daemon, plain: Client) -> None:
    assert plain.call("bus/watch", {"events": ["client", "unheard of"]}) == {}
    with both.connect() as visitor:
        came = plain.incoming("bus/event")["params"]
        assert came == {**came, "event": "client", "state": "connected", "peer": "unix"}
        visitor.call("say", {"lines": ["not watched"]})
    gone = plain.incoming("bus/event")["params"]
    assert gone == {**gone, "event": "client", "client": came["client"], "state": "gone"}
    assert gone["reason"]
    plain.call("bus/watch", {"events": ["line_bad"]})  # replaces
    with both.connect() as visitor:
        visitor.call("say", {"lines": ["watched"]})
    assert plain.incoming("bus/event")["params"]["prefix"] == "watched"
    plain.call("bus/watch", {"events": []})  # ends
    with both.connect() as visitor:
        visitor.call("say", {"lines": ["not watched"]})
    plain.assert_quiet()


@pytest.mark.parametrize("params", [{}, {"events": "client"}, []])
def test_watch_without_a_list_is_answered_with_32602(plain: Client, params: object) -> None:
    assert plain.fail("bus/watch", params)["code"] == -32602


def test_watcher_sees_a_death_and_what_follows() -> None:
    with Daemon() as daemon:
        client = daemon.stdio
        client.until_workers("ready")
        client.call("bus/watch", {"events": ["worker_changed"]})
        pid = client.call("pid")
        client.fail("crash", {"code": 7, "stderr": "last words\n"})
        events = []
        while not events or events[-1]["state"] != "ready":
            events.append(client.incoming("bus/event")["params"])
        states = [event["state"] for event in events]
        assert states[0] in {"backoff", "stopping"}
        assert states[-2:] == ["starting", "ready"]
        buried = next(event for event in events if event["state"] == "backoff")
        assert buried["failure"]["exit_code"] == 7
        assert buried["failure"]["pid"] == pid
        assert "last words" in buried["failure"]["stderr_tail"]
        assert events[-1]["generation"] == 2
        assert events[-1]["pid"] == client.call("pid")


def test_restart_drains_and_starts_a_successor() -> None:
    with Daemon(config(pool(instances=2))) as daemon:
        client = daemon.stdio
        client.until_workers("ready", 2)
        first = {w["worker"]: w["pid"] for w in client.workers()}
        client.start("hold", {"name": "x"}, id="h", sessionId="s")
        client.call("holding", sessionId="s")
        (kept,) = (w["worker"] for w in client.workers() if w["in_flight"])
        assert client.call("bus/restart", {"pool": "p", "worker": kept}) == {}
        assert {w["state"] for w in client.workers() if w["worker"] == kept} == {"draining"}
        assert client.call("pid") == first[1 - kept]
        client.until_workers("draining")
        client.start("release", id="r", sessionId="s")  # cannot: closed to new work
        client.call("bus/restart", {"pool": "p", "worker": 1 - kept})
        client.until(
            lambda s: first[1 - kept] not in [w["pid"] for w in s["pools"][0]["workers"]],
            "the successor of the idle one",
        )


def test_restart_lets_a_worker_finish_what_it_has() -> None:
    with Daemon() as daemon:
        client = daemon.stdio
        gate = kit.Gate(daemon)
        pid = client.call("pid")
        client.start("wait", {"path": gate.path}, id="w")
        client.until(lambda s: s["pools"][0]["workers"][0]["in_flight"] == 1)
        client.call("bus/restart", {"pool": "p"})
        client.start("pid", id="next")
        client.assert_quiet()
        gate.open()
        assert client.result("w") == "waited"
        assert client.result("next") != pid
        assert client.workers()[0]["generation"] == 2


def test_restart_of_an_unknown_worker_is_refused(admin: Client) -> None:
    assert admin.fail("bus/restart", {"pool": "p", "worker": 99})["code"] == -32602
    assert admin.fail("bus/restart", {"pool": "q"})["code"] == -32052


def test_restart_starts_a_parked_worker_at_once() -> None:
    with Daemon(config(pool(), limits={"max_restarts": 0})) as daemon:
        client = daemon.stdio
        client.fail("crash")
        client.until_workers("parked")
        assert client.fail("echo")["code"] == -32051
        client.call("bus/restart", {"pool": "p"})
        assert client.call("echo", 1) == 1


def test_resize_adds_and_retires_workers() -> None:
    with Daemon(unix=True, admin=True) as daemon:
        client = daemon.connect_admin()
        client.call("bus/resize", {"pool": "p", "instances": 4})
        assert len(client.until_workers("ready", 4)) == 4
        client.call("bus/resize", {"pool": "p", "instances": 1})
        status = client.until(lambda s: len(s["pools"][0]["workers"]) == 1)
        assert status["pools"][0]["instances"] == 1
        assert status["pools"][0]["workers"][0]["worker"] == 0
        assert client.call("echo", 1) == 1


@pytest.mark.parametrize("instances", [0, -1, "2", None, 10**9])
def test_resize_to_nonsense_is_refused(admin: Client, instances: object) -> None:
    assert admin.fail("bus/resize", {"pool": "p", "instances": instances})["code"] == -32602


def test_tap_shows_every_line_of_every_pipe(both: Daemon, admin: Client, plain: Client) -> None:
    assert admin.call("bus/tap", {}) == {}
    plain.call("echo", {"tapped": 1}, id="mine")
    plain.call("say", {"lines": ["no message"]})
    frames = [admin.incoming("bus/frame")["params"] for _ in range(5)]
    assert [frame["direction"] for frame in frames] == [
        "to_worker", "from_worker", "to_worker", "from_worker", "from_worker",
    ]  # fmt: skip
    assert [frame["kind"] for frame in frames] == [
        "request", "response", "request", "bad", "response",
    ]  # fmt: skip
    assert frames[0]["message"]["params"] == {"tapped": 1}
    assert frames[0]["method"] == "echo"
    assert frames[0]["pool"] == "p"
    assert frames[0]["worker"] == 0
    assert frames[0]["size"] == len(json.dumps(frames[0]["message"])) + 1
    assert "bm8gbWVzc2FnZQ" in frames[3]["line"]


def test_tap_of_one_pool_shows_no_other() -> None:
    with Daemon(config(pool("a"), pool("b"))) as daemon:
        client = daemon.stdio
        client.call("bus/tap", {"pool": "b"})
        client.call("echo", "unseen", pool="a")
        client.call("echo", "seen", pool="b")
        frame = client.incoming("bus/frame")["params"]
        assert (frame["pool"], frame["message"]["params"]) == ("b", "seen")


def test_method_of_the_kernel_as_a_notification_is_not_answered(plain: Client) -> None:
    for method in ("bus/status", "bus/watch", "bus/session", "bus/session_end", "bus/auth"):
        plain.notify(method, {})
    plain.assert_quiet()
