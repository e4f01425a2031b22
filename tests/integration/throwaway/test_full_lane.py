"""A lane that is full, stuck or missing delays no other, and loses nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from full_lanes import ROOM, declare_full, delayed, flood, one_dispatcher
from local_servers import SharedServers
from maniple import connect, topology
from maniple_cli.dev_cluster.cluster import Cluster
from outsider import Outsider
from rabbitmqctl import Installed, suspended
from waiting import wait_until

STUCK = 600  # single messages, more than a dispatcher holds
EACH = 10
OTHERS = 200

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def broker(shared: SharedServers) -> Installed:
    return Installed(shared.rabbitmq)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def one(shared: SharedServers) -> AsyncIterator[Cluster]:
    async with Cluster(one_dispatcher(), broker=shared.broker("full-lane")) as running:
        yield running


async def test_a_lane_that_confirms_nothing_holds_up_nobody_and_loses_nothing(
    one: Cluster, broker: Installed
) -> None:
    info = one.ready_info()
    with Outsider(info["broker_url"]) as outsider:
        assert outsider.ask("test.threaded", {"payload": [7]})["output"] == 7
        queue = topology.lane_queues("test.threaded")[0].name
        async with suspended(broker, info["environment"], queue):
            stuck = [outsider.send("test.threaded", {"payload": [n]}) for n in range(STUCK)]
            async with connect(info["client_url"]) as client:
                for number in range(20):
                    handle = await client.submit("test.double", number)
                    assert await handle.result(timeout=60) == 2 * number
            assert len(outsider.replies) == 1  # nothing has run since
        results = [outsider.wait(one_of_them, seconds=90)[0] for one_of_them in stuck]
    assert [result["output"] for result in results] == list(range(STUCK))


async def test_a_task_that_waits_is_never_ended_for_want_of_room(
    one: Cluster, broker: Installed
) -> None:
    info, before = one.ready_info(), delayed(one)
    with Outsider(info["broker_url"]) as outsider:
        waiting = [outsider.send("nobody.serves.this", {"ttl": 12}) for _ in range(200)]
        await wait_until(lambda: delayed(one) >= before + 200)
        limit = ("tiny", r"^maniple\.delay\.", '{"max-length": 1}', "--apply-to", "queues")
        vhost = ("-p", info["environment"])
        await broker.control("set_policy", *vhost, *limit)
        try:
            late = [outsider.send("nobody.serves.this", {"ttl": 12}) for _ in range(40)]
            await wait_until(lambda: "overloaded" in codes(outsider, late))
            assert outsider.ask("test.double", {"payload": 4})["output"] == 8
        finally:
            await broker.control("clear_policy", *vhost, "tiny")
        ends = Counter(outsider.wait(sent, seconds=90)[0]["status"] for sent in waiting)
    assert ends == {"expired": len(waiting)}


def codes(outsider: Outsider, sent: list[str]) -> set[str]:
    """Return why tasks were ended, of those that were."""
    outsider.channel.connection.process_data_events(time_limit=0)
    return {str(end["error"]["code"]) for one in sent for end in outsider.replies.get(one, [])}


async def test_a_full_lane_holds_up_no_other(one: Cluster) -> None:
    info, before = one.ready_info(), delayed(one)
    declare_full(one.servers.broker_url("agent"), "test.full")
    await asyncio.to_thread(flood, info["broker_url"], "test.full", messages=STUCK, each=EACH)
    async with connect(info["client_url"]) as client:
        # They are read behind all of the flood, of which no more than there is room for can end.
        results = [doubled async for doubled in client.map("test.double", range(OTHERS))]
        assert results == [2 * number for number in range(OTHERS)]
    await wait_until(lambda: delayed(one) >= before + STUCK * EACH - 2 * ROOM)
    looked = delayed(one)
    await wait_until(lambda: delayed(one) > looked)  # it is not over
