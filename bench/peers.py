"""What all peers need to be compared: a vhost of their own, and workers.

Each peer's module has a `workers`, which runs the peer's workers and gives their process ids, and a
`client`, which `bench.client_program` runs in a process of its own: its actions submit a number of
tasks and return the seconds until the last one has run.
"""

import asyncio
import contextlib
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.broker_bytes import control

from maniple_cli.dev_cluster.cluster import Cluster

USER = VHOST = "bench"


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
    await control(cluster, "import_definitions", str(file))
    location = cluster.servers.broker_url("operator").rpartition("@")[2].partition("/")[0]
    return f"amqp://{USER}:{password}@{location}/{VHOST}"


@contextlib.asynccontextmanager
async def running(
    commands: Mapping[str, list[str]], environ: Mapping[str, str], folder: Path
) -> AsyncIterator[list[int]]:
    """Run workers, by name: `python -m` with these arguments; gives their process ids.

    Their logs go to `folder`.
    """
    started = [
        await _start(name, arguments, environ, folder) for name, arguments in commands.items()
    ]
    try:
        yield [process.pid for process in started]
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
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
