"""Hearing what the cluster records, and looking at it four times a second."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import structlog

from maniple.amqp import AmqpConnection
from maniple.errors import ManipleError
from maniple_cli.dev_cluster.cluster import Cluster, ServiceProcess
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.records import RecordReader
from system.campaign.checker import ANSWER_SECONDS
from system.campaign.history import AgentView, History, Look

PERIOD = 0.25


@asynccontextmanager
async def watching(cluster: Cluster) -> AsyncIterator[History]:
    """Watch for as long as the block lasts; whatever goes wrong here ends the block."""
    url = cluster.ready_info()["operator_url"]
    history = History()
    link = AmqpConnection(url, name="campaign.records")
    reader = RecordReader(link, history.hear)
    log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[])
    try:
        async with ControlPlane(url, name="campaign", log=log) as plane:
            await link.start(10)
            async with asyncio.TaskGroup() as group:
                work = [reader.read_records(), _look(cluster, plane, history)]
                tasks = [group.create_task(part) for part in work]
                yield history
                for task in tasks:
                    task.cancel()
    finally:
        await link.close()


async def _look(cluster: Cluster, plane: ControlPlane, history: History) -> None:
    processes = cluster.processes
    names = {process.instance for process in cluster.of_service("agent")}
    while True:
        started = time.time()
        asked = asyncio.ensure_future(_agents(plane))
        ready = await asyncio.gather(*map(_is_ready, processes))
        agents = await asked
        unready = {p.instance for p, ok in zip(processes, ready, strict=True) if not ok}
        unready |= names - (agents or {}).keys()
        # What was told is no older than the question.
        history.looks.append(Look(started, agents, frozenset(unready)))
        await asyncio.sleep(max(0.0, started + PERIOD - time.time()))


async def _agents(plane: ControlPlane) -> Mapping[str, AgentView] | None:
    with contextlib.suppress(ManipleError):
        answer = await plane.request("registry", "agents", timeout=ANSWER_SECONDS)
        return {
            agent["id"]: AgentView(agent["incarnation"], agent["state"])
            for agent in answer["agents"]
        }
    return None


async def _is_ready(process: ServiceProcess) -> bool:
    """Ask without a thread, of which frozen processes would hold too many."""
    parts = urlsplit(process.http)
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(b"GET /ready HTTP/1.0\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    return False
