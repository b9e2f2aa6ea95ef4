"""Cancelling in the client's own words, and what a worker hears of it (wire.md, "Cancelling")."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.daemon.kit import Client, Daemon, config, pool

CLIENTS = {
    "lsp": ("$/cancelRequest", "id"),
    "mcp": ("notifications/cancelled", "requestId"),
    "acp": ("$/cancel_request", "requestId"),
}
WAYS = [{}, {"unix": True}]


def cancels(client: Client) -> list[dict[str, Any]]:
    """Return the cancel notifications that the worker got since the last look."""
    lines = [json.loads(line) for line in client.call("seen", id=f"seen-{id(object())}")]
    return [line for line in lines if "cancel" in line.get("method", "").lower()]


def hold(client: Client, key: object) -> object:
    """Have a request in flight; return the id that the worker knows it by."""
    client.call("seen", id="look")
    client.start("hold", {"name": "held"}, id=key)
    return next(
        json.loads(line)["id"] for line in client.call("seen", id="look") if '"hold"' in line
    )


@pytest.mark.parametrize("how", WAYS, ids=["stdio", "unix"])
@pytest.mark.parametrize("theirs", CLIENTS)
@pytest.mark.parametrize("profile", CLIENTS)
def test_worker_is_told_in_the_way_of_its_pool(how: Any, theirs: str, profile: str) -> None:
    with Daemon(config(pool(cancel=profile)), **how) as daemon:
        client = daemon.client()
        wire = hold(client, "c")
        method, member = CLIENTS[theirs]
        client.notify(method, {member: "c"})
        (told,) = cancels(client)
        method, member = CLIENTS[profile]
        assert told["method"] == method
        assert told["params"][member] == wire
        client.call("release")
        if profile != "mcp":
            assert client.result("c") == {"held": "held"}
        client.assert_quiet()


def test_profile_none_tells_the_worker_nothing() -> None:
    with Daemon(config(pool(cancel="none"))) as daemon:
        client = daemon.stdio
        hold(client, 1)
        client.notify("$/cancelRequest", {"id": 1})
        assert cancels(client) == []
        client.call("release")
        assert client.result(1) == {"held": "held"}


@pytest.mark.parametrize("how", WAYS, ids=["stdio", "unix"])
def test_no_answer_follows_under_mcp(how: Any) -> None:
    """The late one is counted, and the id is free at once."""
    with Daemon(config(pool(cancel="mcp")), **how) as daemon:
        client = daemon.client()
        hold(client, 1)
        client.notify("notifications/cancelled", {"requestId": 1, "reason": "why not"})
        assert len(cancels(client)) == 1
        client.call("release")
        assert client.statistics()["late_answers"] == 1
        client.assert_quiet()


def test_request_of_which_no_byte_was_written_never_runs() -> None:
    """It is answered with -32800; under MCP with nothing."""
    pools = [pool("p", max_in_flight=1), pool("mcp", max_in_flight=1, cancel="mcp")]
    with Daemon(config(*pools)) as daemon:
        client = daemon.stdio
        for name in ("p", "mcp"):
            client.start("hold", {"name": name}, id=name, pool=name)
            client.start("pid", {}, id="queued", pool=name)
            client.notify("$/cancelRequest", {"id": "queued"})
            if name == "p":
                error = client.error("queued")
                assert error["code"] == -32800
                assert error["data"]["sent"] is False
            client.start("release", id="r", pool=name)
            client.notify("$/cancelRequest", {"id": "r"})  # it waits behind the held one
            if name == "p":
                assert client.error("r")["code"] == -32800
            client.assert_quiet()
            worker = client.workers(name)[0]
            assert (worker["in_flight"], worker["served"]) == (1, 1)


def test_silent_worker_is_answered_for_after_the_grace() -> None:
    with Daemon(config(limits={"cancel_grace_s": 0.01})) as daemon:
        client = daemon.stdio
        hold(client, 1)
        client.notify("$/cancelRequest", {"id": 1})
        error = client.error(1)
        assert error["code"] == -32800
        assert error["data"]["sent"] is True
        client.call("release")
        client.assert_quiet()


def test_cancelled_request_holds_its_place_until_the_grace_is_over() -> None:
    limits = {"cancel_grace_s": 0.01}
    with Daemon(config(pool(cancel="mcp", max_in_flight=1), limits=limits)) as daemon:
        client = daemon.stdio
        client.start("hold", {"name": "x"}, id=1)
        client.until(lambda status: status["pools"][0]["workers"][0]["in_flight"] == 1)
        client.notify("notifications/cancelled", {"requestId": 1})
        assert client.call("echo", "next") == "next"


@pytest.mark.parametrize("how", WAYS, ids=["stdio", "unix"])
def test_cancel_of_what_is_not_in_flight_does_no_harm(how: Any) -> None:
    with Daemon(**how) as daemon:
        client = daemon.client()
        for key in (1, "x", None, {"a": 1}):
            client.notify("$/cancelRequest", {"id": key})
        client.notify("$/cancelRequest")
        assert client.call("echo", 1) == 1
        client.assert_quiet()


def test_nobody_cancels_anothers_request(client: Client, other: Client) -> None:
    """W7: neither by an equal id nor by the one that the worker knows."""
    wire = hold(client, 1)
    for key in (1, wire):
        for method, member in CLIENTS.values():
            other.notify(method, {member: key})
    other.call("bus/status")
    told = cancels(client)
    client.call("release")
    assert client.result(1) == {"held": "held"}
    assert not [cancel for cancel in told if wire in cancel["params"].values()]


def test_client_that_goes_takes_its_requests_along(unix: Daemon, other: Client) -> None:
    """They are withdrawn and their worker is told."""
    other.call("seen")
    with unix.connect() as leaver:
        wire = hold(leaver, "gone")
    other.until(lambda status: status["statistics"]["clients"] == 1)
    assert [told["params"]["id"] for told in cancels(other)] == [wire]
    other.call("release")
    other.assert_quiet()


def test_cancel_works_on_the_real_worker_library() -> None:
    """A handler of anyio_bus.worker ends, and its answer is what the client gets."""
    command = [sys.executable, "-m", "anyio_bus.testing.workers.echo"]
    with Daemon(config(pool(command=command)), unix=True) as daemon:
        client = daemon.connect()
        assert client.call("echo", {"a": 1}) == {"a": 1}
        client.start("sleep", {"seconds": 3600}, id="sleeps")
        client.call("pid")
        client.notify("$/cancelRequest", {"id": "sleeps"})
        assert client.error("sleeps")["code"] == -32800
