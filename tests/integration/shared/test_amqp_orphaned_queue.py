"""Working on a queue whose reader is gone."""

import pytest

from link_bench import bench, depth, new_queue
from local_servers import LocalServers
from maniple.amqp import Delivery, leftover
from waiting import wait_until


async def test_a_queue_is_let_go_of_also_when_working_on_it_fails(servers: LocalServers) -> None:
    queue = new_queue()
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        await on.link.start(10)

        async def consumers() -> int:
            return (await depth(servers, queue))[1]

        async def fail() -> None:
            async with leftover(on.link, queue, Delivery.ack) as one:
                await one.consume()
                assert await consumers() == 1
                raise ValueError("a bug")

        with pytest.raises(ValueError, match="a bug"):
            await fail()

        async def let_go() -> bool:
            return await consumers() == 0

        await wait_until(let_go)
        assert on.link.reconnects == 0
