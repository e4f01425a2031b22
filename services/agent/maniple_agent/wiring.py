"""Composition root of the agent; tests build it by the same function."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from maniple.identifiers import new_id
from maniple.loading import here, load_registry, located
from maniple.task_registry import TaskRegistry
from maniple.tasks import Executor as Kind
from maniple_agent import diagnostics
from maniple_agent.commands import AgentCommands, Ending
from maniple_agent.completion import Known
from maniple_agent.consumers import consumers_of
from maniple_agent.domain.confirmation import Confirmation
from maniple_agent.executors import Executor, LoopExecutor, ProcessExecutor, ThreadExecutor, cgroups
from maniple_agent.fencing import Fence
from maniple_agent.heartbeat import Heartbeats, OutcomeReports, Self
from maniple_agent.identity import check_id, describe
from maniple_agent.jobs import Report
from maniple_agent.lane_consumers import LaneConsumers
from maniple_agent.progress import ProgressReports
from maniple_agent.publisher import AgentPublisher
from maniple_agent.scheduler import Scheduler
from maniple_agent.settings import AgentSettings
from maniple_agent.task_watch import TaskWatch
from maniple_agent.tracing import AttemptTracing
from maniple_runtime.cluster_time import ClusterTime, follow
from maniple_runtime.control.messages import AgentDescription, AgentPhase
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.control.routing_keys import control_keys
from maniple_runtime.event_loop import new_event_loop
from maniple_runtime.hotpath import PAUSE_TIMEOUT, HotPath
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.runtime import Runtime
from maniple_runtime.tls import PARTS, variable

LEAST_PAUSE = 1.0
# Beyond what runs may take; what is left of the runner's margin is for closing.
GOODBYE_MARGIN = 3.0


@dataclass(frozen=True)
class Parts:
    """What an agent is made of."""

    registry: TaskRegistry
    hot: HotPath
    work: Scheduler
    agent_publisher: AgentPublisher
    lanes: LaneConsumers
    executors: dict[Kind, Executor]
    confirmation: Confirmation
    ending: Ending
    time: ClusterTime


def assemble(runtime: Runtime[AgentSettings], folder: Path) -> Parts:
    """Put an agent together; nothing is started. Raises `ConfigurationError` for its handlers."""
    settings = runtime.settings
    time = ClusterTime(runtime.clock, settings.timings.clocks)
    monotonic = runtime.clock.monotonic
    # Before their modules are there, which may ask for tracers.
    runtime.tracer.serve_handlers(time.off)
    registry = load_registry(settings.handlers, folder)
    for handler in diagnostics.HANDLERS:
        registry.add(handler)
    runtime.log.info("handlers are loaded", **_offers(registry))
    hot = HotPath(runtime, held_bytes=settings.held_bytes)
    queues = settings.timings.queues
    results = ResultPublisher(
        hot.publisher, runtime.metrics, replier=hot.replier, times=queues, monotonic=monotonic
    )
    traces = AttemptTracing(runtime.tracer, time.now)
    agent_publisher = AgentPublisher(
        hot.publisher, results, runtime.metrics, times=queues, monotonic=monotonic
    )
    confirmation = Confirmation(monotonic(), settings.timings)
    work = Scheduler(
        settings.instance,
        registry,
        agent_publisher,
        ProgressReports(results, time.now),
        metrics=runtime.metrics,
        clock=time.clock,
        traces=traces,
        executors=partial(_executors, runtime, registry, folder, time.known),
        fenced=lambda: confirmation.fenced(monotonic()),
        times=settings.timings.holding,
        known=time.known,
        most_bytes=settings.held_bytes,
        at_once=diagnostics.AT_ONCE,
    )
    lanes = LaneConsumers(
        settings.instance,
        registry,
        settings.variants,
        _capacities(settings),
        hot=hot,
        work=work,
    )
    ending = Ending(runtime.stopping.set, settings.drain_timeout)
    return Parts(
        registry, hot, work, agent_publisher, lanes, dict(work.slots), confirmation, ending, time
    )


@contextlib.asynccontextmanager
async def build(runtime: Runtime[AgentSettings], folder: Path | None = None) -> AsyncIterator[None]:
    """Start an agent, and drain it on the way out.

    Its handlers are looked for in `folder` (None: the current one), where its workers begin.
    """
    settings = runtime.settings
    parts, monotonic = assemble(runtime, folder or here()), runtime.clock.monotonic
    description = describe(runtime, parts.registry, parts.lanes, parts.executors)
    plane = ControlPlane(
        settings.broker_url,
        name=runtime.connection_name("control"),
        log=runtime.log,
        health=runtime.health,
        times=settings.timings.amqp,
        metrics=runtime.metrics,
    )
    for executor in parts.executors.values():
        await executor.start(runtime.spawn)
    try:
        async with parts.hot.publishing(), plane:
            await check_id(plane, description, settings.timings.heartbeats, monotonic)
            parts.confirmation.confirm_heartbeat(monotonic())  # what counts from now on is silence
            async with parts.hot.consuming():
                heartbeats = await _report(runtime, parts, plane, description)
                yield
                await _leave(parts, heartbeats)
            parts.ending.check_identity()
    finally:
        for executor in parts.executors.values():
            await executor.stop()


async def _leave(parts: Parts, heartbeats: Heartbeats) -> None:
    """Stop taking tasks, finish or hand back what is here, and say goodbye."""
    monotonic = parts.time.clock.monotonic
    began, seconds = monotonic(), parts.ending.seconds
    parts.work.begin_draining()  # a fence that opens meanwhile must not let anything in
    await parts.hot.pause(min(PAUSE_TIMEOUT, max(LEAST_PAUSE, seconds)))
    heartbeats.enter_phase(AgentPhase.DRAINING)
    heartbeats.announce()
    await parts.work.drain_jobs(max(0.0, seconds - (monotonic() - began)))
    heartbeats.enter_phase(AgentPhase.LEAVING)
    left = seconds + GOODBYE_MARGIN - (monotonic() - began)
    if left > 0 and not parts.confirmation.fenced(monotonic()):
        await heartbeats.send_heartbeat(min(heartbeats.patience, left))


async def _report(
    runtime: Runtime, parts: Parts, plane: ControlPlane, description: AgentDescription
) -> Heartbeats:
    """Have the agent obey commands and tell how it is."""
    self_ = Self(
        description=description,
        slots=sum(executor.capacity for executor in parts.executors.values()),
        connections=lambda: (*parts.hot.connections, plane.name),
        hungry=lambda: parts.lanes.hungry,
        unconsumed=lambda: parts.lanes.unconsumed,
    )
    fence = Fence(
        runtime,
        parts.confirmation,
        parts.work,
        agent_publisher=parts.agent_publisher,
        hot=parts.hot,
        plane=plane,
    )
    runtime.ttl_heartbeat.expect()
    heartbeats = Heartbeats(
        plane,
        self_,
        parts.work,
        confirmed=fence.confirm,
        health=runtime.health,
        metrics=runtime.metrics,
        clock=runtime.clock,
        timings=runtime.settings.timings,
    )
    hear = follow(parts.time, runtime.health)
    rebuilds = parts.hot.reconnect, parts.lanes.renew
    commands = AgentCommands(
        heartbeats, parts.ending, *rebuilds, new_id, runtime.clock.monotonic, hear
    )
    keys = control_keys(description.agent, description.capabilities)
    await consumers_of(commands, keys).subscribe(plane)
    await heartbeats.send_heartbeat()
    reports = OutcomeReports(
        plane,
        self_,
        parts.work,
        lanes=parts.lanes,
        clock=runtime.clock,
        times=runtime.settings.timings.reports,
    )
    look = runtime.settings.timings.fencing.look
    watch = TaskWatch(parts.work, parts.agent_publisher, description.agent, period=look)
    runtime.spawn(heartbeats.send_heartbeats(), "heartbeats")
    runtime.spawn(reports.send_reports(), "outcomes")
    runtime.spawn(
        watch.watch_tasks(fence, runtime.metrics, runtime.health, parts.time.now), "watch"
    )
    return heartbeats


def _offers(registry: TaskRegistry) -> dict[str, list[str]]:
    """Return the capabilities of each executor, for a log line."""
    offers: dict[str, list[str]] = {}
    for definition in registry:
        offers.setdefault(definition.executor.value, []).append(definition.capability)
    return offers


def _capacities(settings: AgentSettings) -> dict[Kind, int]:
    return {
        Kind.ASYNC: settings.slots,
        Kind.THREAD: settings.threads,
        Kind.PROCESS: settings.processes,
    }


def worker_environment(settings: AgentSettings) -> dict[str, str]:
    """Return the variables of a worker process besides the agent's own.

    It does not ask Consul: that its files are no longer there must not keep it from starting.
    """
    return {
        "MANIPLE_INSTANCE": settings.instance,
        "MANIPLE_LOG_LEVEL": settings.log_level,
        "MANIPLE_LOG_FORMAT": settings.log_format,
        **{variable("consul", part): "" for part in PARTS},
    }


def _executors(
    runtime: Runtime[AgentSettings],
    registry: TaskRegistry,
    folder: Path,
    known: Known,
    report: Report,
) -> dict[Kind, Executor]:
    """Return an executor for each kind of handler that there is."""
    settings, clock = runtime.settings, runtime.clock.monotonic
    kinds = {definition.executor for definition in registry}
    executors: dict[Kind, Executor] = {}
    if Kind.ASYNC in kinds:
        executors[Kind.ASYNC] = LoopExecutor(
            settings.slots, settings.instance, report, new_event_loop, clock=clock
        )
    if Kind.THREAD in kinds:
        executors[Kind.THREAD] = ThreadExecutor(
            settings.threads, settings.instance, report, clock=clock
        )
    if Kind.PROCESS in kinds:
        executors[Kind.PROCESS] = ProcessExecutor(
            settings.processes,
            settings.instance,
            report,
            handlers=located(settings.handlers, folder),
            memory=settings.process_memory,
            environment=worker_environment(settings),
            folder=folder,
            cgroups_at=cgroups.ROOT,
            known=known,
            clock=clock,
            tracer=runtime.tracer,
        )
    return executors
