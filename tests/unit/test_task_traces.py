"""The traces of tasks that wait, are moved or handed back: each span is written once."""

from datetime import datetime, timedelta
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from kept_spans import Kept
from maniple.amqp.wire.properties import Properties
from maniple.clock import SYSTEM_CLOCK, Clock
from maniple.codec import decode_envelopes
from maniple.messages import Envelope
from maniple.spans import Span
from maniple.traceparent import begun_trace, is_sampled
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.affinity.queue_drainer import QueueDrainer
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.ingress.dead_letter_consumer import DeadLetterConsumer
from maniple_dispatcher.ingress.long_messages import LongMessages
from maniple_dispatcher.ingress.retry_consumer import RetryConsumer
from maniple_dispatcher.tracing import DispatchTracing
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.task_traces import dispatching
from maniple_runtime.telemetry import Metrics
from permits import bulkhead_counts
from work_with_fakes import NOW, Agent, Delivery, FakePublisher, envelope

SUBMITTER = "00f067aa0ba902b7"
GIVEN = f"00-4bf92f3577b34da6a3ce929d0e0e4736-{SUBMITTER}-01"
DISPATCH = "1" * 16  # of a dispatcher that the test does not have
UNSAMPLED = begun_trace(7 << 64, sampled=False)
LANE = "a.lane"  # its results have the key of their capability, and are not refused
OURS = begun_trace(7 << 64, sampled=True)


class TracedEgress:
    """What of a dispatcher takes tasks that come back, with a broker that the tests decide for."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.now = NOW
        self.publisher = FakePublisher()
        self.traces = DispatchTracing(kept.tracer(), self.clock, ratio=0.0)
        self.results = ResultPublisher(self.publisher, Metrics(), replier=self.publisher)
        self.lanes = LanePublisher(
            self.publisher,
            self.results,
            Metrics(),
            Clock(now=self.clock),
            assignment=Assignment(),
            traces=self.traces,
            bulkheads=bulkhead_counts(),
        )
        long = LongMessages(monotonic)
        self.dead = DeadLetterConsumer(
            self.results,
            Metrics(),
            self.clock,
            traces=self.traces,
            bulkheads=bulkhead_counts(),
            long=long,
        )
        nothing: Any = None
        runtime: Any = SimpleNamespace(clock=SYSTEM_CLOCK)
        gate: Any = SimpleNamespace(again=self.lanes.send_task)
        self.returns = RetryConsumer(self.lanes, gate, nothing, self.clock, traces=self.traces)
        self.moves = QueueDrainer(
            runtime,
            nothing,
            self.lanes,
            nothing,
            nothing,
            quiet=1.0,
            clock=self.clock,
            traces=self.traces,
        )

    def clock(self) -> datetime:
        return self.now

    async def sent(self, task: Envelope) -> Envelope:
        """Dispatch a new task; return it as it is in its lane, or in a delay."""
        source: Any = Settlement(Delivery(), 1)  # type: ignore[arg-type]  # a fake
        self.lanes.send_task(dispatching(task) if is_sampled(task.traceparent) else task, source)
        return await self.last()

    async def comes_back(self, task: Envelope, seconds: float) -> Envelope:
        """Return a task from a delay after so long; return its next dispatch."""
        return await self._taken(self.returns.on_retry, Delivery(task), seconds)

    async def is_moved(self, task: Envelope, seconds: float, *, lost: bool) -> Envelope:
        """Find a task in the queue of an agent that is gone."""
        return await self._taken(self.moves._take, Delivery(task, redelivered=lost), seconds)

    async def is_given_up(self, task: Envelope) -> None:
        """Find a task in what the broker has dead-lettered."""
        delivery: Any = Delivery(task)
        delivery.routing_key, delivery.headers = f"broker.maniple.lane.{LANE}", {}
        delivery.properties = Properties()
        self.dead.on_dead_letter(delivery)
        await self.results.drain_results()

    async def _taken(self, take: Any, delivery: Delivery, seconds: float) -> Envelope:
        self.now += timedelta(seconds=seconds)
        take(delivery)
        return await self.last()

    async def last(self) -> Envelope:
        await self.lanes.drain_lanes()
        await self.results.drain_results()
        exchanges = {"maniple.lanes", "maniple.delay"}
        messages = [m for m in self.publisher.sent if m.exchange in exchanges]
        return decode_envelopes(messages[-1].body)[0]


@pytest.fixture
def egress(kept: Kept) -> TracedEgress:
    return TracedEgress(kept)


@pytest.fixture
def kept() -> Kept:
    return Kept()


def tree(kept: Kept) -> list[tuple[str, str]]:
    """Return the first words of all spans and of their parents; each id is there once."""
    words = {span.span_id: span.name.split()[0] for span in kept.spans}
    assert len(words) == len(kept.spans)
    assert len({span.trace_id for span in kept.spans}) == 1
    words |= {SUBMITTER: "submitter", DISPATCH: "before", "": ""}
    return [(words[span.span_id], words[span.parent_id or ""]) for span in kept.spans]


def seconds(span: Span) -> tuple[float, float]:
    """Return when a span began and ended, since NOW."""
    began = NOW.timestamp()
    return round(span.start / 1e9 - began, 3), round(span.end / 1e9 - began, 3)


def traced(traceparent: str, **changes: Any) -> Envelope:
    return envelope("t", lane=LANE, traceparent=traceparent, dispatched_at=NOW, **changes)


@pytest.mark.parametrize(("traceparent", "above"), [(GIVEN, "submitter"), (OURS, "dispatch")])
async def test_each_round_of_a_task_that_waits_has_its_own_dispatch(
    egress: TracedEgress, traceparent: str, above: str
) -> None:
    egress.publisher.full = {LANE}
    task = await egress.sent(traced(traceparent))
    task = replace(task, not_before=NOW + timedelta(seconds=20))
    egress.publisher.full = set()
    for _ in range(2):  # too early
        task = await egress.comes_back(task, 8.0)
    task = await egress.comes_back(task, 8.0)
    root = "" if above == "dispatch" else above
    assert tree(egress.kept) == [("dispatch", root), *[("wait", above), ("dispatch", above)] * 3]
    waits = [seconds(span) for span in egress.kept.spans if span.name.startswith("wait")]
    assert waits == [(0, 8), (8, 16), (16, 24)]
    assert task.span == egress.kept.spans[-1].span_id


@pytest.mark.parametrize("cancel", [False, True])
async def test_what_ends_while_it_waits_ends_in_a_dispatch_of_its_own(
    egress: TracedEgress, cancel: bool
) -> None:
    egress.publisher.full = {LANE}
    task = await egress.sent(traced(GIVEN, deadline=NOW + timedelta(seconds=5)))
    if cancel:
        egress.lanes.cancel_task("default", "t")
    await egress.comes_back(task, 1.0 if cancel else 6.0)
    assert tree(egress.kept) == [
        ("dispatch", "submitter"),
        ("wait", "submitter"),
        ("dispatch", "submitter"),
        ("send", "dispatch"),
    ]
    status = "cancelled" if cancel else "expired"
    assert egress.kept.spans[2].attributes["maniple.task.status"] == status


async def test_what_expires_unsampled_is_kept_with_the_time_that_it_waited(
    egress: TracedEgress,
) -> None:
    egress.publisher.full = {LANE}
    task = await egress.sent(traced(UNSAMPLED, deadline=NOW + timedelta(seconds=5)))
    task = await egress.comes_back(task, 2.0)
    await egress.comes_back(task, 4.0)
    assert tree(egress.kept) == [("dispatch", ""), ("send", "dispatch")]
    dispatch = egress.kept.spans[0]
    assert seconds(dispatch) == (0, 6)
    assert dispatch.attributes["maniple.kept_late"]


@pytest.mark.parametrize("lost", [False, True])
async def test_what_is_moved_has_a_dispatch_on_each_side(egress: TracedEgress, lost: bool) -> None:
    task = await egress.sent(traced(GIVEN))
    moved = await egress.is_moved(task, 3.0, lost=lost)
    assert tree(egress.kept) == [
        ("dispatch", "submitter"),
        ("migrate", "dispatch"),
        ("dispatch", "submitter"),
    ]
    first, migrate, second = egress.kept.spans
    assert (migrate.parent_id, seconds(migrate)) == (first.span_id, (0, 3))
    assert migrate.error == ("agent_lost" if lost else None)
    assert (moved.span, moved.lost) == (second.span_id, lost)


async def test_what_is_moved_unsampled_is_kept(egress: TracedEgress) -> None:
    task = await egress.sent(traced(UNSAMPLED))
    moved = await egress.is_moved(task, 3.0, lost=False)
    assert is_sampled(moved.traceparent)
    assert tree(egress.kept) == [
        ("dispatch", ""),
        ("migrate", "dispatch"),
        ("dispatch", "dispatch"),
    ]


async def test_what_expired_in_the_queue_of_an_agent_that_is_gone_is_written_once(
    egress: TracedEgress,
) -> None:
    task = await egress.sent(traced(GIVEN, deadline=NOW + timedelta(seconds=2)))
    await egress.is_moved(task, 3.0, lost=False)
    assert tree(egress.kept) == [
        ("dispatch", "submitter"),
        ("migrate", "dispatch"),
        ("dispatch", "submitter"),
        ("send", "dispatch"),
    ]


@pytest.mark.parametrize("traceparent", [GIVEN, UNSAMPLED])
async def test_what_the_broker_gives_up_ends_in_its_trace(
    egress: TracedEgress, traceparent: str
) -> None:
    task = await egress.sent(traced(traceparent))
    egress.now += timedelta(seconds=9)
    await egress.is_given_up(task)
    above = "submitter" if traceparent == GIVEN else ""
    first = [("dispatch", "submitter")] if traceparent == GIVEN else []
    assert tree(egress.kept) == [*first, ("dispatch", above), ("send", "dispatch")]
    dispatch, send = egress.kept.spans[-2:]
    assert (dispatch.error, seconds(dispatch)) == ("agent_lost", (0, 9))
    assert send.parent_id == dispatch.span_id


async def test_what_a_draining_agent_hands_back_unstarted_is_kept(kept: Kept) -> None:
    agent = Agent(capacity=1, tracer=kept.tracer())
    await agent.take(Delivery(envelope("runs"), traced(UNSAMPLED)))
    agent.now += timedelta(seconds=2)
    await agent.work.drain_jobs(0.01)
    (handed,) = [task for _, (task,) in agent.moved() if task.id == "t"]
    mine = Kept([span for span in kept.spans if span.attributes["maniple.task.id"] == "t"])
    assert tree(mine) == [("dispatch", ""), ("migrate", "dispatch")]
    dispatch, migrate = mine.spans
    assert migrate.attributes["maniple.migration.reason"] == "drain"
    assert (seconds(migrate), migrate.error) == ((0, 2), None)
    assert (handed.span, is_sampled(handed.traceparent)) == (dispatch.span_id, True)


@pytest.mark.parametrize("traceparent", [GIVEN, UNSAMPLED])
async def test_what_a_full_agent_hands_back_is_written_if_it_is_sampled(
    kept: Kept, traceparent: str
) -> None:
    now = SimpleNamespace(seconds=0.0)
    agent = Agent(capacity=1, tracer=kept.tracer(), monotonic=lambda: now.seconds)
    await agent.take(Delivery(envelope("runs")))
    await agent.take(Delivery(task := traced(traceparent, span=DISPATCH)))
    now.seconds = 1.1
    agent.work.dissolve()
    await agent.settle()
    assert agent.moved() == [(LANE, [task])]
    said = [(span.name, span.attributes["maniple.migration.reason"]) for span in kept.spans]
    assert said == ([("migrate a.task", "overload")] if traceparent == GIVEN else [])


async def test_an_attempt_that_is_stopped_without_the_broker_is_written(kept: Kept) -> None:
    agent = Agent(tracer=kept.tracer())
    await agent.take(Delivery(traced(GIVEN, capability="an.exclusive", span=DISPATCH)))
    (job,) = agent.executor.jobs
    agent.now += timedelta(seconds=2)
    agent.work.stop_exclusive()
    await agent.work.resume()
    await agent.settle()
    assert tree(kept) == [("migrate", "before"), ("queue", "before"), ("execute", "before")]
    migrate, _, execute = kept.spans
    assert migrate.attributes["maniple.migration.reason"] == "stopped"
    assert (execute.span_id, execute.error) == (job.span, "stopped")  # its handler's stand there
