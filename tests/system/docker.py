"""RabbitMQ's official image in a container of our own, as a server for a `Cluster`."""

import asyncio
import contextlib
import io
import json
import os
import secrets
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from maniple_cli.dev_cluster.child import Child, ChildSpec
from maniple_cli.dev_cluster.definitions import Role, new_passwords, rendered
from maniple_cli.dev_cluster.errors import LocalError
from maniple_cli.dev_cluster.http import fetch
from maniple_cli.dev_cluster.ports import LOOPBACK, free_ports
from maniple_cli.dev_cluster.rabbitmq import BUSY_WAIT, CONSUMER_TIMEOUT_MS, START_SECONDS
from maniple_cli.dev_cluster.readiness import amqp_answers, until_ready
from maniple_cli.dev_cluster.reaper import ProcessReaper
from needs import ENGINE, first_missing, image

IMAGE = "rabbitmq:4.0-management"
OWNER = "maniple.tests"  # label: the process that a container belongs to
CLIENT_SECONDS = 5.0
OK = 200
FOR_CONTAINER = (ENGINE, image(IMAGE))
# What later versions refuse is refused (and logged) here already.
DENIED = ("transient_nonexcl_queues", "global_qos")


async def run(
    *argv: str,
    env: Mapping[str, str] | None = None,
    given: bytes = b"",
    cwd: Path | None = None,
) -> str:
    """Run a program with `given` as its input and return its output; raises `LocalError`."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
        cwd=cwd,
    )
    output, errors = await process.communicate(given)
    if process.returncode:
        raise LocalError(f"{' '.join(argv)}: {errors.decode(errors='replace').strip()}")
    return output.decode()


class ContainerRabbitMQ:
    """A broker in a container, configured as `RabbitMQServer` is, with ports on 127.0.0.1 only.

    Its child is `docker start --attach`: it ends when the container does, started again it starts
    the same container with its data and ports, its output is the broker's log, and a SIGTERM to it
    is the container's. What a killed test left behind is removed at the next start.
    """

    def __init__(self, environment: str = "dev") -> None:
        self.environment = environment
        self.passwords = new_passwords()
        self.name = f"maniple-rabbitmq-{secrets.token_hex(4)}"
        self.amqp_port, self.management_port = free_ports(2)
        self.children: tuple[Child, ...] = ()
        self._reaper: ProcessReaper | None = None

    def url(self, role: str) -> str:
        """AMQP URL for a role."""
        login = f"{role}:{self.passwords[Role(role)]}"
        return f"amqp://{login}@{LOOPBACK}:{self.amqp_port}/{self.environment}"

    def management_url(self, role: str) -> str:
        """Management API with a role's login."""
        login = f"{role}:{self.passwords[Role(role)]}"
        return f"http://{login}@{LOOPBACK}:{self.management_port}"

    async def start(self) -> None:
        """Create the container and start it. Raises `LocalError`, with nothing left behind."""
        reason = await asyncio.to_thread(first_missing, *FOR_CONTAINER)
        if reason:
            raise LocalError(reason)
        await _remove_orphans()
        try:
            await self._start()
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, _seconds: float = 0) -> None:
        """Remove the container with its data, whatever it is doing. Idempotent."""
        for child in self.children:
            child.restart, child.on_death = False, None
        with contextlib.suppress(LocalError):
            await run("docker", "rm", "--force", "--volumes", self.name)
        for child in self.children:
            await child.stop(CLIENT_SECONDS)
        reaper, self._reaper = self._reaper, None
        if reaper is not None:
            await asyncio.to_thread(reaper.end_reaper)

    async def answers(self) -> bool:
        """Whether AMQP and the management API answer, the latter to a user of ours."""
        if not await amqp_answers(self.amqp_port):
            return False
        status, _ = await fetch(f"{self.management_url(Role.OPERATOR)}/api/whoami")
        return status == OK

    async def _start(self) -> None:
        await self._create()
        self._reaper = ProcessReaper()
        folder = Path(tempfile.mkdtemp(prefix="maniple-container-"))
        self._reaper.watch_folder(folder)  # never forgotten: its closing removes the folder
        argv = ("docker", "start", "--attach", self.name)
        child = Child(ChildSpec("rabbitmq", argv, folder / "rabbitmq.log"), self._reaper)
        self.children = (child,)
        await child.start_process()
        await until_ready("RabbitMQ", self.answers, children=[child], seconds=START_SECONDS)

    async def _create(self) -> None:
        await run(
            *("docker", "create", "--name", self.name, "--label", f"{OWNER}={os.getpid()}"),
            *("--publish", f"{LOOPBACK}:{self.amqp_port}:5672"),
            *("--publish", f"{LOOPBACK}:{self.management_port}:15672"),
            *("--env", f"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS={BUSY_WAIT}"),
            IMAGE,
        )
        await run(
            "docker", "cp", "-", f"{self.name}:/etc/rabbitmq", given=_archive(self._configuration())
        )

    def _configuration(self) -> dict[str, str]:
        settings = {
            "load_definitions": "/etc/rabbitmq/definitions.json",
            "consumer_timeout": CONSUMER_TIMEOUT_MS,
            **{f"deprecated_features.permit.{feature}": "false" for feature in DENIED},
        }
        written = "".join(f"{name} = {value}\n" for name, value in settings.items())
        definitions = json.dumps(rendered(self.environment, self.passwords))
        return {"conf.d/20-maniple.conf": written, "definitions.json": definitions}


def _archive(files: Mapping[str, str]) -> bytes:
    """Return a tar archive of files that anybody may read; the server is not root in there."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


async def _remove_orphans() -> None:
    """Remove the containers of tests whose process is gone."""
    form = f'{{{{.Names}}}} {{{{.Label "{OWNER}"}}}}'
    listed = await run("docker", "ps", "--all", "--filter", f"label={OWNER}", "--format", form)
    for line in listed.splitlines():
        name, owner = line.split()
        if not is_running(int(owner)):
            await run("docker", "rm", "--force", "--volumes", name)


def is_running(pid: int) -> bool:
    """Whether there is a process of this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
