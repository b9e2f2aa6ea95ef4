"""Whose line it is: what workers write reaches the right client, and nobody else (wire.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.daemon import kit
from tests.daemon.kit import Client, Daemon, config, pool

LISTS = ["tools", "prompts", "resources"]


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """Two pools of a puppet each, one of them MCP, on a unix socket."""
    pools = [pool("p"), pool("mcp", cancel="mcp"), pool("acp", session="acp", cancel="acp")]
    yield from kit.running(config(*pools), unix=True)


@pytest.fixture
def ann(shared: Daemon) -> Iterator[Client]:
    with shared.connect() as client:
        yield client


@pytest.fixture
def bob(shared: Daemon) -> Iterator[Client]:
    with shared.connect() as client:
        yield client


def hold_both(ann: Client, bob: Client, name: str = "p") -> None:
    """Give both clients a request in flight, under one id."""
    for who, client in (("ann", ann), ("bob", bob)):
        meta = {"progressToken": "token"}
        client.start("hold", {"name": who, "_meta": meta}, id=1, pool=name)
    bob.call("holding", pool=name)


def let_go(ann: Client, bob: Client, name: str = "p") -> None:
    bob.call("release", {"names": ["bob", "ann"]}, pool=name)
    assert ann.result(1) == {"held": "ann"}
    assert bob.result(1) == {"held": "bob"}
    ann.assert_quiet()
    bob.assert_quiet()


def test_answer_goes_to_the_client_whose_request_has_that_id(ann: Client, bob: Client) -> None:
    """W7: equal ids, answered in the other order."""
    hold_both(ann, bob)
    let_go(ann, bob)


def test_answer_of_the_wrong_worker_is_counted_and_dropped() -> None:
    """W7: no worker answers for another."""
    for how in ({"unix": True}, {}):
        with Daemon(config(pool("a"), pool("b")), **how) as daemon:
            client = daemon.client()
            key = client.start("hold", {"name": "x"}, id=5, pool="a")
            before = client.statistics()["stray_answers"]
            wire = json.loads(client.call("seen", pool="a")[0])["id"]
            forged = json.dumps({"id": wire, "result": "forged"})
            client.call("say", {"lines": [forged]}, pool="b")
            assert client.statistics()["stray_answers"] == before + 1
            client.call("release", pool="a")
            assert client.result(key) == {"held": "x"}
            client.assert_quiet()


def test_second_answer_to_a_request_is_counted_and_dropped(ann: Client) -> None:
    before = ann.statistics()["stray_answers"]
    answer = '{"id":%id%,"result":"first"}'
    key = ann.start("say", {"lines": [answer]}, pool="p")  # then the puppet answers once more
    assert ann.result(key) == "first"
    ann.until(lambda status: status["statistics"]["stray_answers"] == before + 1)
    ann.assert_quiet()


@pytest.mark.parametrize("kind", ["notification", "request"])
def test_request_id_in_meta_names_the_client(ann: Client, bob: Client, kind: str) -> None:
    hold_both(ann, bob)
    key = {"id": "w"} if kind == "request" else {}
    line = {"method": "about", "params": {"_meta": {"requestId": "%id:ann%", "more": 1}}, **key}
    bob.call("say", {"lines": [json.dumps(line).replace('"%id:ann%"', "%id:ann%")]}, pool="p")
    message = ann.incoming("about")
    assert message["params"] == {"_meta": {"requestId": 1, "more": 1}}
    if kind == "request":
        ann.send({"id": message["id"], "result": None})
    let_go(ann, bob)


def test_progress_token_names_the_client(ann: Client, bob: Client) -> None:
    """Equal tokens of two clients: each hears of its own, by its own token."""
    hold_both(ann, bob, "mcp")
    seen = [json.loads(line) for line in bob.call("seen", pool="mcp")]
    tokens = [m["params"]["_meta"]["progressToken"] for m in seen if m["method"] == "hold"][-2:]
    assert len(set(tokens)) == 2
    assert tokens == [m["id"] for m in seen if m["method"] == "hold"][-2:]
    line = (
        '{"method":"notifications/progress","params":{"progressToken":%%token:%s%%,"progress":%d}}'
    )
    lines = [line % ("bob", 1), line % ("ann", 2), line % ("bob", 3)]
    bob.call("say", {"lines": lines}, pool="mcp")
    assert ann.incoming("notifications/progress")["params"] == {
        "progressToken": "token",
        "progress": 2,
    }
    got = [bob.incoming("notifications/progress")["params"] for _ in range(2)]
    assert got == [{"progressToken": "token", "progress": n} for n in (1, 3)]
    let_go(ann, bob, "mcp")


@pytest.mark.parametrize("name", ["p", "acp"])
def test_session_names_the_client(ann: Client, bob: Client, name: str) -> None:
    """W13: its owner, whoever asked last."""
    at_top = name == "p"

    def in_session(**params: object) -> dict[str, object]:
        return params if at_top else {**params, "sessionId": f"own-{name}"}

    top = {"sessionId": f"own-{name}"} if at_top else {}
    ann.call("echo", in_session(), pool=name, **top)
    line = {"method": "update", "params": in_session(), **top}
    ask = {"id": 9, "method": "question", "params": in_session(), **top}
    lines = [json.dumps(line), json.dumps(ask)]
    assert bob.call("say", in_session(lines=lines), pool=name, **top) == "said"
    assert ann.incoming("update")["params"] == in_session()
    ann.send({"id": ann.incoming("question")["id"], "result": "for nobody"})
    ann.assert_quiet()
    bob.assert_quiet()


def test_sole_client_gets_what_names_nobody() -> None:
    """W13: over stdio and on a socket; also with nothing in flight for it there."""
    for how in ({}, {"unix": True}):
        with Daemon(config(pool("a"), pool("b")), **how) as daemon:
            client = daemon.client()
            line = '{"method":"hello"}'
            client.call("say", {"lines": [line, '{"id":3,"method":"who"}']}, pool="b")
            assert client.incoming("hello") == {"method": "hello"}
            client.send({"id": client.incoming("who")["id"], "result": "me"})
            assert any('"me"' in line for line in client.call("seen", pool="b"))


def test_only_client_with_work_on_that_worker_gets_what_names_nobody(
    ann: Client, bob: Client
) -> None:
    bob.start("hold", {"name": "bob"}, id=1, pool="mcp")
    bob.call("holding", pool="mcp")
    ann.call("say", {"lines": ['{"method":"mine"}']}, pool="p")
    assert ann.incoming("mine") == {"method": "mine"}
    bob.call("release", pool="mcp")
    bob.result(1)
    bob.assert_quiet()


def test_notification_that_names_nobody_is_counted_and_dropped(ann: Client, bob: Client) -> None:
    hold_both(ann, bob)
    before = ann.statistics()["dropped_notifications"]
    bob.call(
        "say", {"lines": ['{"method":"whose"}', '{"method":"x","sessionId":"none"}']}, pool="p"
    )
    assert ann.statistics()["dropped_notifications"] == before + 2
    let_go(ann, bob)


@pytest.mark.parametrize("name", ["p", "mcp"])
def test_line_about_a_request_whose_client_is_gone_is_nobodys(
    shared: Daemon, ann: Client, bob: Client, name: str
) -> None:
    """Though one client alone has work there: before the late answer, and after it."""
    with shared.connect() as leaver:
        leaver.start("hold", {"name": "gone"}, pool=name)
        wire = next(
            json.loads(line)["id"]
            for line in leaver.call("seen", pool=name)
            if '"gone"' in line and '"hold"' in line
        )
    ann.until(lambda s: s["statistics"]["clients"] == 2)
    named = ['{"method":"about","params":{"_meta":{"requestId":%d}}}' % wire]
    named.append('{"method":"notifications/progress","params":{"progressToken":%d}}' % wire)
    before = ann.statistics()["dropped_notifications"]
    ann.call("say", {"lines": [*named, '{"method":"whose"}']}, pool=name)
    assert ann.statistics()["dropped_notifications"] == before + 3
    ann.call("release", {"names": ["gone"]}, pool=name)
    ann.call("say", {"lines": [*named, '{"method":"mine"}']}, pool=name)
    assert ann.statistics()["dropped_notifications"] == before + 5
    assert ann.incoming("mine") == {"method": "mine"}
    ann.assert_quiet()
    bob.assert_quiet()


@pytest.mark.parametrize("name", ["p", "acp"])
def test_line_of_a_session_whose_client_is_gone_is_nobodys(
    shared: Daemon, ann: Client, bob: Client, name: str
) -> None:
    """It names somebody, though the kernel knows nobody of that name any more."""
    top = {"sessionId": f"over-{name}"} if name == "p" else {}
    params = {} if name == "p" else {"sessionId": f"over-{name}"}
    with shared.connect() as leaver:
        assert leaver.call("echo", params, pool=name, **top) == params
    ann.until(lambda s: s["statistics"]["clients"] == 2)
    before = ann.statistics()["dropped_notifications"]
    line = json.dumps({"method": "update", "params": params, **top})
    ann.call("say", {"lines": [line, '{"method":"mine"}']}, pool=name)
    assert ann.statistics()["dropped_notifications"] == before + 1
    assert ann.incoming("mine") == {"method": "mine"}
    ann.assert_quiet()
    bob.assert_quiet()


def test_request_about_one_whose_client_is_gone_is_answered_with_32601(
    shared: Daemon, ann: Client, bob: Client
) -> None:
    with shared.connect() as leaver:
        leaver.start("hold", {"name": "gone"}, pool="p")
        leaver.call("holding", pool="p")
    ann.until(lambda s: s["statistics"]["clients"] == 2)
    line = '{"id":"q2","method":"may I","params":{"_meta":{"requestId":%id:gone%}}}'
    ann.call("say", {"lines": [line]}, pool="p")
    assert any("q2" in line and "-32601" in line for line in ann.call("seen", pool="p"))
    ann.call("release", {"names": ["gone"]}, pool="p")
    ann.assert_quiet()
    bob.assert_quiet()


def test_request_that_names_nobody_is_answered_with_32601(ann: Client, bob: Client) -> None:
    hold_both(ann, bob)
    answer = bob.call("ask", {"request": {"id": "w", "method": "whose"}}, pool="p")
    assert (answer["id"], answer["error"]["code"]) == ("w", -32601)
    let_go(ann, bob)


@pytest.mark.parametrize("what", LISTS)
def test_list_changed_of_mcp_goes_to_all(ann: Client, bob: Client, what: str) -> None:
    hold_both(ann, bob, "mcp")
    method = f"notifications/{what}/list_changed"
    bob.call("say", {"lines": [json.dumps({"method": method})]}, pool="mcp")
    assert ann.incoming(method) == bob.incoming(method) == {"method": method}
    let_go(ann, bob, "mcp")


def test_list_changed_outside_of_mcp_is_nobodys(ann: Client, bob: Client) -> None:
    hold_both(ann, bob)
    line = '{"method":"notifications/tools/list_changed"}'
    bob.call("say", {"lines": [line]}, pool="p")
    let_go(ann, bob)


# --- requests of workers ----------------------------------------------------------------------------


def test_answer_goes_back_to_the_worker_by_its_id_alone() -> None:
    """W13: two workers ask one client under one id; each gets its own answer."""
    for how in ({}, {"unix": True}):
        with Daemon(config(pool("a"), pool("b")), **how) as daemon:
            client = daemon.client()
            asks = {}
            for name in ("a", "b"):
                request = {"id": "same", "method": name}
                asks[name] = client.start("ask", {"request": request}, pool=name)
            ids = {name: client.incoming(name)["id"] for name in ("a", "b")}
            assert ids["a"] != ids["b"]
            for name in ("b", "a"):
                client.send({"id": ids[name], "result": f"for {name}"})
            for name in ("a", "b"):
                answer = client.result(asks[name])
                assert (answer["id"], answer["result"]) == ("same", f"for {name}")


def test_error_of_a_client_reaches_the_worker_that_asked(ann: Client) -> None:
    key = ann.start("ask", {"request": {"id": 4, "method": "q"}}, pool="p")
    error = {"code": 7, "message": "no", "data": {"id": 1}}
    ann.send({"id": ann.incoming("q")["id"], "error": error})
    assert ann.result(key)["error"] == error


def test_wrong_client_cannot_answer_a_worker(ann: Client, bob: Client) -> None:
    key = ann.start("ask", {"request": {"id": 4, "method": "q"}}, pool="p")
    asked = ann.incoming("q")["id"]
    bob.send({"id": asked, "result": "forged"})
    bob.call("bus/status")
    ann.send({"id": asked, "result": "right"})
    assert ann.result(key)["result"] == "right"


@pytest.mark.parametrize("id_last", [False, True])
def test_answer_over_the_limit_is_an_error_to_the_worker_that_asked(id_last: bool) -> None:
    with Daemon(config(limits={"max_input_buffer": 4096}), unix=True) as daemon:
        client = daemon.connect()
        key = client.start("ask", {"request": {"id": "w", "method": "q"}})
        asked = {"id": client.incoming("q")["id"]}
        long = {"result": "x" * 20_000}
        client.send({**long, **asked} if id_last else {**asked, **long})
        answer = client.result(key)
        assert (answer["id"], answer["error"]["code"]) == ("w", -32054)
        client.assert_quiet()


def test_answer_that_cannot_be_read_is_the_clients_to_say_again(ann: Client) -> None:
    key = ann.start("ask", {"request": {"id": "w", "method": "q"}}, pool="p")
    asked = ann.incoming("q")["id"]
    ann.send(b'{"id":%d,"result":}' % asked, {"id": str(asked), "result": "misspelt"})
    errors = [ann.read() for _ in range(2)]
    assert [error["id"] for error in errors] == [None, None]
    assert [error["error"]["code"] for error in errors] == [-32700, -32600]
    ann.send({"id": asked, "result": "right"})
    assert ann.result(key)["result"] == "right"


def test_worker_is_answered_with_32800_if_the_client_goes_first(
    shared: Daemon, bob: Client
) -> None:
    with shared.connect() as leaver:
        line = '{"id":"q1","method":"q","params":{"_meta":{"requestId":%id%}}}'
        leaver.start("say", {"lines": [line]}, pool="p")
        leaver.incoming("q")

    def answered(_: object) -> bool:
        return any('"q1"' in line and "-32800" in line for line in bob.call("seen", pool="p"))

    bob.until(answered)


@pytest.mark.parametrize(
    ("cancel", "method", "member"),
    [("lsp", "$/cancelRequest", "id"), ("mcp", "notifications/cancelled", "requestId"),
     ("acp", "$/cancel_request", "requestId")],
)  # fmt: skip
def test_client_hears_that_the_worker_that_asked_is_dead(
    cancel: str, method: str, member: str
) -> None:
    with Daemon(config(pool(cancel=cancel)), unix=True) as daemon:
        client = daemon.connect()
        client.call("say", {"lines": ['{"id":"q1","method":"q"}']})
        asked = client.incoming("q")["id"]
        client.fail("crash")
        assert client.incoming(method)["params"][member] == asked


@pytest.mark.parametrize(
    ("cancel", "method", "member"),
    [("lsp", "$/cancelRequest", "id"), ("mcp", "notifications/cancelled", "requestId"),
     ("acp", "$/cancel_request", "requestId")],
)  # fmt: skip
def test_cancel_of_a_workers_request_goes_to_the_client_that_was_asked(
    cancel: str, method: str, member: str
) -> None:
    with Daemon(config(pool(cancel=cancel)), unix=True) as daemon:
        asked, other = daemon.connect(), daemon.connect()
        other.start("hold", {"name": "other"}, id="h")
        other.call("holding")
        line = '{"id":"q1","method":"q","params":{"_meta":{"requestId":%id%}}}'
        asked.call("say", {"lines": [line]})
        seen = asked.incoming("q")["id"]
        over = json.dumps({"method": method, "params": {member: "q1"}})
        other.call("say", {"lines": [over]})
        assert asked.incoming(method)["params"] == {member: seen}
        other.assert_quiet()
        other.call("release")


def test_max_handlers_bounds_the_requests_of_one_worker() -> None:
    with Daemon(config(limits={"max_handlers": 2})) as daemon:
        client = daemon.stdio
        lines = [json.dumps({"id": f"q{n}", "method": "q"}) for n in range(3)]
        client.call("say", {"lines": lines})
        assert [client.incoming("q")["id"] for _ in range(2)] == ["q0", "q1"]
        client.until(lambda _: "-32053" in str(client.call("seen")))
        client.send({"id": "q0", "result": 1})
        answer = client.start("ask", {"request": {"id": "q3", "method": "q"}})
        client.send({"id": client.incoming("q")["id"], "result": "room"})
        assert client.result(answer)["result"] == "room"


# --- bad lines --------------------------------------------------------------------------------------


def test_bad_lines_of_a_worker_cost_only_themselves() -> None:
    """W10: banners, prints, halves of JSON; good answers before and behind them count."""
    with Daemon(config(pool(command=kit.shared("garbage")))) as daemon:
        client = daemon.stdio
        for n in range(20):
            assert client.call("echo", [n]) == [n]
        (worker,) = client.workers()
        assert (worker["state"], worker["restarts"]) == ("ready", 0)
        assert client.statistics()["bad_lines"] >= 20 * 10
        assert not client.others
        daemon.wait_log(r"WARN.*bad_line.*Welcome to garbage")


def test_line_bad_is_told_to_who_watches(ann: Client) -> None:
    ann.call("bus/watch", {"events": ["line_bad"]})
    ann.call("say", {"lines": ["x" * 500]}, pool="p")
    params = ann.incoming("bus/event")["params"]
    assert params.pop("reason")
    assert params.pop("bus")
    assert params == {
        "event": "line_bad",
        "pool": "p",
        "worker": 0,
        "prefix": "x" * 200,
        "size": 501,
    }


def test_jsonrpc_is_not_required_of_workers(ann: Client) -> None:
    ann.send(
        {"id": 1, "method": "say", "params": {"lines": ['{"id":%id%,"result":1}']}, "pool": "p"}
    )
    assert ann.read() == {"id": 1, "result": 1}


@pytest.mark.parametrize("id_last", [False, True])
@pytest.mark.parametrize("others", [0, 1])
def test_oversize_answer_fails_the_request_it_belongs_to(id_last: bool, others: int) -> None:
    """W12: with -32054, and the worker goes on."""
    command = kit.shared("oversize")
    with Daemon(config(pool(command=command), limits={"max_input_buffer": 10_000})) as daemon:
        client = daemon.stdio
        client.start("big", {"bytes": 100_000, "id_last": id_last}, id="large")
        for n in range(others):
            client.start("echo", n, id=n)
        error = client.error("large")
        assert error["code"] == -32054
        assert error["data"]["limit_bytes"] == 10_000
        assert error["data"]["sent"] is True
        for n in range(others):
            assert client.result(n) == n
        assert client.call("echo", "alive") == "alive"
