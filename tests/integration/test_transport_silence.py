"""Links whose broker says nothing: cut off in silence, blocked by an alarm, or only quiet."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import faults
from flaky_network import FlakyNetwork
from link_bench import bench, depth, new_queue, numbers
from local_servers import LocalServers, servers_needed
from maniple.timings import Amqp
from maniple.topology import Queue
from system.brokers import NativeBroker
from waiting import wait_until

NOTICED_WITHIN = 12.0
BACK_WITHIN = 10.0


@pytest.fixture
def queue() -> Queue:
    return new_queue()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NativeBroker]:
    """A broker that the test may raise alarms on."""
    made = NativeBroker(Path(tmp_path_factory.mktemp("broker")))
    with servers_needed():
        await made.start()
    yield made
    await made.stop(0.5)


async def test_a_cut_that_nobody_is_told_of_is_noticed_and_a_quiet_link_is_left_alone(
    servers: LocalServers, queue: Queue
) -> None:
    async with (
        FlakyNetwork(servers.rabbitmq.url("agent")) as network,
        bench(servers.rabbitmq.url("agent"), new_queue()) as quiet,
        bench(network.url, queue) as on,
    ):
        on.link.add(on.consumer())
        await asyncio.gather(on.link.start(10), quiet.link.start(10))
        network.freeze()
        publishing = asyncio.create_task(on.publish(range(50)))
        await wait_until(lambda: not on.link.is_up, NOTICED_WITHIN)
        network.thaw()
        await asyncio.wait_for(publishing, BACK_WITHIN)
        await wait_until(lambda: set(on.bodies) == numbers(50))
        assert await depth(servers, queue) == (0, 1)
        assert quiet.link.reconnects == 0


async def test_a_connection_that_only_the_client_has_lost_is_replaced(
    servers: LocalServers, queue: Queue
) -> None:
    async with (
        FlakyNetwork(servers.rabbitmq.url("agent")) as network,
        bench(network.url, queue) as on,
    ):
        await on.link.start(10)
        network.sever()
        await asyncio.wait_for(on.publish(range(5)), BACK_WITHIN)
        assert on.link.reconnects == 1


async def test_a_process_that_was_stopped_does_not_take_that_for_the_brokers_silence(
    servers: LocalServers, queue: Queue
) -> None:
    times = Amqp(silence=1.2)  # of heartbeats of 5 s
    async with bench(servers.rabbitmq.url("agent"), queue, times) as on:
        on.link.add(on.consumer())
        await on.link.start(10)
        time.sleep(7 * times.tick)  # noqa: ASYNC251 - the loop is to stand still
        await on.publish(range(5))
        await asyncio.sleep(2 * times.tick)  # what is to be seen is that nothing happens
        assert on.link.reconnects == 0


async def test_a_connection_that_an_alarm_blocks_is_left_alone_and_nothing_is_sent_twice(
    broker: NativeBroker, queue: Queue
) -> None:
    async with bench(broker.url("agent"), queue, Amqp(confirm=2.0)) as on:
        on.link.add(on.consumer())
        await on.link.start(10)
        async with faults.memory_alarm(broker):
            publishing = asyncio.create_task(on.publish(range(500)))
            await wait_until(lambda: on.link.blocked)
            await asyncio.sleep(10.0)  # longer than a confirm or a silence may last otherwise
            assert (on.link.is_up, publishing.done()) == (True, False)
        await asyncio.wait_for(publishing, BACK_WITHIN)
        await wait_until(lambda: not on.link.blocked)
        await wait_until(lambda: set(on.bodies) == numbers(500))
        assert (on.link.reconnects, len(on.received)) == (0, 500)


async def test_a_confirm_that_never_comes_has_the_publish_sent_again(
    servers: LocalServers, queue: Queue
) -> None:
    async with (
        FlakyNetwork(servers.rabbitmq.url("agent")) as network,
        bench(network.url, queue, Amqp(confirm=1.0)) as on,
    ):
        await on.link.start(10)
        network.freeze()
        publishing = asyncio.create_task(on.publish(range(3)))
        await wait_until(lambda: not on.link.is_up, 5.0)
        network.thaw()
        await asyncio.wait_for(publishing, BACK_WITHIN)
