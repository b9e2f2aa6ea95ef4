"""What type checkers must make of the public names; mypy and pyright read this, nothing runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

import msgspec

from anyio_bus import (
    BadLineInfo,
    Bus,
    BusHost,
    Chunk,
    HandlerContext,
    Limits,
    Pool,
    Scope,
    WorkerInfo,
    open_bus,
)
from anyio_bus.sync import SyncBus, SyncScope, SyncSession, open_bus_sync


class Answer(msgspec.Struct):
    message: str


async def requests_have_the_type_that_was_asked_for(bus: Bus) -> None:
    assert_type(await bus.request("echo", {"message": "x"}), Any)
    assert_type(await bus.request("echo", reply=Answer), Answer)
    assert_type(await bus.request("echo", reply=dict[str, int], timeout=None), dict[str, int])


async def blocks_give_what_they_open(argv: list[str]) -> None:
    async with open_bus(Pool("a", argv), Pool("b", argv, instances=2)) as bus:
        assert_type(bus, Bus)
        assert_type(bus.workers(), list[WorkerInfo])
        assert_type(bus.scope, Scope)
        async with bus.open_scope(name="turn") as scope:
            assert_type(scope, Scope)
    async with BusHost() as host:
        assert_type(await host.open(Pool("a", argv)), Bus)


async def handlers_keep_their_types(bus: Bus, context: Callable[[], HandlerContext]) -> None:
    @bus.handler("add")
    def add(a: int, own: HandlerContext) -> int:
        assert_type(own.bus, Bus)
        return a + len(own.meta)

    assert_type(add(1, context()), int)  # the decorator changes nothing
    assert_type(bus.add_handler("fs/*", add, pool="a"), Callable[[], None])
    assert_type(bus.bad_lines(), list[BadLineInfo])
    assert_type(bus.listeners, tuple[str, ...])
    assert_type(bus.on_client(print), Callable[[], None])


def blocking_calls_have_the_same_types(bus: Bus, argv: list[str]) -> None:
    assert_type(bus.from_thread.request("echo", reply=Answer), Answer)
    assert_type(bus.from_thread.run_sync(bus.workers), list[WorkerInfo])
    assert_type(bus.from_thread.run(bus.request_raw, b"{}"), bytes)
    with open_bus_sync(Pool("a", argv), loop="trio") as blocking:
        assert_type(blocking, SyncBus)
        assert_type(blocking.request("echo"), Any)
        assert_type(blocking.request("echo", reply=Answer), Answer)
        with blocking.open_scope() as scope, blocking.session() as session:
            assert_type(scope, SyncScope)
            assert_type(session, SyncSession)
            assert_type(session.request("echo", reply=int), int)
        with blocking.stream("prompt") as stream:
            assert_type(list(stream), list[Chunk])


def wrong_use_is_an_error(argv: list[str]) -> None:
    Pool("a", argv, instances="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Limits(no_such_limit=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
