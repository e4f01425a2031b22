"""Which traces are kept, what their spans are, and that none of it can be waited for."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import generate_latest

from kept_spans import Kept
from maniple.identifiers import new_id
from maniple.messages import Envelope
from maniple.spans import BILLION, Span
from maniple.traceparent import begun_trace, is_begun_here, is_sampled, span_id_of, trace_id_of
from maniple_dispatcher.tracing import DispatchTracing
from maniple_runtime.allowance import Allowance
from maniple_runtime.metric_names import SPANS_DROPPED
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.task_traces import TaskTraces, dispatching
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry import export as module
from maniple_runtime.telemetry.export import MAX_SPANS, Collector, Exporter
from maniple_runtime.telemetry.tracing import NO_TRACER, Tracer, make_tracer
from span_collector import SpanCollector

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SPAN = Span(name="a span", trace_id="1" * 32, span_id="2" * 16, start=1, end=2)
GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def envelope(traceparent: str, **fields: Any) -> Envelope:
    deadline = NOW + timedelta(hours=1)
    return Envelope(
        id="t",
        capability="text.stats",
        submitted_at=NOW,
        dispatched_at=NOW,
        deadline=deadline,
        traceparent=traceparent,
        **fields,
    )


@pytest.fixture
def kept() -> Kept:
    return Kept()


def test_an_allowance_gives_its_rate_and_no_more() -> None:
    allowance = Allowance(2.0)
    assert [allowance.take(0.0) for _ in range(3)] == [True, True, False]
    assert [allowance.take(0.5) for _ in range(2)] == [True, False]
    assert not Allowance(0.0).take(0.0)
    some = Allowance(2.0, most=3.0)
    assert [some.take(9.0) for _ in range(4)] == [True, True, True, False]


def test_the_first_dispatch_of_a_trace_begun_here_is_its_root(kept: Kept) -> None:
    first = dispatching(envelope(begun_trace(2**127 + 5, sampled=True)))
    assert first.span == span_id_of(first.traceparent or "")
    second = dispatching(first)
    assert second.span not in {None, first.span}
    assert second.traceparent == first.traceparent
    assert dispatching(envelope(GIVEN)).span not in {None, span_id_of(GIVEN)}
    traces = TaskTraces(kept.tracer(), lambda: NOW)
    for each in (first, second, dispatching(envelope(first.traceparent or ""))):
        traces.write_dispatch(each, NOW, NOW)
    # The last is another task, whose submitter passed on the traceparent of a result.
    assert [span.parent_id for span in kept.spans] == [None, first.span, first.span]


def test_copies_of_a_task_that_are_kept_late_have_a_root_each(kept: Kept) -> None:
    unsampled = envelope(begun_trace(7 << 64, sampled=False))
    copies = [
        TaskTraces(kept.tracer(), lambda: NOW).keep_trace(unsampled, "ended")
        for _ in range(2)  # agents that ran it because a message came twice
    ]
    assert [span.parent_id for span in kept.spans] == [None, None]
    assert [span.span_id for span in kept.spans] == [copy.span for copy in copies]
    assert copies[0].span != copies[1].span
    assert kept.spans[0].trace_id == kept.spans[1].trace_id


def test_what_is_kept_late_writes_its_dispatch_once(kept: Kept) -> None:
    traces = TaskTraces(kept.tracer(), lambda: NOW)
    late = traces.keep_trace(envelope(begun_trace(7 << 64, sampled=False)), "retried")
    again = traces.keep_trace(late, "retried")
    assert is_sampled(late.traceparent)
    assert again is late
    (dispatch,) = kept.spans
    assert (dispatch.span_id, dispatch.parent_id) == (late.span, None)


def test_too_many_are_not_kept_and_counted(kept: Kept) -> None:
    metrics = Metrics()
    traces = DispatchTracing(kept.tracer(rate=1.0, metrics=metrics), lambda: NOW, ratio=0.0)
    assert is_sampled(traces.honoured(GIVEN))
    assert not is_sampled(traces.honoured(GIVEN))
    unsampled = envelope(begun_trace(7 << 64, sampled=False))
    # Who wants everything sampled takes nothing from what goes wrong.
    assert is_sampled(traces.keep_trace(unsampled, "ended").traceparent)
    assert traces.keep_trace(unsampled, "ended") is unsampled
    text = generate_latest(metrics.registry).decode()
    assert 'maniple_traces_limited_total{why="submitted"} 1.0' in text
    assert 'maniple_traces_limited_total{why="ended"} 1.0' in text


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_ratio_decides_about_new_traces(kept: Kept, ratio: float) -> None:
    traces = DispatchTracing(kept.tracer(), lambda: NOW, ratio=ratio)
    assert {is_sampled(traces.begun(new_id())) for _ in range(50)} == {ratio == 1.0}


def test_a_task_without_a_trace_is_given_one_by_its_id() -> None:
    traces, task = DispatchTracing(NO_TRACER, lambda: NOW, ratio=0.0), new_id()
    assert trace_id_of(traces.begun(task)) == task.replace("-", "")
    assert is_begun_here(traces.begun("no UUID"))
    assert traces.begun("no UUID") != traces.begun("no UUID")


def test_without_an_endpoint_nothing_is_sampled_and_what_comes_is_passed_on() -> None:
    assert make_tracer(ServiceSettings(otlp_endpoint=""), Metrics()) is NO_TRACER
    traces = DispatchTracing(NO_TRACER, lambda: NOW, ratio=1.0)
    assert not is_sampled(traces.begun(new_id()))
    assert traces.honoured(GIVEN) == GIVEN
    sampled = replace(envelope(GIVEN), attempt=2)
    assert traces.keep_trace(sampled, "retried") is sampled


def test_a_process_without_an_endpoint_does_not_load_the_sdk() -> None:
    code = (
        "import sys, maniple_agent.wiring, maniple_dispatcher.wiring, maniple.client;"
        "sys.exit(any(n.startswith(('opentelemetry.sdk', 'google.protobuf')) for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Stuck:
    """In place of OpenTelemetry's exporter: one that does not come back."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def export(self, _spans: object) -> None:
        self.let_go.wait(30)

    def shutdown(self) -> None:
        self.let_go.set()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def exporter(metrics: Metrics) -> Iterator[Exporter]:
    settings = ServiceSettings(otlp_endpoint="http://127.0.0.1:9", instance="p1")
    counters = [metrics.counter(SPANS_DROPPED, why) for why in ("queue_full", "failed")]
    made = Exporter(settings, *counters, monotonic=monotonic)
    yield made
    made.export_remaining(5.0)


def test_an_exporter_that_hangs_is_not_waited_for(
    exporter: Exporter, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck()
    monkeypatch.setattr(exporter, "_target", stuck)
    for _ in range(module.MAX_QUEUE + module.MAX_BATCH + 100):
        exporter.put(SPAN)
    text = generate_latest(metrics.registry).decode()
    (line,) = [row for row in text.splitlines() if 'reason="queue_full"' in row and "total" in row]
    assert float(line.rsplit(" ", 1)[1]) >= 100
    exporter._queue.clear()
    stuck.let_go.set()


def test_what_cannot_be_exported_is_counted(exporter: Exporter, metrics: Metrics) -> None:
    exporter.put(SPAN)
    exporter.export_remaining(30.0)
    text = generate_latest(metrics.registry).decode()
    assert 'maniple_spans_dropped_total{reason="failed"} 1.0' in text


def test_spans_come_as_they_were_written(metrics: Metrics) -> None:
    with SpanCollector().serving() as collector:
        settings = ServiceSettings(otlp_endpoint=collector.url, instance="p1")
        tracer = make_tracer(settings, metrics)
        tracer.write(replace(SPAN, parent_id="3" * 16, attributes={"n": [1, 2]}, error="timeout"))
        tracer.export_remaining(10.0)
    (seen,) = collector.spans
    assert (seen.trace_id, seen.span_id, seen.parent_id) == ("1" * 32, "2" * 16, "3" * 16)
    assert (seen.start, seen.end, seen.attributes, seen.failed) == (1, 2, {"n": [1, 2]}, True)
    assert seen.resource["service.instance.id"] == "p1"


def test_what_handlers_write_is_moved_to_the_clock_of_their_tasks(metrics: Metrics) -> None:
    with SpanCollector().serving() as collector:
        settings = ServiceSettings(otlp_endpoint=collector.url, instance="p1")
        counters = [metrics.counter(SPANS_DROPPED, "failed")] * 2
        exporter = Exporter(settings, *counters, monotonic=monotonic)
        tracer = Tracer(exporter, metrics=metrics)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "set_provider", lambda *_: None)
            tracer.serve_handlers(lambda: 120.0)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(exporter)
        span = provider.get_tracer("x").start_span("here", start_time=121 * BILLION)
        span.add_event("in it", timestamp=122 * BILLION)
        span.end(123 * BILLION)
        worker = replace(SPAN, name="in a worker", start=130 * BILLION, end=131 * BILLION)
        tracer.write_of_handler(worker)
        tracer.export_remaining(10.0)
    here, there = sorted(collector.spans, key=lambda seen: seen.start)
    assert (here.name, here.start, here.end) == ("here", BILLION, 3 * BILLION)
    assert (there.name, there.start, there.end) == ("in a worker", 10 * BILLION, 11 * BILLION)


def test_whatever_a_handler_says_of_its_span_its_agent_can_read() -> None:
    collector = Collector()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(collector)
    with provider.get_tracer("\udce9").start_as_current_span("sp\udcffn") as span:
        span.set_attribute("nan", float("nan"))
        span.set_attribute("many", [float("inf"), 1.5])
        span.add_event("ev\udcffnt", {"k\udcffy": "v\udcff"})
    (taken,) = msgspec.json.decode(msgspec.json.encode(collector.take_spans()), type=list[Span])
    assert (taken.name, taken.scope) == ("sp?n", "?")
    assert taken.attributes == {"nan": "nan", "many": ["inf", "1.5"]}
    assert taken.events[0].attributes == {"k?y": "v?"}


def test_an_attempt_in_a_worker_has_no_end_of_spans() -> None:
    collector = Collector()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(collector)
    for _ in range(MAX_SPANS + 1):
        provider.get_tracer("x").start_span("one").end()
    assert len(collector.take_spans()) == MAX_SPANS
    assert collector.take_spans() == []
