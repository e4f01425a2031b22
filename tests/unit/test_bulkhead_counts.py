"""Room in a bulkhead is given back once, by whoever knows that its task needs it no more."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from maniple.errors import BrokerUnavailable
from maniple.messages import Waiting
from maniple.topology import ADMITTED_KEY, RETRY_QUEUE, lane_key, lane_queues
from maniple_dispatcher.ingress.dead_letter_consumer import BROKER_KEY, DeadLetterConsumer
from maniple_dispatcher.ingress.long_messages import LongMessages
from maniple_dispatcher.limits.breaker import BreakerState
from maniple_dispatcher.limits.bulkhead_counts import BulkheadCounts
from maniple_dispatcher.limits.limit import ConcurrencyLimit, Limit
from maniple_dispatcher.limits.outstanding import UnqueuedTasks
from maniple_dispatcher.limits.waiting_line import Then
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.telemetry import Metrics
from pipeline_with_fakes import Kind, PipelineWithFakes
from work_with_fakes import NOW, Delivery, envelope

ROOM: Kind = ("bulkhead", {"max_in_flight": 1})
LIMIT: Kind = ("rate_limit", {"limit": 1, "period": 60})
BREAKER: Kind = ("circuit_breaker", {"consecutive": 3})
KEY, LANE = "bulkhead/p", "a.task@it"
YES, NO, NOBODY = (True, 0.0), (False, 1.0), (None, 1.0)


class FakeCoordinator:
    """In place of all dispatchers: knows how much room is taken."""

    def __init__(self) -> None:
        self.probes: tuple[bool | None, float] = YES
        self.taken: Counter[str] = Counter()
        self.owned = SimpleNamespace(breaker=lambda _: (BreakerState.HALF_OPEN, 0.0))
        self.unqueued = UnqueuedTasks()
        self.arrived = Mock()
        self.absent: list[str] = []

    def take_permit(self, _limit: Limit, _now: float) -> None: ...

    def await_permit(self, limit: Limit, then: Then, _now: float) -> None:
        if not isinstance(limit, ConcurrencyLimit):
            then(*self.probes)
            return
        self.taken[limit.key] += 1
        then(True, 0.0)

    def return_permit(self, limit: ConcurrencyLimit, _now: float) -> None:
        self.taken[limit.key] -= 1

    def found_no_lane(self, limit: ConcurrencyLimit, now: float) -> None:
        self.absent.append(limit.lane)
        self.return_permit(limit, now)


class CountingPipeline(PipelineWithFakes):
    """One that gives room in a bulkhead."""

    def __init__(self, *policies: Kind, monotonic: Callable[[], float] = monotonic) -> None:
        self.coordinator = FakeCoordinator()
        coordinator: Any = self.coordinator
        self.rooms = BulkheadCounts(coordinator, monotonic)
        super().__init__(policies, coordinator, counts=self.rooms, monotonic=monotonic)

    def admit(self, **fields: Any) -> Delivery:
        return self.bring(envelope("1", lane=LANE, **fields))

    async def comes(self, **fields: Any) -> None:
        self.admit(**fields)
        await self.drain()

    @property
    def taken(self) -> int:
        return int(self.coordinator.taken[KEY])


async def test_a_task_that_its_lane_took_has_room() -> None:
    pipeline = CountingPipeline(ROOM)
    await pipeline.comes()
    assert pipeline.taken == 1
    assert [task.bulkhead for task in pipeline.tasks("maniple.lanes")] == [KEY]


async def test_one_that_its_lane_refuses_has_none_until_it_comes_back() -> None:
    now = [100.0]
    pipeline = CountingPipeline(ROOM, monotonic=lambda: now[0])
    pipeline.publisher.full.add(LANE)
    await pipeline.comes()
    (waiting,) = pipeline.tasks("maniple.delay")
    assert (pipeline.taken, waiting.bulkhead) == (0, None)
    pipeline.publisher.full.clear()
    now[0] += 1.0
    pipeline.now += timedelta(seconds=1)
    await pipeline.bring_back(waiting)
    assert pipeline.taken == 1


@pytest.mark.parametrize(
    ("key", "lost", "absent"),
    [(LANE, 0, [LANE]), (LANE, 2, []), (lane_key(LANE, 2), 2, [])],
)
async def test_only_of_one_whose_lane_is_not_there_it_is_said_so(
    key: str, lost: int, absent: list[str]
) -> None:
    pipeline = CountingPipeline(ROOM)
    pipeline.publisher.absent.add(key)
    await pipeline.comes(lost=lost)
    assert pipeline.coordinator.absent == absent
    assert pipeline.taken == (0 if pipeline.tasks("maniple.delay") else 1)
    full = CountingPipeline(ROOM)
    full.publisher.full.add(LANE)
    await full.comes()
    assert (full.taken, full.coordinator.absent, full.coordinator.arrived.called) == (0, [], False)


async def test_one_that_its_lane_took_or_may_have_has_arrived() -> None:
    pipeline = CountingPipeline(ROOM)
    await pipeline.comes()
    assert pipeline.coordinator.arrived.call_args.args == (KEY, LANE)


async def test_what_goes_back_to_its_lane_is_not_counted_as_on_its_way_there() -> None:
    delivery, now = Delivery(), [100.0]
    pipeline = CountingPipeline(ROOM, monotonic=lambda: now[0])
    pipeline.coordinator.taken[KEY] = 5
    pipeline.publisher.absent.add(LANE)
    task = envelope("1", lane=LANE, bulkhead=KEY)
    pipeline.lanes.put_back(task, Settlement(delivery, 1), alone=False)  # type: ignore[arg-type]  # a fake
    await pipeline.drain()
    assert (pipeline.taken, pipeline.coordinator.absent) == (4, [])
    pipeline.publisher.up.clear()
    pipeline.publisher.absent.clear()
    now[0] += 1.0
    pipeline.admit()
    assert [pipeline.coordinator.unqueued.lasting() for _ in range(2)] == [{}, {KEY: 1}]
    pipeline.publisher.up.set()
    await pipeline.lanes.drain_lanes()


async def test_one_whose_agents_own_queue_refuses_it_keeps_its_room_for_the_lane() -> None:
    pipeline = CountingPipeline(ROOM)
    pipeline.assignment.registered("a1", "1", frozenset({LANE}))
    pipeline.publisher.full.add("a1")
    await pipeline.comes(affinity="k")
    assert [task.bulkhead for task in pipeline.tasks("maniple.lanes")] == [KEY]
    assert pipeline.taken == 1


FALLBACKS: list[Kind] = [
    ("fallback", {"value": "instead"}),
    ("fallback", {"capability": "another"}),
]


@pytest.mark.parametrize("fallback", [None, *FALLBACKS], ids=str)
@pytest.mark.parametrize("answer", [NO, NOBODY])
async def test_one_that_the_breaker_stops_gives_its_room_back_once(
    answer: Any, fallback: Kind | None
) -> None:
    pipeline = CountingPipeline(ROOM, BREAKER, *([fallback] if fallback else []))
    pipeline.coordinator.taken[KEY] = 5  # of others
    pipeline.coordinator.probes = answer
    await pipeline.comes()
    assert pipeline.taken == 5
    assert all(task.bulkhead is None for task in pipeline.tasks("maniple.delay"))


async def test_one_whose_time_is_over_when_its_lane_refuses_it_gives_its_room_back_once() -> None:
    pipeline = CountingPipeline(ROOM)
    pipeline.coordinator.taken[KEY] = 5
    pipeline.publisher.full.add(LANE)
    pipeline.admit()
    pipeline.now += timedelta(hours=2)
    await pipeline.lanes.drain_lanes()
    await pipeline.results.drain_results()
    assert (pipeline.taken, len(pipeline.publisher.to("maniple.results"))) == (5, 1)


async def test_of_one_that_its_lane_does_not_confirm_the_copy_has_no_room() -> None:
    now = [100.0]
    pipeline = CountingPipeline(ROOM, monotonic=lambda: now[0])
    pipeline.publisher.silent.add(LANE)
    pipeline.admit()
    now[0] += 10.0
    pipeline.lanes.redirect_overdue(taking=True)
    pipeline.publisher.freed.set()
    await pipeline.lanes.drain_lanes()
    (copy,) = pipeline.tasks("maniple.delay")
    assert (copy.bulkhead, copy.waited_for) == (None, Waiting.UNCONFIRMED)
    assert pipeline.taken == 1  # the lane has the other one


@pytest.mark.parametrize("late", [False, True])
async def test_what_waits_has_no_room_though_an_older_agent_names_it(*, late: bool) -> None:
    pipeline = CountingPipeline(ROOM)
    pipeline.coordinator.taken[KEY] = 5
    deadline = NOW - timedelta(seconds=1) if late else NOW + timedelta(hours=1)
    await pipeline.bring_back(envelope("1", bulkhead=KEY, attempt=2, deadline=deadline))
    assert pipeline.taken == (5 if late else 6)


async def test_room_that_a_task_had_under_a_policy_that_is_gone_is_not_named_any_more() -> None:
    pipeline = CountingPipeline()
    await pipeline.bring_back(envelope("1", bulkhead=KEY, attempt=2))
    assert [task.bulkhead for task in pipeline.tasks("maniple.lanes")] == [None]


@pytest.mark.parametrize(
    ("queue", "taken"), [(lane_queues(LANE)[0].name, 4), (RETRY_QUEUE.name, 5)]
)
async def test_what_the_broker_gives_up_in_a_lane_gives_its_room_back(
    queue: str, taken: int
) -> None:
    pipeline = CountingPipeline(ROOM)
    pipeline.coordinator.taken[KEY] = 5
    undeliverable = DeadLetterConsumer(
        pipeline.results,
        Metrics(),
        pipeline.clock,
        traces=pipeline.traces,
        long=LongMessages(monotonic),
        bulkheads=pipeline.rooms,
    )
    delivery = Delivery(envelope("1", bulkhead=KEY))
    delivery.routing_key, delivery.headers = BROKER_KEY + queue, {}
    delivery.properties = SimpleNamespace(
        **dict.fromkeys(
            ("message_id", "type", "message_type", "reply_to", "correlation_id", "timestamp")
        ),
        content_encoding=None,
    )
    undeliverable.on_dead_letter(delivery)  # type: ignore[arg-type]  # a fake
    await pipeline.results.drain_results()
    assert pipeline.taken == taken


async def test_what_is_long_on_its_way_to_a_lane_is_told() -> None:
    pipeline = CountingPipeline(ROOM)
    pipeline.publisher.up.clear()
    pipeline.admit()
    assert [pipeline.coordinator.unqueued.lasting() for _ in range(3)] == [{}, {KEY: 1}, {KEY: 1}]
    pipeline.publisher.up.set()
    await pipeline.lanes.drain_lanes()
    assert pipeline.coordinator.unqueued.lasting() == {}


@pytest.mark.parametrize("alive", [True, False])
async def test_what_waits_for_its_record_is_told_as_on_its_way(*, alive: bool) -> None:
    pipeline = CountingPipeline(LIMIT, ROOM)
    pipeline.publisher.silent.add(ADMITTED_KEY)
    delivery = pipeline.admit()
    assert [pipeline.coordinator.unqueued.lasting() for _ in range(3)] == [{}, {KEY: 1}, {KEY: 1}]
    delivery.alive = alive
    pipeline.publisher.freed.set()
    await pipeline.drain()
    assert pipeline.coordinator.unqueued.lasting() == {}
    assert pipeline.taken == len(pipeline.tasks("maniple.lanes")) == alive


async def test_one_whose_record_cannot_be_written_gives_its_room_back_once() -> None:
    pipeline = CountingPipeline(LIMIT, ROOM)
    pipeline.coordinator.taken[KEY] = 5
    pipeline.publisher.publish = Mock(side_effect=BrokerUnavailable("closed"))  # type: ignore[method-assign]  # it ends
    pipeline.admit()
    await pipeline.drain()
    assert pipeline.taken == 5
    assert [pipeline.coordinator.unqueued.lasting() for _ in range(2)] == [{}, {}]
