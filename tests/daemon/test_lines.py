"""Lines of clients: what passes as it is, what is refused, and that nothing is lost on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.daemon import kit
from tests.daemon.kit import Client, Daemon, config, pool

WAYS = ["stdio", "unix", "tcp"]
SMALL = 4096


@pytest.fixture(scope="module")
def everywhere() -> Iterator[Daemon]:
    limits = {"max_input_buffer": SMALL}
    yield from kit.running(config(limits=limits), unix=True, tcp=True, stdio=True)


@pytest.fixture(scope="module")
def sole() -> Iterator[Daemon]:
    yield from kit.running()


@pytest.fixture(params=WAYS)
def anyone(everywhere: Daemon, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client over each kind of connection of one daemon."""
    if request.param == "stdio":
        yield everywhere.stdio
        return
    connect = everywhere.connect_tcp if request.param == "tcp" else everywhere.connect
    with connect() as client:
        yield client


def test_request_is_answered_over_every_kind_of_connection(anyone: Client) -> None:
    assert anyone.call("echo", {"a": [1, "ä"]}) == {"a": [1, "ä"]}


def test_line_reaches_a_worker_over_stdio_byte_for_byte(sole: Daemon) -> None:
    """W13, W7: members that nobody knows, blanks, spelling and order stay as they are."""
    line = (
        rb'  {"zzz":[1,  2] ,"params":{"x" : 1.50e+3,"\u0061":"\ud83d\ude00"}, "id" :  "a\u0062c",'
        rb' "method":"\u0065cho","_ext":{"q":null},"agentId":"w","jsonrpc":"2.0"}'
    )
    client = sole.stdio
    client.call("seen")
    client.send(line)
    assert client.read()["id"] == "abc"
    assert client.call("seen") == [line.decode() + "\n"]


def test_answer_passes_over_stdio_byte_for_byte(sole: Daemon) -> None:
    raw = r'{"result" : {"\u0061":1.0, "b":[ ]},"extra":{"id":7},  "id":77}'
    sole.stdio.send({"id": 77, "method": "say", "params": {"lines": [raw], "answer": False}})
    assert sole.stdio.read_line() == raw.encode() + b"\n"


def test_all_but_the_ids_passes_untouched_where_ids_are_rewritten(anyone: Client) -> None:
    anyone.call("seen")
    anyone.send(
        rb'  {"zzz":[1,  2] ,"params":{"id":"a\u0062c"}, "id" :  "a\u0062c", "method":"echo" }'
    )
    answer = anyone.read()
    assert answer["id"] == "abc"
    (seen,) = anyone.call("seen")
    before, after = (
        '  {"zzz":[1,  2] ,"params":{"id":"a\\u0062c"}, "id" :  ',
        ', "method":"echo" }\n',
    )
    assert seen.startswith(before)
    assert seen.endswith(after)
    assert 0 < int(seen[len(before) : -len(after)]) < 2**53


@pytest.mark.parametrize(
    "spelt", ["1", '"1"', "1.0", "-7", '"\\u0061"', '""', "9007199254740993", "1e3"]
)
def test_answer_has_the_id_as_the_client_spelt_it(anyone: Client, spelt: str) -> None:
    """W7: an id comes back with its type and its spelling."""
    line = '{"jsonrpc":"2.0","id":%s,"method":"echo","params":{}}'
    anyone.send((line % spelt).encode())
    answer = anyone.read_line().decode()
    assert f'"id":{spelt},' in answer.replace(" ", ""), answer


@pytest.mark.parametrize(
    "line",
    [b"no JSON", b"[]", b'[{"id":1,"method":"echo"}]', b'"text"', b"7", b'{"id":1', b'{"id":1}}',
     b'{"id":1,"method":"echo"} x', b'{"method":"a","params":{"x":tru}}', b'{"a":1,}', b"\x00",
     b'{"id":1,"method":"e\xff"}', b'{"id":01,"method":"echo"}', b"{'id':1}", b"\xef\xbb\xbf{}"],
)  # fmt: skip
def test_line_that_is_no_json_object_is_answered_with_32700(anyone: Client, line: bytes) -> None:
    """W5, W21: it costs itself and nothing else."""
    anyone.send(line)
    answer = anyone.read()
    assert answer["id"] is None
    assert answer["error"]["code"] == -32700
    assert answer["error"]["data"]["source"] == "anyio-bus"
    assert anyone.call("echo", {"after": 1}) == {"after": 1}


@pytest.mark.parametrize(
    ("line", "key"), [(b"{}", None), (b'{"id":8}', 8), (b'{"jsonrpc":"2.0","x":1}', None)]
)
def test_object_that_is_no_message_is_answered_with_32600(
    anyone: Client, line: bytes, key: object
) -> None:
    """W5."""
    anyone.send(line)
    answer = anyone.read()
    assert (answer["id"], answer["error"]["code"]) == (key, -32600)
    assert anyone.call("echo") == {}


@pytest.mark.parametrize("key", ["true", '{"a":1}', "[1]", "1e400"])
def test_request_with_an_id_that_is_none_is_answered_with_32600(anyone: Client, key: str) -> None:
    anyone.send(b'{"id":%s,"method":"echo"}' % key.encode())
    answer = anyone.read()
    assert (answer["id"], answer["error"]["code"]) == (None, -32600)


@pytest.mark.parametrize(
    ("front", "back", "key"),
    [
        pytest.param('{"id":5,"method":"echo","params":"', '"}', 5, id="id first"),
        pytest.param('{"method":"e","params":"', '","id":"z"}', "z", id="id last"),
        pytest.param('{"params":{"id":6,"x":"', '"}}', None, id="no id"),
    ],
)
def test_line_over_max_input_buffer_is_answered_with_32054(
    anyone: Client, front: str, back: str, key: object
) -> None:
    """W5: the connection stays, with the next line as if nothing had been."""
    anyone.send((front + "x" * 300_000 + back).encode())
    answer = anyone.read()
    assert (answer["id"], answer["error"]["code"]) == (key, -32054)
    assert answer["error"]["data"]["limit_bytes"] == SMALL
    assert anyone.call("echo", {"after": 1}) == {"after": 1}


def test_limit_of_a_line_is_exact(anyone: Client) -> None:
    """The newline counts, as it does there (section 10 of the existing kernel's behaviour)."""
    front, back = b'{"id":1,"method":"pid","params":{"x":"', b'"}}'
    fill = SMALL - len(front) - len(back) - 1
    anyone.send(front + b"y" * fill + back)
    assert anyone.read()["result"] > 0
    anyone.send(front + b"y" * (fill + 1) + back)
    assert anyone.read()["error"]["code"] == -32054


def test_burst_of_short_lines_is_not_too_large(anyone: Client) -> None:
    for key in range(500):
        anyone.start("echo", {}, id=key)
    assert [anyone.read()["id"] for _ in range(500)] == list(range(500))


def test_empty_lines_are_nothing_and_carriage_returns_are_allowed(anyone: Client) -> None:
    anyone.send_bytes(b'\n\r\n  \n\n{"id":"cr","method":"echo","params":[1]}\r\n')
    assert anyone.read()["result"] == [1]
    anyone.assert_quiet()


def test_unterminated_last_line_is_discarded(unix: Daemon, client: Client, other: Client) -> None:
    client.send_bytes(b'{"id":1,"method":"echo"}\n{"id":2,"method":"echo"}')
    client.half_close()
    assert client.read()["id"] == 1
    client.assert_ended()


def test_line_may_come_in_pieces(client: Client) -> None:
    for piece in (b'{"id":', b'1,"met', b'hod":"ec', b'ho","params":{}}', b"\n"):
        client.send_bytes(piece)
    assert client.read()["id"] == 1


def test_member_said_twice_counts_as_it_was_said_last(client: Client, sole: Daemon) -> None:
    """Whatever parser a worker has, it gets the last one only."""
    for who in (client, sole.stdio):
        who.call("seen")
        who.send(
            b'{"id":1,"id":2,"method":"pid","method":"echo","params":{"a":1},"params":{"b":2}}'
        )
        assert who.read() == {"jsonrpc": "2.0", "id": 2, "result": {"b": 2}}
        (line,) = who.call("seen")
        pairs = json.loads(line, object_pairs_hook=list)
        assert sorted(name for name, _ in pairs) == ["id", "method", "params"]


def test_unknown_response_is_said_to_be_one_and_counted(unix: Daemon, client: Client) -> None:
    """But for one without an id, which may be what another kernel has to say of ours."""
    before = client.statistics()["stray_answers"]
    client.send({"id": 1, "result": 1}, {"id": None, "error": {"code": 1, "message": "m"}})
    error = client.read()
    assert (error["id"], error["error"]["code"]) == (None, -32600)
    assert error["error"]["data"]["reason"] == "unknown_id"
    assert client.statistics()["stray_answers"] == before + 2
    client.assert_quiet()


# --- nothing is lost --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=WAYS)
def roomy(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon with room for everything."""
    how = {} if request.param == "stdio" else {request.param: True}
    yield from kit.running(config(), **how)


@pytest.fixture
def wide(roomy: Daemon) -> Iterator[Client]:
    if roomy.has_stdio:
        yield roomy.stdio
        return
    with roomy.connect() as client:
        yield client


def test_line_larger_than_a_pipe_passes_whole(wide: Client) -> None:
    """W1, W2: both ways."""
    params = {"text": "0123456789" * 100_000}
    assert wide.call("echo", params) == params


def test_burst_to_a_worker_loses_nothing(wide: Client) -> None:
    """W1."""
    line = b'{"id":%d,"method":"echo","params":{"n":%d,"text":"' + b"x" * 950 + b'"}}'
    wide.send(*(line % (n, n) for n in range(2000)))
    got = [wide.read() for _ in range(2000)]
    assert [(m["id"], m["result"]["n"]) for m in got] == [(n, n) for n in range(2000)]


def test_reader_that_stalls_gets_everything_afterwards(wide: Client) -> None:
    """W2, W16: far more than a pipe holds is answered while nobody reads."""
    keys = [wide.start("big", {"bytes": 200_000}) for _ in range(40)]
    for key in keys:
        assert wide.answer(key)["result"] == "x" * 200_000


def test_more_than_4096_requests_may_be_pending() -> None:
    """W8."""
    count = 5000
    with Daemon(config(pool(max_in_flight=0))) as daemon:
        client = daemon.stdio
        for n in range(count):
            client.send({"id": n, "method": "hold", "params": {"name": str(n)}})
        client.start("release", id="go")
        assert sorted(client.read()["id"] for _ in range(count)) == list(range(count))
        assert len(client.result("go")) == count


def test_more_than_1024_sessions_may_be_known(unix: Daemon, client: Client) -> None:
    """W8: and they end with their client, so that nothing grows with time."""
    names = ["s" * 300 + str(n) for n in range(1500)]  # equal in their first 255 bytes
    for n, name in enumerate(names):
        client.send({"id": n, "method": "echo", "params": {}, "sessionId": name})
    assert [client.read()["id"] for _ in names] == list(range(1500))
    assert client.statistics()["sessions"] >= 1500
    client.close()
    with unix.connect() as next_client:
        next_client.until(lambda status: status["statistics"]["sessions"] == 0)


def test_ids_that_differ_after_127_bytes_are_two_ids(client: Client) -> None:
    """W7."""
    one, two = "i" * 200 + "1", "i" * 200 + "2"
    client.start("hold", {"name": "one"}, id=one)
    client.start("hold", {"name": "two"}, id=two)
    client.start("release", {"names": ["two", "one"]}, id="go")
    assert [client.read()["id"] for _ in range(3)] == [two, one, "go"]


def test_number_and_text_are_two_ids(client: Client) -> None:
    """W7: ``1`` is not ``"1"``."""
    client.start("hold", {"name": "text"}, id="1")
    client.start("hold", {"name": "number"}, id=1)
    client.start("release", {"names": ["text", "number"]}, id="go")
    assert [(m["id"], m["result"]) for m in (client.read(), client.read())] == [
        ("1", {"held": "text"}),
        (1, {"held": "number"}),
    ]
    client.result("go")


@pytest.mark.parametrize("again", ["1", "1.0", "1e0"])
def test_id_in_flight_is_refused_a_second_time(client: Client, again: str) -> None:
    """Numbers are compared by value; the first request is not disturbed."""
    client.start("hold", {"name": "first"}, id=1)
    client.send(b'{"id":%s,"method":"echo"}' % again.encode())
    error = client.read()["error"]
    assert (error["code"], error["data"]["reason"]) == (-32600, "duplicate_id")
    client.start("release", id="go")
    assert client.answer(1)["result"] == {"held": "first"}
    client.result("go")
    client.assert_quiet()
    assert client.call("echo", {"free": "again"}, id=1) == {"free": "again"}


def test_id_in_flight_is_refused_a_second_time_over_stdio(sole: Daemon) -> None:
    client = sole.stdio
    client.start("hold", {"name": "first"}, id="a")
    client.send(rb'{"id":"\u0061","method":"echo"}')
    assert client.read()["error"]["data"]["reason"] == "duplicate_id"
    client.start("release", id="go")
    assert client.answer("a")["result"] == {"held": "first"}
    client.result("go")
