"""An agent on a machine whose clock is wrong."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent_inside import agent_inside
from maniple.clock import Clock
from maniple_cli.control import ask
from maniple_cli.dev_cluster.cluster import Cluster
from waiting import wait_until

TOGETHER = 20


@pytest.mark.parametrize(("wrong", "said"), [(120.0, "120 s ahead"), (-120.0, "120 s behind")])
async def test_a_task_has_its_ttl_on_a_machine_whose_clock_is_wrong_which_is_shown(
    cluster: Cluster, wrong: float, said: str
) -> None:
    clock = Clock(now=lambda: datetime.now(UTC) + timedelta(seconds=wrong))
    url = cluster.ready_info()["operator_url"]
    async with agent_inside(cluster, clock=clock, slots=4) as agent:
        handles = [
            await agent.client.submit("fencing.plain", 0.05, ttl=60.0) for _ in range(TOGETHER)
        ]
        for handle in handles:
            await handle.result(timeout=30)

        async def shown() -> Any:
            told = await ask(url, "registry", "agent", {"id": agent.name})
            return f"its clock is {said}" in told["doubts"] and told["state"] == "active"

        await wait_until(shown)
        await wait_until(lambda: said.split()[2] in str(agent.component("clock").get("detail")))
