"""A private RabbitMQ with its own node name, folders, ports, cookie and users."""

import contextlib
import json
import os
import secrets
from pathlib import Path

from maniple_cli.dev_cluster import programs
from maniple_cli.dev_cluster.child import Child, ChildSpec
from maniple_cli.dev_cluster.definitions import Role, new_passwords, rendered
from maniple_cli.dev_cluster.errors import StartFailed
from maniple_cli.dev_cluster.http import fetch
from maniple_cli.dev_cluster.ports import LOOPBACK, free_ports
from maniple_cli.dev_cluster.readiness import amqp_answers, listens, until_ready
from maniple_cli.dev_cluster.reaper import ProcessReaper

START_SECONDS = 60.0
EPMD_SECONDS = 5.0
# 3.10 has closed its stores after 0.1 s, but its virtual machine takes six more to end.
STOP_SECONDS = 8.0
ABORT_SECONDS = 0.5  # one that has never answered has nothing to close
CONSUMER_TIMEOUT_MS = (
    24 * 3_600_000
)  # bounds the longest attempt of a task (DESIGN: a task's timeout)
MAX_MESSAGE_BYTES = 16 * 1024**2  # as RabbitMQ 4 has it by itself
OK = 200
# Another process can take a port between our choice and the broker's start.
PORT_TAKEN = ("eaddrinuse", "address already in use", "could not be bound")
NODE = "maniple@localhost"  # the private epmd keeps equal names apart
BUSY_WAIT = "+sbwt none +sbwtdcpu none +sbwtdio none"  # leave idle processor time to the agents


class RabbitMQServer:
    """A broker on 127.0.0.1 with free ports and a random password for each role.

    `data_dir` holds its data, log and configuration and must exist or be creatable. The vhost has
    the name `environment`. Started again on the same folder, it keeps its queues and changes its
    passwords and ports. Without a `reaper` it makes one of its own.
    """

    def __init__(
        self, data_dir: Path, environment: str = "dev", *, reaper: ProcessReaper | None = None
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.environment = environment
        self.passwords = new_passwords()
        self.amqp_port = self.management_port = self.prometheus_port = 0
        self.children: tuple[Child, ...] = ()
        self._own_reaper = reaper is None
        self._reaper = reaper or ProcessReaper()

    @property
    def log(self) -> Path:
        """The broker's log file."""
        return self.data_dir / "rabbitmq.log"

    def url(self, role: str) -> str:
        """AMQP URL for a role, e.g. `outside`."""
        login = f"{role}:{self.passwords[Role(role)]}"
        return f"amqp://{login}@{LOOPBACK}:{self.amqp_port}/{self.environment}"

    def management_url(self, role: str) -> str:
        """Management API and UI, with a role's login; `operator` and `agent` may use it."""
        login = f"{role}:{self.passwords[Role(role)]}"
        return f"http://{login}@{LOOPBACK}:{self.management_port}"

    async def start(self) -> None:
        """Start the broker and wait until AMQP and management answer (about 5 s).

        Raises `ServerMissing` or `StartFailed`, with nothing left running.
        """
        try:
            await self._start_with_second_try()
        except BaseException:
            await self.stop(ABORT_SECONDS)
            raise

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop the broker cleanly, by force after `seconds`. Idempotent."""
        await self._stop_children(seconds)
        if self._own_reaper:
            self._reaper.end_reaper()

    async def _stop_children(self, seconds: float) -> None:
        for child in reversed(self.children):
            await child.stop(seconds)

    async def _start_with_second_try(self) -> None:
        try:
            await self._start_on_new_ports()
        except StartFailed as error:
            if not any(sign in str(error).lower() for sign in PORT_TAKEN):
                raise
            await self._stop_children(ABORT_SECONDS)
            await self._start_on_new_ports()

    async def _start_on_new_ports(self) -> None:
        ports = free_ports(5)
        self.amqp_port, self.management_port, self.prometheus_port, epmd_port, node_port = ports
        script, epmd_program = programs.rabbitmq_server(), programs.epmd()
        self._write_files()
        epmd = Child(
            ChildSpec(
                "epmd",
                (str(epmd_program), "-port", str(epmd_port), "-address", LOOPBACK),
                self.data_dir / "epmd.log",
            ),
            self._reaper,
        )
        broker = Child(
            ChildSpec("rabbitmq", (str(script),), self.log, self._environ(epmd_port, node_port)),
            self._reaper,
        )
        self.children = (epmd, broker)
        await epmd.start_process()
        await until_ready("epmd", lambda: listens(epmd_port), children=[epmd], seconds=EPMD_SECONDS)
        await broker.start_process()
        await until_ready("RabbitMQ", self.answers, children=self.children, seconds=START_SECONDS)

    async def answers(self) -> bool:
        """Whether AMQP and the management API answer, the latter to a user of ours."""
        if not await amqp_answers(self.amqp_port):
            return False
        status, _ = await fetch(f"{self.management_url('operator')}/api/whoami")
        return status == OK

    def _write_files(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in ("home", "conf.d"):
            (self.data_dir / folder).mkdir(mode=0o700, exist_ok=True)
        cookie = self.data_dir / "home" / ".erlang.cookie"
        cookie.unlink(missing_ok=True)
        _write_private(cookie, secrets.token_hex(20), mode=0o400)
        definitions = self.data_dir / "definitions.json"
        _write_private(definitions, json.dumps(rendered(self.environment, self.passwords)))
        plugins = "[rabbitmq_management,rabbitmq_prometheus].\n"
        _write_private(self.data_dir / "rabbitmq-env.conf", "")
        _write_private(self.data_dir / "advanced.config", "[].\n")
        _write_private(self.data_dir / "enabled_plugins", plugins)
        _write_private(self.data_dir / "rabbitmq.conf", self._configuration(definitions))

    def _configuration(self, definitions: Path) -> str:
        settings = {
            "listeners.tcp.1": f"{LOOPBACK}:{self.amqp_port}",
            "management.tcp.ip": LOOPBACK,
            "management.tcp.port": self.management_port,
            "prometheus.tcp.ip": LOOPBACK,
            "prometheus.tcp.port": self.prometheus_port,
            "loopback_users": "none",
            "load_definitions": definitions,
            "consumer_timeout": CONSUMER_TIMEOUT_MS,
            "max_message_size": MAX_MESSAGE_BYTES,
        }
        return "".join(f"{name} = {value}\n" for name, value in settings.items())

    def _environ(self, epmd_port: int, node_port: int) -> dict[str, str]:
        folder = self.data_dir
        return {
            "HOME": str(folder / "home"),
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_CRASH_DUMP": str(folder / "erl_crash.dump"),
            "RABBITMQ_NODENAME": NODE,
            "RABBITMQ_DIST_PORT": str(node_port),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
            "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
            "RABBITMQ_PID_FILE": str(folder / "rabbitmq.pid"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"{BUSY_WAIT} -start_epmd false -kernel inet_dist_use_interface {{127,0,0,1}}"
            ),
        }


def _write_private(path: Path, text: str, *, mode: int = 0o600) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
