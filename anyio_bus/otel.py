"""OpenTelemetry for a bus and for workers: spans, metrics and W3C trace context.

It needs the extra ``otel``. Nothing here is loaded unless a program imports it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import msgspec
from msgspec import UNSET

from anyio_bus._errors import (
    BusError,
    InvalidArgumentError,
    KernelCode,
    RemoteError,
    ScopeCancelledError,
)
from anyio_bus._sansio.binding import InvalidParamsError

try:
    from opentelemetry import context as otel_context
    from opentelemetry import metrics, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as _exc:
    if not (_exc.name or "").startswith("opentelemetry"):
        raise
    _text = "anyio_bus.otel needs opentelemetry-api; pip install 'anyio-bus[otel]' gets it"
    raise ModuleNotFoundError(_text, name=_exc.name) from _exc

__all__ = ("Telemetry",)

SCOPE = "anyio_bus"
_SYSTEM = {"rpc.system": "jsonrpc", "rpc.system.name": "jsonrpc"}  # its old name and its new one
# Seconds; what the conventions advise for this histogram.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_w3c = TraceContextTextMapPropagator()
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


@final
class Telemetry:
    """Spans and metrics of the requests of a bus, or of those that a worker serves.

    ``open_bus(..., telemetry=Telemetry())`` makes a span of kind CLIENT for each request and
    stream, and puts its W3C context (``traceparent``, ``tracestate``) into ``params._meta`` where
    the params are an object. ``Worker(telemetry=Telemetry())`` takes it from there and makes a span
    of kind SERVER, current while the handler runs. Requests of a worker go the same way back, to
    the handlers of the bus. One object serves any number of them.

    Args:
        tracer_provider: Where spans go; default the global one.
        meter_provider: Where metrics go; default the global one.
        propagate: Whether the context is put into params, for workers that refuse what they do
            not know.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        propagate: bool = True,
    ) -> None:
        for name, given, kind in (
            ("tracer_provider", tracer_provider, trace.TracerProvider),
            ("meter_provider", meter_provider, metrics.MeterProvider),
        ):
            if given is not None and not isinstance(given, kind):
                msg = f"{name} must be an OpenTelemetry {kind.__name__}, not {given!r}"
                raise InvalidArgumentError(msg, field=name)
        self._tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider)
        meter = metrics.get_meter(SCOPE, meter_provider=meter_provider)
        self._propagate = propagate
        self._client_seconds = meter.create_histogram(
            "rpc.client.call.duration",
            "s",
            "Time from a request to its answer.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._server_seconds = meter.create_histogram(
            "rpc.server.call.duration",
            "s",
            "Time that a handler takes.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._in_flight = meter.create_up_down_counter(
            "anyio_bus.client.in_flight", "{request}", "Requests without an outcome."
        )
        self._restarts = meter.create_counter(
            "anyio_bus.worker.restarts", "{process}", "Processes after the first of their worker."
        )

    def observer(self) -> _Observer:
        """Make what is told of the calls of one bus; the bus calls it."""
        return _Observer(self)

    def outgoing(self, params: object) -> object:
        """Put the context of the current span into params; workers call it for requests of theirs.

        Args:
            params: The params; returned as they are where they are no object.
        """
        carrier: dict[str, str] = {}
        if self._propagate:
            _w3c.inject(carrier)
        return _with_context(params, carrier) if carrier else params

    @contextmanager
    def serving(
        self,
        method: str,
        key: Any,
        meta: Mapping[str, Any],
        *,
        pool: str | None = None,
        worker: int | None = None,
    ) -> Iterator[None]:
        """Have a span while a handler runs; workers call it, and the bus for its own handlers.

        Args:
            method: The method.
            key: The id of the request.
            meta: ``_meta`` of its params, where the context of who sent it is.
            pool: The pool of the worker that sent it, if one did.
            worker: Its number.
        """
        labels: dict[str, Any] = {**_SYSTEM, "rpc.method": method}
        if pool is not None:
            labels["anyio_bus.pool"] = pool
        carrier = {name: text for name, text in meta.items() if isinstance(text, str)}
        span = self._tracer.start_span(
            method,
            _w3c.extract(carrier),
            trace.SpanKind.SERVER,
            {**labels, **_request_labels(key)},
        )
        if worker is not None:
            span.set_attribute("anyio_bus.worker", worker)
        token = otel_context.attach(trace.set_span_in_context(span))
        began = time.perf_counter()
        failed: dict[str, Any] = {}
        try:
            yield
        except BaseException as exc:
            invalid = isinstance(exc, InvalidParamsError)
            code = KernelCode.INVALID_PARAMS if invalid else KernelCode.INTERNAL_ERROR
            failed = _set_error(span, exc, code)
            raise
        finally:
            otel_context.detach(token)
            self._server_seconds.record(time.perf_counter() - began, {**labels, **failed})
            span.end()


class _Open(msgspec.Struct):
    """A request that has no outcome yet."""

    span: trace.Span
    context: otel_context.Context
    labels: dict[str, Any]
    began: float


class _Observer:
    """The requests of one bus."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._open: dict[Any, _Open] = {}

    def begun(self, key: Any, method: str, params: object, pool: str) -> object:
        telemetry = self._telemetry
        labels = {**_SYSTEM, "rpc.method": str(method), "anyio_bus.pool": pool}
        span = telemetry._tracer.start_span(
            str(method),
            kind=trace.SpanKind.CLIENT,
            attributes={**labels, **_request_labels(key)},
        )
        context = trace.set_span_in_context(span)
        self._open[key] = _Open(span, context, labels, time.perf_counter())
        telemetry._in_flight.add(1, {**_SYSTEM, "anyio_bus.pool": pool}, context)
        if not telemetry._propagate:
            return params
        carrier: dict[str, str] = {}
        _w3c.inject(carrier, context)
        return _with_context(params, carrier) if carrier else params

    def ended(self, key: Any, error: BaseException | None, worker: int | None = None) -> None:
        call = self._open.pop(key, None)
        if call is None:
            return
        worker = getattr(error, "worker", None) if worker is None else worker
        if worker is not None:
            call.span.set_attribute("anyio_bus.worker", worker)
        self._close(call, {} if error is None else _set_error(call.span, error))

    def abandoned(self, key: Any) -> None:
        call = self._open.pop(key, None)
        if call is not None:
            self._close(call, _set_cancelled(call.span))

    def _close(self, call: _Open, failed: dict[str, Any]) -> None:
        telemetry = self._telemetry
        seconds = time.perf_counter() - call.began
        telemetry._client_seconds.record(seconds, {**call.labels, **failed}, call.context)
        pool = {**_SYSTEM, "anyio_bus.pool": call.labels["anyio_bus.pool"]}
        telemetry._in_flight.add(-1, pool, call.context)
        call.span.end()

    def worker_restarted(self, pool: str, worker: int) -> None:
        labels: dict[str, str | int] = {"anyio_bus.pool": pool, "anyio_bus.worker": worker}
        self._telemetry._restarts.add(1, labels)


def _request_labels(key: Any) -> dict[str, str]:
    return {"rpc.jsonrpc.version": "2.0", "rpc.jsonrpc.request_id": str(key)}


def _set_error(span: trace.Span, error: BaseException, code: int | None = None) -> dict[str, Any]:
    """Put an error on a span, and the code that it has on the wire; return what a metric gets."""
    if isinstance(error, ScopeCancelledError) or not isinstance(error, Exception):
        return _set_cancelled(span)
    kind = type(error).__name__
    if isinstance(error, RemoteError):
        code = error.code
        kind = str(code)
        span.set_attribute("rpc.jsonrpc.error_message", str(error.message))
    elif not isinstance(error, BusError):
        span.record_exception(error)
    if code is not None:
        span.set_attribute("rpc.jsonrpc.error_code", code)
    span.set_attribute("error.type", kind)
    span.set_status(trace.StatusCode.ERROR, str(error))
    return {"error.type": kind}


def _set_cancelled(span: trace.Span) -> dict[str, Any]:
    """Mark what nobody wanted any more: it is no failure."""
    span.set_attribute("error.type", "cancelled")
    return {"error.type": "cancelled"}


def _with_context(params: object, carrier: Mapping[str, str]) -> object:
    """Return params with the trace context in ``_meta``; as they are where they are no object."""
    if params is UNSET or params is None or isinstance(params, list | tuple):
        return params
    members: dict[str, Any]
    try:
        if isinstance(params, dict):
            members = params
        else:
            raw = params if isinstance(params, msgspec.Raw) else msgspec.json.encode(params)
            members = _members.decode(raw)
        meta: Any = members.get("_meta", {})
        if isinstance(meta, msgspec.Raw):
            meta = _members.decode(meta)
    except Exception:  # it is refused, with its reason, where it is encoded  # noqa: BLE001
        return params
    return {**members, "_meta": {**meta, **carrier}} if isinstance(meta, dict) else params
