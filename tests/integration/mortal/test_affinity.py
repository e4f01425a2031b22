"""Tasks with the same affinity key go to the same agent; a gone agent's tasks run elsewhere."""

import os
import signal
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pika
import pytest
from msgspec import Raw
from pika.adapters.blocking_connection import BlockingConnection

from dying import QUIET, kill, mortal, revive
from maniple import connect, topology
from maniple.client import Client
from maniple.codec import encode
from maniple.errors import RequestFailed
from maniple.messages import Envelope
from maniple_cli.control import ask
from maniple_cli.dev_cluster.cluster import Cluster
from maniple_cli.dev_cluster.http import fetch
from maniple_runtime.consul.client import Consul
from outsider import Outsider
from waiting import wait_until

TURNS = 4
KEYS = [f"key-{n}" for n in range(24)]
OK = 200

pytestmark = pytest.mark.timeout(240)


async def homes(client: Client) -> dict[str, str]:
    """Run each key twice at the same time and return its agent; fails if it has two."""
    handles = [(key, await client.submit("test.home", 0.0, affinity=key)) for key in KEYS * 2]
    found: dict[str, set[str]] = defaultdict(set)
    for key, handle in handles:
        found[key].add(await handle.result(timeout=60))
    assert all(len(agents) == 1 for agents in found.values()), found
    return {key: agents.pop() for key, agents in found.items()}


async def settled(client: Client, agents: set[str]) -> dict[str, str]:
    """Return the homes once exactly these agents have all keys, say all dispatchers.

    They take turns, and one of them may have been told later than the other.
    """
    looks: list[dict[str, str]] = []

    async def there() -> bool:
        try:
            looks.append(await homes(client))
        except AssertionError:
            looks.clear()
        last = looks[-TURNS:]
        same = len(last) == TURNS and all(look == last[0] for look in last)
        return same and set(last[0].values()) == agents

    await wait_until(there, 30)
    return looks[-1]


async def queue_of(cluster: Cluster, agent: str) -> dict[str, int] | None:
    """Return what the broker says of an agent's own queue, or None if it is not there."""
    info = cluster.ready_info()
    name = topology.agent_queue(agent).name
    url = f"{info['management_url']}/api/queues/{info['environment']}/{name}"
    status, body = await fetch(url)
    return dict(msgspec.json.decode(body)) if status == OK else None


async def test_a_key_has_one_agent_and_keys_are_spread(trio: Cluster) -> None:
    async with connect(trio.ready_info()["client_url"]) as client:
        first = await settled(client, {"agent-1", "agent-2", "agent-3"})
        assert await settled(client, set(first.values())) == first
        plain = await client.submit("test.home", 0.0)
        assert await plain.result(timeout=60)


async def test_tasks_of_a_killed_agent_run_elsewhere_and_other_keys_stay(trio: Cluster) -> None:
    async with connect(trio.ready_info()["client_url"]) as client:
        before = await settled(client, {"agent-1", "agent-2", "agent-3"})
        victim = trio.process(before[KEYS[0]])
        mine = [key for key in KEYS if before[key] == victim.instance]
        handles = [await client.submit("test.home", 0.5, affinity=mine[0]) for _ in range(40)]
        async with mortal(victim):
            await kill(victim)
            results = [await handle.outcome(timeout=60) for handle in handles]
            assert {result.status.value for result in results} == {"succeeded"}
            assert {str(result.agent) for result in results} - {victim.instance}
            after = await settled(client, set(before.values()) - {victim.instance})
            assert {key for key in KEYS if after[key] != before[key]} == set(mine)
            await wait_until(lambda: _is_gone(trio, victim.instance), 60)
        assert await settled(client, set(before.values())) == before


async def _is_gone(cluster: Cluster, agent: str) -> bool:
    return await queue_of(cluster, agent) is None


async def test_an_agent_that_comes_back_at_once_keeps_its_queue(trio: Cluster) -> None:
    async with connect(trio.ready_info()["client_url"]) as client:
        before = await settled(client, {"agent-1", "agent-2", "agent-3"})
        victim = trio.process(before[KEYS[0]])
        handles = [await client.submit("test.home", 0.2, affinity=KEYS[0]) for _ in range(20)]
        async with mortal(victim):
            await kill(victim)
        assert {(await h.outcome(timeout=60)).status.value for h in handles} == {"succeeded"}
        assert await settled(client, set(before.values())) == before
        # For longer than a dispatcher waits until it removes a queue.
        slow = await client.submit("test.home", 1.5 * QUIET, affinity=KEYS[0])
        assert await slow.result(timeout=60) == victim.instance
        assert await queue_of(trio, victim.instance) is not None
        assert await settled(client, set(before.values())) == before


async def test_tasks_of_a_frozen_agent_that_no_registry_ever_heard_run_elsewhere(
    trio: Cluster,
) -> None:
    """New registries know it from Consul only, without its incarnation."""
    async with connect(trio.ready_info()["client_url"]) as client:
        before = await settled(client, {"agent-1", "agent-2", "agent-3"})
        victim = trio.process(before[KEYS[0]])
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            for registry in trio.of_service("registry"):
                os.kill(registry.pid, signal.SIGKILL)
            handles = [await client.submit("test.home", 0.0, affinity=KEYS[0]) for _ in range(4)]
            elsewhere = {await handle.result(timeout=60) for handle in handles}
        finally:
            os.kill(victim.pid, signal.SIGCONT)
        assert victim.instance not in elsewhere
        assert await settled(client, set(before.values())) == before


@pytest.mark.parametrize("service", ["agent", "registry"], ids=["known", "forgotten"])
async def test_what_waited_while_no_dispatcher_was_there_is_found(
    trio: Cluster, service: str
) -> None:
    """A registry that has started anew knows nothing of an agent that was gone before."""
    info = trio.ready_info()
    async with connect(info["client_url"]) as client:
        await settled(client, {"agent-1", "agent-2", "agent-3"})
    victim, dispatchers = trio.process("agent-1"), trio.of_service("dispatcher")
    others = trio.of_service(service) if service == "registry" else []
    await wait_until(lambda: is_marked(trio, victim.instance), 30)
    killed = [*dispatchers, victim, *others]
    async with mortal(*killed):
        for process in killed:
            await kill(process)
        await revive(*others)
        await wait_until(lambda: is_forgotten(trio, victim.instance), 30)
        with Outsider(info["broker_url"]) as outsider:
            leave_behind(trio, victim.instance, str(outsider.reply_to))
            await revive(*dispatchers)
            result = outsider.wait("left behind", seconds=90)[0]
        assert (result["status"], result["lost"]) == ("succeeded", 0)
        assert result["agent"] in {"agent-2", "agent-3"}
        await wait_until(lambda: _is_gone(trio, victim.instance), 60)


async def is_marked(cluster: Cluster, agent: str) -> bool:
    """Whether Consul has it that an agent has a queue of its own."""
    key = f"maniple/{cluster.servers.environment}/agent-queues/{agent}"
    consul = Consul(cluster.servers.consul_url)
    try:
        return await consul.kv_get(key) is not None
    finally:
        consul.close()


async def is_forgotten(cluster: Cluster, agent: str) -> bool:
    """Whether the registry thinks that an agent has failed, or knows nothing of it."""
    url = cluster.ready_info()["operator_url"]
    try:
        record = await ask(url, "registry", "agent", {"id": agent})
    except RequestFailed:
        return True
    return bool(record["state"] == "failed")


def leave_behind(cluster: Cluster, agent: str, reply_to: str) -> None:
    """Publish a task to an agent's own queue, as a dispatcher does."""
    now = datetime.now(UTC)
    envelope = Envelope(
        id="left-behind",
        capability="test.home",
        lane="test.home",
        payload=Raw(b"0"),
        affinity="key",
        submitted_at=now,
        deadline=now + timedelta(minutes=5),
        reply_to=reply_to,
        correlation_id="left behind",
        accepted=True,
    )
    connection: Any = BlockingConnection(
        pika.URLParameters(cluster.servers.broker_url("dispatcher"))
    )
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_publish(topology.AGENTS.name, agent, encode([envelope]), mandatory=True)
    connection.close()
