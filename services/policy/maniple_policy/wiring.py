"""Composition root of the policy service; tests build it by the same function."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from maniple.errors import BrokerUnavailable, PublishRefused
from maniple_policy.consumers import consumers_of
from maniple_policy.handlers import PolicyHandlers
from maniple_policy.live_processes import LiveProcesses
from maniple_policy.queries import PolicyQueries, count
from maniple_policy.settings import PolicySettings
from maniple_policy.store import Store
from maniple_runtime.control.plane import ControlPlane, prepare_broker
from maniple_runtime.events import PolicyChanged
from maniple_runtime.runtime import Runtime


@asynccontextmanager
async def build(runtime: Runtime[PolicySettings]) -> AsyncIterator[None]:
    """Start a policy service: first from its disk, then from Consul."""
    settings, clock = runtime.settings, runtime.clock
    name = runtime.connection_name("control")
    await prepare_broker(settings.broker_url)
    async with ControlPlane(
        settings.broker_url,
        name=name,
        log=runtime.log,
        health=runtime.health,
        times=settings.timings.amqp,
        metrics=runtime.metrics,
    ) as plane:

        async def announce(event: PolicyChanged) -> None:
            # Processes that miss it find the digest changed within 30 s.
            try:
                await plane.emit(event)
            except (BrokerUnavailable, PublishRefused) as error:
                runtime.log.warning("change not announced", event_id=event.id, reason=str(error))

        store = Store(
            runtime.consul,
            settings.consul_prefix,
            settings.data_dir / settings.environment / "policy-store.json",
            health=runtime.health,
            metrics=runtime.metrics,
            announce=announce,
            now=clock.now,
        )
        store.load()
        runtime.spawn(store.keep(), "follow Consul")
        fleet = LiveProcesses(plane, runtime.consul, settings.environment, clock.monotonic)
        answers = PolicyQueries(store, fleet, clock.monotonic, settings.timings.policies)
        consumers = consumers_of(PolicyHandlers(answers, clock.now), answers)
        await consumers.subscribe(plane)
        await consumers.respond(plane, "policy")
        runtime.spawn(count(answers, runtime.metrics), "count")
        yield
