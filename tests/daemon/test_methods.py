"""What the kernel answers itself (kernel.md, "Methods of the kernel itself")."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import ANY

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


@pytest.mark.parametrize("params", [{"pool": "nowhere"}, {"worker": "x"}])
def test_tap_that_is_refused_leaves_the_one_that_is_there(params: object) -> None:
    with Daemon(config(pool("a"), pool("b"))) as daemon:
        client = daemon.stdio
        client.call("bus/tap", {"pool": "b"})
        assert client.fail("bus/tap", params)["code"] in {-32052, -32602}
        client.call("echo", pool="a")
        client.assert_quiet()


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


# --- what a client needs that is a bus of its own -------------------------------------------------


def events_of(client: Client, name: str) -> list[dict[str, Any]]:
    """Return what was said of this until now; everything else that came is forgotten."""
    client.status()
    lines, client.others = client.others, []
    events = [line["params"] for line in lines if line.get("method") == "bus/event"]
    return [event for event in events if event["event"] == name]


def test_watcher_of_sessions_hears_of_its_own_and_of_no_others(both: Daemon, plain: Client) -> None:
    plain.call("bus/watch", {"events": ["session"]})
    with both.connect() as other:
        other.call("echo", sessionId="theirs")
        plain.call("echo", sessionId="mine")
        plain.call("echo", sessionId="mine")
        other.call("echo", sessionId="mine")
        bound = {
            "event": "session",
            "bus": ANY,
            "id": "mine",
            "pool": "p",
            "state": "bound",
            "worker": 0,
        }
        assert events_of(plain, "session") == [bound]
        plain.call("bus/session_end", {"id": "mine"})
        assert events_of(plain, "session") == [{**bound, "state": "over"}]


def test_watcher_of_sessions_hears_of_a_loss_and_why() -> None:
    with Daemon() as daemon:
        client = daemon.stdio
        client.call("bus/watch", {"events": ["session"]})
        client.call("echo", sessionId="s")
        client.fail("crash", {"code": 7})
        _, lost = events_of(client, "session")
        assert lost == {**lost, "id": "s", "state": "lost", "pool": "p"}
        assert "worker" not in lost
        assert lost["failure"]["exit_code"] == 7
        assert client.fail("echo", sessionId="s")["code"] == -32056
        assert [event["state"] for event in events_of(client, "session")] == ["over"]


def test_source_stands_before_what_comes_from_elsewhere() -> None:
    with Daemon(config(pool(instances=2))) as daemon:
        client = daemon.stdio
        client.until_workers("ready", 2)
        client.call("bus/watch", {"events": ["source"]})
        note = json.dumps({"method": "note"})
        for session in "aabb":
            client.call("say", {"lines": [note, note]}, sessionId=session)
        lines = [line for line in client.others if "method" in line]
        shape = [
            line["params"]["worker"] if "event" in (line.get("params") or {}) else "note"
            for line in lines
        ]
        # Each request is another one, alone in flight on its worker, so that it is told each time.
        one, other = shape[0], shape[6]
        assert {one, other} == {0, 1}
        assert shape == [one, "note", "note"] * 2 + [other, "note", "note"] * 2
        soles = [line["params"]["sole"] for line in lines if line["method"] == "bus/event"]
        assert len(set(soles)) == 4


def test_source_names_no_request_where_there_are_several() -> None:
    with Daemon() as daemon:
        client = daemon.stdio
        client.call("bus/watch", {"events": ["source"]})
        held = client.start("hold", {"name": "x"})
        client.call("say", {"lines": ['{"method":"note"}']})
        (source,) = [line for line in client.others if line.get("method") == "bus/event"]
        assert source["params"] == {"event": "source", "bus": ANY, "pool": "p", "worker": 0}
        client.notify("$/cancelRequest", {"id": held})


def test_next_line_goes_to_the_worker_that_was_named() -> None:
    with Daemon(config(pool(instances=3))) as daemon:
        client = daemon.stdio
        client.until_workers("ready", 3)
        pids = {worker["worker"]: worker["pid"] for worker in client.workers()}
        for worker in (2, 2, 0, 1, 1):
            client.notify("bus/next", {"worker": worker})
            assert client.call("pid") == pids[worker]
        client.notify("bus/next", {"worker": 99})
        assert client.fail("pid")["code"] == -32051
        for _ in range(3):  # it was about one line alone
            client.call("pid")
        assert {client.call("pid") for _ in range(6)} == set(pids.values())
        assert client.fail("bus/next", {"worker": -1})["code"] == -32602


def test_next_line_of_others_cannot_choose_its_worker(plain: Client) -> None:
    assert plain.fail("bus/next", {"worker": 0})["code"] == -32602
    assert plain.call("bus/next", {"rebind": True}) == {}


def test_next_line_may_begin_a_lost_session_anew() -> None:
    with Daemon() as daemon:
        client = daemon.stdio
        client.call("echo", sessionId="s")
        client.fail("crash", {"code": 7})
        client.notify("bus/next", {"rebind": True})
        assert client.call("echo", [1], sessionId="s") == [1]


def test_worker_can_be_held_released_paused_and_killed_over_stdio() -> None:
    with Daemon(config(pool(instances=2))) as daemon:
        client = daemon.stdio
        client.until_workers("ready", 2)
        first, second = (worker["pid"] for worker in client.workers())
        assert client.call("bus/worker", {"worker": 0, "do": "hold"}) == {}
        assert {client.call("pid") for _ in range(4)} == {second}
        assert client.call("bus/worker", {"worker": 0, "do": "release"}) == {}
        assert {client.call("pid") for _ in range(4)} == {first, second}
        assert client.call("bus/worker", {"worker": 0, "do": "pause"}) == {}
        assert [worker["paused"] for worker in client.workers()] == [True, False]
        assert client.call("bus/worker", {"worker": 0, "do": "resume"}) == {}
        held = client.start("hold", {"name": "x"})
        client.until(lambda s: s["statistics"]["live_requests"] == 1)
        (busy,) = [worker["worker"] for worker in client.workers() if worker["in_flight"]]
        client.call("bus/worker", {"worker": busy, "do": "kill", "fault": "it was told to"})
        error = client.error(held)
        assert error["code"] == -32050
        assert "it was told to" in error["message"]
        client.until_workers("ready", 2)


@pytest.mark.parametrize(
    "params",
    [{}, {"worker": 0}, {"worker": 0, "do": "dance"}, {"worker": 9, "do": "hold"}, {"do": "hold"}],
)
def test_wrong_deed_on_a_worker_is_answered_with_32602(admin: Client, params: object) -> None:
    assert admin.fail("bus/worker", params)["code"] == -32602


def test_pause_is_for_whom_the_daemon_ends_with(admin: Client, plain: Client) -> None:
    assert admin.fail("bus/worker", {"worker": 0, "do": "pause"})["code"] == -32602
    assert plain.fail("bus/worker", {"worker": 0, "do": "hold"})["code"] == -32601


def test_stop_ends_the_daemon_as_a_signal_does() -> None:
    with Daemon() as daemon:
        held = daemon.stdio.start("hold", {"name": "x"})
        daemon.stdio.until(lambda s: s["statistics"]["live_requests"] == 1)
        assert daemon.stdio.call("bus/stop", {"drain_s": 0, "grace_s": 1}) == {}
        assert daemon.stdio.error(held)["code"] == -32055
        assert daemon.wait() == 0


def test_tap_can_be_taken_off() -> None:
    with Daemon() as daemon:
        client = daemon.stdio
        client.call("bus/tap", {})
        client.call("echo")
        assert any(line["method"] == "bus/frame" for line in client.others)
        client.call("bus/tap", {"off": True})
        client.others.clear()
        client.call("echo")
        client.assert_quiet()


def test_restart_may_say_how_long_to_drain() -> None:
    with Daemon() as daemon:
        client = daemon.stdio
        held = client.start("hold", {"name": "x"})
        client.until(lambda s: s["statistics"]["live_requests"] == 1)
        client.call("bus/restart", {"pool": "p", "drain_s": 0})
        assert client.error(held)["code"] == -32050


def test_ids_of_two_workers_that_ask_never_clash() -> None:
    """The first asks by 1, which passes; the second one's substitute must not be 1 as well."""
    with Daemon(config(pool(instances=3))) as daemon:
        client = daemon.stdio
        client.until_workers("ready", 3)
        for number in range(3):
            client.notify("bus/next", {"worker": number})
            client.call("say", {"lines": [json.dumps({"id": 1, "method": "ask"})]})
        asked = [line["id"] for line in client.others if line.get("method") == "ask"]
        assert len(asked) == len(set(asked)) == 3
