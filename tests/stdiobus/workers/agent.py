"""An agent as users of the stdiobus client have them: it speaks NDJSON JSON-RPC, and knows no more.

It needs nothing but the standard library, so that it starts quickly and its wire is not ours.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def write(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def note(session: str, method: str, params: Any) -> None:
    write({"jsonrpc": "2.0", "method": method, "sessionId": session, "params": params})


def chunk(session: str, text: str) -> None:
    content = {"type": "text", "text": text}
    update = {"sessionUpdate": "agent_message_chunk", "content": content}
    note(session, "session/update", {"update": update})


class Agent:
    """What it does with each message."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.asked: dict[Any, Any] = {}  # id of a request of its own -> the one that it is for

    def take(self, line: str) -> None:
        message = json.loads(line)
        method = message.get("method")
        if method != "log":
            self.log.append(line.strip())
        if method is None:
            write({"jsonrpc": "2.0", "id": self.asked.pop(message["id"]), "result": message})
            return
        serve = getattr(self, "do_" + method.replace("/", "_"), self.do_echo)
        result = serve(message)
        if "id" in message and result is not ...:
            write({"jsonrpc": "2.0", "id": message["id"], **result})

    def do_echo(self, message: dict[str, Any]) -> Any:
        if "id" not in message:
            note(message["sessionId"], "heard", message)  # each frame has one
        return {"result": message}

    def do_log(self, _message: dict[str, Any]) -> Any:
        return {"result": self.log}

    def do_pid(self, _message: dict[str, Any]) -> Any:
        return {"result": os.getpid()}

    def do_env(self, message: dict[str, Any]) -> Any:
        return {"result": os.environ.get(message["params"]["name"])}

    def do_prompt(self, message: dict[str, Any]) -> Any:
        """Send these texts as chunks, so many times, then the result."""
        for text in message["params"]["texts"] * message["params"].get("times", 1):
            chunk(message["sessionId"], text)
        return {"result": message["params"].get("result")}

    def do_notes(self, message: dict[str, Any]) -> Any:
        """Send so many notifications, then answer."""
        for number in range(message["params"]["count"]):
            note(message["sessionId"], "progress", {"number": number})
        return {"result": message["params"]["count"]}

    def do_fail(self, message: dict[str, Any]) -> Any:
        return {"error": message["params"]}

    def do_hang(self, message: dict[str, Any]) -> Any:
        note(message["sessionId"], "hanging", {})
        return ...

    def do_half(self, message: dict[str, Any]) -> Any:
        """Send one chunk, and never answer."""
        chunk(message["sessionId"], "half")
        return ...

    def do_stdio_bus_hello(self, message: dict[str, Any]) -> Any:
        asked = message["params"]["extensions"]
        agreed = {
            name: {"selected": each["version"], "active": True} for name, each in asked.items()
        }
        result = {
            "negotiatedProtocolVersion": message["params"]["protocolVersion"],
            "sessionId": "agent-session",
            "extensions": agreed,
        }
        return {"result": result}

    def do_ask(self, message: dict[str, Any]) -> Any:
        """Ask the client with this id, and answer with its answer."""
        key = message["params"]["id"]
        self.asked[key] = message["id"]
        write(
            {
                "jsonrpc": "2.0",
                "id": key,
                "method": "session/request_permission",
                "sessionId": message["sessionId"],
                "params": {},
            }
        )
        return ...

    def do_die(self, _message: dict[str, Any]) -> Any:
        print("told to die", file=sys.stderr, flush=True)
        os._exit(3)


def main() -> None:
    agent = Agent()
    for line in sys.stdin:
        agent.take(line)


if __name__ == "__main__":
    main()
