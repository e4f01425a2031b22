"""The brokers that the fault campaign runs on: a child process of ours, or a container.

Both are handed to a `Cluster` (`broker=`), have the same users, passwords and settings, and are
restarted, killed, frozen and commanded by the same operations. What is done to them here on purpose
is no death that the cluster hears of.
"""

import contextlib
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path

from maniple_cli.dev_cluster.child import Child
from maniple_cli.dev_cluster.rabbitmq import START_SECONDS, STOP_SECONDS, RabbitMQServer
from maniple_cli.dev_cluster.readiness import until_ready
from rabbitmqctl import Installed, make_administrator
from system.docker import ContainerRabbitMQ, run
from waiting import wait_until

END_SECONDS = 10.0
ADMINISTRATOR = "administrator"


class BrokerKind(StrEnum):
    """Where the broker runs."""

    NATIVE = "native"
    CONTAINER = "container"


class Broker(ABC):
    """A broker that faults can be done to, and a `BrokerServer` for `Cluster(broker=…)`.

    After `shut_down` and `kill` it is away until `come_back`, which finds its queues, passwords and
    ports as they were; nothing else starts it meanwhile.
    """

    def __init__(self, server: RabbitMQServer | ContainerRabbitMQ) -> None:
        self._server = server
        self._restart = False
        self._administrator: str | None = None

    @property
    def environment(self) -> str:
        """Name of the environment, which is the vhost's."""
        return self._server.environment

    @property
    def children(self) -> tuple[Child, ...]:
        """The processes that make it up; the broker is the last."""
        return self._server.children

    def url(self, role: str) -> str:
        """AMQP URL for a role."""
        return self._server.url(role)

    def management_url(self, role: str) -> str:
        """Management API with a role's login."""
        return self._server.management_url(role)

    async def administrator(self) -> str:
        """Return the management API with the login of an administrator, made at the first call."""
        if self._administrator is None:
            password = await make_administrator(self, ADMINISTRATOR)
            host = self.management_url("operator").rpartition("@")[2]
            self._administrator = f"http://{ADMINISTRATOR}:{password}@{host}"
        return self._administrator

    async def start(self) -> None:
        """Start it and wait until it answers. Raises `LocalError`, with nothing left running."""
        await self._server.start()

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop it, by force after `seconds`. Idempotent."""
        await self._server.stop(seconds)

    async def restart(self) -> None:
        """Shut it down in good order and start it again."""
        await self.shut_down()
        await self.come_back()

    async def shut_down(self) -> None:
        """End it in good order."""
        async with self._end_expected():
            await self._terminate()

    async def kill(self) -> None:
        """End it with SIGKILL."""
        async with self._end_expected():
            await self._kill()

    async def come_back(self) -> None:
        """Start it again where it was, and wait until it answers. Raises `StartFailed`."""
        child = self.children[-1]
        await child.start_process()
        await until_ready("RabbitMQ", self._answers, children=[child], seconds=START_SECONDS)
        child.restart = self._restart

    @abstractmethod
    async def freeze(self) -> None:
        """Hold all its processes where they are; its connections stay open."""

    @abstractmethod
    async def unfreeze(self) -> None:
        """Resume it."""

    @abstractmethod
    async def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl` with these arguments and return its output. Raises `LocalError`."""

    @abstractmethod
    async def _terminate(self) -> None: ...

    @abstractmethod
    async def _kill(self) -> None: ...

    async def _answers(self) -> bool:
        return await self._server.answers()

    @contextlib.asynccontextmanager
    async def _end_expected(self) -> AsyncIterator[None]:
        child = self.children[-1]
        self._restart, child.restart = child.restart, False
        on_death, child.on_death = child.on_death, None
        try:
            yield
            await wait_until(lambda: not child.running, END_SECONDS)
        finally:
            child.on_death = on_death


class NativeBroker(Broker):
    """RabbitMQ as this machine has it installed, with its data and log in `folder`."""

    def __init__(self, folder: Path, environment: str = "dev") -> None:
        server = RabbitMQServer(folder, environment)
        self._installed = Installed(server)
        super().__init__(server)

    async def freeze(self) -> None:
        """Hold it with SIGSTOP."""
        os.killpg(self.children[-1].pid, signal.SIGSTOP)

    async def unfreeze(self) -> None:
        """Resume it with SIGCONT."""
        os.killpg(self.children[-1].pid, signal.SIGCONT)

    async def control(self, *arguments: str) -> str:
        """Run the `rabbitmqctl` that came with the server."""
        return await self._installed.control(*arguments)

    async def _terminate(self) -> None:
        await self.children[-1].stop(STOP_SECONDS)

    async def _kill(self) -> None:
        os.killpg(self.children[-1].pid, signal.SIGKILL)


class ContainerBroker(Broker):
    """RabbitMQ's official image in a container that is made and removed here."""

    def __init__(self, environment: str = "dev") -> None:
        self._container = ContainerRabbitMQ(environment)
        super().__init__(self._container)

    async def freeze(self) -> None:
        """Hold it with `docker pause`."""
        await run("docker", "pause", self._container.name)

    async def unfreeze(self) -> None:
        """Resume it with `docker unpause`."""
        await run("docker", "unpause", self._container.name)

    async def control(self, *arguments: str) -> str:
        """Run the container's own `rabbitmqctl`."""
        return await run(
            "docker", "exec", self._container.name, "rabbitmqctl", "--quiet", *arguments
        )

    async def _terminate(self) -> None:
        await run("docker", "stop", "--time", f"{STOP_SECONDS:.0f}", self._container.name)

    async def _kill(self) -> None:
        await run("docker", "kill", "--signal", "KILL", self._container.name)


def broker_of(kind: BrokerKind, folder: Path, environment: str = "dev") -> Broker:
    """Make a broker of that kind; a native one keeps its files in `folder`."""
    if kind is BrokerKind.NATIVE:
        return NativeBroker(folder, environment)
    return ContainerBroker(environment)
