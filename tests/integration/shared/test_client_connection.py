"""The client against a real broker: its reply queue, what an outside user gets, reconnecting."""

import asyncio

import pytest

from flaky_network import FlakyNetwork
from link_bench import connected
from maniple import BrokerUnavailable, ManipleError, connect
from maniple.amqp.probe import probe
from maniple.client.carrier import AmqpCarrier
from maniple.client.core import Client
from maniple_cli.dev_cluster.cluster import Cluster
from outsider import Outsider
from waiting import wait_until

PATIENCE = 60.0  # guards against hanging: nothing here is about how fast it is


def carrier_of(client: Client) -> AmqpCarrier:
    carrier = client._carrier
    assert isinstance(carrier, AmqpCarrier)
    return carrier


async def lose_the_connection(client: Client) -> None:
    """Have the link rebuilt, as after the loss of its connection."""
    link = carrier_of(client)._link
    before = link.reconnects
    link.suspect()
    await wait_until(lambda: link.reconnects > before and link.is_up)


async def test_results_outlive_a_lost_connection(cluster: Cluster) -> None:
    async with connect(cluster.ready_info()["client_url"]) as client:
        handles = [await client.submit("maniple.sleep", {"seconds": 0.5}) for _ in range(10)]
        await lose_the_connection(client)
        for handle in handles:
            assert await handle.result(PATIENCE) == {"seconds": 0.5}


async def test_map_goes_on_over_a_lost_connection(cluster: Cluster) -> None:
    outputs = []
    async with connect(cluster.ready_info()["client_url"]) as client:
        async for output in client.map("maniple.echo", range(5000), window=500):
            outputs.append(output)
            if output == 1000:
                await lose_the_connection(client)
    assert outputs == list(range(5000))


async def test_the_reply_queue_is_deleted_with_its_client(cluster: Cluster) -> None:
    url = cluster.ready_info()["client_url"]
    async with connect(url) as client:
        queue = carrier_of(client)._replies.queue
        assert queue.startswith("maniple.replies.")
        assert (await probe(url, (), [queue])).missing_queues == ()
    assert (await probe(url, (), [queue])).missing_queues == (queue,)


async def test_an_outside_user_gets_results_on_a_queue_of_the_brokers_naming(
    cluster: Cluster,
) -> None:
    async with connect(cluster.ready_info()["broker_url"]) as client:
        assert carrier_of(client)._replies.queue.startswith("amq.gen-")
        outputs = [output async for output in client.map("maniple.echo", range(300))]
        assert outputs == list(range(300))


@pytest.mark.parametrize(
    ("user", "named"),
    [("client_url", "queue"), ("broker_url", "queue"), ("client_url", "address")],
)
async def test_a_forged_result_ends_no_task_of_another(
    cluster: Cluster, outsider: Outsider, user: str, named: str
) -> None:
    """The forger knows the task's id and the name of the queue, or even its address."""
    async with connect(cluster.ready_info()[user]) as client:
        reply_to = getattr(carrier_of(client)._replies, named)
        handle = await client.submit("maniple.sleep", {"seconds": 2})
        outsider.send("maniple.echo", {"id": handle.id, "payload": "forged"}, reply_to=reply_to)
        assert outsider.ask("maniple.echo", {"payload": 1})["output"] == 1
        assert await handle.result(PATIENCE) == {"seconds": 2}


async def test_an_outside_user_is_told_when_results_are_lost_with_the_connection(
    cluster: Cluster,
) -> None:
    async with connect(cluster.ready_info()["broker_url"]) as client:
        handle = await client.submit("maniple.sleep", {"seconds": 20})
        await lose_the_connection(client)
        with pytest.raises(BrokerUnavailable, match="lost"):
            await handle.result(PATIENCE)
        assert await (await client.submit("maniple.echo", 1)).result(PATIENCE) == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_an_outside_user_submits_in_an_outage_brings_its_result(
    cluster: Cluster, when: str
) -> None:
    """Submitted before the connection is known to be lost, or after that."""
    async with (
        FlakyNetwork(cluster.ready_info()["broker_url"]) as network,
        connect(network.url) as client,
    ):
        carrier = carrier_of(client)
        assert await (await client.submit("maniple.echo", 1)).result(PATIENCE) == 1
        network.freeze()
        if when == "after":
            network.cut()
            await wait_until(lambda: not carrier._link.is_up)
        submitting = asyncio.create_task(client.submit("maniple.echo", 2))
        await wait_until(lambda: bool(carrier._bundler._sends))
        network.cut()
        network.thaw()
        async with asyncio.timeout(PATIENCE):
            handle = await submitting
        assert await handle.result(PATIENCE) == 2


async def test_who_waits_is_told_when_the_reply_queue_is_gone(cluster: Cluster) -> None:
    url = cluster.ready_info()["client_url"]
    async with connect(url) as client:
        handle = await client.submit("maniple.sleep", {"seconds": 20})
        async with connected(url) as connection:
            await (await connection.channel()).queue_delete(carrier_of(client)._replies.queue)
        with pytest.raises(BrokerUnavailable, match="reply queue"):
            await handle.result(PATIENCE)
        assert await (await client.submit("maniple.echo", 1)).result(PATIENCE) == 1


async def test_submissions_of_one_turn_share_a_message(cluster: Cluster) -> None:
    async with connect(cluster.ready_info()["client_url"]) as client:
        submissions = [client.submit("maniple.echo", n) for n in range(50)]
        handles = await asyncio.gather(*submissions)
        assert len({handle.message_id for handle in handles}) == 1
        assert [await handle.result(PATIENCE) for handle in handles] == list(range(50))


async def test_a_broker_that_does_not_answer_is_said_in_time() -> None:
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1/dev"):
        async with connect("amqp://guest:guest@127.0.0.1:1/dev", timeout=0.5):
            raise ManipleError("not reached")
