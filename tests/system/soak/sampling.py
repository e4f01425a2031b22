"""Samples of processes and of the broker.

A process's memory is what it alone holds (USS: its private pages), with that of the processes which
it started. A leak is always private. The resident size counts libraries that all of ours share, so
it hides a tenth of what is a process's own, and the proportional size rises for everybody when an
agent that shares them is killed.
"""

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from bench.processes import family, parents

from maniple_cli.dev_cluster.cluster import Cluster
from system.campaign.checks import STREAMS
from system.soak.judging import Life, Samples, Series

CLIENT = "client"
PRIVATE = re.compile(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", re.MULTILINE)
KIB = 1024
HTTP_SECONDS = 10.0
RANDOM = re.compile(r"(?<=^amq\.gen)-.*|[.-][0-9a-f]{6,}(?=[.-]|$)")
OBJECTS = ("connections", "channels", "queues", "consumers")


def private(pid: int) -> float:
    """Return the private memory of a process in MiB."""
    told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(size) for size in PRIVATE.findall(told)) / KIB


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Sampler:
    """Takes samples of a cluster and of the program that submits to it."""

    def __init__(self, cluster: Cluster, client: int) -> None:
        self.samples = Samples()
        self._cluster = cluster
        self._client = client
        self._begun = time.monotonic()

    async def sample(self) -> None:
        """Take one sample of everything."""
        now = time.monotonic() - self._begun
        self._of_processes(now)
        url = self._cluster.ready_info()["management_url"]
        vhost = self._cluster.servers.environment
        with contextlib.suppress(requests.RequestException):  # one answer that is late is no end
            queues = await asyncio.to_thread(_queues, url, vhost)
            objects = await asyncio.to_thread(_objects, url)
            _add(self.samples.queues, now, queues)
            _add(self.samples.objects, now, objects)

    def _of_processes(self, now: float) -> None:
        parent_of = parents()
        running = {p.instance: p.pid for p in self._cluster.processes if p.child.running}
        for name, pid in {**running, CLIENT: self._client}.items():
            try:
                pids = family([pid], parent_of)
                memory, handles = sum(map(private, pids)), descriptors(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it is being killed
            life = self._life(name, pid)
            life.memory.add(now, memory)
            life.descriptors.add(now, handles)

    def _life(self, name: str, pid: int) -> Life:
        for life in reversed(self.samples.lives):
            if (life.name, life.pid) == (name, pid):
                return life
        self.samples.lives.append(Life(name, pid))
        return self.samples.lives[-1]


def _add(found: dict[str, Series], now: float, values: Mapping[str, int]) -> None:
    for name, value in values.items():
        found.setdefault(name, Series()).add(now, value)


def _get(url: str) -> Any:
    answer = requests.get(url, timeout=HTTP_SECONDS)
    answer.raise_for_status()
    return answer.json()


def _queues(url: str, vhost: str) -> Mapping[str, int]:
    """Return messages by queue, with the random parts of private queues' names left out."""
    found: Counter[str] = Counter()
    for queue in _get(f"{url}/api/queues/{vhost}?columns=name,messages"):
        if queue["name"] not in STREAMS:
            found[RANDOM.sub("", queue["name"])] += queue.get("messages", 0)
    return found


def _objects(url: str) -> Mapping[str, int]:
    totals = _get(f"{url}/api/overview?columns=object_totals")["object_totals"]
    return {name: totals[name] for name in OBJECTS}
