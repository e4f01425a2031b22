"""Composition root of the registry; tests build it by the same function."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from maniple_registry.actions import CAUSES, ActionRunner
from maniple_registry.catalog_reaper import CatalogReaper
from maniple_registry.clock_watch import ClockWatch
from maniple_registry.consumers import consumers_of
from maniple_registry.domain.agents import Agents
from maniple_registry.domain.pending_actions import PendingActions
from maniple_registry.eviction import Evictor
from maniple_registry.handlers import RegistryHandlers
from maniple_registry.hearing_clock import HearingClock
from maniple_registry.heartbeat_consumer import HeartbeatConsumer
from maniple_registry.management import Management
from maniple_registry.outbox import Outbox
from maniple_registry.settings import RegistrySettings
from maniple_registry.timing_watch import TimingWatch
from maniple_registry.watch import (
    ConsulWatch,
    FailureDetector,
    StalledLaneWatch,
    act,
    count,
    inherit,
)
from maniple_runtime.control.plane import ControlPlane, prepare_broker
from maniple_runtime.leadership import Leadership
from maniple_runtime.metric_names import EVICTIONS
from maniple_runtime.runtime import Runtime


@asynccontextmanager
async def build(runtime: Runtime[RegistrySettings]) -> AsyncIterator[None]:
    """Start a registry, and end it on the way out."""
    settings = runtime.settings
    timings = settings.timings
    await prepare_broker(settings.broker_url)
    plane = ControlPlane(
        settings.broker_url,
        name=runtime.connection_name("control"),
        log=runtime.log,
        health=runtime.health,
        patience=0,
        times=timings.amqp,
        metrics=runtime.metrics,
    )
    leadership = Leadership(runtime)
    hearing = HeartbeatConsumer(runtime)
    handlers = assemble(runtime, plane, leadership, hearing)
    clocks = ClockWatch(handlers, plane, runtime, lambda: leadership.leads or not leadership.led)
    checks = ConsulWatch(handlers, runtime.consul, settings.environment, timings)
    consumers = consumers_of(handlers, hearing, clocks)
    consumers.listen(hearing.link)
    async with plane, hearing.open_link():
        try:
            await consumers.subscribe(plane)
            runtime.spawn(leadership.hold_leadership(), "leadership")
            runtime.spawn(handlers.actor.outbox.publish_pending(), "outbox")
            runtime.spawn(handlers.actor.evictor.run_evictions(), "evictor")
            runtime.spawn(act(handlers, timings.watching.scan), "actor")
            runtime.spawn(count(handlers), "count")
            runtime.spawn(TimingWatch(handlers.fleet, runtime).watch_timings(), "misfits")
            runtime.spawn(
                FailureDetector(handlers, hearing, timings.watching).detect_failures(), "silence"
            )
            runtime.spawn(inherit(handlers, plane), "inherit")
            runtime.spawn(clocks.watch_clocks(), "clocks")
            # Before any question is answered: half a fleet is a wrong answer.
            await checks.seed()
            runtime.spawn(checks.watch_checks(), "checks")
            lanes = StalledLaneWatch(
                handlers, hearing, timings.watching, monotonic=runtime.clock.monotonic
            )
            runtime.spawn(lanes.watch_lanes(), "lanes")
            runtime.spawn(_reaper(runtime).watch_catalog(), "reaper")
            await consumers.respond(plane, "registry")
            yield
        finally:
            await runtime.cancel_spawned()


def assemble(
    runtime: Runtime[RegistrySettings],
    plane: ControlPlane,
    leadership: Leadership,
    hearing: HeartbeatConsumer,
) -> RegistryHandlers:
    """Put together what decides and acts; nothing is started."""
    settings = runtime.settings
    timings = settings.timings
    fleet = Agents(timings.bounds)
    management = None
    if settings.management_url:
        management = Management(settings.management_url, settings.management_tls)
    evictor = Evictor(
        runtime.consul,
        management,
        environment=settings.environment,
        target=fleet.target,
        log=runtime.log,
        monotonic=runtime.clock.monotonic,
    )
    for cause in CAUSES:  # an alert sees a counter rise only from a value that was there before
        runtime.metrics.counter(EVICTIONS, cause)
    actor = ActionRunner(
        fleet=fleet,
        agenda=PendingActions(timings.standby),
        outbox=Outbox(plane, runtime.log),
        evictor=evictor,
        leads=lambda: leadership.leads,
        led=lambda: leadership.led,
        metrics=runtime.metrics,
        log=runtime.log,
    )
    clock = HearingClock(runtime.clock, longest_step=timings.watching.longest_step)
    return RegistryHandlers(
        fleet,
        clock,
        actor,
        runtime.metrics,
        runtime.log,
        hears=lambda: hearing.hears,
        agree=timings.clocks.agree,
    )


def _reaper(runtime: Runtime) -> CatalogReaper:
    settings = runtime.settings
    return CatalogReaper(
        runtime.consul,
        settings.environment,
        runtime.log,
        gone_after=settings.timings.catalog.gone,
        monotonic=runtime.clock.monotonic,
    )
