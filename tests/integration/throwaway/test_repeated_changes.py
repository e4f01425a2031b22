"""A change of policies that comes again, because a connection was lost before it was answered."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import maniple_policy.live_processes
from consul_server import ConsulServer
from flaky_network import FlakyNetwork
from full_lanes import purge
from local_servers import LocalServers
from maniple.topology import request_queue
from maniple_runtime.consul.client import Consul
from maniple_runtime.control.messages import Request
from policy_records import document
from policy_services import Operator, asking, policy_key, policy_service
from rabbitmqctl import Installed
from waiting import wait_until

PATIENCE = 60.0
WHICH = {"kind": "timeout", "name": "t"}
ASKED: dict[str, dict[str, Any]] = {
    "apply": {"document": document("t", 5)},
    "apply_all": {"documents": [document("t", 5)]},
    "delete": WHICH,
    "rollback": {**WHICH, "to": 1},
}


class Registry:
    """Lets no change be answered until it is told to: what lives is told with each."""

    def __init__(self) -> None:
        self.answering = asyncio.Event()
        self.asked = 0

    async def agents(self, _: Request) -> dict[str, Any]:
        self.asked += 1
        await self.answering.wait()
        return {"agents": []}


@contextlib.asynccontextmanager
async def two_replicas(
    servers: LocalServers, consul: ConsulServer, folder: Path
) -> AsyncIterator[tuple[FlakyNetwork, Operator, Registry]]:
    broker, registry = servers.rabbitmq, Registry()
    # A request that came twice may be left of the test before, and would make another version.
    await purge(Installed(broker), broker.environment, request_queue("policy").name)
    async with (
        FlakyNetwork(broker.url("policy")) as network,
        policy_service(broker, consul, folder / "one", network=network),
        policy_service(broker, consul, folder / "two", network=network),
        asking(broker) as operator,
    ):
        await operator.plane.respond("registry", {"agents": registry.agents})
        yield network, operator, registry


@pytest.mark.parametrize("op", ASKED)
async def test_a_change_that_comes_again_is_told_and_not_made_again(
    servers: LocalServers,
    consul: ConsulServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    op: str,
) -> None:
    for name, seconds in (("PATIENCE", PATIENCE), ("FRESH", 0.0), ("SILENT", 0.0)):
        monkeypatch.setattr(maniple_policy.live_processes, name, seconds)
    async with two_replicas(servers, consul, tmp_path) as (network, operator, registry):
        registry.answering.set()
        await operator.apply("t", 3)
        await operator.apply("t", 4)
        registry.answering.clear()

        asking_it = operator.plane.request("policy", f"policy.{op}", ASKED[op], PATIENCE)
        asked = asyncio.create_task(asking_it)
        await wait_until(lambda: any(event.version == 3 for event in operator.events))
        with contextlib.closing(Consul(consul.url)) as client:
            edit = json.dumps(document("t", 9)).encode()
            await client.kv_put(policy_key(servers, "t"), edit)
        await wait_until(lambda: any(event.version == 4 for event in operator.events))
        assert not asked.done()
        before = registry.asked
        assert network.cut() == 2
        await wait_until(lambda: registry.asked > before)  # by whoever was given it again
        registry.answering.set()

        answer = await asked
        (told,) = answer["applied"] if op == "apply_all" else [answer]
        assert (told["policy"]["version"], told["changed"], told["replaces"]) == (3, True, 2)
        assert told["deleted"] == (op == "delete")
        with contextlib.closing(Consul(consul.url)) as client:
            (entry,) = (await client.kv_list(policy_key(servers, "t")))[1]
        stored = json.loads(entry.value)
        assert (stored["policy"]["version"], stored["author"]) == (4, "consul")
        assert [one["policy"]["version"] for one in stored["history"]] == [3, 2, 1]
