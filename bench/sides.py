"""Who is compared, and all that has to run for it: a cluster, its broker, peers, clients."""

import asyncio
import contextlib
import importlib
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.clients import ClientProcess, client_process
from bench.figures import Run, microseconds
from bench.peers import Workers, add_vhost
from bench.processes import broker_group, difference, maniple_groups, resident, spent
from bench.tally import TALLY_VARIABLE, URL_VARIABLE

from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions

CLIENT = "client"
REST = 2.0  # seconds from readiness until memory is read: nothing has been submitted
WORKERS = "workers"
PEERS = ("celery", "dramatiq", "taskiq")


@dataclass(frozen=True)
class Side:
    """One that is compared: what its client is told, and how it is called in tables."""

    name: str
    label: str
    client: str
    do: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def peer(self) -> str:
        """Which peer's workers run its tasks; empty for Maniple."""
        return self.client if self.client in PEERS else ""


MAP = "maniple_map"
SINGLE = "maniple_single_replied"
SINGLE_CONFIRMED = "maniple_single_confirmed"
CELERY = "celery_rpc"
DRAMATIQ = "dramatiq"
DRAMATIQ_CONFIRMED = "dramatiq_confirmed"
SIDES = (
    Side(SINGLE, "Maniple, one task a message, reply", "plain", "replied"),
    Side("maniple_single", "Maniple, one task a message, no reply", "plain", "unreplied"),
    Side(
        SINGLE_CONFIRMED,
        "Maniple, one task a message, no reply, confirms",
        "plain",
        "unreplied",
        {"confirmed": True},
    ),
    Side(CELERY, "Celery, results by rpc", "celery", "replied"),
    Side("celery_ignored", "Celery, `ignore_result`", "celery", "ignored"),
    Side(DRAMATIQ, "Dramatiq, no results", "dramatiq", "unconfirmed"),
    Side(
        DRAMATIQ_CONFIRMED,
        "Dramatiq, no results, `confirm_delivery=True`",
        "dramatiq",
        "confirmed",
    ),
    Side("taskiq", "Taskiq, no results", "taskiq", "flat"),
    Side(MAP, "Maniple, `client.map`, results", "sdk", "flat"),
    Side("celery_chunks", "Celery, `chunks` of 100, results by rpc", "celery", "chunks"),
)


@dataclass(frozen=True)
class Bench:
    """All that runs, and the clients by kind."""

    cluster: Cluster
    clients: Mapping[str, ClientProcess]
    workers: Mapping[str, list[int]]
    at_rest: Mapping[str, float]

    def groups(self, kind: str) -> dict[str, list[int]]:
        """Return the processes whose time counts for a client of this kind, by group."""
        theirs = {WORKERS: self.workers[kind]} if kind in self.workers else None
        ours = theirs or maniple_groups(self.cluster)
        return {CLIENT: [self.clients[kind].pid], **ours, **broker_group(self.cluster)}

    async def ask(
        self, kind: str, do: str, **fields: Any
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Have a client do something; return its answer, and the seconds of processor time."""
        groups = self.groups(kind)
        before = spent(groups)
        answer = await self.clients[kind].ask(do, **fields)
        return answer, difference(before, spent(groups))

    async def flat(self, side: Side, count: int) -> Run:
        """Run tasks of a side as fast as it can."""
        answer, seconds = await self.ask(side.client, side.do, count=count, **side.fields)
        return Run(count, count / answer["seconds"], microseconds(seconds, count))

    async def open(self, kind: str, rate: float, seconds: float) -> dict[str, float]:
        """Run tasks at a fixed rate; return latencies in ms, and µs a task by group."""
        answer, used = await self.ask(kind, "open", rate=rate, seconds=seconds)
        cost = microseconds(used, int(answer["tasks"]))
        return {**answer, **{f"us {group}": each for group, each in cost.items()}}


@contextlib.asynccontextmanager
async def running_bench(
    options: ClusterOptions,
    kinds: tuple[str, ...],
    size: Workers,
    extra: Mapping[str, str] | None = None,
) -> AsyncIterator[Bench]:
    """Start a cluster, the workers of those peers that are among `kinds`, and a client of each.

    Clients through the SDK get the variables `extra`.
    """
    async with contextlib.AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maniple-bench-")))
        tally = {TALLY_VARIABLE: str(scratch / "maniple.tally")}
        env = {**options.env, "agent": {**tally, **options.env.get("agent", {})}}
        cluster = await stack.enter_async_context(Cluster(replace(options, env=env)))
        await asyncio.sleep(REST)
        at_rest = resident(cluster)
        info, folder = cluster.ready_info(), cluster.data_dir / "logs"
        outside = {URL_VARIABLE: info["broker_url"], **tally}
        environs = {
            "sdk": {URL_VARIABLE: info["client_url"], **(extra or {})},
            "plain": outside,
            "flooder": outside,
        }
        peers = [kind for kind in kinds if kind in PEERS]
        url = await add_vhost(cluster) if peers else ""
        workers = {}
        for kind in peers:
            environs[kind] = {URL_VARIABLE: url, TALLY_VARIABLE: str(scratch / f"{kind}.tally")}
            peer = importlib.import_module(f"bench.{kind}_side")  # installed for the bench only
            started = peer.workers(environs[kind], size, folder)
            workers[kind] = await stack.enter_async_context(started)
        clients = {
            kind: await stack.enter_async_context(client_process(kind, environs[kind], folder))
            for kind in kinds
        }
        yield Bench(cluster, clients, workers, at_rest)
