"""A change of policies that comes again, because a connection was lost before it was answered."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import maniple_policy.fleet
from consul_server import ConsulServer
from flaky_network import FlakyNetwork
from local_servers import LocalServers
from maniple.control import Request
from maniple.service.consul import Consul
from policy_services import Operator, asking, document, policy_key, policy_service
from waiting import wait_until

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

    async def agents(self, _: Request) -> dict[str, Any]:
        await self.answering.wait()
        return {"agents": []}


@contextlib.asynccontextmanager
async def two_replicas(
    servers: LocalServers, consul: ConsulServer, folder: Path
) -> AsyncIterator[tuple[FlakyNetwork, Operator, Registry]]:
    broker, registry = servers.rabbitmq, Registry()
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
    monkeypatch.setattr(maniple_policy.fleet, "FRESH", 0.0)
    async with two_replicas(servers, consul, tmp_path) as (network, operator, registry):
        registry.answering.set()
        await operator.apply("t", 3)
        await operator.apply("t", 4)
        registry.answering.clear()
        monkeypatch.setattr(maniple_policy.fleet, "PATIENCE", 60.0)

        asked = asyncio.create_task(operator.ask(op, **ASKED[op]))
        await wait_until(lambda: any(event.version == 3 for event in operator.events))
        with contextlib.closing(Consul(consul.url)) as client:
            edit = json.dumps(document("t", 9)).encode()
            await client.kv_put(policy_key(servers, "t"), edit)
        await wait_until(lambda: any(event.version == 4 for event in operator.events))
        assert not asked.done()
        assert network.cut() == 2
        registry.answering.set()

        answer = await asked
        (told,) = answer["applied"] if op == "apply_all" else [answer]
        assert (told["policy"]["version"], told["changed"], told["replaces"]) == (3, True, 2)
        assert told["deleted"] == (op == "delete")
        revisions = (await operator.ask("history", **WHICH))["revisions"]
        assert [one["policy"]["version"] for one in revisions] == [4, 3, 2, 1]
        assert revisions[0]["author"] == "consul"
