"""The C kernel and the Python one take the same configurations, and read the same from them.

Known differences, none of which the documents here come near: the C kernel refuses members that
stand twice and numbers that its types do not hold; it looks up users, groups and limits at once,
which Python does at the start; it takes a lone surrogate of a path, as Python writes them; paths of
sessions have at most eight names; and ``envelope`` is ``keep`` where nothing is said.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anyio_bus import BusConfig, Handshake, InvalidArgumentError, Limits, Pool

KERNEL = Path(__file__).parents[2] / "kernel"
COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)

pytestmark = pytest.mark.timeout(300)  # the first one builds the kernel

JSON_NAMES = {field.name: field.encode_name for field in structs.fields(Limits)}

Check = Callable[[str, bool], dict[str, Any] | str]


@pytest.fixture(scope="session")
def check() -> Check:
    """Build the program that reads a configuration, and return what runs it."""
    if COMPILER is None or shutil.which("make") is None:
        pytest.skip("NOT TESTED: the C kernel needs a C compiler and make, and there is none here")
    made = subprocess.run(
        ["make", "-C", str(KERNEL), "build/config_check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr

    def run(text: str, strict: bool) -> dict[str, Any] | str:
        program = [str(KERNEL / "build" / "config_check"), *(["strict"] if strict else [])]
        done = subprocess.run(
            program, input=text.encode(), capture_output=True, check=False, timeout=60
        )
        assert done.returncode in (0, 1), done.stderr
        verdict, _, line = done.stdout.decode().partition("\n")
        if done.returncode == 1:
            assert verdict.startswith("config: ")
            return verdict
        assert verdict == "ok"
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    return run


def pool_as_c(pool: Pool, written: dict[str, Any]) -> dict[str, Any]:
    """Say what the program prints for a pool."""
    path = {"top": "", "acp": "params.sessionId"}.get(pool.session, pool.session)
    rlimits = [{"soft": soft, "hard": hard} for soft, hard in pool.rlimits.values()]
    return {
        "id": pool.id,
        "argv": list(pool.argv),
        "env": pool.env,
        "cwd": pool.cwd,
        "session": path.split(".") if path else [],
        "session_acp": pool.session == "acp",
        "envelope": written.get("envelope", "keep"),
        "balance": pool.balance,
        "cancel": pool.cancel,
        "instances": pool.instances,
        "max_in_flight": pool.max_in_flight,
        "max_requests": pool.max_requests,
        "packs": pool.idle_timeout_s > 0 and pool.balance == "least_busy",
        "probed": pool.health is not None,
        "ready": None if pool.ready == "spawn" else frames(pool.ready),
        "rlimits": rlimits,
        "nice": pool.nice,
        "groups": None,
        "user": -1,
        "umask": -1 if pool.umask is None else pool.umask,
    }


def frames(ready: Handshake) -> dict[str, Any]:
    """Say what a handshake sends, as objects."""
    request = {"id": "anyio-bus/handshake", "method": ready.method, "params": ready.params}
    notify = None if ready.then_notify is None else {"jsonrpc": "2.0", "method": ready.then_notify}
    return {
        "request": {"jsonrpc": "2.0", **request},
        "notify": notify,
        "timeout_s": ready.timeout_s,
    }


def decoded(found: dict[str, Any]) -> dict[str, Any]:
    """Read the frames in what the program prints, and leave the numbers of rlimits out."""
    ready = found["ready"]
    if ready is not None:
        read = {key: json.loads(ready[key] or "null") for key in ("request", "notify")}
        ready = {**ready, **read}
    rlimits = [{"soft": one["soft"], "hard": one["hard"]} for one in found["rlimits"]]
    return {**found, "ready": ready, "rlimits": rlimits}


def pool(**more: Any) -> str:
    """Write a document with one pool."""
    return json.dumps({"pools": [{"id": "a", "command": ["x"], **more}]})


def limits(**more: Any) -> str:
    """Write a document with limits."""
    return json.dumps({"pools": [{"id": "a", "command": ["x"]}], "limits": more})


def root(**more: Any) -> str:
    """Write a document with more at its top."""
    return json.dumps({"pools": [{"id": "a", "command": ["x"]}], **more})


INTEGERS = (
    "max_input_buffer",
    "max_output_queue",
    "max_pending",
    "max_queued",
    "max_sessions",
    "max_handlers",
    "max_restarts",
    "start_attempts",
    "stderr_tail_bytes",
)
SECONDS = (
    "restart_window_sec",
    "start_window_s",
    "restart_delay_s",
    "restart_delay_max_s",
    "stable_after_s",
    "park_retry_s",
    "cancel_grace_s",
    "drain_timeout_sec",
    "backpressure_timeout_sec",
)
POOL_VALUES: dict[str, list[Any]] = {
    "id": ["b", "\u00e9\U0001f600", "", 5, None],
    "command": ["x", [], "", "x y", " x ", "x\ty", ["x y"], ["", "x"], [1], "a\0b", 5, None],
    "args": [[], ["a", ""], "a", [1], ["\0"], None],
    "instances": [1, 7, 0, -1, 1.0, 1.5, True, "1", None],
    "env": [{}, {"A": "b", "C": None, "D": ""}, {"": "x"}, {"A=B": "x"}, {"A": 1}, {"A": "\0"}, []],
    "cwd": [None, "/tmp", "a\0b", 5],
    "balance": ["least_busy", "round_robin", "", "random", None],
    "max_in_flight": [0, 5, -1, 0.5, None],
    "envelope": ["keep", "strip", "", None],
    "session": [
        *("top", "acp", "params.a", "params.thread.id", "", "params", "params.", "params..a"),
        *("params.a ", "params.a b", "params.\v", "result.a", "top\0", 5, None),
    ],
    "cancel": ["lsp", "mcp", "acp", "none", "LSP", None],
    "chunks": ["anyio-bus", "acp", "mcp-progress", "lsp", "", 5, None],
    "collect": [None, "text", "json", 1],
    "serial": [True, False, 1, None],
    "ready": [
        "spawn",
        {"method": "m"},
        {"method": "m", "params": {"a": [1, {}]}, "then_notify": "n", "timeout_s": 0.5},
        {"method": "m", "then_notify": None, "unknown": 1},
        *("now", {}, {"method": ""}, {"method": 1}, {"method": "m", "params": []}, None),
        *({"method": "m", "timeout_s": value} for value in (0, -1, "1", None)),
        {"method": "m", "then_notify": 1},
    ],
    "guard": [True, False, 0, None],
    "spares": [0, 3, -1, 0.5, None],
    "idle_timeout_s": [0, 0.5, 3, -1, "1", None],
    "max_lifetime_s": [0, 0.5, -0.1, None],
    "max_requests": [0, 2**62, -1, 1.5, None],
    "max_rss_bytes": [0, 2**40, -1, 1.5, None],
    "health": [
        *(None, {"method": "m"}, {"method": "m", "params": {}, "every_s": 1, "timeout_s": 2}),
        *({}, {"method": ""}, {"method": "m", "every_s": 0}, {"method": "m", "timeout_s": 0}),
        *({"method": "m", "params": []}, {"method": "m", "unknown": 1}, 5, "m"),
    ],
    "umask": [0, 511, 512, -1, "027", "0o27", "777", "1000", "8", "", 1.0, None, True],
    "nice": [0, 40, 41, -41, 1.0, "1", None],
    "rlimits": [
        *({}, {"core": 0}, {"core": [0, 0]}, {"core": [1, 0]}, {"core": [None, 0]}, []),
        *({"core": -1}, {"core": [0]}, {"core": [0, 0, 0]}, {"core": 1.0}, {"core": "1"}),
    ],
    "spawn": ["auto", "posix", "portable", "fork", None],
    "colour": [1],
}
DOCUMENTS = [
    *(pool(**{name: value}) for name, values in POOL_VALUES.items() for value in values),
    *(limits(**{name: v}) for name in INTEGERS for v in (0, 1, 7, -1, 1.0, 1.5, "1", None, True)),
    *(limits(**{name: v}) for name in SECONDS for v in (0, 0.25, 7, -1, "1", None, False)),
    *(root(limits=value) for value in ({}, None, [], 5, {"max_pendng": 1}, {"max_frame_bytes": 1})),
    *(root(pools=value) for value in (None, {}, [], [5], [None], [{}], [{"id": "a"}])),
    *(root(transport=value) for value in (None, {}, "stdio", {"mode": "stdio"}, {"mode": "tcp"})),
    *(root(transport=value) for value in ({"framing": "ndjson"}, {"protocol": 1}, {"x": None})),
    root(colour=1),
    json.dumps({"pools": [{"id": name, "command": "x"} for name in "aba"]}),
    json.dumps({"pools": [{"id": name, "command": "x"} for name in "abc"]}),
    json.dumps({"pools": [{"command": "x"}]}),
    *("", "{", "[]", "null", "{}", "5", '{"pools":[{"id":"\\ud800","command":"x"}]}'),
    *(pool().replace('"x"', text) for text in ('"x",', '"\t"', '"\\q"', '"\\u00e9"', "01")),
    *(limits(cancel_grace_s=5).replace("5", text) for text in ("5e0", "1e400", "NaN", "5.", "+5")),
    pool() + " \n",
    pool() + "x",
    "\ufeff" + pool(),
]


def read(text: str) -> BusConfig | InvalidArgumentError:
    """Return what Python makes of a document."""
    try:
        return BusConfig.from_json(text)
    except InvalidArgumentError as error:
        return error


@pytest.mark.parametrize("text", DOCUMENTS)
def test_both_read_the_same(check: Check, text: str, caplog: pytest.LogCaptureFixture) -> None:
    found = check(text, False)
    with caplog.at_level(logging.WARNING, "anyio_bus"):
        wanted = read(text)
    if isinstance(wanted, InvalidArgumentError):
        assert isinstance(found, str), f"Python: {wanted}"
        name = (wanted.field or "").rpartition(".")[2]
        assert name in found or JSON_NAMES[name] in found
        return

    assert isinstance(found, dict), found
    written = json.loads(text)["pools"]
    assert list(map(decoded, found["pools"])) == [
        pool_as_c(one, plain) for one, plain in zip(wanted.pools, written, strict=True)
    ]
    ours = {JSON_NAMES[name]: value for name, value in structs.asdict(wanted.limits).items()}
    assert found["limits"] == {**ours, "session_idle_s": 0, "auth_timeout_s": 10}
    said = [record.getMessage() for record in caplog.records]
    assert sorted(f"config: {warning}" for warning in found["warnings"]) == sorted(said)
    if said:
        with pytest.raises(InvalidArgumentError, match="unknown key") as caught:
            BusConfig.from_json(text, strict=True)
        assert check(text, True) == str(caught.value)
    else:
        BusConfig.from_json(text, strict=True)


@pytest.mark.parametrize("text", [pool(), pool(ready={"method": "m"}), limits(max_pending=7)])
def test_what_has_no_unknown_key_is_the_same_if_strict(check: Check, text: str) -> None:
    assert check(text, True) == check(text, False)
