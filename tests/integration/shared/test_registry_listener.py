"""`maniple.amqp.Listener` and `Inspector` on a real broker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from local_servers import LocalServers
from maniple.amqp import (
    AmqpConnection,
    Connection,
    Inspector,
    Listener,
    Outgoing,
    Publisher,
    QueueView,
    declare,
    declare_topology,
)
from maniple.errors import BrokerUnavailable
from maniple.identifiers import new_id
from maniple.topology import EVENTS, HEARTBEATS, Queue
from waiting import wait_until


@dataclass
class Bench:
    """A link with everything on it, and what was heard."""

    link: AmqpConnection
    publisher: Publisher
    inspector: Inspector
    heard: list[tuple[bytes, str, str]] = field(default_factory=list)

    async def say(self, body: bytes, exchange: str = HEARTBEATS.name, key: str = "") -> None:
        await self.publisher.publish(Outgoing(exchange, key, body, "id", "t", mandatory=False))


@asynccontextmanager
async def bench(servers: LocalServers, *queues: Queue) -> AsyncIterator[Bench]:
    async def prepare(connection: Connection) -> None:
        await declare_topology(connection)
        await declare(connection, queues=queues)

    link = AmqpConnection(
        servers.rabbitmq.url("registry"), name=f"bench-{new_id()}", prepare=prepare
    )
    made = Bench(link, Publisher(link), Inspector(link))
    bindings = [(HEARTBEATS.name, ""), (EVENTS.name, "agent.*")]
    Listener(link, bindings, lambda *message: made.heard.append(message))
    await link.start(10)
    yield made
    await link.close()


async def test_what_is_said_to_any_binding_is_heard_with_its_type_and_id(
    servers: LocalServers,
) -> None:
    async with bench(servers) as on:
        await on.say(b"1")
        await on.say(b"2", EVENTS.name, "agent.failed")
        await on.say(b"3", EVENTS.name, "policy.changed")
        await on.say(b"4")
        await wait_until(lambda: len(on.heard) == 3)
        assert on.heard == [(b"1", "t", "id"), (b"2", "t", "id"), (b"4", "t", "id")]


async def test_after_a_loss_it_hears_again_and_once(servers: LocalServers) -> None:
    async with bench(servers) as on:
        on.link.suspect()
        await wait_until(lambda: on.link.reconnects == 1 and on.link.is_up)
        await on.say(b"1")
        await on.say(b"2")
        await wait_until(lambda: len(on.heard) >= 2)
        assert [body for body, _, _ in on.heard] == [b"1", b"2"]


async def test_queues_are_looked_at_and_one_that_is_not_there_costs_no_connection(
    servers: LocalServers,
) -> None:
    queue = Queue(f"maniple.agent.look-{new_id()}")
    async with bench(servers, queue) as on:
        await on.say(b"1", "", queue.name)
        assert await on.inspector.inspect_queue(queue.name) == QueueView(1, 0)
        for _ in range(3):
            assert await on.inspector.inspect_queue("maniple.agent.nobody") == QueueView(
                0, 0, there=False
            )
        assert await on.inspector.inspect_queue(queue.name) == QueueView(1, 0)
        assert (on.link.reconnects, on.link.is_up) == (0, True)


async def test_looking_without_a_connection_says_so(servers: LocalServers) -> None:
    link = AmqpConnection(servers.rabbitmq.url("registry"), name="never")
    inspector = Inspector(link)
    with pytest.raises(BrokerUnavailable):
        await inspector.inspect_queue("maniple.submit")
