"""Handlers that block or burn: they are named, and silence no agent."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import requests

from maniple import TaskHandle, connect
from maniple_cli.dev_cluster.cluster import Cluster, ServiceProcess
from maniple_runtime.metric_names import HEARTBEATS_SENT
from scraping import sample_name, scrape
from waiting import wait_until


class Burning:
    """Tasks whose handlers go on until the test says that it is over."""

    def __init__(self, folder: Path, handles: Iterable[TaskHandle]) -> None:
        self._folder = folder
        self._handles = list(handles)

    def has_begun(self) -> bool:
        return all((self._folder / handle.id).exists() for handle in self._handles)

    async def ends(self) -> set[tuple[str, int]]:
        """End it, and return the statuses, and how often a task was lost."""
        (self._folder / "over").touch()
        results = [await handle.outcome(timeout=60) for handle in self._handles]
        return {(str(result.status), result.lost) for result in results}


def confirmed(agent: ServiceProcess) -> float:
    """Return how many heartbeats of an agent the broker has confirmed; 0 if it is slow to tell."""
    try:
        return scrape([agent]).get(sample_name(HEARTBEATS_SENT), 0.0)
    except requests.Timeout:
        return 0.0


async def heard_twice(agents: list[ServiceProcess]) -> None:
    """Wait until each has been heard twice: the second time with what it sent since now."""
    before: dict[str, float] = {}

    def told_by_all() -> bool:
        before.update((agent.instance, confirmed(agent)) for agent in agents)
        return all(before.values())

    await wait_until(told_by_all)

    def heard_of_all() -> bool:
        return all(confirmed(agent) >= before[agent.instance] + 2 for agent in agents)

    await wait_until(heard_of_all, every=0.2)


def lines(cluster: Cluster) -> list[dict[str, Any]]:
    logs = Path(cluster.ready_info()["data_dir"]) / "logs"
    texts = [(logs / f"{agent.instance}.log").read_text() for agent in cluster.of_service("agent")]
    return [json.loads(line) for text in texts for line in text.splitlines() if line[:1] == "{"]


async def test_a_handler_that_blocks_the_loop_is_named_and_its_agent_is_heard(
    cluster: Cluster, tmp_path: Path
) -> None:
    def named() -> bool:
        told = [line for line in lines(cluster) if "blocks the event loop" in line["event"]]
        return ["test.block_until"] in [line["handlers"] for line in told]

    async with connect(cluster.ready_info()["client_url"]) as client:
        burning = Burning(tmp_path, [await client.submit("test.block_until", str(tmp_path))])
        await wait_until(burning.has_begun)
        await heard_twice(cluster.of_service("agent"))
        await wait_until(named)
        assert await burning.ends() == {("succeeded", 0)}


async def test_handlers_that_burn_every_processor_silence_no_agent(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with connect(cluster.ready_info()["client_url"]) as client:
        handles = [
            await client.submit(capability, str(tmp_path))
            for capability in ("test.burn_threaded", "test.burn_process")
            for _ in range(3)
        ]
        burning = Burning(tmp_path, handles)
        await wait_until(burning.has_begun)
        await heard_twice(cluster.of_service("agent"))
        assert await burning.ends() == {("succeeded", 0)}
