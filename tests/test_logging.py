"""What the library logs has stable names: the table in the docs is what the code says."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import anyio_bus
from anyio_bus import Pool, WorkerLostError, WorkerStartError, open_bus
from tests.bus.support import one_worker, until

ROOT = Path(anyio_bus.__file__).parent
PAGE = Path(__file__).parent.parent / "docs" / "reference" / "logging.md"
LEVELS = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "error": "ERROR"}
LEVELS["exception"] = "ERROR"


class Entry(NamedTuple):
    """One kind of record."""

    event: str
    logger: str
    level: str
    fields: frozenset[str]


def _entries(path: Path) -> Iterator[Entry]:
    tree = ast.parse(path.read_text())
    loggers = {
        node.targets[0].id: ast.literal_eval(node.value.args[0])
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "logging.getLogger"
    }
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                    name, level = ast.unparse(call.func.value), LEVELS.get(call.func.attr)
                    if name in loggers and level is not None:
                        where = f"{path.relative_to(ROOT)}:{call.lineno}"
                        yield _entry(function, call, loggers[name], level, where)


def _entry(function: ast.AST, call: ast.Call, logger: str, level: str, where: str) -> Entry:
    extra: ast.AST | None = next((k.value for k in call.keywords if k.arg == "extra"), None)
    if isinstance(extra, ast.Name):  # the assignment right above
        above = [
            node
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == extra.id
            and node.lineno < call.lineno
        ]
        extra = max(above, key=lambda node: node.lineno).value if above else None
    assert isinstance(extra, ast.Dict), f'{where}: a record needs extra={{"event": ...}}'
    members = {ast.literal_eval(k): v for k, v in zip(extra.keys, extra.values, strict=True) if k}
    assert "event" in members, f'{where}: extra= has no "event"'
    return Entry(ast.literal_eval(members["event"]), logger, level, frozenset(members) - {"event"})


def _shown() -> list[Entry]:
    cells = r"\| `(\w+)` \| `([\w.]+)` \| (\w+) \|(.*?)\|"
    return [
        Entry(event, logger, level, frozenset(re.findall(r"`(\w+)`", fields)))
        for event, logger, level, fields in re.findall(cells, PAGE.read_text())
    ]


def test_the_page_lists_every_event_with_its_logger_level_and_fields() -> None:
    said = {entry for path in ROOT.rglob("*.py") for entry in _entries(path)}
    shown = _shown()

    assert len(shown) == len(set(shown))
    assert set(shown) - said == set(), "the page has what the code does not say"
    assert said - set(shown) == set(), "the code says what the page does not have"


async def test_records_carry_event_pool_and_worker(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with one_worker() as bus:
        await bus.request("say", {"lines": ["no json", '{"id":$ID,"result":0}']})
        with pytest.raises(WorkerLostError):
            await bus.request("die")
        await until(lambda: _records(caplog, "worker_stderr"))

    assert _records(caplog, "bus_running")
    for event in ("bad_line", "worker_died", "worker_stderr"):
        (record,) = _records(caplog, event)
        assert (record.__dict__["pool"], record.__dict__["worker"]) == ("w", 0)


async def test_parked_worker_is_an_event(caplog: pytest.LogCaptureFixture) -> None:
    async with open_bus(Pool("broken", ["/no/such/program"])) as bus:
        with pytest.raises(WorkerStartError):
            await bus.request("anything")
    (record,) = _records(caplog, "worker_parked")
    assert record.levelno == logging.ERROR
    assert record.__dict__["pool"] == "broken"


def _records(caplog: pytest.LogCaptureFixture, event: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.__dict__.get("event") == event]
