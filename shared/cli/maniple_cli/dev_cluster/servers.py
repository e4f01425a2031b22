"""The broker and the Consul of a cluster: our own children, or servers that are already running."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from maniple.amqp.probe import probe
from maniple.errors import BrokerRefused, BrokerUnavailable, ConfigurationError
from maniple.urls import check_broker_url, check_http_url
from maniple_cli.dev_cluster.child import Child, Death
from maniple_cli.dev_cluster.consul import ConsulServer
from maniple_cli.dev_cluster.errors import ServerUnreachable, WrongVariable
from maniple_cli.dev_cluster.http import fetch
from maniple_cli.dev_cluster.rabbitmq import RabbitMQServer
from maniple_cli.dev_cluster.reaper import ProcessReaper
from maniple_runtime.tls import PARTS, Tls, variable

BROKER_VARIABLE = "MANIPLE_BROKER_URL"
CONSUL_VARIABLE = "MANIPLE_CONSUL_URL"
MANAGEMENT_VARIABLE = "MANIPLE_MANAGEMENT_URL"
OK = 200
CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Existing:
    """URLs of servers that somebody else runs; empty for the ones that we start."""

    broker_url: str = ""
    consul_url: str = ""
    management_url: str = ""
    consul_tls: Tls = field(default_factory=Tls)

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> "Existing":
        """Read the variables; an empty one counts as unset. Raises `WrongVariable`."""
        try:
            tls = Tls.of_environment("consul", environ)
        except ValueError as error:
            raise WrongVariable(str(error)) from error
        return cls(
            _checked(environ, BROKER_VARIABLE, check_broker_url),
            _checked(environ, CONSUL_VARIABLE, check_http_url),
            _checked(environ, MANAGEMENT_VARIABLE, check_http_url),
            tls,
        )


def _checked(environ: Mapping[str, str], name: str, check: Callable[[str], object]) -> str:
    url = environ.get(name, "")
    try:
        if url:
            check(url)
    except ValueError as error:
        raise WrongVariable(f"{name}: {error}") from error
    return url


class BrokerServer(Protocol):
    """A broker that a cluster starts and stops: `RabbitMQServer`, or another one."""

    @property
    def environment(self) -> str:
        """Name of the environment, which is the vhost's."""

    @property
    def children(self) -> tuple[Child, ...]:
        """The processes that make it up, on this machine."""

    def url(self, role: str) -> str:
        """AMQP URL for a role."""

    def management_url(self, role: str) -> str:
        """Management API with a role's login."""

    async def start(self) -> None:
        """Start it and wait until it answers. Raises `LocalError`, with nothing left running."""

    async def stop(self, seconds: float) -> None:
        """Stop it, by force after `seconds`. Idempotent."""


class Servers:
    """Both servers of a cluster. One existing broker URL serves all roles.

    A given `broker` is started in place of our own, whatever exists.
    """

    def __init__(  # noqa: PLR0913 - what a cluster is told about its servers
        self,
        data_dir: Path,
        reaper: ProcessReaper,
        *,
        environment: str,
        keep: bool,
        existing: Existing,
        broker: BrokerServer | None = None,
    ) -> None:
        self._existing = existing
        self._keep = keep
        self._rabbitmq: BrokerServer | None = broker
        self._consul: ConsulServer | None = None
        if broker is None and not existing.broker_url:
            self._rabbitmq = RabbitMQServer(data_dir / "rabbitmq", environment, reaper=reaper)
        if not existing.consul_url:
            self._consul = ConsulServer(data_dir / "consul", keep=keep, reaper=reaper)

    @property
    def own_consul(self) -> bool:
        """Whether Consul is ours, so that nobody else registers there."""
        return self._consul is not None

    @property
    def children(self) -> list[Child]:
        """The processes that are ours."""
        servers = [server for server in (self._rabbitmq, self._consul) if server]
        return [child for server in servers for child in server.children]

    @property
    def environment(self) -> str:
        """Name of the environment, which is the vhost's."""
        if self._rabbitmq:
            return self._rabbitmq.environment
        return unquote(urlsplit(self._existing.broker_url).path[1:]) or "default"

    @property
    def consul_url(self) -> str:
        """HTTP API and UI of Consul."""
        return self._consul.url if self._consul else self._existing.consul_url

    def broker_url(self, role: str) -> str:
        """AMQP URL for a role."""
        return self._rabbitmq.url(role) if self._rabbitmq else self._existing.broker_url

    def management_url(self, role: str) -> str:
        """Management API with a role's login; empty if an existing broker came without it."""
        if self._rabbitmq:
            return self._rabbitmq.management_url(role)
        return self._existing.management_url

    @property
    def unspoken(self) -> dict[str, str]:
        """TLS variables that do not apply to our own servers, which do not use TLS."""
        own = {"consul": self._consul, "management": self._rabbitmq}
        return {variable(name, part): "" for name in own if own[name] for part in PARTS}

    async def start_servers(self) -> None:
        """Start our own servers, side by side, and check that existing ones answer.

        Raises `LocalError`: `ServerUnreachable` for an existing server that does not answer.
        """
        work = []
        work.append(self._consul.start() if self._consul else self._check_consul())
        work.append(self._rabbitmq.start() if self._rabbitmq else self._check_broker())
        results = await asyncio.gather(*work, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def supervise(self, *, restart: bool, on_death: Callable[[Death], None]) -> None:
        """From now on report deaths, and restart dead servers on the same ports and folders."""
        for child in self.children:
            child.restart = restart
            child.on_death = on_death

    async def stop_servers(self, seconds: float) -> None:
        """Stop our own servers, by force after `seconds`."""
        servers = [server for server in (self._rabbitmq, self._consul) if server]
        await asyncio.gather(*(server.stop(seconds) for server in servers))

    async def _check_consul(self) -> None:
        existing = self._existing
        url = f"{existing.consul_url.rstrip('/')}/v1/status/leader"
        status, body = await fetch(url, tls=existing.consul_tls)
        if status != OK:
            said = f"{status} {body[:200]}" if status else body
            raise ServerUnreachable(f"{CONSUL_VARIABLE}: no Consul answers there ({said})")

    async def _check_broker(self) -> None:
        url = self._existing.broker_url
        try:
            await probe(url, (), (), timeout=CONNECT_SECONDS)
        except ConfigurationError as error:
            raise WrongVariable(f"{BROKER_VARIABLE}: {error}") from error
        except BrokerRefused as error:  # our processes would wait for it to let them in
            raise ServerUnreachable(f"{BROKER_VARIABLE}: {error}") from error
        except BrokerUnavailable as error:
            raise ServerUnreachable(f"{BROKER_VARIABLE}: no broker answers: {error}") from error
