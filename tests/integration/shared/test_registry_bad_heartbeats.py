"""A live registry, and heartbeats that can be decoded and fit nowhere."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from heartbeating_agents import agent_of, keys, registry, shown
from local_servers import LocalServers
from maniple.amqp import AmqpConnection, Outgoing, Publisher
from maniple.identifiers import new_id
from maniple.topology import HEARTBEATS
from maniple_runtime.control.messages import Heartbeat
from maniple_runtime.metric_names import CONTROL_DROPPED
from scraping import counted
from waiting import wait_until

LONG = "x" * 300


def beat(**changes: Any) -> bytes:
    agent = f"agent-{new_id()}"
    now = datetime.now(UTC).isoformat()
    who = {"agent": agent, "incarnation": new_id()} | changes
    described = {"host": "h", "pid": 1, "started_at": now, "lanes": ["x.y"]}
    fields = {"sequence": 1, "sent_at": now, "digest": "d", "slots": 4}
    return json.dumps(fields | {"description": who | described | changes} | who).encode()


BAD = {
    "long id": beat(agent=LONG),
    "long id, undescribed": beat(agent=LONG, description=None),
    "no id": beat(agent=""),
    "dotted id": beat(agent="a.b"),
    "no life": beat(incarnation=""),
    "long life": beat(incarnation=LONG),
    "long lane": beat(lanes=[LONG]),
    "wide lane": beat(lanes=["ü" * 150]),
    "hungry for a long lane": beat(lanes=[LONG], hungry=[LONG]),
    "a connection without a name": beat(connections=[""]),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
async def test_a_bad_heartbeat_is_dropped_and_counted_and_the_registry_goes_on(
    servers: LocalServers, tmp_path: Path, body: bytes
) -> None:
    link = AmqpConnection(servers.rabbitmq.url("agent"), name=f"bad-{new_id()}")
    publisher = Publisher(link)
    async with registry(servers, tmp_path) as runtime, agent_of(servers) as (agent, events):
        await link.start(10)
        message = Outgoing(HEARTBEATS.name, "", body, new_id(), Heartbeat.TYPE, mandatory=False)
        await publisher.publish(message)
        await link.close()
        await wait_until(
            lambda: counted(runtime.metrics, CONTROL_DROPPED, reason="undecodable") == 1
        )
        await agent.beat()
        await wait_until(lambda: keys(events) == ["agent.registered"])
        listed = await agent.plane.request("registry", "agents")
        assert json.loads(body)["agent"] not in [one["id"] for one in listed["agents"]]
        assert (await shown(agent))["state"] == "active"
        assert not runtime.stopping.is_set()
