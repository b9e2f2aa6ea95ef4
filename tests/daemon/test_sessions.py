"""Sessions: sticky, lost with their worker, ended with their owner; leases; bus/session."""

from __future__ import annotations

import signal

import pytest

from tests.daemon.kit import Client, Daemon, config, pool, puppet


def test_session_of_a_dead_worker_is_refused_once_then_tied_anew() -> None:
    """-32056; the state is not lost silently."""
    with Daemon(config(pool(instances=2))) as daemon:
        client = daemon.stdio
        client.until_workers("ready", 2)
        client.call("echo", sessionId="s")
        error = client.fail("crash", sessionId="s")
        assert error["code"] == -32050
        error = client.fail("echo", sessionId="s")
        assert error["code"] == -32056
        assert error["data"]["session"] == "s"
        assert error["data"]["sent"] is False
        assert client.call("echo", {"anew": 1}, sessionId="s") == {"anew": 1}


def test_session_load_of_acp_brings_a_lost_session_back() -> None:
    with Daemon(config(pool(session="acp", cancel="acp"))) as daemon:
        client = daemon.stdio
        client.call("session/new", {"sessionId": "s"})
        client.fail("crash", {"sessionId": "s"})
        assert client.call("session/load", {"sessionId": "s"}) == {"sessionId": "s"}
        assert client.call("echo", {"sessionId": "s"}) == {"sessionId": "s"}


def test_sessions_end_with_their_owners_connection(unix: Daemon, client: Client) -> None:
    before = client.statistics()["sessions"]
    with unix.connect() as owner:
        for n in range(5):
            owner.call("echo", sessionId=f"owned-{n}")
        assert client.statistics()["sessions"] == before + 5
    client.until(lambda status: status["statistics"]["sessions"] == before)


def test_another_client_may_send_into_a_session_and_gets_its_own_answers(
    client: Client, other: Client
) -> None:
    client.start("hold", {"name": "x"}, id=1, sessionId="both")
    client.call("holding")
    other.start("release", {"names": ["x"]}, id=1, sessionId="both")
    assert other.result(1) == ["x"]
    assert client.result(1) == {"held": "x"}


def test_max_sessions_bounds_what_is_known() -> None:
    with Daemon(config(limits={"max_sessions": 2})) as daemon:
        client = daemon.stdio
        for name in ("a", "b"):
            client.call("echo", sessionId=name)
        error = client.fail("echo", sessionId="c")
        assert (error["code"], error["data"]["reason"]) == (-32053, "max_sessions")
        client.call("bus/session_end", {"id": "a"})
        client.call("echo", sessionId="c")


def test_lost_session_gives_way_to_a_new_one() -> None:
    with Daemon(config(limits={"max_sessions": 1})) as daemon:
        client = daemon.stdio
        client.call("echo", sessionId="old")
        client.fail("crash")
        client.call("echo", sessionId="new")
        assert client.call("bus/status")["statistics"]["sessions"] == 1


def test_session_new_is_refused_while_max_sessions_are_known() -> None:
    with Daemon(config(pool(session="acp"), limits={"max_sessions": 1})) as daemon:
        client = daemon.stdio
        client.call("session/new", {"sessionId": "a"})
        error = client.fail("session/new", {"sessionId": "b"})
        assert (error["code"], error["data"]["reason"]) == (-32053, "max_sessions")


def test_answer_to_a_withdrawn_request_ties_nothing() -> None:
    with Daemon(config(pool(session="acp", cancel="mcp")), unix=True) as daemon:
        client = daemon.connect()
        line = '{"id":%id:x%,"result":{"sessionId":"ghost"}}'
        client.start("hold", {"name": "x"}, id="gone")
        client.call("holding")
        client.notify("notifications/cancelled", {"requestId": "gone"})
        client.call("say", {"lines": [line]})
        assert client.statistics()["sessions"] == 0


def test_idle_session_ends_and_one_with_work_does_not() -> None:
    """It is looked for every five seconds, so this test takes so long."""
    with Daemon(config(pool(instances=2), limits={"session_idle_s": 0.01})) as daemon:
        client = daemon.stdio
        client.until_workers("ready", 2)
        client.start("hold", {"name": "x"}, id="h", sessionId="busy")
        client.call("bus/session", {"pool": "p", "id": "idle", "exclusive": True})
        client.call("bus/watch", {"events": ["worker_changed"]})
        client.incoming("bus/event")  # the end of its lease is told, and comes with its own
        status = client.status()
        assert status["statistics"]["sessions"] == 1
        assert not any(worker["lease"] for worker in status["pools"][0]["workers"])
        client.call("release", sessionId="busy")
        client.result("h")


# --- bus/session ------------------------------------------------------------------------------------


def test_bus_session_ties_to_a_ready_worker_at_once(client: Client) -> None:
    client.until_workers("ready")
    made = client.call("bus/session", {"pool": "p"})
    assert made["worker"] == 0
    assert len(made["id"]) == 32
    assert client.call("bus/session", {"pool": "p"})["id"] != made["id"]
    assert client.call("echo", 1, sessionId=made["id"]) == 1


def test_bus_session_has_no_worker_while_none_is_ready() -> None:
    handshake = {"method": "initialize", "timeout_s": 60}
    silent = pool(command=puppet("--init", "mute"), ready=handshake)
    with Daemon(config(silent)) as daemon:
        made = daemon.stdio.call("bus/session", {"pool": "p", "id": "early"})
        assert made == {"id": "early", "worker": None}


def test_session_that_was_promised_outlives_a_request_that_never_ran() -> None:
    handshake = {"method": "initialize", "timeout_s": 60}
    silent = pool(command=puppet("--init", "mute"), ready=handshake)
    with Daemon(config(silent, limits={"max_sessions": 1})) as daemon:
        client = daemon.stdio
        client.call("bus/session", {"id": "early"})
        key = client.start("echo", sessionId="early")
        client.notify("$/cancelRequest", {"id": key})
        assert client.error(key)["code"] == -32800
        assert client.fail("echo", sessionId="other")["data"]["reason"] == "max_sessions"
        assert client.call("bus/session_end", {"id": "early"}) == {}


def test_bus_session_end_ends_it_for_its_owner_only(client: Client, other: Client) -> None:
    client.call("bus/session", {"pool": "p", "id": "mine"})
    assert other.fail("bus/session_end", {"id": "mine"})["code"] == -32602
    assert client.call("bus/session_end", {"id": "mine"}) == {}
    assert client.fail("bus/session_end", {"id": "mine"})["code"] == -32602


@pytest.mark.parametrize("params", [{"id": 7}, {"id": ""}, {"id": "x" * 600}])
def test_bus_session_refuses_what_is_no_name(client: Client, params: object) -> None:
    assert client.fail("bus/session", params)["code"] == -32602


def test_bus_session_of_an_unknown_pool_is_refused(client: Client) -> None:
    assert client.fail("bus/session", {"pool": "nowhere"})["code"] == -32052


def test_exclusive_session_has_its_worker_alone() -> None:
    with Daemon(config(pool(instances=2)), unix=True) as daemon:
        owner, other = daemon.connect(), daemon.connect()
        owner.until_workers("ready", 2)
        made = owner.call("bus/session", {"pool": "p", "exclusive": True})
        mine = owner.call("pid", sessionId=made["id"])
        assert mine not in {other.call("pid") for _ in range(6)}
        worker = next(w for w in owner.workers() if w["pid"] == mine)
        assert (worker["worker"], worker["lease"]) == (made["worker"], made["id"])
        owner.call("bus/session_end", {"id": made["id"]})
        assert mine in {other.call("pid") for _ in range(2)}


def test_exclusive_session_waits_until_nothing_else_is_in_flight() -> None:
    with Daemon(unix=True) as daemon:
        owner, other = daemon.connect(), daemon.connect()
        other.start("hold", {"name": "x"}, id=1)
        other.call("holding")
        owner.start("bus/session", {"pool": "p", "exclusive": True, "id": "s"}, id="lease")
        owner.assert_quiet()
        other.start("release", id="late")  # waits: the worker is held
        owner.assert_quiet()
        other.call("bus/status")
        owner.start("release", id="r", sessionId="s")  # its own may go there
        assert owner.result("r") == ["x"]
        assert other.result(1) == {"held": "x"}
        assert owner.result("lease") == {"id": "s", "worker": 0}
        owner.call("bus/session_end", {"id": "s"})
        assert other.result("late") == []


def test_exclusive_session_without_a_free_worker_fails_after_wait_s(client: Client) -> None:
    client.call("bus/session", {"pool": "p", "exclusive": True, "id": "taken"})
    params = {"pool": "p", "exclusive": True, "wait_s": 0.01}
    error = client.fail("bus/session", params)
    assert (error["code"], error["data"]["reason"]) == (-32053, "no_free_worker")


def test_lease_of_a_worker_that_stays_busy_is_given_back_after_wait_s() -> None:
    with Daemon(unix=True) as daemon:
        owner, other = daemon.connect(), daemon.connect()
        other.start("hold", {"name": "x"}, id=1)
        other.call("holding")
        error = owner.fail("bus/session", {"exclusive": True, "id": "s", "wait_s": 0.01})
        assert (error["code"], error["data"]["reason"]) == (-32053, "no_free_worker")
        assert not owner.workers()[0]["held"]
        other.call("release")
        assert other.result(1) == {"held": "x"}


def test_one_client_does_not_take_every_place_among_those_that_wait_for_a_lease() -> None:
    with Daemon(unix=True) as daemon:
        greedy, other = daemon.connect(), daemon.connect()
        other.call("bus/session", {"exclusive": True})
        for number in range(513):
            greedy.start("bus/session", {"exclusive": True}, id=number)
        error = greedy.error(512)
        assert (error["code"], error["data"]["reason"]) == (-32053, "max_waiting")
        greedy.assert_quiet()
        error = other.fail("bus/session", {"exclusive": True, "wait_s": 0.01})
        assert error["data"]["reason"] == "no_free_worker"  # it was let in, and has waited


def test_lease_passes_on_when_its_owner_leaves(unix: Daemon, client: Client) -> None:
    with unix.connect() as owner:
        owner.call("bus/session", {"pool": "p", "exclusive": True, "id": "first"})
        client.start("bus/session", {"pool": "p", "exclusive": True, "id": "second"}, id="s")
        client.assert_quiet()
    assert client.result("s")["id"] == "second"


def test_exclusive_session_whose_worker_died_is_refused_until_it_is_ended() -> None:
    with Daemon(unix=True) as daemon:
        client = daemon.connect()
        client.call("bus/session", {"pool": "p", "exclusive": True, "id": "s"})
        assert client.fail("crash", sessionId="s")["code"] == -32050
        for _ in range(2):
            assert client.fail("echo", sessionId="s")["code"] == -32056
        client.call("bus/session_end", {"id": "s"})
        assert client.call("echo", 1, sessionId="s") == 1


def test_exclusive_session_with_rebind_goes_on_with_the_successor() -> None:
    with Daemon(unix=True) as daemon:
        client = daemon.connect()
        client.call("bus/session", {"pool": "p", "exclusive": True, "rebind": True, "id": "s"})
        assert client.fail("crash", sessionId="s")["code"] == -32050
        assert client.call("echo", 1, sessionId="s") == 1
        assert client.workers()[0]["lease"] == "s"


def test_rebind_of_a_lost_session_ties_it_anew() -> None:
    with Daemon(unix=True) as daemon:
        client = daemon.connect()
        client.call("echo", sessionId="s")
        client.fail("crash", sessionId="s")
        client.until_workers("ready")
        assert client.call("bus/session", {"pool": "p", "id": "s", "rebind": True}) == {
            "id": "s",
            "worker": 0,
        }
        assert client.call("echo", 1, sessionId="s") == 1


# --- waiting for a lease, and ends ------------------------------------------------------------------


def busy(daemon: Daemon) -> Client:
    """Have the only worker leased to somebody else."""
    owner = daemon.connect()
    owner.call("bus/session", {"pool": "p", "exclusive": True, "id": "taken"})
    return owner


def test_half_closed_client_still_gets_the_lease_it_waits_for() -> None:
    """W14: it gets the answers that it waits for, and is closed then."""
    with Daemon(unix=True) as daemon:
        owner, waiter = busy(daemon), daemon.connect()
        waiter.start("bus/session", {"pool": "p", "exclusive": True, "id": "s"}, id="lease")
        waiter.call("bus/status")
        waiter.half_close()
        owner.call("bus/status")
        owner.call("bus/session_end", {"id": "taken"})
        assert waiter.result("lease")["id"] == "s"
        waiter.assert_ended()


def test_wait_for_a_lease_is_answered_at_the_end_of_the_daemon() -> None:
    """W18: each request is answered once."""
    with Daemon(unix=True) as daemon:
        busy(daemon)
        waiter = daemon.connect()
        waiter.start("bus/session", {"pool": "p", "exclusive": True, "id": "s"}, id="lease")
        waiter.call("bus/status")
        daemon.signal(signal.SIGTERM)
        assert waiter.error("lease")["code"] == -32055


def test_wait_for_a_lease_can_be_cancelled() -> None:
    """A request of the kernel's own is a request like any other."""
    with Daemon(unix=True) as daemon:
        busy(daemon)
        waiter = daemon.connect()
        waiter.start("bus/session", {"pool": "p", "exclusive": True, "id": "s"}, id="lease")
        waiter.notify("$/cancelRequest", {"id": "lease"})
        waiter.call("bus/status")
        assert [message["id"] for message in waiter.others] == ["lease"]
        assert waiter.error("lease")["code"] == -32800
