"""A whole cluster on this machine: servers and services as children of this process."""

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from maniple_cli.dev_cluster.child import Child, ChildSpec, Death
from maniple_cli.dev_cluster.definitions import Role
from maniple_cli.dev_cluster.errors import LocalError, ServiceMissing
from maniple_cli.dev_cluster.http import fetch
from maniple_cli.dev_cluster.ports import LOOPBACK, free_ports
from maniple_cli.dev_cluster.readiness import until_ready
from maniple_cli.dev_cluster.reaper import ProcessReaper
from maniple_cli.dev_cluster.servers import BrokerServer, Existing, Servers

READY_SECONDS = 60.0
STOP_SECONDS = 9.0  # of the ten that `maniple dev` has
SERVERS_SHARE = 2.5  # of them, for the servers
THROWAWAY_SECONDS = 0.5  # nobody needs the clean end of a broker whose folder goes
DRAIN_SECONDS = "5"
OK = 200


@dataclass(frozen=True)
class ClusterOptions:
    """What to run.

    `handlers` are modules of tasks, importable from the current directory. Without `data_dir` a
    temporary folder is used. `env` adds variables to every process of a service, or to one
    (`{"agent": {"MANIPLE_SLOTS": "4"}, "agent-2": {…}}`). `services=False` starts the servers only.
    `time_scale` is passed to every process; None leaves it to this one's environment.
    """

    agents: int = 3
    dispatchers: int = 1
    registries: int = 2
    policies: int = 1
    handlers: tuple[str, ...] = ()
    data_dir: Path | None = None
    restart: bool = True
    environment: str = "dev"
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    services: bool = True
    time_scale: float | None = None

    @property
    def process_counts(self) -> Mapping[str, int]:
        """How many processes of each service are to run."""
        return {
            "registry": self.registries,
            "policy": self.policies,
            "dispatcher": self.dispatchers,
            "agent": self.agents,
        }

    def check_installed(self) -> None:
        """Raise `ServiceMissing` for a service that could not be started, before anything is."""
        wanted = (
            [name for name, count in self.process_counts.items() if count] if self.services else []
        )
        missing = [name for name in wanted if find_spec(f"maniple_{name}") is None]
        if missing:
            raise ServiceMissing(
                f"not installed: {', '.join(missing)}; a whole cluster is "
                "pip install 'maniple[cluster]'"
            )


@dataclass(frozen=True)
class ServiceProcess:
    """One process of ours: `http` is its base URL, `child` its supervised process."""

    service: str
    instance: str
    http: str
    child: Child

    @property
    def pid(self) -> int:
        """Process id of its present life."""
        return self.child.pid

    async def ready(self) -> bool:
        """Whether the process reports so at /ready."""
        status, _ = await fetch(f"{self.http}/ready")
        return status == OK

    def info(self) -> dict[str, Any]:
        """Its entry in the ready file."""
        return {
            "service": self.service,
            "instance": self.instance,
            "pid": self.pid,
            "http": self.http,
        }


class Cluster:
    """Servers and services, ready on entering the block and gone after it.

    Existing servers are used where `MANIPLE_BROKER_URL`, `MANIPLE_CONSUL_URL` (and
    `MANIPLE_MANAGEMENT_URL`) name them. `on_death` is called for every child that dies by itself
    once the cluster is ready; a death before that fails the start with `StartFailed`. A temporary
    data folder is removed at the end, unless something failed: then `kept` names it. A given
    `broker` is started and stopped in place of our own.
    """

    def __init__(
        self,
        options: ClusterOptions,
        *,
        on_death: Callable[[Death], None] | None = None,
        broker: BrokerServer | None = None,
    ) -> None:
        self.options = options
        self._broker = broker
        self.processes: list[ServiceProcess] = []
        self.kept: Path | None = None
        self.deaths: list[Death] = []
        self._on_death = on_death
        self._temporary = options.data_dir is None
        self._failed = False

    async def __aenter__(self) -> Self:
        """Start everything; raises `LocalError` with nothing left running."""
        self.options.check_installed()
        existing = Existing.of_environment(os.environ)
        self._reaper = ProcessReaper()
        self.data_dir = self._make_folder()
        self.servers = Servers(
            self.data_dir,
            self._reaper,
            environment=self.options.environment,
            keep=not self._temporary,
            existing=existing,
            broker=self._broker,
        )
        try:
            await self._start()
        except BaseException as error:
            self._failed = isinstance(error, LocalError)
            await self._stop()
            if self.kept:
                error.add_note(f"Its logs are kept in {self.kept}")
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Drain the services, stop the servers, within ten seconds."""
        self._failed = self._failed or (kind is not None and issubclass(kind, Exception))
        await self._stop()

    def process(self, instance: str) -> ServiceProcess:
        """Return the process of an instance, e.g. `agent-1`; raises KeyError."""
        for process in self.processes:
            if process.instance == instance:
                return process
        raise KeyError(instance)

    def of_service(self, service: str) -> list[ServiceProcess]:
        """Return the processes of a service, e.g. `agent`."""
        return [process for process in self.processes if process.service == service]

    def ready_info(self) -> dict[str, Any]:
        """Return what a program needs to use this cluster; the content of the ready file."""
        return {
            "broker_url": self.servers.broker_url(Role.OUTSIDE),
            "operator_url": self.servers.broker_url(Role.OPERATOR),
            "client_url": self.servers.broker_url(Role.CLIENT),
            "management_url": self.servers.management_url(Role.OPERATOR),
            "consul_url": self.servers.consul_url,
            "environment": self.servers.environment,
            "data_dir": str(self.data_dir),
            "processes": [process.info() for process in self.processes],
        }

    def _make_folder(self) -> Path:
        if self.options.data_dir is not None:
            folder = self.options.data_dir.absolute()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return folder
        folder = Path(tempfile.mkdtemp(prefix="maniple-"))
        self._reaper.watch_folder(folder)
        return folder

    async def _start(self) -> None:
        await self.servers.start_servers()
        if self.options.services:
            self.processes = self._plan()
            await asyncio.gather(*(process.child.start_process() for process in self.processes))
            await _all_ready(self.processes)
        self.servers.supervise(restart=self.options.restart, on_death=self._hear)
        for process in self.processes:
            process.child.restart = self.options.restart
            process.child.on_death = self._hear

    def _plan(self) -> list[ServiceProcess]:
        # In a Consul and a vhost of our own plain names are unique.
        suffix = "" if self.servers.own_consul else f"-{secrets.token_hex(3)}"
        wanted = [
            (service, f"{service}-{number}{suffix}")
            for service, count in self.options.process_counts.items()
            for number in range(1, count + 1)
        ]
        ports = free_ports(len(wanted))
        return [
            self._process(service, instance, port=port)
            for (service, instance), port in zip(wanted, ports, strict=True)
        ]

    def _process(self, service: str, instance: str, *, port: int) -> ServiceProcess:
        spec = ChildSpec(
            instance,
            (sys.executable, "-P", "-m", f"maniple_{service}"),
            self.data_dir / "logs" / f"{instance}.log",
            self._environ(service, instance, port=port),
        )
        child = Child(spec, self._reaper)
        return ServiceProcess(service, instance, f"http://{LOOPBACK}:{port}", child)

    def _environ(self, service: str, instance: str, *, port: int) -> dict[str, str]:
        environ = {
            "MANIPLE_BROKER_URL": self.servers.broker_url(service),
            "MANIPLE_CONSUL_URL": self.servers.consul_url,
            **self.servers.unspoken,
            "MANIPLE_INSTANCE": instance,
            "MANIPLE_HTTP_HOST": LOOPBACK,
            "MANIPLE_HTTP_PORT": str(port),
            "MANIPLE_DATA_DIR": str(self.data_dir / instance),
            "MANIPLE_LOG_FORMAT": "json",
            "MANIPLE_DRAIN_TIMEOUT": DRAIN_SECONDS,
            # So that the log is whole when the process is killed.
            "PYTHONUNBUFFERED": "1",
        }
        if service == "registry":
            # The broker lets a user close its own connections: the registry acts as the agents.
            environ["MANIPLE_MANAGEMENT_URL"] = self.servers.management_url(Role.AGENT)
        if service == "agent":
            environ["MANIPLE_CLIENT_URL"] = self.servers.broker_url(Role.CLIENT)
            environ["MANIPLE_HANDLERS"] = ",".join(self.options.handlers)
            paths = [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
            environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        if self.options.time_scale is not None:
            environ["MANIPLE_TIME_SCALE"] = str(self.options.time_scale)
        own = self.options.env
        return {**environ, **own.get(service, {}), **own.get(instance, {})}

    def _hear(self, death: Death) -> None:
        self.deaths.append(death)
        self._failed = self._failed or death.is_failure
        if self._on_death:
            self._on_death(death)

    async def _stop(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        drain = STOP_SECONDS - SERVERS_SHARE
        await asyncio.gather(*(process.child.stop(drain) for process in self.processes))
        rest = max(SERVERS_SHARE, deadline - time.monotonic())
        await self.servers.stop_servers(THROWAWAY_SECONDS if self._temporary else rest)
        if self._temporary and self._failed:
            self.kept = self.data_dir
            self._reaper.forget_folder(self.data_dir)
        elif self._temporary:
            await asyncio.to_thread(shutil.rmtree, self.data_dir, ignore_errors=True)
            self._reaper.forget_folder(self.data_dir)
        await asyncio.to_thread(self._reaper.end_reaper)


async def _all_ready(processes: list[ServiceProcess]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for process in processes:
                group.create_task(_wait_for(process))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _wait_for(process: ServiceProcess) -> None:
    await until_ready(
        process.instance, process.ready, children=[process.child], seconds=READY_SECONDS
    )
