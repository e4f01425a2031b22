"""Agents that are fed, on a real broker: not stalled, unless they lack a consumer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heartbeating_agents import Agent, agent_of, keys, registry, told
from local_servers import LocalServers
from maniple.amqp import (
    AmqpConnection,
    Connection,
    Consumer,
    Delivery,
    Outgoing,
    Publisher,
    declare,
    declare_topology,
)
from maniple.identifiers import new_id
from maniple.topology import LANES, lane_queues
from maniple_runtime.control.messages import AgentDescription
from waiting import wait_until

LANE = "fed.slowly"
TIME_SCALE = 0.5
HOPELESS = 18  # heartbeats: 5 s of settling, and the 10 s after which a zombie fails, with one each
PERIOD = TIME_SCALE
RUN = 0.35  # seconds that each message takes


class SlowWorker:
    """Reads the lane with a prefetch of one, and acknowledges each message after a while."""

    def __init__(self) -> None:
        self.last: datetime | None = None
        self.taken = 0

    def take(self, delivery: Delivery) -> None:
        self.last = datetime.now(UTC)
        self.taken += 1
        asyncio.get_running_loop().call_later(RUN, delivery.ack)


@asynccontextmanager
async def working(servers: LocalServers) -> AsyncIterator[SlowWorker]:
    """A lane with more work than the worker can do meanwhile."""

    async def prepare(connection: Connection) -> None:
        await declare_topology(connection)
        await declare(connection, queues=lane_queues(LANE))

    worker = SlowWorker()
    link = AmqpConnection(servers.rabbitmq.url("agent"), name=f"worker-{new_id()}", prepare=prepare)
    publisher = Publisher(link)
    plain, suspects = lane_queues(LANE)
    for queue in (plain, suspects):
        link.consume(Consumer(queue.name, worker.take, prefetch=1))
    await link.start(10)
    for _ in range(60):
        await publisher.publish(Outgoing(LANES.name, LANE, b"[]", new_id(), "maniple.tasks.v1"))
    try:
        yield worker
    finally:
        await link.close()


def described(agent: Agent, **static: Any) -> AgentDescription:
    who = {"agent": agent.name, "incarnation": agent.incarnation}
    fixed = {"host": "h", "pid": 1, "lanes": [LANE], "started_at": datetime.now(UTC)}
    return AgentDescription.model_validate(who | fixed | static)


async def test_a_hungry_agent_that_takes_one_message_at_a_time_of_many_is_not_stalled(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with (
        registry(servers, tmp_path, time_scale=TIME_SCALE),
        agent_of(servers) as (agent, events),
        working(servers) as worker,
    ):
        description = described(agent)

        async def beat() -> bool:
            await agent.beat(description=description, last_delivery_at=worker.last, hungry=[LANE])
            await asyncio.sleep(PERIOD)
            return agent.sequence >= HOPELESS

        await wait_until(beat, 3 * HOPELESS)
        assert worker.taken > HOPELESS / 2
        assert (keys(events), told(agent)) == (["agent.registered"], [])


async def test_an_agent_that_is_fed_but_does_not_consume_its_own_queue_is_doubted(
    servers: LocalServers, tmp_path: Path
) -> None:
    async with (
        registry(servers, tmp_path, time_scale=TIME_SCALE),
        agent_of(servers) as (agent, events),
        working(servers) as worker,
    ):
        description = described(agent, affinity=[LANE])

        async def suspected() -> bool:
            await agent.beat(description=description, last_delivery_at=worker.last, hungry=[LANE])
            await asyncio.sleep(PERIOD)
            return "agent.unreachable" in keys(events)

        await wait_until(suspected, 20)
        assert f"queue maniple.agent.{agent.name}" in events[-1].reason
