"""OpenTelemetry: spans and metrics of a bus and of its workers, joined by W3C trace context."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from anyio_bus import (
    InvalidArgumentError,
    Limits,
    Raw,
    RemoteError,
    WorkerLostError,
    open_bus,
)
from anyio_bus.otel import Telemetry
from anyio_bus.sync import open_bus_sync
from anyio_bus.testing import open_memory_bus
from anyio_bus.worker import Context, Worker
from tests.bus.support import begin, scripted, until
from tests.bus.workers.scripted import serve


class Probe:
    """A telemetry that keeps what it was told."""

    def __init__(self, **options: Any) -> None:
        self._spans = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.telemetry = Telemetry(
            tracer_provider=self.tracer_provider, meter_provider=meters, **options
        )

    def spans(self, kind: SpanKind = SpanKind.CLIENT) -> list[ReadableSpan]:
        return [span for span in self._spans.get_finished_spans() if span.kind is kind]

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def probe() -> Probe:
    return Probe()


async def echo(params: Any) -> Any:
    return params


async def where(context: Context) -> dict[str, Any]:
    """Return the context of the span that is current in the handler, and what the client sent."""
    current = trace.get_current_span().get_span_context()
    return {"span": current.span_id, "trace": current.trace_id, "meta": context.meta}


async def fail(code: int) -> None:
    if code:
        raise RemoteError(code, "told to fail")
    raise LookupError("lost the map")


def a_worker(telemetry: Telemetry | None = None) -> Worker:
    worker = Worker(telemetry=telemetry)
    worker.method("echo")(echo)
    worker.method("where")(where)
    worker.method("fail")(fail)
    worker.method("now", inline=True)(lambda: trace.get_current_span().get_span_context().span_id)
    return worker


async def test_request_is_a_client_span(probe: Probe) -> None:
    async with open_memory_bus(a_worker(), telemetry=probe.telemetry) as bus:
        with probe.tracer_provider.get_tracer("test").start_as_current_span("outer") as outer:
            await bus.request("echo", {"a": 1})

    (span,) = probe.spans()
    assert span.name == "echo"
    assert span.parent == outer.get_span_context()
    assert dict(span.attributes or {}) == {
        "rpc.system": "jsonrpc",
        "rpc.system.name": "jsonrpc",
        "rpc.method": "echo",
        "rpc.jsonrpc.version": "2.0",
        "rpc.jsonrpc.request_id": "1",
        "anyio_bus.pool": "memory",
        "anyio_bus.worker": 0,
    }
    assert span.status.status_code is StatusCode.UNSET


async def test_context_reaches_the_workers_handler(probe: Probe) -> None:
    theirs = Probe()
    async with open_memory_bus(a_worker(theirs.telemetry), telemetry=probe.telemetry) as bus:
        seen = await bus.request("where", {"_meta": {"mine": 1}})
        inline = await bus.request("now", {})

    client, _ = probe.spans()
    server, server_inline = theirs.spans(SpanKind.SERVER)
    assert server.parent is not None
    assert client.context is not None
    assert server.context is not None
    assert server_inline.context is not None
    assert server.parent.span_id == client.context.span_id
    assert (seen["span"], seen["trace"]) == (server.context.span_id, client.context.trace_id)
    assert seen["meta"]["mine"] == 1
    assert inline == server_inline.context.span_id
    assert trace.get_current_span().get_span_context().span_id == 0


@pytest.mark.parametrize(
    ("params", "arrives"),
    [
        ({"a": 1}, True),
        (Raw(b'{"a": 1, "_meta": {"x": 2}}'), True),
        (Limits(), True),
        ([1], False),
        (None, False),
        ({"_meta": "text"}, False),
    ],
)
async def test_context_goes_into_params_that_are_an_object(
    probe: Probe, params: Any, arrives: bool
) -> None:
    async with open_memory_bus(serve, telemetry=probe.telemetry) as bus:
        got = await bus.request("echo", params)
    assert ("traceparent" in (got["_meta"] if isinstance(got, dict) else {})) is arrives
    if isinstance(params, Raw):
        assert got["_meta"]["x"] == 2
        assert got["a"] == 1


async def test_stream_is_a_span_that_its_worker_joins(probe: Probe) -> None:
    async with open_memory_bus(a_worker(), telemetry=probe.telemetry) as bus:
        async with bus.stream("where", {}) as stream:
            seen = await stream.result()

    (span,) = probe.spans()
    assert span.context is not None
    assert f"{span.context.span_id:016x}" in seen["meta"]["traceparent"]
    assert len(seen["meta"]) > 1  # the stream's own members are there as well


async def test_each_request_of_a_map_is_a_span(probe: Probe) -> None:
    async with open_memory_bus(a_worker(), telemetry=probe.telemetry) as bus:
        async with bus.map("where", [{}] * 3) as results:
            contexts = [(await anext(results))["meta"]["traceparent"] for _ in range(3)]

    ids = [f"{span.context.span_id:016x}" for span in probe.spans() if span.context is not None]
    assert len(set(ids)) == 3
    assert sorted(ids) == sorted(context.split("-")[2] for context in contexts)


@pytest.mark.parametrize("plain", [True, False])
async def test_handler_of_a_workers_request_joins_its_trace(probe: Probe, plain: bool) -> None:
    theirs = Probe()
    worker = a_worker(theirs.telemetry)

    @worker.method("relay")
    async def relay(context: Context) -> Any:
        return await context.request("ask", {})

    def answer() -> int:
        return trace.get_current_span().get_span_context().span_id

    async def answer_later() -> int:
        await anyio.lowlevel.checkpoint()
        return answer()

    handlers = {"ask": answer if plain else answer_later}
    async with open_memory_bus(worker, telemetry=probe.telemetry, handlers=handlers) as bus:
        got = await bus.request("relay", {})

    (relayed,) = theirs.spans(SpanKind.SERVER)
    (asked,) = probe.spans(SpanKind.SERVER)
    assert asked.parent is not None
    assert asked.context is not None
    assert relayed.context is not None
    assert (asked.name, asked.parent.span_id) == ("ask", relayed.context.span_id)
    assert got == asked.context.span_id
    assert (asked.attributes or {})["anyio_bus.pool"] == "memory"
    assert (asked.attributes or {})["anyio_bus.worker"] == 0


async def test_params_are_left_alone_where_that_is_asked_for_or_they_are_bad() -> None:
    probe = Probe(propagate=False)
    async with open_memory_bus(serve, telemetry=probe.telemetry) as bus:
        assert await bus.request("echo", {}) == {}
    probe = Probe()
    async with open_memory_bus(serve, telemetry=probe.telemetry) as bus:
        with pytest.raises(InvalidArgumentError):
            await bus.request("echo", object())
    (span,) = probe.spans()
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(("code", "expected"), [(7, 7), (0, -32603), (None, -32602)])
async def test_error_is_on_both_spans(probe: Probe, code: int | None, expected: int) -> None:
    theirs = Probe()
    async with open_memory_bus(a_worker(theirs.telemetry), telemetry=probe.telemetry) as bus:
        with pytest.raises(RemoteError) as caught:
            await bus.request("fail", {"code": code} if code is not None else {})

    assert caught.value.code == expected
    for span in (*probe.spans(), *theirs.spans(SpanKind.SERVER)):
        assert span.attributes is not None
        assert span.attributes["rpc.jsonrpc.error_code"] == expected
        assert span.status.status_code is StatusCode.ERROR
    (point,) = probe.points("rpc.client.call.duration")
    assert point.attributes["error.type"] == str(expected)
    assert theirs.points("rpc.server.call.duration")[0].count == 1


async def test_each_way_to_end_closes_the_span(probe: Probe) -> None:
    async with open_memory_bus(serve, telemetry=probe.telemetry, timeout=None) as bus:
        with pytest.raises(TimeoutError):
            await bus.request("mute", timeout=0.001)
        async with anyio.create_task_group() as tasks:
            cancelled = begin(tasks, lambda: bus.request("mute"))
            async with bus.open_scope() as scope:
                begin(tasks, lambda: bus.request("mute", scope=scope))
                stopped = begin(tasks, lambda: bus.request("mute"))
                await until(lambda: bus.statistics().pending == 3)
            cancelled.scope.cancel("enough")
            await until(lambda: cancelled.over)
            assert sum(point.value for point in probe.points("anyio_bus.client.in_flight")) == 1
            await bus.stop()
            assert stopped.error is not None

    kinds = sorted(str((span.attributes or {})["error.type"]) for span in probe.spans())
    assert kinds == ["BusStoppedError", "RequestTimeoutError", "cancelled", "cancelled"]
    assert sum(point.value for point in probe.points("anyio_bus.client.in_flight")) == 0


async def test_death_is_an_error_with_its_worker_and_a_restart_is_counted(probe: Probe) -> None:
    limits = Limits(restart_delay_s=0.01)
    async with open_bus(scripted(), limits=limits, telemetry=probe.telemetry, grace_s=2) as bus:
        await bus.request("echo")
        assert probe.points("anyio_bus.worker.restarts") == []
        with pytest.raises(WorkerLostError):
            await bus.request("die")
        await bus.request("echo")

    died = probe.spans()[1]
    assert died.attributes is not None
    assert died.attributes["error.type"] == "WorkerLostError"
    assert died.attributes["anyio_bus.worker"] == 0
    (point,) = probe.points("anyio_bus.worker.restarts")
    assert (point.value, point.attributes["anyio_bus.pool"]) == (1, "w")


async def test_calls_that_wait_for_room_are_spans_as_well(probe: Probe) -> None:
    limits = Limits(max_pending=1)
    async with open_memory_bus(serve, limits=limits, telemetry=probe.telemetry) as bus:
        async with anyio.create_task_group() as tasks:
            for n in range(3):
                begin(tasks, lambda n=n: bus.request("echo", {"n": n}))
            bad = begin(tasks, lambda: bus.request("echo", "no object"))
    assert isinstance(bad.error, InvalidArgumentError)
    assert len(probe.spans()) == 4
    assert sum(point.value for point in probe.points("anyio_bus.client.in_flight")) == 0


async def test_what_is_no_telemetry_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="telemetry"):
        async with open_memory_bus(serve, telemetry=object()):
            pass
    with pytest.raises(InvalidArgumentError, match="telemetry"):
        Worker(telemetry=object())  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="tracer_provider"):
        Telemetry(tracer_provider="jaeger")  # type: ignore[arg-type]


def test_without_opentelemetry_the_import_names_the_extra() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None; import anyio_bus.otel"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=15
    )
    assert done.returncode == 1
    assert "pip install 'anyio-bus[otel]'" in done.stderr


def test_neither_bus_nor_worker_loads_opentelemetry() -> None:
    code = (
        "import sys, anyio_bus, anyio_bus.worker; anyio_bus.open_bus; "
        "print(any(m.startswith('opentelemetry') for m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=15
    )
    assert done.stdout.strip() == "False"


async def test_what_a_thread_calls_is_inside_the_span_of_that_thread(probe: Probe) -> None:
    tracer = probe.tracer_provider.get_tracer("test")

    def thread() -> None:
        with tracer.start_as_current_span("outer"):
            bus.from_thread.request("echo")
            bus.from_thread.run(bus.request, "pid")

    async with open_bus(scripted(), telemetry=probe.telemetry) as bus:
        await anyio.to_thread.run_sync(thread)

    (outer,) = probe.spans(SpanKind.INTERNAL)
    assert [span.name for span in probe.spans()] == ["echo", "pid"]
    assert {span.parent.span_id for span in probe.spans() if span.parent} == {
        outer.get_span_context().span_id
    }


def test_what_blocks_in_a_thread_is_inside_its_span(probe: Probe) -> None:
    tracer = probe.tracer_provider.get_tracer("test")

    with open_bus_sync(scripted(), telemetry=probe.telemetry) as bus:
        with tracer.start_as_current_span("outer"), bus.stream("echo") as stream:
            stream.result()
        with tracer.start_as_current_span("outer"), bus.map("echo", [[1]]) as results:
            list(results)

    outer = [span.get_span_context().span_id for span in probe.spans(SpanKind.INTERNAL)]
    assert [span.parent.span_id for span in probe.spans() if span.parent] == outer
