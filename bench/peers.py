"""What all peers need to be compared: a vhost of their own, workers, and a count of what ran.

Each peer's module has a `side`: it runs the peer's workers and gives a function that submits a
number of tasks and returns tasks per second.
"""

import asyncio
import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from maniple_cli.dev_cluster import programs
from maniple_cli.dev_cluster.cluster import Cluster

URL_VARIABLE = "BENCH_PEER_URL"
PREFETCH_VARIABLE = "BENCH_PEER_PREFETCH"
TALLY_VARIABLE = "BENCH_PEER_TALLY"
USER = VHOST = "bench"
TIMEOUT = 120.0
POLL = 0.001

Submit = Callable[[int], Awaitable[float]]


@dataclass(frozen=True)
class Workers:
    """How many worker processes, with how many threads and how much prefetched for each thread."""

    processes: int = 1
    threads: int = 8
    prefetch: int = 16

    @property
    def held(self) -> int:
        """Tasks that one process may hold."""
        return self.threads * self.prefetch


class Tally:
    """How many tasks have run in all workers, where a peer returns nothing: a byte for each."""

    def __init__(self, file: Path) -> None:
        """Count in `file`, which is created."""
        self.file = file
        self.descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def add(self) -> None:
        """Count one; from any process."""
        os.write(self.descriptor, b".")

    @property
    def count(self) -> int:
        """Tasks so far."""
        return self.file.stat().st_size

    def wait(self, count: int) -> None:
        """Return when so many have run."""
        deadline = time.monotonic() + TIMEOUT
        while self.count < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.count} of {count} tasks had run after {TIMEOUT:g} s")
            time.sleep(POLL)


async def add_vhost(cluster: Cluster) -> str:
    """Add a vhost and its user to the cluster's broker; return their URL. About 2 s."""
    password = secrets.token_urlsafe(12)
    everything = dict.fromkeys(("configure", "write", "read"), ".*")
    definitions = {
        "vhosts": [{"name": VHOST}],
        "users": [{"name": USER, "password": password, "tags": []}],
        "permissions": [{"user": USER, "vhost": VHOST, **everything}],
    }
    file = cluster.data_dir / "bench.json"
    file.write_text(json.dumps(definitions))
    broker = next(child for child in cluster.servers.children if child.spec.name == "rabbitmq")
    control = await asyncio.create_subprocess_exec(
        str(programs.rabbitmq_server().with_name("rabbitmqctl")),
        "--quiet",
        "import_definitions",
        str(file),
        env={**os.environ, **broker.spec.env},
    )
    if await control.wait() != 0:
        raise RuntimeError("rabbitmqctl import_definitions failed")
    location = cluster.servers.broker_url("operator").rpartition("@")[2].partition("/")[0]
    return f"amqp://{USER}:{password}@{location}/{VHOST}"


@contextlib.asynccontextmanager
async def running(
    commands: Mapping[str, list[str]], environ: Mapping[str, str], folder: Path
) -> AsyncIterator[None]:
    """Run workers, by name: `python -m` with these arguments; their logs go to `folder`."""
    started = [
        await _start(name, arguments, environ, folder) for name, arguments in commands.items()
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        await asyncio.gather(*(process.wait() for process in started))


async def _start(
    name: str, arguments: list[str], environ: Mapping[str, str], folder: Path
) -> asyncio.subprocess.Process:
    with (folder / f"{name}.log").open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *arguments),
            env={**os.environ, "PYTHONWARNINGS": "ignore", **environ},
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
        )
