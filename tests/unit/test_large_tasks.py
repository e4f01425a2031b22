"""What dispatchers and agents hold of large tasks while the broker takes nothing (an alarm)."""

import asyncio
from typing import Any

import pytest
from msgspec import Raw

from channels import until_idle
from ingress_with_fakes import Ingress
from maniple.amqp import ByteBudget, Consumer, byte_budget, consumer
from maniple.amqp.byte_budget import MOST_TASKS
from maniple.clock import Clock
from maniple.codec import decode_envelopes
from maniple.messages import Envelope
from maniple_agent.fair_queue import most_of
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.ingress.arrival import Redelivery
from maniple_dispatcher.tracing import DispatchTracing
from maniple_policies import Resolved
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.tracing import NO_TRACER
from permits import bulkhead_counts
from sending_queue import SendingQueue
from work_with_fakes import NOW, OK, Agent, Delivery, FakePublisher, envelope

# A sixteenth of what it is about: 400 tasks of 1 MB, a budget of 32 MiB, messages of 256 KiB.
SCALE = 16
MB, MIB = 1_000_000 // SCALE, 1024**2 // SCALE
TASKS = 400
UNLIMITED = 10**12


class Dispatcher(Ingress):
    """A dispatcher's way from its queue to its lanes."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.broker = FakePublisher()
        results = ResultPublisher(self.broker, Metrics(), replier=self.broker)
        traces = DispatchTracing(NO_TRACER, lambda: NOW, ratio=0.0)
        self.lanes = LanePublisher(
            self.broker,
            results,
            Metrics(),
            Clock(now=lambda: NOW),
            assignment=Assignment(),
            traces=traces,
            bulkheads=bulkhead_counts(),
        )
        self.queue = SendingQueue()
        self.budget = ByteBudget(limit, staged=True)
        self.most = 0
        self.on = Consumer("q", self.submissions.on_submission, prefetch=256, budget=self.budget)

    def onward(
        self, envelope: Envelope, _: Resolved, source: Settlement, before: Redelivery
    ) -> None:
        super().onward(envelope, _, Settlement(_Nothing, 1), before)
        self.lanes.send_task(envelope, source)

    async def open(self) -> None:
        connection: Any = self.queue
        self.working = asyncio.create_task(self.long.work_in_slices())
        await self.on.open(connection)

    async def turn(self, times: int = 1) -> None:
        for _ in range(times):
            await until_idle()
            copies = sum(way.kept for way in self.lanes._bundles.publishers.values())
            self.most = max(self.most, self.budget.held + copies)
            self.budget.rebalance()

    async def pass_on(self, payload: int, tasks: int) -> None:
        """Have so many tasks pass, and be quiet again."""
        await self.queue.publish(*[_task(payload)] * tasks)
        await self.end()
        self.most = 0

    async def end(self) -> None:
        while self.queue.unacked or self.queue.ready:
            await self.turn()
            await self.lanes.drain_lanes()
        await until_idle()

    def dispatched(self) -> list[str]:
        sent = self.broker.to("maniple.lanes")
        return [one.id for message in sent for one in decode_envelopes(message.body)]


_Nothing: Any = type("Nothing", (), {"ack": lambda _: None})()


def _task(size: int) -> bytes:
    return b'{"capability": "text.stats", "payload": "%s"}' % (b"x" * size)


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "QUIET", 0.0)
    monkeypatch.setattr(byte_budget, "ASSUMED", byte_budget.ASSUMED // SCALE)
    monkeypatch.setattr(byte_budget, "TASK_BYTES", byte_budget.TASK_BYTES // SCALE)


async def alarmed(limit: int, *before: tuple[int, int]) -> Dispatcher:
    """Have a dispatcher find 400 tasks of 1 MB while the broker takes nothing, then go on."""
    on = Dispatcher(limit)
    await on.open()
    for payload, tasks in before:
        await on.pass_on(payload, tasks)
    passed = len(on.dispatched())
    on.broker.up.clear()
    await on.queue.publish(*[_task(MB)] * TASKS)
    await on.turn(20)
    assert len(on.dispatched()) == passed
    on.broker.up.set()
    await on.end()
    ids = on.dispatched()
    assert len(ids) == len(set(ids)) == passed + TASKS  # none is lost, none comes twice
    assert (on.budget.held, on.budget.in_hand) == (0, 0)
    return on


@pytest.mark.parametrize(
    ("before", "most"),
    [
        ((), 160),  # 128 are on their way before their size is known, 32 MiB of them have copies
        (((100, 50),), 160),
        (((MB, 50),), 64),
        (((100, 1500),), 290),  # its whole prefetch was in use
    ],
)
async def test_a_dispatcher_holds_no_more_than_its_budget_and_what_was_on_its_way(
    scaled: None, before: tuple[tuple[int, int], ...], most: int
) -> None:
    del scaled
    on = await alarmed(32 * MIB, *before)
    assert on.most <= most * MIB


async def test_without_a_budget_it_holds_all_that_its_prefetch_allows_and_copies(
    scaled: None,
) -> None:
    del scaled
    on = await alarmed(UNLIMITED)
    assert on.most > 480 * MIB  # else the test above could not fail


async def test_a_dispatcher_works_on_no_more_arrays_than_their_tasks_have_room(
    scaled: None,
) -> None:
    del scaled
    on = Dispatcher(32 * MIB)
    await on.open()
    on.broker.up.clear()
    await on.queue.publish(*[b"[%s]" % b",".join([_task(1)] * 1000)] * 20)
    await on.turn(5)
    # A quarter of what there is room for: the rest is for what is shorter.
    assert MOST_TASKS * byte_budget.TASK_BYTES <= on.budget.in_hand <= 8 * MIB
    assert len(on.admitted) <= MOST_TASKS
    await on.queue.publish(_task(1))
    await on.turn()
    assert "m21" in on.admitted  # it did not wait for them
    on.broker.up.set()
    await on.end()
    assert len(on.dispatched()) == 20_001


def large(name: str, size: int = MB) -> Envelope:
    return envelope(name, payload=Raw(b'"%s"' % (b"x" * size)))


async def test_an_agent_runs_no_more_payloads_than_it_may_hold() -> None:
    agent = Agent(most_bytes=4 * MB)
    await agent.take(Delivery(*[large(str(n)) for n in range(9)]))
    assert agent.executor.ids == ["0", "1", "2", "3"]
    await agent.finish("1")
    assert agent.executor.ids == ["0", "2", "3", "4"]
    for name in "02345678":
        await agent.finish(name)
    assert len(agent.results()) == 9


async def test_a_payload_larger_than_what_an_agent_may_hold_runs_alone() -> None:
    agent = Agent(most_bytes=MB)
    await agent.take(Delivery(large("0", 3 * MB), large("1", 3 * MB)))
    assert agent.executor.ids == ["0"]
    await agent.finish("0")
    assert agent.executor.ids == ["1"]


async def test_an_agent_begins_nothing_while_results_wait_for_the_broker() -> None:
    agent = Agent(most_bytes=4 * MB)
    bundle = Delivery(*[envelope(str(n)) for n in range(300)])
    agent.publisher.up.clear()
    await agent.take(bundle)
    for name in range(5):
        await agent.finish(str(name), type(OK)(b'"%s"' % (b"x" * MB)))
    # Three came after the first three, and no more.
    assert len(agent.executor.jobs) == most_of(100) - 2
    agent.publisher.up.set()
    await agent.settle()
    agent.work.slots_free()
    await agent.settle()
    assert len(agent.executor.jobs) == most_of(100)
