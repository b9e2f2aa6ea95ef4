"""What random scenarios found, each by itself: both kernels are to do what the design says."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from anyio_bus import Handshake, Limits, Pool
from anyio_bus._backends.native import lib
from anyio_bus._config import BusConfig
from anyio_bus._errors import KernelCode
from anyio_bus._sansio.lifecycle import State
from anyio_bus._sansio.routing import Route
from anyio_bus._sansio.tapping import TapFrame
from tests.differential.kit import OPENERS, Side
from tests.differential.scenarios import PUPPET

pytestmark = pytest.mark.skipif(lib is None, reason="NOT TESTED: the C kernel is not built here")

both = pytest.mark.parametrize("name", OPENERS)
ASK = b'{"id":1,"method":"do","params":{"do":"h"}}\n'


def pool(mode: str = "ok", **options: Any) -> Pool:
    return Pool("p", [sys.executable, "-I", "-S", str(PUPPET), mode], **options)


@asynccontextmanager
async def running(name: str, pool: Pool, **limits: Any) -> AsyncIterator[Side]:
    side = Side(name, BusConfig((pool,), Limits(start_attempts=1, **limits)))
    async with side.run():
        await side.settle()
        yield side


@both
async def test_answer_to_a_handshake_is_a_message_that_was_read(name: str) -> None:
    async with running(name, pool(ready=Handshake("hello"))) as side:
        assert side.seen()["statistics"]["messages_in"] == 1


@both
async def test_killed_worker_gets_neither_the_end_of_its_input_nor_sigterm_first(name: str) -> None:
    async with running(name, pool()) as side:
        side.submit(ASK, Route("p"), 1)
        await side.settle()
        side.seen()
        side.kernel.kill(0)
        await side.settle()
        failed = next(what for what in side.seen()["worker 0"] if what[0] == "failed")
        assert failed[2]["signal"] == 9


@both
async def test_worker_that_is_leased_before_it_starts_is_told_to_start_once(name: str) -> None:
    async with running(name, pool(ready=Handshake("hello"))) as side:
        worker = side.kernel.spawn("p", session="s")
        await side.settle()
        seen = side.seen()
        assert [what[2] for what in seen[f"worker {worker}"]] == ["vacant", "starting", "ready"]
        assert [what[2] for what in seen[f"still {worker}"]] == ["ready"]  # nothing is in flight


@both
async def test_lease_ends_where_its_session_goes_elsewhere(name: str) -> None:
    async with running(name, pool()) as side:
        side.kernel.lease(0, "s")
        side.kernel.spawn("p", session="s")
        info = side.info(0)
        assert info is not None
        assert (info.held, info.lease) == (False, None)


@both
async def test_own_worker_of_a_lease_ends_where_its_session_goes_elsewhere(name: str) -> None:
    async with running(name, pool()) as side:
        worker = side.kernel.spawn("p", session="s")
        await side.settle()
        side.kernel.lease(0, "s")
        await side.until(lambda: side.info(worker) is None)


@both
async def test_refusal_of_a_second_lease_has_sent_nothing(name: str) -> None:
    async with running(name, pool()) as side:
        side.kernel.lease(0, "s")
        assert side.attempt("lease", 0, "t")[1]["sent"] is False


@both
async def test_refusal_of_a_long_frame_says_where_it_was_to_go(name: str) -> None:
    async with running(name, pool(), max_frame_bytes=2000) as side:
        frame = b'{"id":1,"method":"%b"}\n' % (b"x" * 2000)
        refused = side.submit(frame, Route("p", session="s", worker=0), 1)[1]
        assert refused["code"] == KernelCode.FRAME_TOO_LARGE
        assert (refused["pool"], refused["session"], refused["worker"]) == ("p", "s", 0)


@both
async def test_long_frame_for_a_parked_pool_is_refused_since_the_pool_is_parked(name: str) -> None:
    async with running(name, pool("crash"), max_frame_bytes=2000) as side:
        frame = b'{"id":1,"method":"%b"}\n' % (b"x" * 2000)
        assert side.submit(frame, Route("p"), 1)[1]["phase"] == "start"


@both
async def test_refused_handshake_is_told_with_its_code(name: str) -> None:
    async with running(name, pool("refuse", ready=Handshake("hello"))) as side:
        info = side.info(0)
        assert info is not None
        assert info.state is State.PARKED
        assert "refused 'hello': no (code -1)" in info.reason


@both
async def test_failed_exec_is_told_in_the_words_of_the_system(name: str) -> None:
    async with running(name, Pool("p", ["/nowhere/to/be/found"])) as side:
        info = side.info(0)
        assert info is not None
        assert info.reason.endswith("'/nowhere/to/be/found': No such file or directory")


@both
async def test_tap_shows_no_line_under_a_request_of_another_worker(name: str) -> None:
    frames: list[TapFrame] = []
    async with running(name, pool(instances=2)) as side:
        side.kernel.tap(frames.extend)
        side.submit(ASK, Route("p", worker=0), 1)
        line = b'{"id":1,"result":"not mine"}'.hex().encode()
        side.submit(b'{"method":"do","params":{"do":"w%b"}}\n' % line, Route("p", worker=1), None)
        await side.settle()
        stray = next(frame for frame in frames if b"not mine" in frame.frame)
        assert (stray.worker, stray.kind, stray.request) == (1, "response", None)


@both
async def test_request_refused_for_its_id_leaves_the_loss_of_its_session_to_be_told(
    name: str,
) -> None:
    async with running(name, pool()) as side:
        side.submit(ASK, Route("p"), 1)
        side.kernel.lease(0, "s")
        side.kernel.release(0)
        await side.settle()
        side.kernel.kill(0)
        await side.settle()
        side.submit(ASK, Route("p"), 1)
        assert side.submit(ASK, Route("p", session="s"), 1)[1]["reason"] == "duplicate_id"
        assert side.find_session("s") is not None
        ask = ASK.replace(b"1", b"2", 1)
        assert side.submit(ask, Route("p", session="s"), 2)[1]["reason"] == "session_lost"


@both
async def test_held_worker_that_fails_to_start_is_told_to_start_once(name: str) -> None:
    async with running(name, pool("refuse", ready=Handshake("hello"))) as side:
        side.kernel.hold(0)
        side.seen()
        side.kernel.drain(0, 0.0)  # which starts one that is parked
        await side.settle()
        seen = side.seen()
        assert [what[2] for what in seen["worker 0"]] == ["starting", "stopping", "parked"]
        assert "still 0" not in seen


@both
async def test_last_line_without_an_end_is_told_with_its_whole_length(name: str) -> None:
    async with running(name, pool()) as side:
        ask = b'{"method":"do","params":{"do":"v%b x3"}}\n' % (b"7a" * 9000)
        side.dying[0] = 1
        side.submit(ask, Route("p"), None)
        await side.settle()
        bad = next(what for what in side.seen()["worker 0"] if what[0] == "bad")
        assert bad[2]["size"] == 9000
