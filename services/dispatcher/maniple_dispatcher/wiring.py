"""Composition root of the dispatcher; tests build it by the same function."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import cast

from maniple import topology
from maniple.service.broker import ControlPlane
from maniple.service.hotpath import HotPath
from maniple.service.outlets import ResultOutlet
from maniple.service.policy_view import PolicyView
from maniple.service.refusals import RefusedLog
from maniple.service.runner import Runtime
from maniple.transport import Consumer
from maniple_dispatcher.dead import Undeliverable
from maniple_dispatcher.domain.sizing import Sizes
from maniple_dispatcher.handlers import Handlers, routes
from maniple_dispatcher.lanes import Lanes
from maniple_dispatcher.returns import Returns
from maniple_dispatcher.settings import DispatcherSettings
from maniple_dispatcher.submissions import Refusals, Submissions

PREFETCH_DEAD = 16


def now() -> datetime:
    """Read the clock: the only place of the dispatcher that does."""
    return datetime.now(UTC)


@asynccontextmanager
async def build(runtime: Runtime) -> AsyncIterator[None]:
    """Start a dispatcher, and drain it on the way out."""
    settings = cast("DispatcherSettings", runtime.settings)
    plane = ControlPlane(
        settings.broker_url,
        name=runtime.connection_name("control"),
        log=runtime.log,
        health=runtime.health,
    ).measured(runtime.metrics)
    policies = PolicyView(runtime, plane)
    hot = HotPath(runtime)
    results = ResultOutlet(hot.publisher, runtime.metrics)
    refused = RefusedLog(hot.publisher, runtime.metrics)
    sizes = Sizes()
    lanes = Lanes(hot.publisher, results, runtime.metrics, now, size_of=sizes.size)
    refusals = Refusals(results, refused, runtime.metrics)
    submissions = Submissions(lanes, refusals, policies, runtime.metrics, now)
    returns = Returns(lanes, refused, now)
    for queue in (topology.SUBMIT, topology.UNROUTED_QUEUE):
        hot.consume(Consumer(hot.intake, queue.name, submissions.take, prefetch=settings.prefetch))
    back = topology.RETRY_QUEUE.name
    hot.consume(Consumer(hot.intake, back, returns.take, prefetch=settings.retry_prefetch))
    dead = Undeliverable(results, now)
    hot.consume(Consumer(hot.intake, topology.DEAD_BROKER.name, dead.take, prefetch=PREFETCH_DEAD))
    async with plane, hot.publishing():
        await policies.start()
        for exchange, (model, handler) in routes(Handlers(lanes, sizes)).items():
            await plane.subscribe(exchange, ("",), model, handler)
        async with hot.consuming():
            yield
            await hot.pause()
            await lanes.drain()
            await results.drain()
            await refused.drain()
