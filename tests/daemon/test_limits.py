"""Every queue is bounded, and what does not fit is answered (kernel.md, "Routing"; wire.md)."""

from __future__ import annotations

import json
import select
from pathlib import Path

import pytest

from tests.daemon import kit
from tests.daemon.kit import Client, Daemon, config, pool

MIB = 1 << 20


def stuff(client: Client, count: int, size: int, method: str = "echo") -> list[str]:
    """Send so many requests of about so many bytes; return their ids."""
    keys = [f"s{n}" for n in range(count)]
    for key in keys:
        client.start(method, {"text": "x" * size}, id=key)
    return keys


def test_what_does_not_fit_into_the_queue_is_answered_with_32053() -> None:
    """W6, W8."""
    limits = {"max_queued": 3}
    with Daemon(config(pool(max_in_flight=1), limits=limits)) as daemon:
        client, gate = daemon.stdio, kit.Gate(daemon)
        client.start("wait", {"path": gate.path}, id="busy")
        keys = stuff(client, 5, 1)
        for key in keys[3:]:
            error = client.error(key)
            assert (error["code"], error["data"]["reason"]) == (-32053, "max_queued")
            assert error["data"]["sent"] is False
        client.assert_quiet()
        gate.open()
        for key in keys[:3]:
            client.result(key)
        assert client.result("busy") == "waited"


def test_max_in_flight_bounds_what_a_worker_has() -> None:
    with Daemon(config(pool(max_in_flight=2))) as daemon:
        client, gate = daemon.stdio, kit.Gate(daemon)
        client.start("hold", {"name": "a"}, id="a")
        client.start("wait", {"path": gate.path}, id="w")
        client.start("echo", {}, id="queued")
        status = client.until(lambda s: s["pools"][0]["workers"][0]["in_flight"] == 2)
        assert status["pools"][0]["queued"] == 1
        gate.open()
        client.result("w")
        client.result("queued")


def test_max_pending_bounds_one_client() -> None:
    with Daemon(config(limits={"max_pending": 2}), unix=True) as daemon:
        greedy, other = daemon.connect(), daemon.connect()
        for name in ("a", "b"):
            greedy.start("hold", {"name": name}, id=name)
        error = greedy.fail("echo")
        assert (error["code"], error["data"]["reason"]) == (-32053, "max_pending")
        assert other.call("echo", 1) == 1
        other.call("release")
        greedy.result("a")


def test_worker_that_does_not_read_gets_all_once_it_does() -> None:
    """W1: partial writes go on where they stopped; nothing merges with the next line."""
    with Daemon(config(pool(max_in_flight=0))) as daemon:
        client, gate = daemon.stdio, kit.Gate(daemon)
        client.start("wait", {"path": gate.path}, id="w")
        keys = stuff(client, 60, 100_000)
        client.until(lambda s: s["pools"][0]["workers"][0]["queued_bytes"] > 4 * MIB)
        gate.open()
        for key in keys:
            assert client.result(key) == {"text": "x" * 100_000}


def test_bytes_for_a_worker_that_does_not_read_are_bounded() -> None:
    """W1: with an error for whoever sends more."""
    limits = {"max_output_queue": MIB}
    with Daemon(config(pool(command=kit.shared("deaf")), limits=limits)) as daemon:
        keys = stuff(daemon.stdio, 60, 100_000)
        codes = set()
        for key in reversed(keys[-20:]):
            error = daemon.stdio.error(key)
            codes.add((error["code"], error["data"]["reason"]))
        assert codes == {(-32053, "max_output_bytes")}


def test_notification_for_a_worker_that_does_not_read_is_bounded() -> None:
    """W1: nothing grows with time, whoever writes."""
    limits = {"max_output_queue": 100_000, "max_queued": 10}
    with Daemon(config(pool(command=kit.shared("deaf")), limits=limits)) as daemon:
        for _ in range(100):
            daemon.stdio.notify("note", {"text": "x" * 100_000})
        worker = daemon.stdio.workers()[0]
        assert worker["queued_bytes"] < 3 * MIB


@pytest.mark.parametrize("how", [{}, {"unix": True}, {"tcp": True}], ids=["stdio", "unix", "tcp"])
def test_frames_are_bounded_in_both_directions(how: dict[str, bool]) -> None:
    """W5, W12."""
    with Daemon(config(limits={"max_input_buffer": 50_000}), **how) as daemon:
        client = daemon.client()
        client.send(b'{"id":1,"method":"echo","params":"' + b"x" * 60_000 + b'"}')
        assert client.read()["error"]["code"] == -32054
        error = client.fail("big", {"bytes": 60_000})
        assert error["code"] == -32054
        assert error["data"]["limit_bytes"] == 50_000
        assert len(client.call("big", {"bytes": 40_000})) == 40_000
        assert client.workers()[0]["restarts"] == 0


# --- a client that reads slowly ---------------------------------------------------------------------


def test_sole_client_over_stdio_is_waited_for() -> None:
    """W2, W16: its workers' pipes are left unread; then nothing is missing."""
    count = 400
    with Daemon() as daemon:
        client = daemon.stdio
        client.start("flood", {"count": count, "bytes": 100_000}, id="f")
        for n in range(count):
            assert json.loads(client.read_line())["params"]["n"] == n
        assert client.result("f") == count
        assert client.statistics()["dropped_notifications"] == 0


def test_memory_for_a_sole_client_over_stdio_is_bounded() -> None:
    """About 4 MiB are queued, not all that a worker can write."""
    with Daemon(config(pool(command=kit.shared("flood")))) as daemon:
        read = Path(f"/proc/{daemon.pid}/io")

        def rchar() -> int:
            return int(read.read_text().split()[1])

        deadline = kit.Deadline()
        last, same = -1, 0
        while same < 50:  # until it reads no more
            now = rchar()
            same = same + 1 if now == last and now > 4 * MIB else 0
            last = now
            select.select([], [], [], 0.001)
            deadline.left("an end of what it reads")
        assert last < 8 * MIB


def test_worker_that_writes_for_nobody_is_read_less_and_loses_nothing_else() -> None:
    """W16: it would cost the others what the kernel does for it."""
    flood = {"count": 3000, "bytes": 2000}
    with Daemon(config(), unix=True) as daemon:
        client, other = daemon.connect(), daemon.connect()
        other.start("hold", {"name": "x"}, id="x")  # so that they may be about either request
        other.until(lambda _: other.call("holding") == ["x"])
        assert client.call("flood", flood | {"anonymous": True}) == 3000
        assert client.statistics()["dropped_notifications"] == 3000
        assert client.workers()[0]["throttled"] > 0
    with Daemon(config(), unix=True) as daemon:
        client, _other = daemon.connect(), daemon.connect()
        client.start("flood", flood, id="f")
        for n in range(3000):
            assert json.loads(client.read_line())["params"]["n"] == n
        assert client.result("f") == 3000
        assert client.workers()[0]["throttled"] == 0


SLOW = {"max_output_queue": 200_000}


def test_slow_client_does_not_hurt_another() -> None:
    """W16: the worker does not wait for it."""
    with Daemon(config(limits=SLOW), unix=True) as daemon:
        slow, other = daemon.connect(), daemon.connect()
        slow.start("flood", {"count": 300, "bytes": 10_000}, id="f")
        assert other.call("echo", 1) == 1


def test_stream_of_a_slow_client_fails_with_slow_client() -> None:
    """W16: by an error, never silently; and its worker is told."""
    with Daemon(config(limits=SLOW), unix=True) as daemon:
        slow, other = daemon.connect(), daemon.connect()
        slow.start("flood", {"count": 300, "bytes": 10_000}, id="f")
        other.call("echo")
        error = slow.error("f")
        assert (error["code"], error["data"]["reason"]) == (-32053, "slow_client")
        assert 0 < len(slow.others) < 300
        assert [message["params"]["n"] for message in slow.others] == list(range(len(slow.others)))
        assert any("$/cancelRequest" in line for line in other.call("seen"))
        slow.others.clear()
        assert slow.call("echo", "goes on") == "goes on"


def test_notifications_without_a_request_of_a_slow_client_are_counted() -> None:
    with Daemon(config(limits=SLOW), unix=True) as daemon:
        slow, other = daemon.connect(), daemon.connect()
        slow.start("hold", {"name": "x"}, id="h", sessionId="s")
        slow.start("hold", {"name": "y"}, id="i", sessionId="s")
        line = json.dumps({"method": "n", "sessionId": "s", "params": "x" * 10_000})
        slow.start("say", {"lines": [line] * 300}, id="say", sessionId="s")
        other.until(lambda s: s["statistics"]["dropped_notifications"] > 0)
        assert slow.result("say") == "said"
        other.call("release")
        slow.result("h")


def test_answers_have_as_much_room_again() -> None:
    """Those of a slow client are kept where its notifications are dropped."""
    with Daemon(config(limits=SLOW), unix=True) as daemon:
        slow, other = daemon.connect(), daemon.connect()
        slow.start(
            "flood", {"count": 100, "bytes": 10_000, "anonymous": True}, id="f", sessionId="s"
        )
        for n in range(5):
            slow.start("big", {"bytes": 20_000}, id=n)
        other.call("echo")
        for n in range(5):
            assert len(slow.result(n)) == 20_000
        assert slow.answer("f")


def test_client_that_fills_that_room_too_is_disconnected_and_told_of() -> None:
    """W16: never a silent loss."""
    with Daemon(config(limits=SLOW), unix=True) as daemon:
        other, slow = daemon.connect(), daemon.connect()
        other.call("bus/watch", {"events": ["client"]})
        slow.send(*({"id": n, "method": "big", "params": {"bytes": 30_000}} for n in range(100)))
        params = other.incoming("bus/event")["params"]
        assert (params["state"], params["reason"]) == ("gone", "slow_client")
        assert other.call("echo", 1) == 1


def test_client_for_which_too_much_is_queued_is_not_read_from() -> None:
    with Daemon(config(limits=SLOW), unix=True) as daemon:
        slow, other = daemon.connect(), daemon.connect()
        slow.start("big", {"bytes": 350_000}, id="a")
        slow.start("big", {"bytes": 200_000}, id="b")
        other.until(lambda s: not s["statistics"]["live_requests"])
        slow.start("hold", {"name": "unread"}, id="h")
        assert other.call("holding") == []
        assert len(slow.result("a")) == 350_000
        assert len(slow.result("b")) == 200_000
        other.until(lambda _: other.call("holding") == ["unread"])
        other.call("release")
        slow.result("h")


def test_client_that_takes_nothing_is_disconnected() -> None:
    """After backpressure_timeout_sec."""
    limits = {**SLOW, "backpressure_timeout_sec": 0.05}
    with Daemon(config(limits=limits), unix=True) as daemon:
        other, slow = daemon.connect(), daemon.connect()
        other.call("bus/watch", {"events": ["client"]})
        slow.start("flood", {"count": 300, "bytes": 10_000}, id="f")
        params = other.incoming("bus/event")["params"]
        assert (params["state"], params["reason"]) == ("gone", "slow_client")
        assert other.call("echo", 1) == 1


def test_client_over_stdio_beside_others_is_bounded_too() -> None:
    """Where there are several clients no worker waits for one of them."""
    with Daemon(config(limits=SLOW), stdio=True, unix=True) as daemon:
        other = daemon.connect()
        daemon.stdio.start("flood", {"count": 300, "bytes": 10_000}, id="f")
        assert other.call("echo", 1) == 1
        error = daemon.stdio.error("f")
        assert (error["code"], error["data"]["reason"]) == (-32053, "slow_client")
