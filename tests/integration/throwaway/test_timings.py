"""The times of a cluster on real servers: what is refused, what differs, and what is exclusive."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent_inside import agent_inside
from fencing_handlers import most_together, started, stopped
from local_servers import LocalServers, SharedServers
from maniple.timing_parts import Part
from maniple.timings import Amqp, Timings
from maniple_agent.settings import AgentSettings
from maniple_agent.wiring import build as build_agent
from maniple_cli.checks import processes
from maniple_cli.checks.findings import CheckVerdict, Finding, Places
from maniple_cli.control import ask
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.dev_cluster.http import fetch
from maniple_dispatcher.settings import DispatcherSettings
from maniple_dispatcher.wiring import build as build_dispatcher
from maniple_policy.settings import PolicySettings
from maniple_policy.wiring import build as build_policy
from maniple_registry.settings import RegistrySettings
from maniple_registry.wiring import build as build_registry
from maniple_runtime.process import Build, running
from maniple_runtime.settings import ServiceSettings
from waiting import wait_until


@pytest.mark.parametrize("service", ["registry", "dispatcher", "policy", "agent"])
def test_a_process_whose_agents_would_run_exclusive_tasks_twice_does_not_start(
    service: str,
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", f"maniple_{service}"],
        env={**os.environ, "MANIPLE_FAILED_AFTER": "6"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"maniple-{service}: MANIPLE_FAILED_AFTER: ")
    assert "fencing.stopped (8.25 s)" in line


@pytest.mark.parametrize(
    ("kind", "build"),
    [
        (RegistrySettings, build_registry),
        (DispatcherSettings, build_dispatcher),
        (PolicySettings, build_policy),
        (AgentSettings, build_agent),
    ],
    ids=["registry", "dispatcher", "policy", "agent"],
)
async def test_a_process_makes_no_times_of_its_own(
    servers: LocalServers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[ServiceSettings],
    build: Build[Any],
) -> None:
    configured = kind.model_validate(
        {
            "broker_url": servers.rabbitmq.url(kind.service),
            "consul_url": servers.consul.url,
            "data_dir": tmp_path,
            "time_scale": 0.8,
        }
    )
    made: list[Part] = []

    def watched(make: Callable[..., None]) -> Callable[..., None]:
        def init(self: Part, *given: Any, **named: Any) -> None:
            make(self, *given, **named)
            made.append(self)

        return init

    for one in fields(Timings):
        part = type(getattr(configured.timings, one.name))
        monkeypatch.setattr(part, "__init__", watched(part.__init__))
    async with running(configured, build) as runtime:
        assert runtime.health.timings["failed"] == 7.2
    assert made == []
    Amqp()
    assert len(made) == 1  # it would have been seen


async def doctored(cluster: Cluster) -> Finding:
    info = cluster.ready_info()
    heard = await processes.examine(Places(info["operator_url"], info["consul_url"]))
    (found,) = [one for one in heard.findings if one.check == "timings"]
    return found


async def health(url: str) -> dict[str, Any]:
    _, body = await fetch(f"{url}/health")
    return dict(msgspec.json.decode(body))


async def test_an_agent_that_keeps_other_times_is_told_by_its_registry_and_by_the_doctor(
    shared: SharedServers,
) -> None:
    options = ClusterOptions(
        agents=1, registries=1, time_scale=2.0, env={"registry": {"MANIPLE_TIME_SCALE": "1.0"}}
    )
    async with Cluster(options, broker=shared.broker("mistimed")) as cluster:
        (registry,) = cluster.of_service("registry")
        (agent,) = cluster.of_service("agent")

        async def said() -> bool:
            component = (await health(registry.http))["components"].get("timings", {})
            return not component.get("ok", True) and agent.instance in component["detail"]

        await wait_until(said, 20)
        found = await doctored(cluster)
        assert found.verdict is CheckVerdict.FAILED
        assert agent.instance in found.found
        assert registry.instance in found.found
        assert "MANIPLE_TIME_SCALE" in found.advice
        told = [(await health(one.http))["timings"]["failed"] for one in (registry, agent)]
        assert told == [9.0, 18.0]


async def test_at_another_scale_an_exclusive_task_is_stopped_before_its_agent_is_failed(
    shared: SharedServers,
) -> None:
    options = ClusterOptions(agents=0, registries=1, time_scale=0.5)
    async with (
        Cluster(options, broker=shared.broker("timed")) as cluster,
        agent_inside(cluster, time_scale=0.5) as agent,
    ):
        await agent.after_a_heartbeat()
        handle = await agent.start("fencing.exclusive", 20.0)
        agent.freeze_heartbeats()

        async def failed() -> bool:
            operator = cluster.ready_info()["operator_url"]
            answer = await ask(operator, "registry", "agent", {"id": agent.name})
            return bool(answer["state"] == "failed")

        await wait_until(failed, 20)
        assert (started[handle.id], stopped[handle.id]) == (1, 1)
        agent.network.thaw()
        await wait_until(lambda: started[handle.id] == 2, 30)
        assert most_together[handle.id] == 1
        assert (await doctored(cluster)).verdict is CheckVerdict.OK
