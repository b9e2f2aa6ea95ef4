"""What the tests of the nexo SDK share: a plugin process, spoken to line by line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.worker.kit import Child, Message, notification, request

PROGRAMS = Path(__file__).parent / "programs"
TOPIC = "plugin.outbound.demo"


def event(topic: str, payload: Any, **members: Any) -> Message:
    """Make an event as the host sends it."""
    full = {
        "id": "7b0c6c0e-9a8e-4d52-9c1e-2f1f6f5f3a10",
        "timestamp": "2026-11-21T01:02:03Z",
        "topic": topic,
        "source": "host",
        "session_id": None,
        "payload": payload,
        **members,
    }
    return notification("broker.event", {"topic": topic, "event": full})


def invoke(key: Any, name: str, args: Any = None, **members: Any) -> Message:
    """Make a call of a tool."""
    params = {"plugin_id": "demo", "tool_name": name, "args": args, "agent_id": "ana", **members}
    return request(key, "tool.invoke", params)


def run(key: Any, code: str) -> Message:
    """Make a call of the tool that runs code."""
    return invoke(key, "demo_run", {"code": code})


class Plugin(Child):
    """A plugin process."""

    def ask(self, message: Any) -> Message:
        """Send a request; return the next message."""
        self.write(message)
        return self.read()

    def run(self, code: str, key: int = 50) -> Any:
        """Run code in it; return the result, or the error."""
        answer = self.ask(run(key, code))
        assert answer["id"] == key, answer
        return answer["result"] if "result" in answer else answer["error"]

    def alive(self) -> bool:
        """Whether it still answers, and has said nothing that was not read."""
        return bool(self.ask(invoke(9, "demo_add", {"a": 1})) == result(9, 3))

    def published(self) -> Message:
        """Return the next message, which must be an event."""
        message = self.read()
        assert message["method"] == "broker.publish", message
        assert "id" not in message
        params: Message = message["params"]
        return params

    def end(self) -> int:
        """End the input; return the exit status. Nothing more may be said."""
        said, _ = self.finish()
        assert said == []
        return self.process.returncode

    def errors_until(self, text: str) -> str:
        """Read stderr up to a line that holds a text; return that line."""
        for line in self.stderr:
            if text.encode() in line:
                return line.decode()
        raise AssertionError(f"stderr has ended without {text!r}")


def result(key: Any, value: Any) -> Message:
    return {"jsonrpc": "2.0", "id": key, "result": value}


@contextmanager
def plugin(
    loop: str, program: str = "full", *, options: dict[str, Any] | None = None, **popen: Any
) -> Iterator[Plugin]:
    """Run a plugin of ``programs/``; kill it at the end."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, str(PROGRAMS / f"{program}.py"), loop, json.dumps(options or {})]
    with subprocess.Popen(command, **{**pipes, "start_new_session": True, **popen}) as process:
        try:
            yield Plugin(process)
        finally:
            process.kill()
