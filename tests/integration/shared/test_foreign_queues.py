"""A lane that somebody else has declared, with arguments of their own."""

import secrets

from agent_inside import agent_inside
from fencing_handlers import started
from link_bench import connected
from maniple.topology import lane_name, lane_queues
from maniple_cli.dev_cluster.cluster import Cluster

CAPABILITY = "fencing.affine"


async def test_a_lane_made_with_other_arguments_is_served_and_told_and_stops_no_other(
    cluster: Cluster,
) -> None:
    variant = f"foreign-{secrets.token_hex(4)}"
    foreign = lane_queues(lane_name(CAPABILITY, variant))[0].name
    async with connected(cluster.servers.broker_url("agent")) as connection:
        channel = await connection.channel()
        await channel.queue_declare(
            foreign, durable=True, arguments={"x-queue-type": "quorum", "x-max-length": 3}
        )
        async with agent_inside(cluster, variants=(variant,)) as agent:
            assert foreign in str(agent.component("broker.queues")["detail"])
            handle = await agent.client.submit(CAPABILITY, 0.01)
            await handle.result(timeout=60)
            assert started[handle.id] == 1
            found = await channel.queue_declare(foreign, passive=True)
            assert found.consumer_count == 1
        await channel.queue_delete(foreign)
