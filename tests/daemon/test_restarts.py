"""Death and what follows: errors with all that is known, restarts, parking, handshakes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.daemon import kit
from tests.daemon.kit import Daemon, config, pool, puppet

SHAKE = {"method": "initialize", "params": {"v": 1}, "then_notify": "initialized"}


def test_requests_of_a_dead_worker_fail_with_all_that_is_known() -> None:
    """W6: exit code, pid, sent and the end of stderr."""
    with Daemon(unix=True) as daemon:
        one, two = daemon.connect(), daemon.connect()
        pid = one.call("pid")
        two.start("hold", {"name": "x"}, id="h")
        two.call("holding")
        stderr = "first\n" + "y" * 5000 + "\nlast words\n"
        for error in (one.fail("crash", {"code": 7, "stderr": stderr}), two.error("h")):
            data = error["data"]
            assert error["code"] == -32050
            assert "exited with code 7" in error["message"]
            assert "last words" in error["message"]
            assert (data["pool"], data["worker"], data["pid"]) == ("p", 0, pid)
            assert (data["exit_code"], data["sent"]) == (7, True)
            assert "signal" not in data
            assert data["stderr_tail"] == stderr[-4096:]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_death_by_a_signal_names_it(number: signal.Signals) -> None:
    with Daemon() as daemon:
        error = daemon.stdio.fail("crash", {"signal": number})
        assert error["code"] == -32050
        assert error["data"]["signal"] == number
        assert "exit_code" not in error["data"]
        assert number.name in error["message"]
        assert daemon.stdio.call("echo", 1) == 1


def test_request_that_was_not_written_says_so() -> None:
    """``sent`` is false only if no byte was written; what waits for the pool goes to the next."""
    with Daemon(config(pool(max_in_flight=1))) as daemon:
        client = daemon.stdio
        client.call("echo", sessionId="s")
        client.start("crash", id="c", sessionId="s")
        client.start("echo", "bound", id="bound", sessionId="s")
        client.start("echo", "free", id="free")
        assert client.error("c")["data"]["sent"] is True
        error = client.error("bound")
        assert error["code"] == -32050
        assert error["data"]["sent"] is False
        assert client.result("free") == "free"


def test_complete_lines_written_just_before_death_are_delivered() -> None:
    with Daemon() as daemon:
        client = daemon.stdio
        client.start("hold", {"name": "x"}, id="h")
        client.call("holding")
        client.start("release", id="r")
        client.start("crash", id="c")
        assert client.result("h") == {"held": "x"}
        assert client.result("r") == ["x"]
        assert client.error("c")["code"] == -32050


def test_half_a_line_at_the_end_is_a_bad_line() -> None:
    with Daemon(config(pool(command=kit.shared("half_line")))) as daemon:
        assert daemon.stdio.fail("echo")["code"] == -32050
        assert daemon.stdio.statistics()["bad_lines"] == 1


@pytest.mark.parametrize("code", [0, 1, 255])
def test_worker_that_exits_is_restarted_whatever_its_code(code: int) -> None:
    """W10: 0 as well."""
    with Daemon() as daemon:
        client = daemon.stdio
        error = client.fail("crash", {"code": code})
        assert error["data"]["exit_code"] == code
        assert client.call("echo", 1) == 1
        assert client.workers()[0]["restarts"] == 1


def test_restarted_worker_is_read_every_time() -> None:
    """W9: one hundred crashes, in turn with answers."""
    limits = {"max_restarts": 1000, "stable_after_s": 0}
    with Daemon(config(pool(), limits=limits)) as daemon:
        client = daemon.stdio
        pids = set()
        for n in range(25):
            pids.add(client.call("pid"))
            assert client.fail("crash", {"code": n % 3})["code"] == -32050
        assert client.call("echo", "read") == "read"
        assert len(pids) == 25


def test_grandchild_that_holds_the_pipes_disturbs_no_successor() -> None:
    """W9: it goes with the group of its parent."""
    with Daemon() as daemon:
        client = daemon.stdio
        grandchild = client.call("fork")
        assert client.fail("crash")["code"] == -32050
        assert client.call("echo", 1) == 1
        kit.wait_dead(grandchild)


def test_worker_that_closes_its_stdout_is_ended_and_followed() -> None:
    """W12: no black hole."""
    with Daemon() as daemon:
        client = daemon.stdio
        pid = client.call("pid")
        error = client.fail("hang_up")
        assert error["code"] == -32050
        assert "closed its stdout" in error["message"]
        assert client.call("pid") != pid
        kit.wait_dead(pid)


def test_worker_that_closes_its_stdin_is_ended_and_followed() -> None:
    """W12: the next request finds it out."""
    with Daemon(config(pool(command=kit.shared("close_stdin")))) as daemon:
        client = daemon.stdio
        client.call("close_stdin")
        error = client.fail("echo")
        assert error["code"] == -32050
        assert "closed its stdin" in error["message"]
        assert client.call("echo", 2) == 2


# --- restarts ---------------------------------------------------------------------------------------


def test_delay_before_a_restart_doubles() -> None:
    """W11: a real backoff, with jitter, as the log announces it."""
    limits = {"restart_delay_s": 0.02, "restart_delay_max_s": 10, "max_restarts": 9}
    with Daemon(config(pool(), limits=limits)) as daemon:
        client = daemon.stdio
        for n in range(4):
            client.fail("crash")
            said = float(daemon.wait_log(r"starts again in ([\d.]+) s", n + 1)[1])
            full = 0.02 * 2**n
            assert full / 2 - 0.006 <= said <= full + 0.006
        assert client.call("echo", 1) == 1


def test_worker_that_dies_too_often_is_parked() -> None:
    """W11: more than max_restarts within the window; what waits fails with the stored reason."""
    with Daemon(config(pool(max_in_flight=1), limits={"max_restarts": 2})) as daemon:
        client = daemon.stdio
        for _ in range(2):
            assert client.fail("crash")["code"] == -32050
        client.start("crash", id="c")
        client.start("echo", id="waits")
        assert client.error("c")["code"] == -32050
        for error in (client.error("waits"), client.fail("echo")):
            assert error["code"] == -32051
            assert "max_restarts=2" in error["message"]
            assert error["data"]["sent"] is False
        (worker,) = client.workers()
        assert worker["state"] == "parked"
        assert "max_restarts=2" in worker["reason"]
        daemon.wait_log(r"ERROR.*worker_parked.*max_restarts=2")


def test_deaths_outside_of_the_window_do_not_count() -> None:
    """W11: it slides."""
    limits = {"max_restarts": 1, "restart_window_sec": 0.000001}
    with Daemon(config(pool(), limits=limits)) as daemon:
        for _ in range(6):
            assert daemon.stdio.fail("crash")["code"] == -32050
        assert daemon.stdio.call("echo", 1) == 1


def test_parked_worker_is_tried_again_slowly() -> None:
    """W11: it recovers by itself."""
    limits = {"max_restarts": 0, "park_retry_s": 0.05}
    with Daemon(config(pool(), limits=limits)) as daemon:
        client = daemon.stdio
        client.fail("crash")
        daemon.wait_log("worker_parked")
        client.until_workers("ready")
        assert client.call("echo", 1) == 1


def test_command_that_is_missing_is_parked_with_its_errno() -> None:
    with Daemon(config(pool(command=["/no/such/program"]))) as daemon:
        error = daemon.stdio.fail("echo")
        assert error["code"] == -32051
        data = error["data"]
        assert (data["phase"], data["errno"], data["permanent"]) == ("spawn", 2, True)
        assert data["sent"] is False
        assert "/no/such/program" in error["message"]


def test_worker_that_crashes_at_start_is_parked_after_start_attempts() -> None:
    command = kit.shared("crash_at_start")
    with Daemon(config(pool(command=command), limits={"start_attempts": 3})) as daemon:
        client = daemon.stdio
        client.until_workers("parked")
        error = client.fail("echo")
        assert error["code"] == -32051
        data = error["data"]
        assert (data["phase"], data["exit_code"]) == ("start", 3)
        assert data["stderr_tail"].endswith("crash_at_start: line 3\n")
        assert client.workers()[0]["generation"] == 3


def test_pool_with_one_living_worker_goes_on_without_the_parked_one() -> None:
    with Daemon(config(pool(instances=2), limits={"max_restarts": 0})) as daemon:
        client = daemon.stdio
        client.until_workers("ready", 2)
        client.fail("crash")
        client.until_workers("parked")
        for n in range(4):
            assert client.call("echo", n) == n


# --- handshakes -------------------------------------------------------------------------------------


def test_handshake_is_played_to_each_worker_before_any_request() -> None:
    with Daemon(config(pool(instances=2, ready=SHAKE))) as daemon:
        client = daemon.stdio
        client.until_workers("ready", 2)
        for n in range(2):
            lines = client.call("seen", sessionId=str(n))
            assert '"id":"anyio-bus/handshake"' in lines[0].replace(" ", "")
            assert '"params":{"v":1}' in lines[0].replace(" ", "")
            assert '"initialized"' in lines[1]
            assert len(lines) == 2
        client.assert_quiet()


def test_handshake_is_played_again_to_a_successor() -> None:
    with Daemon(config(pool(ready=SHAKE))) as daemon:
        client = daemon.stdio
        client.call("echo")
        client.fail("crash")
        lines = client.call("seen")
        assert [
            name in line for name, line in zip(("initialize", "initialized"), lines, strict=True)
        ]


def test_answer_to_the_handshake_reaches_no_client() -> None:
    with Daemon(config(pool(ready=SHAKE)), unix=True) as daemon:
        client = daemon.connect()
        client.call("echo")
        client.assert_quiet()
        assert client.statistics()["stray_answers"] == 0


@pytest.mark.parametrize("kind", ["error", "mute"])
def test_handshake_that_fails_parks_with_its_phase(kind: str) -> None:
    """Refused, or not answered in time."""
    shake = {**SHAKE, "timeout_s": 0.05}
    silent = pool(command=puppet("--init", kind), ready=shake)
    with Daemon(config(silent, limits={"start_attempts": 1})) as daemon:
        client = daemon.stdio
        client.start("echo", id="waits")
        for error in (client.error("waits"), client.fail("echo")):
            assert error["code"] == -32051
            assert error["data"]["phase"] == "handshake"
            assert error["data"]["sent"] is False
        assert "no good" in error["message"] or "within 0.05 s" in error["message"]
        client.until_workers("parked")


def test_request_waits_for_a_slow_handshake() -> None:
    command = kit.shared("slow_start", "0.05")
    with Daemon(config(pool(command=command, ready=SHAKE))) as daemon:
        client = daemon.stdio
        client.start("echo", 1, id="early")
        assert client.workers()[0]["state"] == "starting"
        assert client.result("early") == 1


# --- processes --------------------------------------------------------------------------------------


def test_worker_has_its_pipes_and_no_other_descriptor(tmp_path: Path) -> None:
    """W20: nor has one that is started while clients are connected."""
    with (
        open(tmp_path / "inherited", "w") as leaky,
        Daemon(
            config(pool(instances=2)), unix=True, tcp=True, stdio=True, pass_fds=[leaky.fileno()]
        ) as daemon,
    ):
        client = daemon.connect()
        daemon.connect_tcp().call("fds")
        client.until_workers("ready", 2)
        client.fail("crash")
        client.until_workers("ready", 2)
        for _ in range(4):
            found = client.call("fds")
            del found[max(found, key=int)]  # the listing's own
            found.pop(str(leaky.fileno()), None)  # was given to all of them by whoever started us
            assert set(found) <= {"0", "1", "2"}, found


def test_worker_has_every_signal_at_its_default_and_none_blocked() -> None:
    """W20: SIGPIPE and SIGINT too, whatever our parent ignored."""

    def ignore() -> None:
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})

    with Daemon(preexec_fn=ignore) as daemon:
        fields = daemon.stdio.call("status")
        ours = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)  # Python's own
        assert int(fields["SigIgn"], 16) & ~ours == 0
        assert int(fields["SigBlk"], 16) == 0


def test_worker_leads_a_group_and_a_session_of_its_own() -> None:
    """Ctrl-C in the terminal of the daemon is the daemon's affair."""
    with Daemon() as daemon:
        pid, group, session = daemon.stdio.call("ids")
        assert pid == group == session


def test_environment_and_folder_of_a_pool_apply(tmp_path: Path) -> None:
    env = {"PUPPET": "yes", "REMOVED": None}
    with Daemon(
        config(pool(env=env, cwd=str(tmp_path))), env={"REMOVED": "x", "KEPT": "y"}
    ) as daemon:
        client = daemon.stdio
        got = [client.call("env", {"name": name}) for name in ("PUPPET", "REMOVED", "KEPT")]
        assert got == ["yes", None, "y"]
        assert os.readlink(f"/proc/{client.call('pid')}/cwd") == str(tmp_path)


def test_workers_die_with_a_daemon_that_is_killed() -> None:
    """W20: even one that ignores the end of its stdin and SIGTERM."""
    with Daemon(config(pool(command=puppet("--linger", "--ignore-term")))) as daemon:
        pid = daemon.stdio.call("pid")
        daemon.signal(signal.SIGKILL)
        assert daemon.wait() == -signal.SIGKILL
        kit.wait_dead(pid)
