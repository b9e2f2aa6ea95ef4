"""What a review broke: notifications of clients that are gone, spellings, long names, small limits."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.daemon.kit import Client, Daemon, config, pool


def test_notification_of_a_client_that_is_gone_falls_with_its_worker(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    limits = {"max_output_queue": 300_000}
    with Daemon(config(pool(session="acp"), limits=limits), unix=True) as daemon:
        stays, goes = daemon.connect(), daemon.connect()
        pid = stays.call("pid")
        goes.call("session/load", {"sessionId": "s"})
        stays.start("wait", {"path": str(gate)})
        stays.status()  # that is at the worker before anything of the other client is read
        for _ in range(16):  # more than the out-queue takes, its reserve included
            goes.notify("fill", {"sessionId": "s", "pad": "x" * 100_000})
        goes.notify("session/load", {"sessionId": "s"})
        assert goes.status()["pools"][0]["queued"] > 1
        goes.close()
        stays.until(lambda status: status["statistics"]["clients"] == 1)
        os.kill(pid, signal.SIGKILL)
        stays.until(lambda status: status["pools"][0]["queued"] == 0)
        assert stays.call("echo", {"n": 1}) == {"n": 1}


def test_methods_of_the_kernel_are_its_own_however_they_are_spelt(client: Client) -> None:
    for number, method in enumerate(("bus\\/status", "\\u0062us/status", "bus/\\u0073tatus")):
        client.send(b'{"id":%d,"method":"%s"}' % (number, method.encode()))
        assert "pools" in client.result(number)
    client.send(b'{"id":9,"method":"bus\\/nothing"}')
    assert client.error(9)["code"] == -32601


def test_params_name_a_pool_however_it_is_spelt() -> None:
    with Daemon(config(pool("p\u00e9"), pool("q"))) as daemon:
        session = daemon.stdio.call("bus/session", {"pool": "p\u00e9"})  # as \u00e9
        daemon.stdio.until_workers("ready", 2)
        assert session["id"]


def test_line_over_the_limit_costs_its_request_in_a_pool_with_a_long_name() -> None:
    limits = {"max_input_buffer": 4096}
    with Daemon(config(pool("p" * 900), limits=limits)) as daemon:
        assert daemon.stdio.fail("big", {"bytes": 5000})["code"] == -32054
        assert daemon.stdio.call("echo", {"n": 1}) == {"n": 1}


def test_sole_client_over_stdio_loses_nothing_whatever_the_limit_is() -> None:
    with Daemon(config(limits={"max_output_queue": 65536})) as daemon:
        key = daemon.stdio.start("flood", {"count": 500, "bytes": 1000, "anonymous": True})
        assert daemon.stdio.result(key) == 500
        assert [note["params"]["n"] for note in daemon.stdio.others] == list(range(500))
