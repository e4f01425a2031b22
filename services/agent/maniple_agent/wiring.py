"""Composition root of the agent; tests build it by the same function."""

import asyncio
import os
import platform
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import cast

from maniple.control import (
    AgentDescription,
    AgentId,
    AgentPhase,
    Command,
    Incarnation,
    control_keys,
)
from maniple.identifiers import new_id
from maniple.loops import new_event_loop
from maniple.service.broker import ControlPlane
from maniple.service.hotpath import HotPath
from maniple.service.outlets import ResultOutlet
from maniple.service.runner import Runtime
from maniple.tasks import Executor as Kind
from maniple.tasks import TaskRegistry, load_registry
from maniple.topology import CONTROL
from maniple_agent import diagnostics
from maniple_agent.departures import Departures
from maniple_agent.executors import Executor, LoopExecutor, ProcessExecutor, ThreadExecutor
from maniple_agent.handlers import Ending, Handlers, routes
from maniple_agent.heartbeat import Heartbeats, OutcomeReports, Self
from maniple_agent.lanes import Lanes
from maniple_agent.progress import ProgressReports
from maniple_agent.settings import AgentSettings
from maniple_agent.work import Work

LOOK_PERIOD = 0.25


def now() -> datetime:
    """Read the clock: the only place of the agent that does for what others see."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Parts:
    """What an agent is made of."""

    registry: TaskRegistry
    hot: HotPath
    work: Work
    lanes: Lanes
    executors: dict[Kind, Executor]
    ending: Ending


def assemble(runtime: Runtime, settings: AgentSettings) -> Parts:
    """Put an agent together; nothing is started. Raises `ConfigurationError` for its handlers."""
    registry = load_registry(settings.handlers)
    for handler in diagnostics.HANDLERS:
        registry.add(handler)
    lanes = Lanes(registry, settings.variants, _capacities(settings))
    hot = HotPath(runtime, queues=tuple(lanes.queues()))
    results = ResultOutlet(hot.publisher, runtime.metrics)
    work = Work(
        settings.instance,
        registry,
        Departures(hot.publisher, results, runtime.metrics),
        ProgressReports(results, now),
        metrics=runtime.metrics,
        clock=now,
    )
    executors = _executors(settings, registry, work)
    work.equip(executors)
    lanes.consume(hot, work)
    ending = Ending(runtime.stopping.set, settings.drain_timeout)
    return Parts(registry, hot, work, lanes, executors, ending)


@asynccontextmanager
async def build(runtime: Runtime) -> AsyncIterator[None]:
    """Start an agent, and drain it on the way out."""
    settings = cast("AgentSettings", runtime.settings)
    parts = assemble(runtime, settings)
    description = describe(runtime, settings, parts)
    plane = ControlPlane(
        settings.broker_url,
        name=runtime.connection_name("control"),
        log=runtime.log,
        health=runtime.health,
    ).measured(runtime.metrics)
    for executor in parts.executors.values():
        await executor.start(runtime.spawn)
    try:
        async with parts.hot.publishing(), plane, parts.hot.consuming():
            heartbeats = await _report(runtime, parts, plane, description)
            yield
            await parts.hot.pause()
            heartbeats.phase = AgentPhase.DRAINING
            heartbeats.announce()
            await parts.work.drain(parts.ending.seconds)
            heartbeats.phase = AgentPhase.LEAVING
            await heartbeats.send()
    finally:
        for executor in parts.executors.values():
            await executor.stop()


async def _report(
    runtime: Runtime, parts: Parts, plane: ControlPlane, description: AgentDescription
) -> Heartbeats:
    """Let the agent obey commands and tell how it is."""
    self_ = Self(
        description=description,
        slots=sum(executor.capacity for executor in parts.executors.values()),
        connections=lambda: (*parts.hot.connections, plane.name),
    )
    heartbeats = Heartbeats(
        plane,
        self_,
        parts.work,
        health=runtime.health,
        metrics=runtime.metrics,
        clock=now,
    )
    table = routes(Handlers(heartbeats, parts.ending, parts.hot.reconnect, new_id))

    def obey(command: Command) -> None:
        table[type(command)](command)

    keys = control_keys(description.agent, description.capabilities)
    await plane.subscribe(CONTROL, keys, tuple(table), obey)
    runtime.proofs.append(lambda: heartbeats.confirmed)
    await heartbeats.send()
    reports = OutcomeReports(plane, self_, parts.work, parts.lanes, now)
    runtime.spawn(heartbeats.run(), "heartbeats")
    runtime.spawn(reports.run(), "outcomes")
    runtime.spawn(_look(parts.work), "look")
    return heartbeats


async def _look(work: Work) -> None:
    """Look after tasks that wait or run for long."""
    while True:
        await asyncio.sleep(LOOK_PERIOD)
        work.dissolve()
        work.announce_running()
        work.measure_load()


def describe(runtime: Runtime, settings: AgentSettings, parts: Parts) -> AgentDescription:
    """Return what does not change about this life of the agent."""
    return AgentDescription(
        agent=AgentId(settings.instance),
        incarnation=Incarnation(new_id()),
        host=socket.gethostname(),
        pid=os.getpid(),
        capabilities=tuple(definition.capability for definition in parts.registry),
        lanes=parts.lanes.names,
        variants=settings.variants,
        labels=settings.labels,
        versions={"maniple": version("maniple"), "python": platform.python_version()},
        slots={kind.value: executor.capacity for kind, executor in parts.executors.items()},
        http=runtime.http_url,
        started_at=now(),
    )


def _capacities(settings: AgentSettings) -> dict[Kind, int]:
    return {
        Kind.ASYNC: settings.slots,
        Kind.THREAD: settings.threads,
        Kind.PROCESS: settings.processes,
    }


def _executors(settings: AgentSettings, registry: TaskRegistry, work: Work) -> dict[Kind, Executor]:
    """Return an executor for each kind of handler that there is."""
    kinds = {definition.executor for definition in registry}
    executors: dict[Kind, Executor] = {}
    if Kind.ASYNC in kinds:
        executors[Kind.ASYNC] = LoopExecutor(
            settings.slots, settings.instance, work, new_event_loop
        )
    if Kind.THREAD in kinds:
        executors[Kind.THREAD] = ThreadExecutor(settings.threads, settings.instance, work)
    if Kind.PROCESS in kinds:
        executors[Kind.PROCESS] = ProcessExecutor(
            settings.processes,
            settings.instance,
            work,
            handlers=settings.handlers,
            memory=settings.process_memory,
        )
    return executors
