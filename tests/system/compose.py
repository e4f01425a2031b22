"""The cluster of docker-compose.yml under a name, ports and passwords of a test's own."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import yaml

from maniple_cli.dev_cluster.errors import LocalError
from maniple_cli.dev_cluster.ports import free_ports
from needs import COMPOSE, ENGINE, PYTHON_IMAGE, image
from paths import ROOT
from system.docker import is_running, run
from waiting import wait_until

PREFIX = "maniple-test-"  # before the id of the process that a project belongs to
PROJECT_LABEL = "com.docker.compose.project"
WITHOUT = {"jaeger", "grafana"}  # the profile `views`
PORTS = ("AMQP", "MANAGEMENT", "CONSUL", "PROMETHEUS")
READY_SECONDS = 60.0
READY = "everything is ready\n"
POLL = 0.5  # seconds: each look is a program
KINDS = ("container", "network", "volume")


def _images() -> set[str]:
    """Return the images that are needed of others."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    named = {one["image"] for name, one in services.items() if name not in WITHOUT}
    return {PYTHON_IMAGE, *(image for image in named if not image.startswith("maniple/"))}


FOR_FILE = (COMPOSE,)
FOR_STACK = (ENGINE, COMPOSE, *map(image, sorted(_images())))


class Stack:
    """One project of Compose, started and removed as `make up` and `make down` do it.

    `folder` holds its `.env`; its agents load the handlers that lie in `handlers`.
    """

    def __init__(self, folder: Path, handlers: Path) -> None:
        self.project = f"{PREFIX}{os.getpid()}"
        self.printed = ""
        self.env_file = folder / ".env"
        self._env = {
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_PROFILES": "",
            "COMPOSE_FILE": "docker-compose.yml:tests/system/compose.traces.yml",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
            "MANIPLE_ENV_FILE": str(self.env_file),
            "MANIPLE_HANDLERS_DIR": str(handlers),
            "MANIPLE_HANDLERS": ",".join(sorted(path.stem for path in handlers.glob("*.py"))),
            **{
                f"MANIPLE_{name}_PORT": str(port)
                for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)
            },
        }

    async def up(self) -> None:
        """Start it and wait until it is ready. Raises `LocalError` with what it said."""
        await _remove_orphans()
        said = await run("infra/docker/up", env=self._env, cwd=ROOT)
        _, _, self.printed = said.partition(READY)

    async def down(self) -> None:
        """Remove it. Idempotent."""
        await run("infra/docker/down", env=self._env, cwd=ROOT)

    async def compose(self, *arguments: str) -> str:
        """Run `docker compose` on it."""
        file = ("--env-file", str(self.env_file))
        return await run("docker", "compose", *file, *arguments, env=self._env, cwd=ROOT)

    def address(self, name: str) -> str:
        """Return what was printed after a name, e.g. `submit to`."""
        (line,) = [line for line in self.printed.splitlines() if line.strip().startswith(name)]
        return line.strip().removeprefix(name).split()[0]

    @property
    def operator_url(self) -> str:
        """Broker URL of the command line's user."""
        return self.address("maniple").partition("=")[2]

    def container(self, service: str, number: int = 1) -> str:
        """Return the name of a container."""
        return f"{self.project}-{service}-{number}"

    async def spans(self, trace_id: str) -> list[dict[str, Any]]:
        """Return the spans of a trace that have been exported."""
        lines = (await run("docker", "logs", self.container("collector"))).splitlines()
        spans = [json.loads(line) for line in lines]
        return [span for span in spans if span["trace_id"] == trace_id]

    async def state(self, container: str) -> dict[str, Any]:
        """Return what the engine tells of a container."""
        (told,) = json.loads(await run("docker", "inspect", container))
        return dict(told)

    async def healthy(self, container: str, restarts: int = 0) -> None:
        """Wait until a container is well that was started again at least so often."""

        async def well() -> bool:
            told = await self.state(container)
            again = int(told["RestartCount"]) >= restarts
            return again and bool(told["State"]["Health"]["Status"] == "healthy")

        await wait_until(well, READY_SECONDS, every=POLL)

    async def crash(self, service: str) -> str:
        """Have every process in a container killed; its restart policy brings it back."""
        container = self.container(service)
        with contextlib.suppress(LocalError):  # the shell that kills them is one of them
            await run("docker", "exec", container, "bash", "-c", "kill -9 -1")
        return container

    async def kill(self, service: str) -> str:
        """Kill a container, after which the engine leaves it alone, and start it."""
        container = self.container(service)
        await run("docker", "kill", container)
        await run("docker", "start", container)
        return container

    async def left(self) -> dict[str, list[str]]:
        """Return what the engine still has of it, by kind."""
        only = ("--quiet", "--filter", f"label={PROJECT_LABEL}={self.project}")
        found = {kind: await run("docker", kind, "ls", *_all(kind), *only) for kind in KINDS}
        return {kind: names.split() for kind, names in found.items() if names.strip()}


def _all(kind: str) -> tuple[str, ...]:
    return ("--all",) if kind == "container" else ()


async def _remove_orphans() -> None:
    """Remove the projects of tests whose process is gone."""
    listed = json.loads(await run("docker", "compose", "ls", "--all", "--format", "json"))
    names = [one["Name"] for one in listed if one["Name"].startswith(PREFIX)]
    gone = [name for name in names if not is_running(int(name.removeprefix(PREFIX)))]
    for name in gone:
        for kind, command in zip(KINDS, ("rm --force --volumes", "rm", "rm"), strict=True):
            only = ("--quiet", "--filter", f"label={PROJECT_LABEL}={name}")
            found = (await run("docker", kind, "ls", *_all(kind), *only)).split()
            if found:
                await run("docker", kind, *command.split(), *found)
