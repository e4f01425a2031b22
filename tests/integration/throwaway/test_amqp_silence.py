"""Links whose broker says nothing: cut off in silence, blocked by an alarm, or only quiet."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

import faults
from flaky_network import FlakyNetwork
from link_bench import bench, depth, done, new_queue, numbers
from local_servers import LocalServers
from maniple.amqp import AmqpConnection, liveness
from maniple.timings import Amqp
from maniple.topology import Queue
from needs import CONSUL, RABBITMQ, need
from system.brokers import NativeBroker
from waiting import wait_until

HEARTBEAT_BYTES = 8


class Ticks:
    """Counts how often links have looked at their broker: the seconds that count for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._counts: Counter[int] = Counter()
        tick = liveness.Liveness.tick

        async def counted(self_: liveness.Liveness) -> bool:
            self._counts[id(self_._wire)] += 1
            return await tick(self_)

        monkeypatch.setattr(liveness.Liveness, "tick", counted)

    def of(self, link: AmqpConnection) -> Callable[[], int]:
        """Return what tells how many there have been on the link's present connection."""
        wire = link._wire
        return lambda: self._counts[id(wire)]

    def have_been(self, link: AmqpConnection, count: int) -> Callable[[], bool]:
        """Return a condition: so many more than now."""
        so_far = self.of(link)
        wanted = so_far() + count
        return lambda: so_far() >= wanted


@pytest.fixture
def queue() -> Queue:
    return new_queue()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NativeBroker]:
    """A broker that the test may raise alarms on."""
    made = NativeBroker(Path(tmp_path_factory.mktemp("broker")))
    need(RABBITMQ, CONSUL)
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
        on.consumer()
        await asyncio.gather(on.link.start(10), quiet.link.start(10))
        network.freeze()
        publishing = on.publishing(range(50))
        await wait_until(lambda: not on.link.is_up, 1.5 * Amqp().silent)
        assert "silent" in str(on.link.last_error)
        network.thaw()
        await done(publishing)
        await wait_until(lambda: set(on.bodies) == numbers(50))
        assert await depth(servers, queue) == (0, 1)
        assert quiet.link.reconnects == 0


async def test_the_broker_hears_at_each_tick_of_a_quiet_link_that_holds_tasks(
    servers: LocalServers, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    times, ticks = (
        Amqp(heartbeat=60, tick=0.1),
        Ticks(monkeypatch),
    )  # those in their turn are rare then
    async with (
        FlakyNetwork(servers.rabbitmq.url("agent")) as network,
        bench(network.url, queue, times) as on,
    ):
        await on.link.start(10)
        before = network.said
        await wait_until(ticks.have_been(on.link, 20))
        assert network.said - before >= 18 * HEARTBEAT_BYTES  # one may be on its way


async def test_what_a_cut_off_link_holds_is_given_to_others_after_it_knows_that_it_is_cut_off(
    servers: LocalServers, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what each side counts from: the order alone would depend on when the link is cut."""
    times, ticks = Amqp(), Ticks(monkeypatch)
    async with (
        FlakyNetwork(servers.rabbitmq.url("agent")) as network,
        bench(network.url, queue) as on,
        bench(servers.rabbitmq.url("agent"), queue) as other,
    ):
        on.handle = lambda _delivery: None
        on.consumer()
        await on.link.start(10)
        await on.publish(range(1))
        await wait_until(lambda: on.bodies == [b"0"])
        other.consumer()
        await other.link.start(10)
        looked = ticks.of(on.link)
        network.freeze()
        before, last_word = looked(), network.said_at
        await wait_until(lambda: bool(other.received) or not on.link.is_up, 20)
        assert (on.link.is_up, other.received) == (False, [])
        assert looked() - before <= times.ticks(times.silent) + 1
        await wait_until(lambda: other.bodies == [b"0"], 20)
        assert time.monotonic() - last_word > 2 * times.heartbeat
        network.thaw()


async def test_a_connection_that_only_the_client_has_lost_is_replaced(
    servers: LocalServers, queue: Queue
) -> None:
    async with (
        FlakyNetwork(servers.rabbitmq.url("agent")) as network,
        bench(network.url, queue) as on,
    ):
        await on.link.start(10)
        network.sever()
        await done(on.publishing(range(5)))
        assert on.link.reconnects == 1


async def test_a_process_that_was_stopped_does_not_take_that_for_the_brokers_silence(
    servers: LocalServers, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = Amqp(tick=0.1, silence=0.6)  # of 5 s; the broker's own heartbeats come within 2.5 s
    ticks = Ticks(monkeypatch)
    async with bench(servers.rabbitmq.url("agent"), queue, times) as on:
        on.consumer()
        await on.link.start(10)
        time.sleep(times.silent + times.tick)  # noqa: ASYNC251 - the loop is to stand still
        await on.publish(range(5))
        await wait_until(ticks.have_been(on.link, 2))
        assert on.link.reconnects == 0


async def test_a_connection_that_an_alarm_blocks_is_left_alone_and_nothing_is_sent_twice(
    broker: NativeBroker, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    times, ticks = Amqp(confirm=2.0), Ticks(monkeypatch)
    async with bench(broker.url("agent"), queue, times) as on:
        on.consumer()
        await on.link.start(10)
        async with faults.memory_alarm(broker):
            publishing = on.publishing(range(500))
            await wait_until(lambda: on.link.blocked)
            # Longer than a silence or a confirm may last otherwise.
            await wait_until(
                ticks.have_been(on.link, times.ticks(times.silent) + 2), 2 * times.silent
            )
            assert (on.link.is_up, publishing.done()) == (True, False)
        await done(publishing)
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
        publishing = on.publishing(range(3))
        await wait_until(lambda: not on.link.is_up)
        assert "never confirmed" in str(on.link.last_error)
        network.thaw()
        await done(publishing)
