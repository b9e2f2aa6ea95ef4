"""What a program sees of a bus is the same on both kernels: results, errors, chunks, notifications."""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyio_bus import Bus, Limits, Pool, SessionLostError, open_bus
from anyio_bus._backends.native import lib
from tests.bus.support import until
from tests.conftest import Backend
from tests.differential.kit import differences, without_pid
from tests.differential.scenarios import PUPPET, deaths, lines, manners, talk
from tests.differential.test_kernels_agree import MANY, few

pytestmark = pytest.mark.skipif(lib is None, reason="NOT TESTED: the C kernel is not built here")

GONE_S = 0.05  # until a call gives up that gets no answer in any case


class Use(NamedTuple):
    """One use of a bus."""

    what: str
    ops: str
    session: str | None = None


told = st.lists(
    st.one_of(talk, lines.map(lambda line: f"w{line.hex()}")), min_size=1, max_size=3
).map(" ".join)
uses = st.one_of(
    st.builds(Use, st.just("request"), manners, st.sampled_from([None, None, "s", "t"])),
    st.builds(Use, st.just("stream"), told.map(lambda ops: f"{ops} c2 a"), st.just(None)),
    st.builds(Use, st.just("notify"), told, st.just(None)),
    st.builds(Use, st.just("map"), st.sampled_from(["a", "p", "n1 a", "e"]), st.just(None)),
    st.builds(Use, st.just("give_up"), st.just("h"), st.just(None)),
    st.builds(Use, st.just("die"), deaths, st.sampled_from([None, "s"])),
)


class Program:
    """A program that uses a bus with one worker, and notes all that it sees."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.seen: list[Any] = []

    async def use(self, use: Use) -> None:
        call: Callable[[Use], Awaitable[Any]] = getattr(self, use.what)
        try:
            self.seen.append(await call(use))
        except Exception as exc:
            facts = {
                name: value
                for name, value in vars(exc).items()
                if name not in ("pid", "line_prefix")
            }
            told = {name: without_pid(str(value)) for name, value in facts.items()}
            self.seen.append((type(exc).__name__, without_pid(str(exc)), told))

    async def request(self, use: Use) -> Any:
        ops = f"{use.ops} a" if self.is_silent(use.ops) else use.ops
        return await self.bus.request("do", {"do": ops}, session=use.session, timeout=10)

    @staticmethod
    def is_silent(ops: str) -> bool:
        """Tell whether nothing among these is sure to be an answer."""
        return not set(ops.split()) & {"a", "e", "p", "ys", "yt", "b5000", "B5000"}

    async def stream(self, use: Use) -> Any:
        async with self.bus.stream("do", {"do": use.ops}, timeout=10) as stream:
            chunks = [chunk.params async for chunk in stream]
            return chunks, await stream.result()

    async def notify(self, use: Use) -> Any:
        return await self.bus.notify("do", {"do": use.ops})

    async def map(self, use: Use) -> Any:
        await self.bus.wait_ready()  # else the kernels differ in how many they take at once
        items = ({"do": use.ops, "n": n} for n in range(5))
        async with self.bus.map(
            "do", items, in_flight=3, return_errors=True, timeout=10
        ) as results:
            return [str(result) async for result in results]

    async def give_up(self, use: Use) -> Any:
        await self.bus.request("do", {"do": "a"}, timeout=10)  # it is there, and hears
        return await self.bus.request("do", {"do": use.ops}, timeout=GONE_S)

    async def die(self, use: Use) -> Any:
        before = self.bus.workers()[0].generation
        try:
            return await self.bus.request("do", {"do": use.ops}, session=use.session, timeout=10)
        except SessionLostError:  # nothing was sent
            before -= 1
            raise
        finally:
            await until(lambda: self.bus.workers()[0].generation != before)


async def watch(backend: Any, uses: list[Use], max_frame_bytes: int) -> list[Any]:
    """Return what a program sees that uses a bus like this."""
    pool = Pool("p", [sys.executable, "-I", "-S", str(PUPPET), "ok"])
    limits = Limits(
        restart_delay_s=0.001,
        restart_delay_max_s=0.01,
        max_restarts=100,
        max_frame_bytes=max_frame_bytes,
    )
    async with open_bus(pool, backend=backend, limits=limits, grace_s=5) as bus:
        program = Program(bus)
        await bus.wait_ready()
        async with bus.subscribe(max_queue=1000) as notes:
            for use in uses:
                await program.use(use)
            await bus.request("do", {"do": "n9 a"}, timeout=10)
            while (note := await notes.receive()).params != "9":
                program.seen.append((note.method, note.params))
        bad = [(line.prefix, line.size) for line in bus.bad_lines()]
        return [*program.seen, bad]


@pytest.mark.timeout(120 + 10 * MANY)
def test_any_use_looks_the_same(anyio_backend: Backend) -> None:
    name, options = anyio_backend

    @few
    @given(
        some=st.lists(uses, min_size=1, max_size=8), max_frame_bytes=st.sampled_from([4000, 2**20])
    )
    def check(some: list[Use], max_frame_bytes: int) -> None:
        python, native = (
            anyio.run(
                functools.partial(watch, kernel, some, max_frame_bytes),
                backend=name,
                backend_options=options,
            )
            for kernel in ("python", "native")
        )
        found = list(differences(python, native))
        assert not found, "\n".join([*map(str, some), *found])

    check()
