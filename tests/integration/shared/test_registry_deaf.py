"""A registry whose own echo does not come back, on a real broker behind a network that freezes."""

from pathlib import Path
from typing import Any

from flaky_network import FlakyNetwork
from heartbeating_agents import QUICK, Agent, agent_of, beating, keys, registry, settled
from local_servers import LocalServers
from maniple.identifiers import new_id
from maniple_registry.heartbeat_consumer import COMPONENT
from maniple_runtime.metric_names import ECHOES, EVICTIONS
from maniple_runtime.runtime import Runtime
from scraping import counted
from waiting import wait_until


def said(runtime: Runtime) -> dict[str, Any]:
    component: dict[str, Any] = runtime.health.snapshot()["components"][COMPONENT]
    return component


async def test_a_deaf_registry_fails_nobody_and_its_health_says_so_until_it_hears(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with (
        FlakyNetwork(servers.rabbitmq.url("registry")) as network,
        registry(servers, tmp_path, broker_url=network.url, timings=QUICK) as runtime,
        agent_of(servers) as (first, events),
    ):
        fleet = [first, *(Agent(first.plane, f"agent-{new_id()}") for _ in range(5))]
        async with beating(fleet):
            await wait_until(lambda: "agent.registered" in keys(events))
            assert said(runtime)["ok"]
            network.freeze()
            await wait_until(lambda: "does not arrive" in said(runtime)["detail"])
            assert not said(runtime)["ok"]
            assert not runtime.health.ready
            await wait_until(lambda: counted(runtime.metrics, ECHOES, outcome="late") >= 2)
            network.thaw()
            await wait_until(lambda: said(runtime)["ok"])
            sequence = first.sequence
            await wait_until(lambda: first.sequence > sequence + 10)
            for agent in fleet:
                await settled(agent, "active")
        assert counted(runtime.metrics, EVICTIONS, reason="silent") == 0
