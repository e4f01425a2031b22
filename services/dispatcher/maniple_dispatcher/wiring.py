"""Composition root of the dispatcher; tests build it by the same function."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from maniple.amqp import Inspector, Pulls
from maniple.clock import Clock
from maniple.errors import ManipleError
from maniple.messages import WIRE
from maniple_dispatcher.affinity.agents import AgentDirectory
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.affinity.queue_drainer import QueueDrainer
from maniple_dispatcher.affinity.queue_markers import QueueMarkers
from maniple_dispatcher.consumers import Takers, consumers_of
from maniple_dispatcher.egress.lane_bundles import Readers
from maniple_dispatcher.egress.lane_deadlines import LaneDeadlines, is_lane
from maniple_dispatcher.egress.lane_expiry import LOOKERS, Around, LaneExpiry, TurnOver
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.handlers import DispatcherHandlers
from maniple_dispatcher.ingress.bundle_members import BundleMembers
from maniple_dispatcher.ingress.dead_letter_consumer import DeadLetterConsumer
from maniple_dispatcher.ingress.long_messages import LongMessages
from maniple_dispatcher.ingress.record_lookup import RecordLookup
from maniple_dispatcher.ingress.redelivered_tasks import RedeliveredTasks
from maniple_dispatcher.ingress.refusal_sender import RefusalSender
from maniple_dispatcher.ingress.reply_address import ReplyAddressCheck
from maniple_dispatcher.ingress.retry_consumer import RetryConsumer
from maniple_dispatcher.ingress.submission import SubmissionConsumer
from maniple_dispatcher.limits.bulkhead_counts import BulkheadCounts
from maniple_dispatcher.limits.bulkhead_recount import BulkheadRecount
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.gossip import Gossip
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.snapshot import LimitSnapshot
from maniple_dispatcher.pipeline.circuit_breaker import spec_of_lane
from maniple_dispatcher.pipeline.pipeline import Pipeline
from maniple_dispatcher.result_cache import ResultCache
from maniple_dispatcher.result_learning import ResultLearner
from maniple_dispatcher.settings import DispatcherSettings
from maniple_dispatcher.tracing import DispatchTracing
from maniple_runtime.cluster_time import ClusterTime, follow
from maniple_runtime.control.messages import Time
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.hotpath import START_TIMEOUT, HotPath
from maniple_runtime.policy_view import PolicyView
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.refused_log import RefusedLog
from maniple_runtime.runtime import Runtime

LOOK_PERIOD = 0.25
TIME_TIMEOUT = 2.0
EXPIRY = "expiry:"  # and the lane: what a dispatcher owns that turns it over


async def _look(
    lanes: LanePublisher,
    hot: HotPath,
    readers: Readers,
    coordinator: Coordinator,
    assignment: Assignment,
) -> None:
    """Redirect tasks whose publish has not been confirmed for too long, until cancelled.

    And see what those read who are there.
    """
    while True:
        await asyncio.sleep(LOOK_PERIOD)
        readers.records = coordinator.peers.wire >= WIRE
        readers.bundles = readers.records and assignment.wire >= WIRE
        lanes.redirect_overdue(taking=hot.publishes)


async def _drain(
    hot: HotPath,
    long: LongMessages,
    lanes: LanePublisher,
    results: ResultPublisher,
    refused: RefusedLog,
) -> None:
    """Bring all that was taken on its way, and return when that is confirmed."""
    await hot.opened()
    await long.drain_messages()
    await lanes.drain_lanes()
    await results.drain_results()
    await refused.drain_log()


async def hand_over(hot: HotPath, snapshot: LimitSnapshot, gossip: Gossip) -> None:
    """Take nothing more, write down what is known while it is ours, and say goodbye."""
    await hot.pause()
    await snapshot.write_now()
    await gossip.leave()


async def _ask_for_time(
    plane: ControlPlane, hear: Callable[[Time], None], runtime: Runtime
) -> None:
    """Learn the cluster's time before a deadline is set; without a registry go by our clock."""
    try:
        hear(Time.model_validate(await plane.request("registry", "time", timeout=TIME_TIMEOUT)))
    except (ManipleError, ValueError) as error:
        runtime.log.info("the time is not known from a registry", reason=str(error))


def _pulls(runtime: Runtime[DispatcherSettings]) -> Pulls:
    settings = runtime.settings
    return Pulls(
        settings.broker_url,
        runtime.connection_name("expiry"),
        times=settings.timings.amqp,
        answer=settings.timings.expiry.answer,
        lookers=LOOKERS,
    )


def _around(runtime: Runtime, hot: HotPath, coordinator: Coordinator, clock: Clock) -> Around:
    prefix = runtime.settings.consul_prefix
    return Around(
        clock=clock,
        others=lambda: coordinator.peers.others,
        taking=lambda: hot.up and not hot.blocked,
        markers=QueueMarkers(runtime.consul, prefix, runtime.log, folder="lanes", is_name=is_lane),
    )


@dataclass(frozen=True)
class _Limits:
    """What the dispatchers decide together, and how each knows what the others do."""

    coordinator: Coordinator
    deadlines: LaneDeadlines
    gossip: Gossip
    snapshot: LimitSnapshot


def _limits(
    runtime: Runtime[DispatcherSettings],
    hot: HotPath,
    plane: ControlPlane,
    policies: PolicyView,
    wall: float,
) -> _Limits:
    """Make what limits need, and the deadlines of lanes at this time (`wall`), by the same owners.

    The `hot` path must not have been started yet.
    """
    settings, due = runtime.settings, asyncio.Event()
    owned = LeaseOwner(
        partial(spec_of_lane, policies),
        settings.timings,
        born=lambda: int(1000 * runtime.clock.now().timestamp()),
        known=lambda: policies.known,
    )
    deadlines = LaneDeadlines(
        settings.timings.expiry, lambda lane: coordinator.peers.owns(EXPIRY + lane), wall
    )
    coordinator = Coordinator(
        runtime.connection_name("dispatcher"),
        owned,
        runtime.clock.monotonic(),
        settings.timings.peers,
        lanes=deadlines,
        wake=due.set,
    )
    snapshot = LimitSnapshot(
        runtime.consul,
        settings.consul_prefix,
        settings.instance,
        coordinator=coordinator,
        log=runtime.log,
        clock=runtime.clock,
    )
    gossip = Gossip(hot, coordinator, plane, runtime, due)
    return _Limits(coordinator, deadlines, gossip, snapshot)


@asynccontextmanager
async def build(runtime: Runtime[DispatcherSettings]) -> AsyncIterator[None]:
    """Start a dispatcher, and drain it on the way out."""
    settings, monotonic = runtime.settings, runtime.clock.monotonic
    plane = ControlPlane(
        settings.broker_url,
        name=runtime.connection_name("control"),
        log=runtime.log,
        health=runtime.health,
        times=settings.timings.amqp,
        metrics=runtime.metrics,
    )
    policies = PolicyView(runtime, plane)
    hot = HotPath(runtime, held_bytes=settings.held_bytes, staged=True)
    queues = settings.timings.queues
    results = ResultPublisher(
        hot.publisher, runtime.metrics, replier=hot.replier, times=queues, monotonic=monotonic
    )
    refused = RefusedLog(hot.publisher, runtime.metrics)
    assignment, readers = Assignment(), Readers()
    time = ClusterTime(runtime.clock, settings.timings.clocks)
    traces = DispatchTracing(runtime.tracer, time.now, ratio=settings.trace_ratio)
    limits = _limits(runtime, hot, plane, policies, time.now().timestamp())
    coordinator, deadlines = limits.coordinator, limits.deadlines
    bulkheads = BulkheadCounts(coordinator, monotonic)
    recount = BulkheadRecount(Inspector(hot.intake), coordinator, assignment, monotonic)
    lanes = LanePublisher(
        hot.publisher,
        results,
        runtime.metrics,
        time.clock,
        assignment=assignment,
        traces=traces,
        bulkheads=bulkheads,
        times=queues,
        deadlines=deadlines,
        known=time.known,
        readers=readers,
    )
    markers = QueueMarkers(runtime.consul, settings.consul_prefix, runtime.log)
    drainer = QueueDrainer(
        runtime,
        hot.intake,
        lanes,
        assignment,
        markers,
        quiet=queues.leftover,
        clock=time.now,
        traces=traces,
        log=refused,
    )
    agents = AgentDirectory(
        runtime,
        plane,
        assignment,
        drainer,
        markers,
        deadlines=deadlines,
        ended=lambda agent, life, itself: coordinator.owned.bulkheads.gone(
            agent, life, itself=itself
        ),
    )
    good = ResultCache()
    pipeline = Pipeline(
        lanes, coordinator, policies, results, good=good, metrics=runtime.metrics, clock=time.clock
    )
    lookups = RecordLookup(runtime, hot.publisher, lambda: hot.outage)
    again = RedeliveredTasks(lookups, pipeline, results)
    long = LongMessages(monotonic)
    submissions = SubmissionConsumer(
        pipeline.admit,
        RefusalSender(results, refused, runtime.metrics),
        policies,
        runtime.metrics,
        time.now,
        traces=traces,
        again=again.admit,
        check_address=ReplyAddressCheck(hot.replier, runtime.spawn).check,
        look=lookups.ask,
        long=long,
    )
    pulls, around = _pulls(runtime), _around(runtime, hot, coordinator, time.clock)
    turn_over = TurnOver(
        lanes,
        BundleMembers(lanes, refused, time.now),
        around,
        traces=traces,
        settle=settings.timings.expiry.settle,
    )
    expiry = LaneExpiry(deadlines, pulls, turn_over, around, runtime.log)
    retries = RetryConsumer(lanes, pipeline, refused, time.now, traces=traces, again=again)
    dead_letters = DeadLetterConsumer(
        results,
        runtime.metrics,
        time.now,
        traces=traces,
        bulkheads=bulkheads,
        again=again,
        admitted=submissions.admitted,
        long=long,
    )
    hear = follow(time, runtime.health)
    consumers = consumers_of(
        Takers(
            submissions=submissions,
            retries=retries,
            dead_letters=dead_letters,
            gossip=limits.gossip,
            handlers=DispatcherHandlers(lanes, coordinator, monotonic, hear),
            agents=agents,
            policies=policies,
        ),
        settings,
    )
    consumers.consume_queues(hot)
    consumers.listen(hot.intake)
    async with plane, hot.publishing(), pulls.up(START_TIMEOUT):
        await _ask_for_time(plane, hear, runtime)
        policies.load_kept()
        await consumers.subscribe(plane)
        policies.start_following()
        await agents.start_following()
        async with hot.consuming():
            for name, work in {
                "look": _look(lanes, hot, readers, coordinator, assignment),
                "gossip": limits.gossip.exchange_reports(),
                "recount bulkheads": recount.recount_bulkheads(),
                "announce breakers": limits.gossip.announce_breakers(),
                "show breakers": limits.gossip.show_breakers(),
                "keep snapshot": limits.snapshot.keep(),
                "expiry": expiry.watch_lanes(),
                "lookups": lookups.answer_lookups(),
                "long messages": long.work_in_slices(),
                "learn good results": ResultLearner(runtime, policies, good).learn_results(),
            }.items():
                runtime.spawn(work, name)
            yield
            await hand_over(hot, limits.snapshot, limits.gossip)
            await drainer.stop_draining()
            await expiry.stop_turning()
            await _drain(hot, long, lanes, results, refused)
