"""Links against a real broker, over a network that fails."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from msgspec.structs import replace

from flaky_network import FlakyNetwork
from link_bench import Bench, bench, channel_of, connected, depth, done, new_queue, numbers
from local_servers import LocalServers
from maniple.amqp import supervision
from maniple.amqp.supervision import TooFewChannels
from maniple.errors import BrokerUnavailable
from maniple.topology import Queue
from maniple_cli.dev_cluster.http import fetch
from maniple_registry.management import Management
from rabbitmqctl import Installed
from waiting import wait_until

COUNT = 1000
MORE_THAN_BUFFERS = 32 * 1024**2  # bytes; of the sockets and the network


@pytest.fixture
def queue() -> Queue:
    return new_queue()


@pytest.mark.parametrize("how", ["cut", "suspect", "channel"])
async def test_publishes_are_sent_again_over_a_lost_connection(
    servers: LocalServers, queue: Queue, how: str
) -> None:
    async with (
        FlakyNetwork(servers.rabbitmq.url("agent")) as network,
        bench(network.url, queue) as on,
    ):
        lost: dict[str, Callable[[], object]] = {
            "cut": network.cut,
            "suspect": on.link.suspect,
            "channel": lambda: channel_of(on.publisher).close(),
        }
        on.consumer(10)
        await on.link.start(10)
        publishing = on.publishing(range(COUNT))
        for wanted in (COUNT // 10, COUNT // 3):
            await wait_until(lambda wanted=wanted: len(set(on.bodies)) >= wanted, every=0.001)  # type: ignore[misc]
            await wait_until(lambda: on.link.is_up)
            before = on.link.reconnects
            closing = lost[how]()
            if asyncio.iscoroutine(closing):
                await closing
            await wait_until(lambda before=before: on.link.reconnects > before)  # type: ignore[misc]
        await done(publishing)
        await wait_until(lambda: set(on.bodies) == numbers(COUNT))
        assert {delivery.properties.message_id for delivery in on.received} == on.sent
        assert len(on.sent) == COUNT  # so what came twice came under the same id
        await wait_until(lambda: on.link.is_up)


async def test_a_connection_is_shown_by_its_name_and_built_anew_when_an_operator_closes_it(
    servers: LocalServers, queue: Queue
) -> None:
    management = Management(servers.rabbitmq.management_url("agent"))
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        on.consumer()
        await on.link.start(10)
        closed = 0

        async def shown() -> bool:  # the broker does that after some seconds
            url = f"{servers.rabbitmq.management_url('operator')}/api/connections"
            _, body = await fetch(f"{url}?columns=user_provided_name")
            names = [entry.get("user_provided_name") for entry in msgspec.json.decode(body)]
            assert names.count(on.link.name) <= 1
            return on.link.name in names

        async def close() -> bool:
            nonlocal closed
            closed += (await management.close_connections([on.link.name])).count
            return closed > 0

        await wait_until(shown, 15)
        await wait_until(close)
        await wait_until(lambda: on.link.reconnects == 1 and on.link.is_up)
        await on.publish(range(10))
        await wait_until(lambda: set(on.bodies) == numbers(10))
        assert await depth(servers, queue) == (0, 1)


async def test_a_frozen_network_leaves_no_second_connection(
    servers: LocalServers, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "CLOSE_TIMEOUT", 0.2)
    async with (
        FlakyNetwork(servers.rabbitmq.url("agent")) as network,
        bench(network.url, queue) as on,
    ):
        on.consumer()
        await on.link.start(10)
        network.freeze()
        publishing = on.publishing(range(5))
        on.link.suspect()
        await wait_until(lambda: network.accepted == 2)
        network.thaw()
        await done(publishing)
        await wait_until(lambda: network.open == 1)
        await wait_until(lambda: set(on.bodies) == numbers(5))
        before = on.link.reconnects
        await on.publish(range(5, 10))
        assert (on.link.reconnects, on.link.is_up) == (before, True)
        assert await depth(servers, queue) == (0, 1)


async def test_a_queue_that_is_deleted_is_declared_and_consumed_again(
    servers: LocalServers, queue: Queue
) -> None:
    async with bench(servers.rabbitmq.url("agent"), queue) as on:
        on.consumer()
        await on.link.start(10)
        before = channel_of(on.consumers[0])
        async with connected(servers.rabbitmq.url("agent")) as connection:
            await (await connection.channel()).queue_delete(queue.name)
        await wait_until(lambda: on.stands and channel_of(on.consumers[0]) is not before)
        await on.publish(range(3))
        await wait_until(lambda: set(on.bodies) == numbers(3))
        assert on.link.reconnects == 0, "one queue costs the others nothing"


async def test_closing_a_link_releases_who_waits_for_it(queue: Queue) -> None:
    on = Bench("amqp://nobody:x@127.0.0.1:1/dev", queue)
    waiting = on.publishing(range(1))
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1/dev"):
        await on.link.start(0.3)
    with pytest.raises(BrokerUnavailable, match="closed"):
        await done(waiting)
    assert not on.link.is_up
    with pytest.raises(BrokerUnavailable):
        await on.publisher.publish(on.message(2), timeout=1)


@asynccontextmanager
async def on_a_frozen_network(
    servers: LocalServers, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[FlakyNetwork, Bench]]:
    """A link that is up, over a network that carries nothing any more until the end."""
    monkeypatch.setattr(supervision, "CLOSE_TIMEOUT", 0.2)
    async with (
        FlakyNetwork(servers.rabbitmq.url("agent")) as network,
        bench(network.url, queue) as on,
    ):
        await on.link.start(10)
        network.freeze()
        try:
            yield network, on
        finally:
            network.thaw()


async def test_closing_a_link_fails_the_publishes_under_way_also_when_the_broker_is_silent(
    servers: LocalServers, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with on_a_frozen_network(servers, queue, monkeypatch) as (_, on):
        publishing = [on.publishing(range(n, n + 1)) for n in range(20)]
        await asyncio.sleep(0)
        await on.link.close()
        await asyncio.wait(publishing)
        assert Counter(type(one.exception()) for one in publishing) == {BrokerUnavailable: 20}


async def test_a_link_is_closed_also_when_the_broker_does_not_read_what_was_sent_before(
    servers: LocalServers, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with on_a_frozen_network(servers, queue, monkeypatch) as (network, on):
        large = replace(on.message(0), body=bytes(MORE_THAN_BUFFERS))
        publishing = asyncio.create_task(on.publisher.publish(large))
        await wait_until(lambda: network.held > 0)
        async with asyncio.timeout(10):
            await on.link.close()
        with pytest.raises(BrokerUnavailable):
            await publishing


async def test_a_wrong_password_is_said_at_once_however_patient_the_start_is(
    servers: LocalServers, queue: Queue
) -> None:
    parts = servers.rabbitmq.url("agent").rpartition("@")
    on = Bench(f"amqp://agent:wrong@{parts[2]}", queue)
    with pytest.raises(BrokerUnavailable, match=r"(?i)refused|login|auth"):
        await on.link.start()


async def test_a_broker_that_grants_too_few_channels_is_told_with_both_numbers(
    servers: LocalServers, queue: Queue
) -> None:
    broker = Installed(servers.rabbitmq)
    usual = await broker.control("eval", "{ok, N} = application:get_env(rabbit, channel_max), N.")
    try:
        await broker.control("eval", "application:set_env(rabbit, channel_max, 8).")
        async with bench(servers.rabbitmq.url("agent"), queue) as on:
            for _ in range(4):
                on.consumer()
            with pytest.raises(
                TooFewChannels, match=r"have 8 channels .* needs 9: one for each of"
            ):
                await on.link.start(None)
    finally:
        await broker.control("eval", f"application:set_env(rabbit, channel_max, {usual}).")
