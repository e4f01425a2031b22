"""Agents that beat and do not work, and fleets that fall silent together."""

import asyncio
import time
from pathlib import Path

from heartbeating_agents import (
    QUICK,
    Agent,
    agent_of,
    agreed,
    beating,
    keys,
    registry,
    shown,
    told,
)
from local_servers import LocalServers
from maniple.amqp import (
    AmqpConnection,
    Connection,
    Outgoing,
    Publisher,
    declare,
    declare_topology,
)
from maniple.identifiers import new_id
from maniple.timings import Timings
from maniple.topology import LANES, lane_queues
from maniple_runtime.control.messages import Reconnect
from maniple_runtime.metric_names import ECHOES
from scraping import counted
from waiting import wait_until

TIME_SCALE = 0.5
TIMES = Timings().scaled(TIME_SCALE)


async def waiting_work(servers: LocalServers, link_name: str) -> AmqpConnection:
    """Put a message into the lane of the fake agents, which none of them consumes."""

    async def prepare(connection: Connection) -> None:
        await declare_topology(connection)
        await declare(connection, queues=lane_queues("x.y"))

    link = AmqpConnection(servers.rabbitmq.url("agent"), name=link_name, prepare=prepare)
    publisher = Publisher(link)
    await link.start(10)
    await publisher.publish(Outgoing(LANES.name, "x.y", b"[]", new_id(), "maniple.tasks.v1"))
    return link


async def test_a_stalled_agent_is_told_to_reconnect_and_evicted_who_takes_its_work_is_left_alone(
    servers: LocalServers, tmp_path: Path
) -> None:
    link = await waiting_work(servers, f"link-{new_id()}")
    async with registry(servers, tmp_path, time_scale=TIME_SCALE) as runtime:
        await agreed(runtime)  # a standby gives others time before it says the same again
        begun, bounds = time.monotonic(), TIMES.bounds
        async with (
            agent_of(servers) as (agent, events),
            agent_of(servers) as (busy, of_busy),
            beating([agent], TIME_SCALE, hungry=None),
            beating([busy], TIME_SCALE, hungry=[]),
        ):
            await wait_until(lambda: "agent.unreachable" in keys(events), 20)
            assert "x.y" in events[-1].reason
            assert told(agent) == []
            await wait_until(lambda: told(agent) == [Reconnect])
            assert time.monotonic() > begun + bounds.settling + bounds.reconnect
            found = await shown(agent)
            assert (found["state"], found["doubts"]) == (
                "unreachable",
                ["takes nothing from lane x.y"],
            )
            assert agent.plane.reconnects == 0
            await wait_until(lambda: agent.plane.reconnects == 1)
            assert time.monotonic() > begun + bounds.settling + bounds.hopeless
            await wait_until(lambda: "agent.failed" in keys(events))
            assert keys(events) == ["agent.registered", "agent.unreachable", "agent.failed"]
            sequence = busy.sequence  # who would take nothing is not doubted later either
            await wait_until(lambda: busy.sequence > sequence + 2)
            assert keys(of_busy) == ["agent.registered"]
    await link.close()


async def test_agents_that_really_fall_silent_together_fail(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with (
        registry(servers, tmp_path, timings=QUICK) as runtime,
        agent_of(servers) as (first, events),
    ):
        fleet = [first, *(Agent(first.plane, f"agent-{new_id()}") for _ in range(5))]
        await asyncio.gather(*(agent.beat(connections=()) for agent in fleet))
        await wait_until(lambda: "agent.failed" in keys(events))

        async def all_failed() -> bool:
            return {(await shown(agent))["state"] for agent in fleet} == {"failed"}

        await wait_until(all_failed)
        # An echo that was late, on a machine that has much to do, was asked for again.
        assert counted(runtime.metrics, ECHOES, outcome="heard") > 0
