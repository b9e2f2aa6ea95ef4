"""Sockets: their files, their addresses, and the token."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.daemon import kit
from tests.daemon.kit import Daemon, config, pool


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def refused(*arguments: str, code: int = 1) -> str:
    """Run a daemon that cannot start; return what it says."""
    with Daemon(config(), *arguments, wait=False) as daemon:
        assert daemon.wait() == code
        assert daemon.log
        assert not daemon.find_log("worker_starting"), "bind first, spawn later"
        return "\n".join(daemon.log)


# --- unix -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_socket_file_is_its_owners_alone_whatever_the_umask(umask: int) -> None:
    with Daemon(unix=True, admin=True, umask=umask) as daemon:
        assert stat.S_ISSOCK(os.stat(daemon.unix_path).st_mode)
        assert mode_of(daemon.unix_path) == 0o600
        assert mode_of(daemon.admin_path) == 0o600


def test_unix_mode_is_for_clients_without_admin_rights() -> None:
    with Daemon(config(), "--unix-mode", "0660", unix=True, admin=True) as daemon:
        assert mode_of(daemon.unix_path) == 0o660
        assert mode_of(daemon.admin_path) == 0o600


def test_own_socket_file_is_removed_at_the_end() -> None:
    """W15."""
    with Daemon(unix=True, admin=True) as daemon:
        assert daemon.stop() == 0
        assert not os.path.exists(daemon.unix_path)
        assert not os.path.exists(daemon.admin_path)


def test_own_socket_file_is_removed_by_a_second_signal_too() -> None:
    """W15."""
    with Daemon(unix=True) as daemon:
        client = daemon.connect()
        client.start("hold", {"name": "x"}, id="h")
        client.call("holding")
        daemon.signal(signal.SIGTERM)
        daemon.wait_log("stopping")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 1
        assert not os.path.exists(daemon.unix_path)


def test_live_socket_of_another_daemon_is_left_alone() -> None:
    """W15."""
    with Daemon(unix=True) as first:
        said = refused("--unix", first.unix_path)
        assert "listens there already" in said
        assert first.connect().call("echo", 1) == 1


def test_socket_file_of_a_dead_daemon_is_taken_over() -> None:
    """W15."""
    with Daemon(unix=True) as first:
        first.signal(signal.SIGKILL)
        first.wait()
        assert os.path.exists(first.unix_path)
        with Daemon(config(), "--unix", first.unix_path) as second:
            assert second.connect_unix(first.unix_path).call("echo", 1) == 1


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_never_deleted(tmp_path: Path, kind: str) -> None:
    """W15."""
    path = tmp_path / "precious"
    target = tmp_path / "target"
    target.write_text("data")
    if kind == "file":
        path.write_text("data")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)
    said = refused("--unix", str(path))
    assert "no socket" in said
    assert path.is_dir() or path.read_text() == "data"


def test_file_that_took_the_place_of_ours_is_not_removed(tmp_path: Path) -> None:
    """W15."""
    with Daemon(unix=True) as daemon:
        os.unlink(daemon.unix_path)
        Path(daemon.unix_path).write_text("another's")
        assert daemon.stop() == 0
        assert Path(daemon.unix_path).read_text() == "another's"


@pytest.mark.parametrize("path", ["/no/such/folder/s", "/tmp/" + "x" * 120])
def test_socket_that_cannot_be_made_is_an_error_with_code_1(path: str) -> None:
    """W4: and no worker was started for it."""
    assert path[:20] in refused("--unix", path)


def test_several_listeners_serve_the_same_workers() -> None:
    with Daemon(unix=True, admin=True, tcp=True, stdio=True) as daemon:
        clients = [daemon.stdio, daemon.connect(), daemon.connect_tcp(), daemon.connect_admin()]
        pids = {client.call("pid") for client in clients}
        assert len(pids) == 1


def test_hundreds_of_clients_are_served() -> None:
    with Daemon(unix=True) as daemon:
        clients = [daemon.connect() for _ in range(200)]
        for n, client in enumerate(clients):
            client.start("echo", n, id=1)
        assert [client.result(1) for client in clients] == list(range(200))


def test_bad_clients_and_dying_workers_disturb_nobody_else() -> None:
    """W22: what the library had apart, all at once, on the one core that there is."""
    with Daemon(config(pool(instances=2)), unix=True, tcp=True) as daemon:
        good, bad = daemon.connect(), daemon.connect_tcp()
        good.until_workers("ready", 2)
        good.call("echo", sessionId="s")
        good.start("pid", id="s", sessionId="s")
        held = good.result("s")
        for n in range(5):
            bad.send(b"no JSON", b"[]", b"{}")
            assert [bad.read()["error"]["code"] for _ in range(3)] == [-32700, -32700, -32600]
            other = next(w["pid"] for w in good.until_workers("ready", 2) if w["pid"] != held)
            os.kill(other, signal.SIGKILL)
            assert good.call("pid", sessionId="s") == held
            good.until(
                lambda s, gone=other: gone not in [w["pid"] for w in s["pools"][0]["workers"]]
            )
            assert bad.call("echo", n) == n
            good.until_workers("ready", 2)


def test_daemon_is_nothing_but_a_host_of_the_library() -> None:
    """W22: one core; what is tested here is the library's."""
    own = {path.name for path in (kit.ROOT / "kernel" / "daemon").glob("*.h")}
    for path in (kit.ROOT / "kernel" / "daemon").glob("*.[ch]"):
        for name in re.findall(r'^#include "(.*)"', path.read_text(), re.MULTILINE):
            assert name in own | {"abk.h"}, f"{path.name} includes {name}"


# --- TCP --------------------------------------------------------------------------------------------


def test_port_that_the_system_chose_is_logged() -> None:
    with Daemon(tcp=True) as daemon:
        assert daemon.port() > 0
        assert daemon.connect_tcp().call("echo", 1) == 1


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_names_and_both_families_are_understood(host: str) -> None:
    if host == "[::1]" and not has_ipv6():
        pytest.skip("no IPv6 here")
    with Daemon(config(), "--tcp", f"{host}:0") as daemon:
        port = daemon.port()
        address = host.strip("[]")
        with socket.create_connection((address, port), kit.PATIENCE_S) as stream:
            client = kit.Client(stream.fileno(), stream.fileno(), lambda: None)
            assert client.call("echo", 1) == 1


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_port_in_use_is_an_error_with_code_1() -> None:
    """W4."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "in use" in refused("--tcp", f"127.0.0.1:{taken.getsockname()[1]}").lower()


@pytest.mark.parametrize("host", ["0.0.0.0", "", "[::]"])
def test_tcp_beyond_loopback_without_a_token_is_refused(host: str) -> None:
    """W23: what a flag would allow is wrong use."""
    said = refused("--tcp", f"{host}:0", code=2)
    assert "--token-file" in said
    assert "--insecure-tcp" in said


def test_tcp_beyond_loopback_may_be_insisted_on() -> None:
    with Daemon(config(), "--tcp", "0.0.0.0:0", "--insecure-tcp") as daemon:
        assert daemon.connect_tcp().call("echo", 1) == 1


def test_small_answers_over_tcp_do_not_wait_for_each_other() -> None:
    """W14: TCP_NODELAY is set on what was accepted."""
    with Daemon(tcp=True) as daemon:
        client = daemon.connect_tcp()
        client.call("echo")
        assert accepted_options(daemon) == [1]


def accepted_options(daemon: Daemon) -> list[int]:
    """Return TCP_NODELAY of each connection of the daemon: copied here, and asked."""
    found = []
    pidfd = os.pidfd_open(daemon.pid)
    try:
        for name in os.listdir(f"/proc/{daemon.pid}/fd"):
            if not os.readlink(f"/proc/{daemon.pid}/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=pidfd_getfd(pidfd, int(name))) as stream:
                if not stream.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    finally:
        os.close(pidfd)
    return found


def pidfd_getfd(pidfd: int, fd: int) -> int:
    got = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, fd, 0)
    if got < 0:
        pytest.skip("pidfd_getfd is not allowed here")
    return int(got)


# --- the token --------------------------------------------------------------------------------------


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text("s\u00e9cret\n")
    path.chmod(0o600)
    return str(path)


def test_client_that_does_not_show_its_token_is_turned_away_in_time(token_file: str) -> None:
    limits = {"auth_timeout_s": 0.05}
    with Daemon(config(limits=limits), "--token-file", token_file, tcp=True) as daemon:
        client = daemon.connect_tcp()
        assert client.read()["error"]["data"]["reason"] == "unauthorized"
        client.assert_ended()


def test_right_token_lets_in(token_file: str) -> None:
    """W23: also beyond loopback."""
    with Daemon(config(), "--tcp", "0.0.0.0:0", "--token-file", token_file) as daemon:
        client = daemon.connect_tcp()
        client.send(b'{"id":1,"method":"bus/auth","params":{"token":"s\\u00e9cret"}}')
        assert client.read() == {"jsonrpc": "2.0", "id": 1, "result": {}}
        assert client.call("echo", 1) == 1


@pytest.mark.parametrize(
    "params", [{"token": "wrong"}, {"token": ""}, {"token": "s\u00e9crets"}, {"token": 7}, {}]
)
def test_wrong_token_is_refused_and_the_connection_closed(token_file: str, params: object) -> None:
    """W23."""
    with Daemon(config(), "--token-file", token_file, tcp=True) as daemon:
        client = daemon.connect_tcp()
        error = client.fail("bus/auth", params)
        assert (error["code"], error["data"]["reason"]) == (-32600, "unauthorized")
        client.assert_ended()


@pytest.mark.parametrize("method", ["echo", "bus/status", "bus/resize"])
def test_any_other_first_message_is_refused_and_the_connection_closed(
    token_file: str, method: str
) -> None:
    """W23: no worker sees it."""
    with Daemon(config(), "--token-file", token_file, tcp=True, unix=True) as daemon:
        trusted, client = daemon.connect(), daemon.connect_tcp()
        trusted.call("seen")
        client.send({"id": "first", "method": method}, {"id": 2, "method": "echo"})
        error = client.error("first")
        assert (error["code"], error["data"]["reason"]) == (-32600, "unauthorized")
        client.assert_ended()
        assert trusted.call("seen") == []


@pytest.mark.parametrize(
    "line", [b"no JSON", b"{}", b'{"id":1,"result":1}', b'{"method":"echo"}', b'{"id":9}']
)
def test_first_line_that_is_no_request_is_refused_as_well(token_file: str, line: bytes) -> None:
    """W23: "any other first message ... is answered with -32600, and the connection is closed"."""
    with Daemon(config(), "--token-file", token_file, tcp=True) as daemon:
        client = daemon.connect_tcp()
        client.send(line)
        while message := client.read_line("the end of the connection"):
            assert b'"error"' in message


def test_client_without_its_token_hears_nothing(token_file: str) -> None:
    """W23: not even what goes to all."""
    line = '{"method":"notifications/tools/list_changed"}'
    both = config(pool("m", cancel="mcp"))
    with Daemon(both, "--token-file", token_file, tcp=True, unix=True) as daemon:
        silent, ann, bob = daemon.connect_tcp(), daemon.connect(), daemon.connect()
        ann.start("hold", {"name": "a"}, id=1)
        bob.start("hold", {"name": "b"}, id=1)
        bob.call("say", {"lines": [line]})
        ann.incoming("notifications/tools/list_changed")
        silent.start("bus/auth", {"token": "s\u00e9cret"}, id="t")
        assert silent.read()["id"] == "t"
        ann.call("release")


def test_client_without_its_token_is_not_the_sole_client(token_file: str) -> None:
    """W23: a worker's words are for who may talk to it."""
    with Daemon(config(), "--token-file", token_file, tcp=True, unix=True) as daemon:
        with daemon.connect() as trusted:
            silent = daemon.connect_tcp()
            gate = kit.Gate(daemon)
            trusted.start("wait", {"path": gate.path}, id="w")
            trusted.until(lambda status: status["statistics"]["live_requests"] == 1)
            trusted.start("say", {"lines": ['{"method":"secret"}']})
            trusted.start("stderr", {"text": "it has spoken\n"})
            trusted.call("bus/status")
        # The worker speaks when the only other client is gone.
        daemon.wait_log("client_left")
        gate.open()
        daemon.wait_log("it has spoken")
        silent.start("bus/auth", {"token": "s\u00e9cret"}, id="t")
        assert silent.read()["id"] == "t"


def test_unix_sockets_need_no_token(token_file: str) -> None:
    with Daemon(config(), "--token-file", token_file, tcp=True, unix=True) as daemon:
        assert daemon.connect().call("echo", 1) == 1
        assert daemon.connect().call("bus/auth", {"token": "any"}) == {}


@pytest.mark.parametrize("content", ["", "\n", "one\ntwo\n"])
def test_token_file_without_one_line_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    refused("--tcp", "127.0.0.1:0", "--token-file", str(path))


def test_token_file_that_others_can_read_is_warned_of(token_file: str) -> None:
    os.chmod(token_file, 0o644)
    with Daemon(config(), "--token-file", token_file, tcp=True) as daemon:
        daemon.wait_log("WARN.*can be read by others")
