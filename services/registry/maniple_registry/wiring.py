"""Composition root of the registry; tests build it by the same function."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from maniple.service.broker import ControlPlane, prepare_broker
from maniple.service.runner import Runtime
from maniple_registry.clock import Clock
from maniple_registry.domain.fleet import Fleet
from maniple_registry.eviction import Evictor
from maniple_registry.handlers import Handlers, operations, routes
from maniple_registry.management import Management
from maniple_registry.outbox import Outbox
from maniple_registry.reaper import Reaper
from maniple_registry.settings import RegistrySettings

SCAN_PERIOD = 0.25


async def _scan(handlers: Handlers, plane: ControlPlane) -> None:
    while True:
        handlers.scan(hearing=plane.connected)
        await asyncio.sleep(SCAN_PERIOD)


@asynccontextmanager
async def build(runtime: Runtime) -> AsyncIterator[None]:
    """Start a registry, and end it on the way out."""
    settings = cast("RegistrySettings", runtime.settings)
    log = runtime.log
    await prepare_broker(settings.broker_url)
    async with ControlPlane(
        settings.broker_url,
        name=runtime.connection_name("control"),
        log=log,
        health=runtime.health,
        patience=0,
    ).measured(runtime.metrics) as plane:
        management = Management(settings.management_url) if settings.management_url else None
        outbox = Outbox(plane, log)
        handlers = Handlers(
            fleet=Fleet(settings.bounds),
            clock=Clock(),
            outbox=outbox,
            evictor=Evictor(runtime.consul, management, spawn=runtime.spawn, log=log),
            metrics=runtime.metrics,
            log=log,
        )
        for exchange, (model, handler) in routes(handlers).items():
            await plane.subscribe(exchange, (), model, handler)
        await plane.respond("registry", operations(handlers))
        runtime.spawn(outbox.run(), "outbox")
        runtime.spawn(_scan(handlers, plane), "scan")
        runtime.spawn(Reaper(runtime.consul, settings.environment, log).run(), "reaper")
        yield
        await runtime.cancel_spawned()
