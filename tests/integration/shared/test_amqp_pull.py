"""Taking what waits in a queue without consuming it."""

from contextlib import AsyncExitStack

import pytest

from link_bench import bench, depth, is_left, new_queue
from local_servers import LocalServers
from maniple.amqp import Delivery, Pulls, QueueView
from maniple.errors import BrokerUnavailable
from maniple.timings import Amqp
from rabbitmqctl import Installed, close_connection
from waiting import wait_until

MESSAGES = 40


def pulls(servers: LocalServers) -> Pulls:
    return Pulls(servers.rabbitmq.url("dispatcher"), "test.pull", times=Amqp(), answer=5.0)


async def test_all_is_taken_in_its_order_and_what_is_settled_does_not_come_back(
    servers: LocalServers,
) -> None:
    queue, taking = new_queue(), pulls(servers)
    async with bench(servers.rabbitmq.url("agent"), queue) as on, taking.up(10):
        await on.link.start(10)
        for number in range(MESSAGES):
            await on.publish(range(number, number + 1))
        assert await taking.inspect_queue(queue.name) == QueueView(MESSAGES, 0)
        taken = list[bytes]()
        async with taking.open(queue.name) as pull:
            while (delivery := await pull.take()) is not None:
                assert not delivery.redelivered
                taken.append(delivery.body)
                assert await pull.room(17, 5)
                delivery.ack()
            assert await depth(servers, queue) == (0, 0)  # it is no consumer
            await pull.finish()
        assert taken == [str(number).encode() for number in range(MESSAGES)]
        await wait_until(lambda: is_left(servers, queue))


async def test_what_is_not_settled_goes_back_when_working_on_it_fails(
    servers: LocalServers,
) -> None:
    queue, taking = new_queue(), pulls(servers)

    async def fail() -> None:
        async with taking.open(queue.name) as pull:
            assert await pull.take() is not None
            assert not await pull.room(1, 0.05)
            raise ValueError("a bug")

    async with bench(servers.rabbitmq.url("agent"), queue) as on, taking.up(10):
        await on.link.start(10)
        await on.publish(range(2))
        with pytest.raises(ValueError, match="a bug"):
            await fail()
        await wait_until(lambda: is_left(servers, queue, 2))
        async with taking.open(queue.name) as pull:
            again = [await pull.take(), await pull.take(), await pull.take()]
            assert [one.redelivered if one else None for one in again] == [True, False, None]
            for one in again[:2]:
                assert one is not None
                one.ack()
            await pull.finish()
        await wait_until(lambda: is_left(servers, queue))


def is_ours(delivery: Delivery) -> bool:
    return delivery.alive


@pytest.mark.parametrize("lost", [True, False])
async def test_what_was_taken_is_ours_no_more_when_the_connection_is_lost_or_the_pull_is_over(
    servers: LocalServers, *, lost: bool
) -> None:
    queue, taking = new_queue(), pulls(servers)
    async with bench(servers.rabbitmq.url("agent"), queue) as on, taking.up(10):
        await on.link.start(10)
        await on.publish(range(1))
        async with AsyncExitStack() as stack:
            pull = await stack.enter_async_context(taking.open(queue.name))
            taken = await pull.take()
            assert taken is not None
            assert is_ours(taken)
            if lost:
                assert await close_connection(Installed(servers.rabbitmq), "test.pull-1") == 1
                await wait_until(lambda: not is_ours(taken))
        assert not is_ours(taken)
        await wait_until(lambda: is_left(servers, queue, 1))


async def test_a_queue_that_is_not_there_costs_its_own_connection_only(
    servers: LocalServers,
) -> None:
    queue, taking = new_queue(), pulls(servers)
    async with bench(servers.rabbitmq.url("agent"), queue) as on, taking.up(10):
        await on.link.start(10)
        with pytest.raises(BrokerUnavailable, match="cannot be taken from"):
            async with taking.open("maniple.lane.not-there") as pull:
                await pull.take()
        await on.publish(range(1))
        assert await taking.inspect_queue(queue.name) == QueueView(1, 0)
        async with taking.open(queue.name) as pull:
            delivery = await pull.take()
            assert delivery is not None
            delivery.ack()
            await pull.finish()
        await wait_until(lambda: is_left(servers, queue))
