"""Where a channel has not published yet, a message goes first on a channel of its own.

The broker here is as RabbitMQ 3.10 was measured to be: the first publish of a channel to a queue
without a leader stops that channel, and no other, until there is one.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from channels import until_idle
from maniple.amqp import FirstPublishes, Outgoing, Publisher
from maniple.amqp.first_publish import KEPT, MOST, MOST_KNOWN, SOON, SPARE
from maniple.amqp.publisher import LOST_AFTER
from maniple.amqp.wire.amqp_errors import PublishFailed, PublishImpossible, PublishReturned
from maniple.errors import PublishRefused
from maniple.timings import Amqp

TIMES = Amqp(confirm=3.0, answer=2.0)
IMPOSSIBLE = "no name in AMQP"
HOT = 1  # the number of the channel that is opened first


class Broker:
    """Queues of which the `silent` have no leader, the `full` refuse, and the `absent` are none.

    What the `unconfirming` take they do not confirm.
    """

    def __init__(self) -> None:
        self.channel_max = 2047
        self.silent: set[str] = set()
        self.unconfirming: set[str] = set()
        self.full: set[str] = set()
        self.absent: set[str] = set()
        self.answered = asyncio.Condition()
        self.opened = 0
        self.open: set[Channel] = set()
        self.taken: list[tuple[str, int, str]] = []  # queue, channel, message
        self.sent: list[tuple[str, int, str]] = []

    async def channel(self, **options: bool) -> "Channel":
        assert options == {"publisher_confirms": True}
        await asyncio.sleep(0)
        self.opened += 1
        channel = Channel(self, self.opened)
        self.open.add(channel)
        return channel

    async def answers(self, *queues: str) -> None:
        """Have leaders again."""
        self.silent -= set(queues)
        async with self.answered:
            self.answered.notify_all()
        await until_idle()

    async def leader_of(self, queue: str) -> None:
        async with self.answered:
            await self.answered.wait_for(lambda: queue not in self.silent)

    def messages(self, queue: str) -> list[str]:
        return [message for at, _, message in self.taken if at == queue]


class Channel:
    """One that stands while it is registered with a leader."""

    def __init__(self, broker: Broker, number: int) -> None:
        self.broker = broker
        self.number = number
        self.is_closed = False
        self._turn = asyncio.Lock()
        self._registered: set[str] = set()

    async def wait_writable(self) -> None: ...

    def publish(self, body: bytes, *, routing_key: str, **_: Any) -> asyncio.Future[None]:
        if routing_key == IMPOSSIBLE:
            raise PublishImpossible
        return asyncio.ensure_future(self._publish(body, routing_key))

    async def _publish(self, body: bytes, routing_key: str) -> None:
        at = routing_key, self.number, body.decode()
        self.broker.sent.append(at)
        async with self._turn:
            if routing_key not in self._registered:
                await self.broker.leader_of(routing_key)
                self._registered.add(routing_key)
        await self.broker.leader_of(routing_key)
        if routing_key in self.broker.unconfirming:
            await asyncio.Event().wait()
        if routing_key in self.broker.absent:
            raise PublishReturned
        if routing_key in self.broker.full:
            raise PublishFailed
        self.broker.taken.append(at)

    async def basic_qos(self, **_: int) -> None:
        async with self._turn:
            pass

    async def close(self) -> None:
        self.is_closed = True
        self.broker.open.discard(self)


class On:
    """A publisher on a connection, whose seconds a test lets pass."""

    def __init__(self, broker: Broker, *, scouts: bool, max_losses: int | None = None) -> None:
        self.broker = broker
        link: Any = SimpleNamespace(
            times=TIMES, add_endpoint=lambda *_: None, wait_up=self._up, suspect=lambda: None
        )
        made = FirstPublishes() if scouts else None
        self.publisher = Publisher(link, max_losses=max_losses, scouts=made)
        self.results: dict[str, asyncio.Task[None]] = {}

    async def _up(self) -> None: ...

    async def connect(self) -> None:
        await self.publisher.open(self.broker)  # type: ignore[arg-type]  # a fake

    async def lose(self) -> None:
        """Lose the connection; it stands again at once."""
        self.publisher.lost()
        self.broker.open.clear()
        await self.connect()
        await until_idle()

    async def send(self, queue: str, *messages: str) -> None:
        for one in messages:
            message = Outgoing("", queue, one.encode(), message_id=one, type="t")
            self.results[one] = asyncio.create_task(self.publisher.publish(message))
        await until_idle()

    async def passes(self, seconds: int) -> list[bool]:
        told = []
        for _ in range(seconds):
            told.append(self.publisher.overdue())
            await until_idle()
        return told

    def confirmed(self, message: str) -> bool:
        task = self.results[message]
        return task.done() and not task.cancelled() and task.exception() is None


@asynccontextmanager
async def publishing(
    broker: Broker | None = None, *, scouts: bool = True, max_losses: int | None = None
) -> AsyncIterator[On]:
    on = On(broker or Broker(), scouts=scouts, max_losses=max_losses)
    await on.connect()
    try:
        yield on
    finally:
        on.publisher.lost()
        for task in on.results.values():
            task.cancel()
        await asyncio.gather(*on.results.values(), return_exceptions=True)


@pytest.mark.parametrize("scouts", [True, False])
async def test_a_queue_without_a_leader_costs_the_others_nothing(scouts: bool) -> None:
    """Without scouts it does: so the broker here is one that shows it."""
    async with publishing(scouts=scouts) as on:
        await on.send("well", "w1")
        on.broker.silent.add("stuck")
        await on.send("stuck", "s1", "s2")
        await on.send("well", "w2")
        await on.send("new", "n1")
        others = [on.confirmed(one) for one in ("w2", "n1")]
        assert others == [scouts, scouts]
        assert not any(on.confirmed(one) for one in ("s1", "s2"))
        await on.broker.answers("stuck")
        assert all(on.confirmed(one) for one in on.results)


async def test_what_goes_first_is_a_message_and_the_others_follow_when_it_is_answered() -> None:
    async with publishing() as on:
        on.broker.silent.add("stuck")
        await on.send("stuck", *"abc")
        assert [message for _, _, message in on.broker.sent] == ["a"]
        await on.broker.answers("stuck")
        assert on.broker.messages("stuck") == ["a", "b", "c"]
        assert [number == HOT for _, number, _ in on.broker.taken] == [False, True, True]
        await on.send("stuck", "d")
        assert on.broker.taken[-1] == ("stuck", HOT, "d")


async def test_an_answer_counts_for_what_waits_for_it_and_no_longer() -> None:
    """A moment later the leader may be gone, and the channel itself is not known there."""
    async with publishing() as on:
        for number in range(3):
            await on.send("quiet", str(number))
        assert HOT not in {number for _, number, _ in on.broker.sent}
        on.broker.silent.add("quiet")
        await on.send("quiet", "a", "b")
        await on.send("well", "w1", "w2")
        assert on.confirmed("w2")
        await on.broker.answers("quiet")
        await on.passes(100)
        await on.send("quiet", "c")
        assert [at for at in on.broker.taken if at[1] == HOT and at[0] == "quiet"] == [
            ("quiet", HOT, "b"),
            ("quiet", HOT, "c"),
        ]


async def test_where_something_is_not_confirmed_one_message_waits_by_a_channel_that_stands() -> (
    None
):
    """However often it is tried: 32 of one channel would stop it."""
    async with publishing() as on:
        await on.send("queue", "first", "second", "third")
        on.broker.silent.add("queue")
        await on.send("queue", "late")
        before = len(on.broker.sent)
        for number in range(100):
            await on.passes(TIMES.ticks(TIMES.answer) + 1)
            await on.send("queue", f"probe {number}")
            on.results[f"probe {number - 1}"].cancel() if number else None
            await on.send("well", f"well {number}")
            assert on.confirmed(f"well {number}")
        to_it = [one for one in on.broker.sent[before:] if one[0] == "queue"]
        # The first goes by a channel that knows the queue, and goes on: its answer might be lost.
        assert [message for *_, message in to_it] == ["probe 0", "probe 10"]
        assert len(on.broker.open) <= 3
        await on.broker.answers("queue")
        await on.send("queue", "after")
        assert on.broker.messages("queue")[-4:] == ["late", "probe 10", "probe 99", "after"]


async def test_a_scout_that_nobody_waits_for_tells_all_the_same_and_is_sent_once() -> None:
    async with publishing() as on:
        on.broker.silent.add("stuck")
        await on.send("stuck", "1")
        on.results["1"].cancel()
        await until_idle()
        await on.send("stuck", "2")
        assert len(on.broker.sent) == 1
        await on.broker.answers("stuck")
        assert on.broker.taken[-2:] == [("stuck", 2, "1"), ("stuck", HOT, "2")]


async def test_where_the_answer_was_lost_of_a_scout_that_nobody_waits_for_another_may_go() -> None:
    async with publishing() as on:
        await on.send("well", "w1", "w2")
        on.broker.unconfirming.add("odd")
        on.broker.silent.add("stuck")
        await on.send("odd", "1")
        await on.send("stuck", "s1")
        for one in ("1", "s1"):
            on.results[one].cancel()
        await on.send("odd", "2")
        await on.send("stuck", "s2")
        on.broker.unconfirming.clear()
        await on.passes(LOST_AFTER * TIMES.ticks(TIMES.confirm))
        assert not on.confirmed("2")
        await on.passes(2)
        assert on.confirmed("2")
        assert on.broker.messages("odd") == ["2"]
        assert len(on.broker.open) == 1 + 2  # of which one goes on to wait at the queue that stands
        await on.broker.answers("stuck")
        assert on.confirmed("s2")
        assert on.broker.messages("stuck") == ["s1", "s2"]


async def test_over_a_new_connection_nothing_is_known_and_what_waited_is_sent_again() -> None:
    async with publishing(max_losses=1) as on:
        on.broker.silent.add("stuck")
        await on.send("well", "w1", "w2")
        await on.send("stuck", "s1", "s2")
        await on.lose()
        assert isinstance(on.results["s1"].exception(), PublishRefused)
        assert not on.results["s2"].done()  # what was never sent has cost no connection
        await on.broker.answers("stuck")
        assert on.confirmed("s2")
        before = len(on.broker.sent)
        await on.send("well", "w3")
        ((_, number, _),) = on.broker.sent[before:]
        assert number not in (HOT, 2)


async def test_so_many_silent_queues_take_so_many_channels_and_the_next_one_its_turn() -> None:
    async with publishing() as on:
        await on.send("well", "w1", "w2")
        stuck = [f"stuck {number}" for number in range(MOST)]
        on.broker.silent.update(stuck)
        for queue in stuck:
            await on.send(queue, queue)
        await on.send("new", "n1", "n2")
        assert not on.confirmed("n1")
        assert len(on.broker.open) == MOST + 1
        on.results["n1"].cancel()  # which was not sent, and will not be
        await until_idle()
        await on.send("well", "w3")
        assert on.confirmed("w3")
        await on.broker.answers(stuck[7])
        assert on.confirmed("n2")
        assert on.broker.messages("new") == ["n2"]
        await on.broker.answers(*stuck)
        assert all(on.confirmed(queue) for queue in stuck)
        assert len(on.broker.open) <= KEPT + 1


async def test_there_are_no_more_of_them_than_the_broker_lets_a_connection_have() -> None:
    broker = Broker()
    broker.channel_max = SPARE + 3
    async with publishing(broker) as on:
        broker.silent |= {str(number) for number in range(10)}
        for number in range(10):
            await on.send(str(number), str(number))
        assert len(broker.open) == 1 + 3


async def test_a_queue_that_is_full_is_known_and_one_that_is_not_there_is_not() -> None:
    async with publishing() as on:
        on.broker.full, on.broker.absent = {"full"}, {"absent"}
        await on.send("full", "f1", "f2")
        await on.send("absent", "a1", "a2")
        for one in on.results.values():
            assert isinstance(one.exception(), PublishRefused)
        assert [at[:2] for at in on.broker.sent if at[1] == HOT] == [("full", HOT)]


async def test_a_refusal_that_comes_late_may_be_for_want_of_a_leader() -> None:
    async with publishing() as on:
        on.broker.silent, on.broker.full = {"full"}, {"full"}
        await on.send("full", "1")
        await on.passes(SOON + 1)
        await on.broker.answers("full")
        assert isinstance(on.results["1"].exception(), PublishRefused)
        await on.send("full", "2")
        assert HOT not in {number for _, number, _ in on.broker.sent}
        assert len({number for _, number, _ in on.broker.sent}) == 2  # nor is it tried there again


async def test_a_silent_queue_is_no_reason_to_take_the_channel_for_dead() -> None:
    async with publishing() as on:
        on.broker.silent.add("stuck")
        await on.send("stuck", "1", "2")
        assert not any(await on.passes(LOST_AFTER * TIMES.ticks(TIMES.confirm)))


async def test_what_is_known_of_names_from_outside_is_bounded() -> None:
    scouts = FirstPublishes()
    for number in range(3 * MOST_KNOWN):
        scouts.learn(("", str(number)))
        assert scouts.knows(("", str(number)))
    assert len(scouts._known) <= MOST_KNOWN


async def test_a_message_that_cannot_be_sent_makes_no_place_known_and_no_channel_alive() -> None:
    on = On(Broker(), scouts=True)
    await on.connect()
    await on.send(IMPOSSIBLE, "one")
    with pytest.raises(PublishRefused):
        await on.results["one"]
    scouts = on.publisher._scouts
    assert scouts is not None
    assert not scouts.knows(("", IMPOSSIBLE))
    assert on.broker.sent == []
