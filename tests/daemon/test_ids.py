"""Ids: as they are with one client, rewritten and put back with several (wire.md, "Ids")."""

from __future__ import annotations

import json

import pytest

from tests.daemon.kit import Client, Daemon, config, pool

COUNT = 3000


def wire_id(client: Client, method: str, **top: str) -> object:
    """Return the id under which the worker got the last request of a method."""
    lines = [json.loads(line) for line in client.call("seen", **top)]
    return [line for line in lines if line.get("method") == method][-1]["id"]


def test_ids_pass_as_they_are_over_stdio_alone() -> None:
    with Daemon() as daemon:
        daemon.stdio.call("echo", {"_meta": {"progressToken": "t"}}, id="mine")
        line = json.loads(daemon.stdio.call("seen")[0])
        assert line["id"] == "mine"
        assert line["params"]["_meta"] == {"progressToken": "t"}


def test_worker_sees_an_integer_where_there_is_a_listener(client: Client, other: Client) -> None:
    """W7: below 2^53, unique in the kernel."""
    ids = set()
    for who in (client, other) * 5:
        who.call("seen")
        who.call("echo", {}, id="same")
        key = wire_id(who, "echo")
        assert isinstance(key, int)
        assert 0 < key < 2**53
        ids.add(key)
    assert len(ids) == 10


def test_equal_ids_of_two_clients_interleaved_by_thousands_never_cross() -> None:
    """W7: over a socket each, answered in another order than asked."""
    command = pool(max_in_flight=0, instances=2)
    with Daemon(config(command), unix=True, tcp=True) as daemon:
        one, two = daemon.connect(), daemon.connect_tcp()
        clients = {"one": one, "two": two}
        for n in range(0, COUNT, 100):
            for name, client in clients.items():
                lines = [
                    {"id": k, "method": "echo", "params": [name, k]} for k in range(n, n + 100)
                ]
                client.send(*lines)
        for name, client in clients.items():
            got = [client.read() for _ in range(COUNT)]
            assert {m["id"] for m in got} == set(range(COUNT))
            assert all(m["result"] == [name, m["id"]] for m in got)
            client.assert_quiet()


def test_equal_ids_of_two_clients_held_at_one_worker_are_answered_rightly(
    client: Client, other: Client
) -> None:
    """W7: all in flight at once, answered backwards."""
    for n in range(300):
        client.start("hold", {"name": f"c{n}"}, id=n)
        other.start("hold", {"name": f"o{n}"}, id=n)
    client.until(lambda _: len(client.call("holding")) == 600)
    names = [f"{who}{n}" for n in reversed(range(300)) for who in "co"]
    client.call("release", {"names": names}, id="go")
    for n in range(300):
        assert client.result(n) == {"held": f"c{n}"}
        assert other.result(n) == {"held": f"o{n}"}


@pytest.mark.parametrize("token", ['"t"', "7", '"\\u0061"', "1.50"])
def test_progress_token_comes_back_as_the_client_spelt_it(client: Client, token: str) -> None:
    progress = '{"method":"notifications/progress","params":{"progressToken":%id%,"progress":1}}'
    params = {"lines": [progress], "_meta": {"progressToken": "TOKEN"}}
    line = json.dumps({"id": "p", "method": "say", "params": params}).replace('"TOKEN"', token)
    client.send(line.encode())
    assert f'"progressToken":{token},'.encode() in client.read_line()
    assert client.read()["id"] == "p"
    assert json.loads(client.call("seen")[-1])["params"]["_meta"]["progressToken"] != json.loads(
        token
    )


@pytest.mark.parametrize("spelt", ["%id%.0", "%id%e0", "%id%0E-1"])
def test_answer_counts_however_the_worker_spells_the_number(client: Client, spelt: str) -> None:
    line = '{"result":"spelt","id":' + spelt + "}"
    client.start("say", {"lines": [line], "answer": False}, id="mine")
    assert client.result("mine") == "spelt"


def test_request_of_a_worker_has_an_id_of_the_kernel_where_ids_are_rewritten(
    client: Client,
) -> None:
    key = client.start("ask", {"request": {"id": "w\u00e9", "method": "q"}})
    shown = client.incoming("q")["id"]
    assert isinstance(shown, int)
    client.send({"id": shown, "result": {"id": shown}})
    assert client.result(key) == {"id": "w\u00e9", "result": {"id": shown}}


def test_request_of_a_worker_keeps_its_id_over_stdio_alone() -> None:
    with Daemon() as daemon:
        key = daemon.stdio.start("ask", {"request": {"id": "w1", "method": "q"}})
        assert daemon.stdio.incoming("q")["id"] == "w1"
        daemon.stdio.send(b'{"id":"w1","result":null}')
        assert daemon.stdio.result(key)["id"] == "w1"


def test_request_of_a_worker_may_have_an_id_that_a_client_uses() -> None:
    """Ids of both directions are two sets."""
    with Daemon() as daemon:
        client = daemon.stdio
        client.start("ask", {"request": {"id": "x", "method": "q"}}, id="x")
        assert client.incoming("q")["id"] == "x"
        client.send(b'{"id":"x","result":1}')
        assert client.result("x") == {"id": "x", "result": 1}


@pytest.mark.parametrize("how", [{}, {"unix": True}], ids=["stdio", "unix"])
def test_credit_goes_to_the_worker_of_the_request_it_names(how: dict[str, bool]) -> None:
    with Daemon(config(pool(instances=3)), **how) as daemon:
        client = daemon.client()
        client.until_workers("ready", 3)
        client.start("hold", {"name": "x"}, id="streams", sessionId="s")
        client.call("seen", sessionId="s")
        for n in range(4):
            client.notify("bus/credit", {"id": "streams", "bytes": n})
        lines = [json.loads(line) for line in client.call("seen", sessionId="s")]
        got = [line["params"] for line in lines if line.get("method") == "bus/credit"]
        assert [params["bytes"] for params in got] == list(range(4))
        assert all((params["id"] == "streams") is (not how) for params in got)
        assert len({params["id"] for params in got}) == 1


def test_credit_for_anothers_request_does_not_reach_its_worker_by_that_id(
    client: Client, other: Client
) -> None:
    """W7: neither by the id of the other client nor by the one that the worker knows."""
    client.call("seen")
    client.start("hold", {"name": "x"}, id=1)
    wire = wire_id(client, "hold")
    other.notify("bus/credit", {"id": 1, "bytes": 9})
    other.notify("bus/credit", {"id": wire, "bytes": 9})
    other.call("bus/status")
    lines = [json.loads(line) for line in client.call("seen")]
    told = [line["params"]["id"] for line in lines if line.get("method") == "bus/credit"]
    client.call("release")
    assert wire not in told


def test_notification_about_a_request_follows_it_to_its_worker() -> None:
    with Daemon(config(pool(instances=3)), unix=True) as daemon:
        client = daemon.connect()
        client.until_workers("ready", 3)
        client.start("hold", {"name": "x"}, id="r", sessionId="s")
        client.call("seen", sessionId="s")
        for _ in range(3):
            client.notify("about", {"_meta": {"requestId": "r"}})
        lines = [json.loads(line) for line in client.call("seen", sessionId="s")]
        ids = [m["params"]["_meta"]["requestId"] for m in lines if m["method"] == "about"]
        assert len(ids) == 3
        assert all(isinstance(key, int) for key in ids)


def test_late_answer_to_a_client_that_left_reaches_nobody_with_that_id(
    unix: Daemon, other: Client
) -> None:
    """W7: not even one that uses the same id meanwhile."""
    with unix.connect() as leaver:
        leaver.start("hold", {"name": "left"}, id=1)
        leaver.call("holding")
    other.until(lambda status: status["statistics"]["clients"] == 1)
    other.start("hold", {"name": "mine"}, id=1)
    before = other.statistics()["late_answers"]
    other.call("release", {"names": ["left", "mine"]}, id="go")
    assert other.result(1) == {"held": "mine"}
    assert other.statistics()["late_answers"] == before + 1
    other.assert_quiet()
