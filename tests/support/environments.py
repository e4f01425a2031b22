"""Environments on one broker, a vhost each, so that no module meets another's queues."""

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import requests

from maniple_cli.dev_cluster.child import Child
from maniple_cli.dev_cluster.definitions import rendered
from maniple_cli.dev_cluster.rabbitmq import RabbitMQServer
from rabbitmqctl import Installed, make_administrator

ADMINISTRATOR = "tests"
HTTP_SECONDS = 10.0


class Environments:
    """Makes and removes environments on a running broker, as its administrator."""

    def __init__(self, rabbitmq: RabbitMQServer) -> None:
        self._rabbitmq = rabbitmq
        self._login = ADMINISTRATOR, ""

    async def prepare(self) -> None:
        """Create the administrator."""
        password = await make_administrator(Installed(self._rabbitmq), ADMINISTRATOR)
        self._login = ADMINISTRATOR, password

    async def make(self, name: str) -> RabbitMQServer:
        """Create an environment; return the broker as seen in it: the users are the same.

        It is a view: only the broker itself can be started and stopped.
        """
        definitions = rendered(name, {})
        wanted = {part: definitions[part] for part in ("vhosts", "permissions")}
        await self._call("POST", "definitions", wanted)
        view = copy.copy(self._rabbitmq)
        view.environment = name
        return view

    async def remove(self, name: str) -> None:
        """Remove an environment with its content; connections to it are closed."""
        await self._call("DELETE", f"vhosts/{quote(name, safe='')}")

    @asynccontextmanager
    async def made(self, name: str) -> AsyncIterator[RabbitMQServer]:
        """Give an environment for the time of the block."""
        view = await self.make(name)
        try:
            yield view
        finally:
            await self.remove(name)

    async def _call(self, method: str, path: str, body: object = None) -> None:
        url = f"http://127.0.0.1:{self._rabbitmq.management_port}/api/{path}"
        answer = await asyncio.to_thread(
            requests.request, method, url, json=body, auth=self._login, timeout=HTTP_SECONDS
        )
        answer.raise_for_status()


class OnSharedBroker:
    """An environment as the broker of a `Cluster`, created and removed with it.

    The broker itself is left alone: other tests use it.
    """

    children: tuple[Child, ...] = ()

    def __init__(self, environments: Environments, environment: str) -> None:
        self.environment = environment
        self._environments = environments
        self._view: RabbitMQServer | None = None

    def url(self, role: str) -> str:
        """AMQP URL for a role."""
        assert self._view is not None
        return self._view.url(role)

    def management_url(self, role: str) -> str:
        """Management API with a role's login."""
        assert self._view is not None
        return self._view.management_url(role)

    async def start(self) -> None:
        """Make the environment."""
        self._view = await self._environments.make(self.environment)

    async def stop(self, seconds: float) -> None:
        """Remove the environment; `seconds` is for brokers that end."""
        if self._view is not None:
            self._view = None
            async with asyncio.timeout(seconds + HTTP_SECONDS):
                await self._environments.remove(self.environment)
