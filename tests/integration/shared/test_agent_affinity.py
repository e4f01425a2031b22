"""The agent's half of affinity: a queue of its own, from which it runs, splits and hands back."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest_asyncio
from msgspec import Raw

from agent_inside import AgentInside, agent_inside
from fencing_handlers import held, release, started
from link_bench import depth_at
from maniple.amqp import AmqpConnection, Outgoing, Publisher
from maniple.codec import encode, join
from maniple.messages import ENVELOPES_TYPE, Envelope
from maniple.topology import AGENTS, HEARTBEATS, agent_queue
from maniple_cli.control import ask
from maniple_cli.dev_cluster.cluster import Cluster
from maniple_runtime.control.messages import Heartbeat
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.metric_names import RECONNECTS, RESULTS
from maniple_runtime.telemetry import get_logger
from scraping import counted
from waiting import wait_until

CAPABILITY = "fencing.affine"


@pytest_asyncio.fixture(loop_scope="session")
async def agent(cluster: Cluster) -> AsyncIterator[AgentInside]:
    async with agent_inside(cluster, slots=4) as inside:
        yield inside


def envelope(seconds: float) -> Envelope:
    now = datetime.now(UTC)
    return Envelope(
        id=str(uuid4()),
        capability=CAPABILITY,
        lane=CAPABILITY,
        payload=Raw(encode(seconds)),
        affinity="a key",
        submitted_at=now,
        deadline=now + timedelta(minutes=5),
    )


async def send(cluster: Cluster, agent: str, *bundles: list[Envelope]) -> None:
    """Publish to an agent's own queue, as a dispatcher does."""
    link = AmqpConnection(cluster.servers.broker_url("dispatcher"), name="test.affinity")
    publisher = Publisher(link)
    await link.start(10)
    for bundle in bundles:
        body = join([encode(member) for member in bundle])
        name = str(uuid4())
        await publisher.publish(Outgoing(AGENTS.name, agent, body, name, ENVELOPES_TYPE))
    await link.close()


async def depth(cluster: Cluster, agent: str) -> tuple[int, int]:
    """Return (ready messages, consumers) of an agent's own queue."""
    return await depth_at(cluster.servers.broker_url("operator"), agent_queue(agent).name)


async def test_an_agent_runs_what_comes_to_its_own_queue_and_says_that_it_has_one(
    cluster: Cluster, agent: AgentInside
) -> None:
    tasks = [envelope(0.0) for _ in range(20)]
    await send(cluster, agent.name, tasks[:5], *[[one] for one in tasks[5:]])
    await wait_until(lambda: all(started[one.id] == 1 for one in tasks))
    assert await depth(cluster, agent.name) == (0, 1)
    operator = cluster.ready_info()["operator_url"]
    assert CAPABILITY in (await ask(operator, "registry", "agent", {"id": agent.name}))["affinity"]
    beats: list[Heartbeat] = []
    url = cluster.servers.broker_url("registry")
    async with ControlPlane(url, name="test.beats", log=get_logger("test")) as plane:
        await plane.subscribe(HEARTBEATS, (), Heartbeat, beats.append)
        await wait_until(lambda: any(beat.agent == agent.name for beat in beats))
    (beat, *_) = [beat for beat in beats if beat.agent == agent.name]
    assert CAPABILITY in (beat.hungry or ())


async def test_what_was_cut_off_while_it_ran_from_the_own_queue_is_adopted(
    cluster: Cluster,
) -> None:
    tasks = [envelope(0.0), envelope(0.0)]
    held.update(one.id for one in tasks)
    async with agent_inside(cluster) as agent:

        async def brought_again() -> bool:
            anew = counted(agent.runtime.metrics, RECONNECTS, link="consume")
            return anew > 0 and await depth(cluster, agent.name) == (0, 1)

        await send(cluster, agent.name, tasks)
        await wait_until(lambda: all(started[one.id] == 1 for one in tasks))
        agent.network.cut()
        await wait_until(brought_again)  # what ends before that is run again, as it may be
        release(*tasks)
        labels = {"capability": CAPABILITY, "variant": "", "status": "succeeded"}
        await wait_until(lambda: counted(agent.runtime.metrics, RESULTS, **labels) == 2)
        await wait_until(lambda: agent.runtime.health.ready)
    assert (await depth(cluster, agent.name))[0] == 0
    assert {started[one.id] for one in tasks} == {1}


async def test_what_a_leaving_agent_did_not_start_goes_to_the_ordinary_lane(
    cluster: Cluster,
) -> None:
    async with agent_inside(cluster, slots=1) as leaving, agent_inside(cluster) as staying:
        first, second = envelope(0.0), envelope(0.0)
        held.add(first.id)  # it keeps the only slot for as long as the other is not handed on
        await send(cluster, leaving.name, [first, second])
        await wait_until(lambda: started[first.id] == 1)
        leaving.runtime.stopping.set()
        try:
            await wait_until(lambda: started[second.id] == 1)
        finally:
            release(first)
        assert staying.runtime.health.ready
    assert started[first.id] == 1
