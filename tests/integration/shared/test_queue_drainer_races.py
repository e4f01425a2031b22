"""Dispatchers that empty the queue of an agent, on a real broker, when the agent comes back."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from link_bench import is_left
from local_servers import LocalServers
from maniple.amqp import (
    AmqpConnection,
    Connection,
    Consumer,
    Delivery,
    Outgoing,
    Publisher,
    declare,
)
from maniple.amqp.delivery import UnsettledDeliveries
from maniple.clock import SYSTEM_CLOCK
from maniple.codec import encode
from maniple.identifiers import new_id
from maniple.messages import ENVELOPES_TYPE, Envelope
from maniple.topology import AGENTS, agent_queue
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.affinity.queue_drainer import QueueDrainer
from maniple_runtime.publish.confirm import Settlement
from waiting import wait_until

LANE = "cart.add"
# Between two tasks of a dispatcher: often enough that one is always under way, and seldom enough
# that no consumer has its prefetch used up.
PERIOD = 0.01
ROUNDS = 8


class Dispatcher:
    """What of a dispatcher moves tasks, and a stream of tasks of one affinity key."""

    def __init__(self, link: AmqpConnection, publisher: Publisher) -> None:
        self._publisher = publisher
        self.assignment = Assignment()
        nothing: Any = None
        around: Any = SimpleNamespace(
            spawn=self._spawn, log=structlog.get_logger(), clock=SYSTEM_CLOCK
        )
        lanes: Any = self
        traces: Any = self
        self.moves = QueueDrainer(
            around,
            link,
            lanes,
            self.assignment,
            nothing,
            quiet=30.0,
            clock=lambda: datetime.now(UTC),
            traces=traces,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self.has_moved: set[str] = set()

    def _spawn(self, work: Coroutine[Any, Any, None], _: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def ends(self, *_: object) -> bool:
        return False

    def moved(self, envelope: Envelope, *, lost: bool) -> Envelope:  # noqa: ARG002 - as `Traces`
        self.has_moved.add(envelope.id)
        return envelope

    def send_task(self, envelope: Envelope, source: Settlement, *, alone: bool) -> None:  # noqa: ARG002 - as `Lanes`
        self._spawn(self._send(envelope, source), "")

    async def _send(self, envelope: Envelope, source: Settlement) -> None:
        await self.publish(envelope)
        source.settle()

    async def publish(self, envelope: Envelope) -> str | None:
        """Send a task to the agent that is chosen, or else to nobody: the lane of all."""
        agent = self.assignment.choose(envelope)
        if agent is not None:
            await self.give(agent, envelope)
        return agent

    async def give(self, agent: str, envelope: Envelope) -> None:
        body = encode([envelope])
        await self._publisher.publish(Outgoing(AGENTS.name, agent, body, new_id(), ENVELOPES_TYPE))

    async def submit(self) -> None:
        """Publish tasks until cancelled."""
        while True:
            await self.publish(task())
            await asyncio.sleep(PERIOD)


def task() -> Envelope:
    now = datetime.now(UTC)
    return Envelope(
        id=new_id(),
        capability=LANE,
        lane=LANE,
        affinity="key",
        submitted_at=now,
        deadline=now + timedelta(hours=1),
    )


def incarnation(life: int) -> str:
    return f"{life:04}"  # they sort by age


@asynccontextmanager
async def dispatcher(servers: LocalServers) -> AsyncIterator[Dispatcher]:
    link = AmqpConnection(servers.rabbitmq.url("dispatcher"), name=f"dispatcher-{new_id()}")
    made = Dispatcher(link, Publisher(link))
    await link.start(10)
    submitting = asyncio.create_task(made.submit())
    try:
        yield made
    finally:
        submitting.cancel()
        await asyncio.gather(submitting, return_exceptions=True)
        await made.moves.stop_draining()
        await link.close()


@pytest.fixture
def rejected(monkeypatch: pytest.MonkeyPatch) -> list[Delivery]:
    """What a consumer refused, so that the broker dead-lettered it."""
    noted: list[Delivery] = []
    reject = UnsettledDeliveries.reject

    def note(deliveries: UnsettledDeliveries, delivery: Delivery) -> None:
        noted.append(delivery)
        reject(deliveries, delivery)

    monkeypatch.setattr(UnsettledDeliveries, "reject", note)
    return noted


async def test_what_is_sent_to_an_agent_that_is_back_is_not_taken_for_lost(
    servers: LocalServers, rejected: list[Delivery]
) -> None:
    name = f"agent-{new_id()}"
    queue = agent_queue(name)
    taken: list[Delivery] = []

    async def prepare(connection: Connection) -> None:
        await declare(connection, exchanges=(AGENTS,), queues=(queue,))

    def take(delivery: Delivery) -> None:
        taken.append(delivery)
        delivery.ack()

    async with AsyncExitStack() as stack:
        keeper = AmqpConnection(servers.rabbitmq.url("agent"), name=f"{name}.0", prepare=prepare)
        await keeper.start(10)
        stack.push_async_callback(keeper.close)
        both = [await stack.enter_async_context(dispatcher(servers)) for _ in range(2)]
        for life in range(1, ROUNDS + 1):
            for one in both:
                one.assignment.gone(name, incarnation(life - 1))
                one.moves.begin_draining(name)
            late = task()
            await both[0].give(name, late)  # as one that has not heard yet
            await wait_until(lambda late=late: any(late.id in one.has_moved for one in both), 20)  # type: ignore[misc]
            await wait_until(lambda: is_left(servers, queue, consumers=2), 20)
            agent = AmqpConnection(servers.rabbitmq.url("agent"), name=f"{name}.{life}")
            consumer = Consumer(queue.name, take, prefetch=20)
            agent.consume(consumer)
            await agent.start(10)
            for one in both:
                one.assignment.registered(name, incarnation(life), frozenset({LANE}))
            seen = len(taken)
            await wait_until(lambda: all(one.assignment.choose(task()) == name for one in both), 30)
            await wait_until(lambda seen=seen: len(taken) > seen + 20, 20)  # type: ignore[misc]
            for one in both:
                one.assignment.draining(name, incarnation(life))
            await wait_until(lambda: is_left(servers, queue, consumers=1), 20)
            await consumer.settle_delivery()
            await agent.close()
        assert not [delivery for delivery in taken if delivery.redelivered]
        assert not rejected
