"""A host of one nexo plugin, by our SDK or by ``nexoai``: what each does in a second.

    python benchmarks/nexo.py events|publishes|tools|calls|starts [--sdk nexoai] [--loop trio]

- ``events``: to a handler that only counts them; the last one tells how many there were.
- ``publishes``: events that are each answered by an event, so many in flight.
- ``tools``: calls of a tool that returns its arguments, so many in flight.
- ``calls``: ``memory_recall`` by so many tasks of the plugin at once; ``--sdk by-hand`` is a Python that
  does nothing but write a call and wait for its answer, without a loop.
- ``starts``: from nothing to the answer to ``initialize``; ``--sdk bare`` is a Python with the same
  libraries and a loop, which answers that one line.

The host is the same for all: one thread on two pipes, which does little. Every answer is checked.
``cpu_us`` is the plugin's own processor time for each. Prints one JSON line, for ``paired.py``.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from floor._common import KEEPING_BYTECODE, nearest_rank_us

PLUGIN = Path(__file__).with_name("nexo_plugin.py")
READ_BYTES = 65536
BLOCK = 200  # events that are written at once
STOP_LIMIT_S = 5
TIME_LIMIT_S = 60
WARM_UP = 2000
TEXT = "buy apples, and a few words more, as people write them " * 2
ID = "7b0c6c0e-9a8e-4d52-9c1e-2f1f6f5f3a10"
ENTRY = {"id": "m1", "agent_id": "ana", "content": "likes apples"}


class Frame(msgspec.Struct):
    """What a plugin says."""

    id: int | None = None
    method: str | None = None
    params: Any = None
    result: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(Frame).decode_lines


def frame(method: str, params: Any, key: int | None = None) -> bytes:
    """Return a line of the host."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    if key is not None:
        message["id"] = key
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def event(then: Any) -> bytes:
    """Return an event that says what shall be done."""
    topic = "plugin.outbound.bench"
    members = {
        "id": ID,
        "timestamp": "2026-11-21T01:02:03Z",
        "topic": topic,
        "source": "host",
        "session_id": None,
        "payload": {"text": TEXT, "then": then},
    }
    return frame("broker.event", {"topic": topic, "event": members})


class Plugin:
    """Our ends of a plugin's pipes."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._pid = process.pid
        self._to, self._from = process.stdin.fileno(), process.stdout.fileno()
        self._rest = b""
        self.seen = 0  # events that it must have seen

    def write(self, data: bytes) -> None:
        """Write all of it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._to, view) :]

    def read(self) -> list[Frame]:
        """Return the frames that have come, at least one."""
        while True:
            data = os.read(self._from, READ_BYTES)
            if not data:
                raise EOFError("the plugin has ended")
            whole, lf, rest = (self._rest + data).rpartition(b"\n")
            self._rest = rest
            if lf:
                return _decode(whole)

    def cpu_ns(self) -> int:
        """Return the processor time that its threads have had."""
        tasks = Path(f"/proc/{self._pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


@contextmanager
def started(sdk: str, loop: str) -> Iterator[Plugin]:
    """Start a plugin; it ends by the end of its input."""
    pipe, command = subprocess.PIPE, [sys.executable, PLUGIN, sdk, loop]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=KEEPING_BYTECODE) as process:
        limit = threading.Timer(TIME_LIMIT_S, process.kill)  # a lost answer must not hang us
        limit.daemon = True
        limit.start()
        try:
            plugin = Plugin(process)
            plugin.write(frame("initialize", {"nexo_version": "0.9.9"}, 1))
            (answer,) = plugin.read()
            assert answer.id == 1, answer
            assert answer.result["manifest"]["plugin"]["id"] == "bench", answer
            yield plugin
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(STOP_LIMIT_S) == 0
        finally:
            limit.cancel()
            process.kill()


# --- what is measured ------------------------------------------------------------------------------


def events(plugin: Plugin, count: int, in_flight: int) -> None:
    """Send events; the plugin must have seen all of them."""
    one = event(None)
    for _ in range((count - 1) // BLOCK):
        plugin.write(one * BLOCK)
    plugin.write(one * ((count - 1) % BLOCK) + event("count"))
    (answer,) = plugin.read()
    counted = answer.params["event"]["payload"]["seen"]
    plugin.seen += count
    assert counted == plugin.seen, (counted, plugin.seen)


def publishes(plugin: Plugin, count: int, in_flight: int) -> None:
    """Send events that are answered, as many more as answers have come."""
    one = event("publish")
    plugin.write(one * min(count, in_flight))
    sent, got = min(count, in_flight), 0
    while got < count:
        frames = plugin.read()
        for answer in frames:
            assert answer.params["event"]["payload"]["text"] == TEXT
        got += len(frames)
        more = min(len(frames), count - sent)
        sent += more
        plugin.write(one * more)


def tools(plugin: Plugin, count: int, in_flight: int) -> None:
    """Call a tool, as often again as it has answered."""
    keys = iter(range(2, count + 2))

    def call(most: int) -> bytes:
        params = {"plugin_id": "bench", "tool_name": "bench_echo", "args": {"text": TEXT}}
        some = itertools.islice(keys, most)
        return b"".join(frame("tool.invoke", params, key) for key in some)

    plugin.write(call(in_flight))
    missing = set(range(2, count + 2))
    while missing:
        frames = plugin.read()
        for answer in frames:
            assert answer.result == {"text": TEXT}, answer
            missing.remove(answer.id or 0)
        plugin.write(call(len(frames)))


def calls(plugin: Plugin, count: int, in_flight: int) -> None:
    """Answer the plugin until it has asked so often."""
    plugin.write(event({"calls": count, "in_flight": in_flight}))
    tail = b',"result":' + json.dumps({"entries": [ENTRY]}).encode() + b"}\n"
    while True:
        frames = plugin.read()
        asked = [one for one in frames if one.method == "memory.recall"]
        plugin.write(b"".join(b'{"jsonrpc":"2.0","id":%d%s' % (one.id, tail) for one in asked))
        if len(asked) < len(frames):
            assert frames[-1].params["event"]["payload"] == {"found": count}, frames[-1]
            return


MEASURED = {"events": events, "publishes": publishes, "tools": tools, "calls": calls}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time one kind of work."""
    work = MEASURED[options.what]
    with started(options.sdk, options.loop) as plugin:
        work(plugin, min(options.count, WARM_UP), options.in_flight)
        cpu_ns, began_ns = plugin.cpu_ns(), time.perf_counter_ns()
        work(plugin, options.count, options.in_flight)
        took_ns = time.perf_counter_ns() - began_ns
        cpu_us = (plugin.cpu_ns() - cpu_ns) / options.count / 1000
    return {"rate": round(options.count / took_ns * 1e9, 1), "cpu_us": round(cpu_us, 3)}


def starts(options: argparse.Namespace) -> dict[str, Any]:
    """Time starts, one after the other; the first is not counted."""
    each_ns, cpu_ns = [], 0
    for number in range(options.count + 1):
        began_ns = time.perf_counter_ns()
        with started(options.sdk, options.loop) as plugin:
            if number:
                each_ns.append(time.perf_counter_ns() - began_ns)
                cpu_ns += plugin.cpu_ns()
    return {
        "rate": round(len(each_ns) / sum(each_ns) * 1e9, 1),
        "p50_us": nearest_rank_us(each_ns, 50),
        "p99_us": nearest_rank_us(each_ns, 99),
        "cpu_us": round(cpu_ns / len(each_ns) / 1000, 3),
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="Measure a nexo plugin.")
    parser.add_argument("what", choices=(*MEASURED, "starts"))
    parser.add_argument(
        "--sdk", choices=("anyio-bus", "nexoai", "bare", "by-hand"), default="anyio-bus"
    )
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "trio"), default="asyncio")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--one-core", action="store_true", help="host and plugin share a core")
    options = parser.parse_args()
    if min(options.count, options.in_flight) < 1:
        parser.error("--count and --in-flight must be positive")
    if options.what != "starts" and options.sdk == "bare":
        parser.error("bare only starts")
    if options.sdk == "by-hand" and (options.what, options.in_flight) != ("calls", 1):
        parser.error("by-hand only calls, one at a time")
    if options.sdk == "nexoai" and options.loop != "asyncio":
        parser.error("nexoai runs on asyncio")
    if options.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    figures = starts(options) if options.what == "starts" else measure(options)
    about = {"program": f"{options.sdk}, {options.loop}", "count": options.count}
    print(json.dumps(about | figures))


if __name__ == "__main__":
    main()
