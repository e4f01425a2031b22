"""Policy services inside a test, a client of them, and many processes that follow them."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from consul_server import ConsulServer
from flaky_network import FlakyNetwork
from followed_policies import follow_policies
from local_servers import LocalServers
from maniple.errors import RequestFailed
from maniple.timings import Timings
from maniple.topology import EVENTS
from maniple_cli.dev_cluster.rabbitmq import RabbitMQServer
from maniple_policy.settings import PolicySettings
from maniple_policy.wiring import build
from maniple_runtime.consul.client import Consul
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.events import PolicyChanged
from maniple_runtime.health import Health
from maniple_runtime.policy_view import PolicyView
from maniple_runtime.process import running
from maniple_runtime.runtime import Runtime
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.telemetry import Metrics, get_logger
from policy_records import document
from timed import timed


def policy_key(servers: LocalServers, name: str) -> str:
    """Return the key in Consul of a timeout of that name."""
    return f"maniple/{servers.rabbitmq.environment}/policies/timeout/{name}"


class Operator:
    """Sends requests to the policy service and records its events."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.events: list[PolicyChanged] = []

    async def ask(self, op: str, **body: Any) -> dict[str, Any]:
        return await self.plane.request("policy", f"policy.{op}", body, timeout=10)

    async def apply(self, name: str, seconds: float = 3.0, **more: Any) -> dict[str, Any]:
        return await self.ask("apply", document=document(name, seconds), **more)

    async def refused(self, op: str, **body: Any) -> RequestFailed:
        """Return why something is refused; fails if it is not."""
        try:
            answer = await self.ask(op, **body)
        except RequestFailed as error:
            return error
        raise AssertionError(f"not refused: {answer}")

    async def versions(self) -> dict[str, int]:
        """Versions in force by name."""
        listed = (await self.ask("list"))["policies"]
        return {one["policy"]["name"]: one["policy"]["version"] for one in listed}


@contextlib.asynccontextmanager
async def policy_service(
    broker: RabbitMQServer,
    consul: ConsulServer,
    folder: Path,
    timings: Timings | None = None,
    network: FlakyNetwork | None = None,
) -> AsyncIterator[Runtime]:
    """A policy service; its broker is reached by way of `network`, if there is one."""
    url = broker.url("policy")
    settings = PolicySettings(
        broker_url=network.leading(url) if network else url,
        consul_url=consul.url,
        data_dir=folder,
    )
    async with running(timed(settings, timings), build) as runtime:
        yield runtime


@contextlib.asynccontextmanager
async def asking(broker: RabbitMQServer) -> AsyncIterator[Operator]:
    name = f"test-{uuid.uuid4().hex[:6]}"
    async with ControlPlane(broker.url("registry"), name=name, log=get_logger()) as plane:
        operator = Operator(plane)
        await plane.subscribe(EVENTS, ("policy.#",), PolicyChanged, operator.events.append)
        yield operator


class Follower:
    """A process that evaluates policies."""

    view: PolicyView

    @contextlib.asynccontextmanager
    async def build(self, runtime: Runtime) -> AsyncIterator[None]:
        async with ControlPlane(
            runtime.settings.broker_url, name=runtime.settings.instance, log=runtime.log
        ) as plane:
            self.view = PolicyView(runtime, plane)
            await follow_policies(self.view, plane)
            yield


@contextlib.asynccontextmanager
async def views(url: str, count: int, folder: Path) -> AsyncIterator[list[PolicyView]]:
    """So many processes' views, each with a connection of its own, and without the rest."""
    consul = Consul("http://127.0.0.1:1")  # a view never asks it
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(consul.close)

        async def view(number: int) -> PolicyView:
            instance = f"view-{number}"
            settings = ServiceSettings(
                broker_url=url, instance=instance, data_dir=folder / instance
            )
            runtime = Runtime(
                settings=settings,
                health=Health("service", instance),
                metrics=Metrics(),
                consul=consul,
                log=get_logger("maniple.view"),
                stopping=asyncio.Event(),
            )
            plane = ControlPlane(url, name=runtime.connection_name("control"), log=runtime.log)
            await stack.enter_async_context(plane)
            stack.push_async_callback(runtime.cancel_spawned)
            made = PolicyView(runtime, plane)
            await follow_policies(made, plane)
            return made

        yield [await view(number) for number in range(count)]
