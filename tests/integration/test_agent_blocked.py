"""Handlers that block or burn: they are named, and silence no agent."""

import json
from pathlib import Path
from typing import Any

from maniple import connect
from maniple.cli.control import ask
from maniple.local.cluster import Cluster
from waiting import wait_until

BLOCKED = 8.0  # seconds; an agent that were silent for so long would be `unreachable`


async def states(cluster: Cluster) -> dict[str, str]:
    """Return what the registry says of the cluster's own agents."""
    operator = cluster.ready_info()["operator_url"]
    names = [process.instance for process in cluster.of_service("agent")]
    answers = {name: await ask(operator, "registry", "agent", {"id": name}) for name in names}
    return {name: str(answer["state"]) for name, answer in answers.items()}


async def seen_until_done(cluster: Cluster, handles: list[Any]) -> set[str]:
    """Return the states that agents had until all of these were done."""
    seen: set[str] = set()

    async def done() -> bool:
        seen.update((await states(cluster)).values())
        return all(handle.done for handle in handles)

    await wait_until(done, 60)
    return seen


def lines(cluster: Cluster, agent: str) -> list[dict[str, Any]]:
    log = Path(cluster.ready_info()["data_dir"]) / "logs" / f"{agent}.log"
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


async def test_a_handler_that_blocks_the_loop_is_named_and_its_agent_stays_active(
    cluster: Cluster,
) -> None:
    async with connect(cluster.ready_info()["client_url"]) as client:
        handle = await client.submit("test.block_for", BLOCKED)
        assert await seen_until_done(cluster, [handle]) == {"active"}
        agent = str((await handle.outcome()).agent)
    named = [line for line in lines(cluster, agent) if "blocks the event loop" in line["event"]]
    assert named
    assert named[-1]["handlers"] == ["test.block_for"]


async def test_handlers_that_burn_every_processor_silence_no_agent(cluster: Cluster) -> None:
    async with connect(cluster.ready_info()["client_url"]) as client:
        handles = [
            await client.submit(capability, BLOCKED)
            for capability in ("test.burn_threaded", "test.burn_process")
            for _ in range(3)
        ]
        assert await seen_until_done(cluster, handles) == {"active"}
        results = [await handle.outcome() for handle in handles]
    assert {(str(result.status), result.lost) for result in results} == {("succeeded", 0)}
