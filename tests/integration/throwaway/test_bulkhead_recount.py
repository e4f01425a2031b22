"""Room of tasks that vanished from a lane comes back; that of tasks which wait there does not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from dying import kill
from local_servers import SharedServers
from maniple.client import TaskHandle
from maniple.timings import Timings
from maniple.topology import lane_queues
from maniple_cli.control import ask_over
from maniple_cli.dev_cluster.definitions import Role
from policy_world import World, codes, policy_world
from waiting import wait_until

LANE = "work.echo"
ROOM = 2
TIME_SCALE = 0.28  # as short as systems outside of ours allow
HEARD = Timings().scaled(TIME_SCALE).reports.heard

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def unattended(shared: SharedServers, tmp_path: Path) -> AsyncIterator[World]:
    """A cluster whose agents have failed: what is dispatched stays in its lane."""
    broker = shared.broker("recount")
    async with policy_world(tmp_path, broker, time_scale=TIME_SCALE) as world:
        agents = world.cluster.of_service("agent")
        for agent in agents:
            await kill(agent)
        await wait_until(lambda: have_failed(world, [agent.instance for agent in agents]), 30)
        yield world


async def have_failed(world: World, agents: list[str]) -> bool:
    shown = [await ask_over(world.plane, "registry", "agent", {"id": agent}) for agent in agents]
    return all(agent["state"] == "failed" for agent in shown)


async def fill(world: World) -> None:
    """Submit twice as many tasks as there is room for, of which the others are refused."""
    handles: list[TaskHandle] = [await world.client.submit(LANE, n) for n in range(2 * ROOM)]
    await wait_until(lambda: sum(handle.done for handle in handles) == ROOM)
    refused = [await handle.outcome() for handle in handles if handle.done]
    assert codes(refused) == {"overloaded": ROOM}


async def arrives(world: World, taken: list[str]) -> bool:
    """Submit one task more, and return whether it is taken from the lane, or refused."""
    before = len(taken)
    handle = await world.client.submit(LANE, "more")
    await wait_until(lambda: handle.done or len(taken) > before)
    return not handle.done


@asynccontextmanager
async def emptied(url: str, lane: str) -> AsyncIterator[list[str]]:
    """Read a lane's queues for the block and acknowledge what is there; yields the tasks' ids."""
    taken: list[str] = []

    async def take(message: AbstractIncomingMessage) -> None:
        await message.ack()
        taken.extend(task["id"] for task in json.loads(message.body))

    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        for described in lane_queues(lane):
            queue = await channel.get_queue(described.name, ensure=False)
            await queue.consume(take)
        yield taken


async def test_room_of_tasks_that_vanished_from_their_lane_comes_back(unattended: World) -> None:
    agent_url = unattended.cluster.servers.broker_url(Role.AGENT)
    async with unattended.policy("bulkhead", "two", {"max_in_flight": ROOM}):
        await fill(unattended)
        await asyncio.sleep(2 * HEARD)
        # They wait, however long nobody tells of them.
        assert codes(await unattended.ends(LANE, ["one more"])) == {"overloaded": 1}
        async with emptied(agent_url, LANE) as taken:
            await wait_until(lambda: len(taken) == ROOM)
            await wait_until(lambda: arrives(unattended, taken), 2 * HEARD)
