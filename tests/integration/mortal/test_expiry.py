"""What waits in a lane whose agents are gone, or busy, ends when its time is over."""

from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingConnection

from dying import SLOTS, kill, mortal, revive
from maniple import topology
from maniple_agent.fair_queue import most_of
from maniple_cli.dev_cluster.cluster import Cluster
from maniple_runtime.consul.client import Consul
from outsider import Outsider
from waiting import wait_until

CAPABILITY = "test.double"
HOLD = "test.hold"
TTL = 2.0
PROMISED = 5.0  # seconds after its deadline within which a task ends
HOUR = 3600

pytestmark = pytest.mark.timeout(240)


async def is_marked(cluster: Cluster, lane: str) -> bool:
    """Whether Consul has it that there is this lane."""
    consul = Consul(cluster.servers.consul_url)
    try:
        key = f"maniple/{cluster.servers.environment}/lanes/{lane}"
        return await consul.kv_get(key) is not None
    finally:
        consul.close()


def waiting(url: str, capability: str = CAPABILITY) -> int:
    """Return how many messages are in the lane."""
    connection: Any = BlockingConnection(pika.URLParameters(url))
    lane, _ = topology.lane_queues(capability)
    found = connection.channel().queue_declare(lane.name, passive=True)
    connection.close()
    return int(found.method.message_count)


@pytest.mark.parametrize(
    "begun_anew",
    [(), ("dispatcher",), ("dispatcher", "registry")],
    ids=["known", "forgotten", "known to nobody"],
)
async def test_a_task_ends_in_time_in_a_lane_whose_agents_are_gone(
    trio: Cluster, begun_anew: tuple[str, ...]
) -> None:
    info = trio.ready_info()
    agents = trio.of_service("agent")
    others = [process for service in begun_anew for process in trio.of_service(service)]
    with Outsider(info["broker_url"]) as outsider:
        assert outsider.ask(CAPABILITY, {"payload": 1})["output"] == 2
        await wait_until(lambda: is_marked(trio, CAPABILITY), 30)
        async with mortal(*agents, *others):
            for agent in agents:
                await kill(agent)
            short = outsider.send(CAPABILITY, {"payload": 1, "ttl": TTL})
            long = outsider.send(CAPABILITY, {"payload": 2, "ttl": HOUR})
            await wait_until(lambda: waiting(info["operator_url"]) > 0)
            for process in others:
                await kill(process)
            await revive(*others)
            (end,) = outsider.wait(short, seconds=TTL + PROMISED)
            assert (end["status"], end["error"]["code"]) == ("expired", "deadline_exceeded")
            assert long not in outsider.replies
        assert outsider.wait(long, seconds=60)[0]["output"] == 4


async def test_a_task_ends_in_time_behind_long_ones_and_the_others_run_as_if_nothing_were(
    trio: Cluster, tmp_path: Path
) -> None:
    info, slots = trio.ready_info(), most_of(SLOTS) * len(trio.of_service("agent"))
    with Outsider(info["broker_url"]) as outsider:

        def send(ttl: float) -> str:
            return outsider.send(HOLD, {"payload": str(tmp_path), "ttl": ttl})

        def running() -> int:
            return len(list(tmp_path.iterdir()))

        ahead: list[str] = []

        def all_are_busy() -> bool:
            if running() >= slots:
                return True
            # An agent may take more than it has slots for before others have any.
            ahead.append(send(HOUR))
            return False

        try:
            await wait_until(all_are_busy, every=0.1)
            behind = [send(HOUR) for _ in range(20)]
            (end,) = outsider.wait(send(TTL), seconds=TTL + 2 * PROMISED)
            assert (end["status"], end["error"]["code"]) == ("expired", "deadline_exceeded")
            # It has not come to its turn: what it waited behind goes on.
            assert running() == slots
            assert not any(one in outsider.replies for one in (*ahead, *behind))
        finally:
            (tmp_path / "over").touch()
        ends = [outsider.wait(one, seconds=60)[0] for one in (*ahead, *behind)]
        assert [end["status"] for end in ends] == ["succeeded"] * len(ends)
        assert {(end["attempt"], end["lost"]) for end in ends} == {(1, 0)}
